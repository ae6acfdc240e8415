"""Records of measurements as a table in the terminal and as one self-contained page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from secateur.artifact import write_text
from secateur.measuring.charts import BARRED, bars, one_budget, plots, series_of, shortened
from secateur.measuring.columns import Cell, Column, Row, best, by_keep, centre, columns, is_dense, is_own, percent, tag
from secateur.measuring.finding import headline, missed
from secateur.measuring.records import check, load, save
from secateur.measuring.svg import swatch_svg
from secateur.schedule.drawing import calls_svg, grid_svg

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.table import Table

__all__ = ["check", "headline", "html", "load", "missed", "save", "save_html", "table"]

NAME_WIDTH, TEXT_WIDTH = 14, 24  # characters: names fold into too many lines if they have fewer, and other text into few
MOST_FIGURES, MOST_ON_PAGE = 6, 8  # beside the name: more are not read, and are in the record
# left out first, in this order; never a convention of MACs
SPARE = ("Fréchet", "peak memory", "peak cached", "calls", "SSIM", "LPIPS", "latency")
SIDE_BY_SIDE = 7  # beside the dense one: more on one sheet would be too small to see
PICTURES_SHOWN = 4  # further prompts are folded away, so that the page can be read to its end


class Pictured(NamedTuple):
    """A row with pictures: its number in the record, and its figures in short."""

    row: Row
    number: int
    notes: tuple[str, ...]


class Sheet(NamedTuple):
    """Pictures side by side, the dense ones first; a sheet without title goes on with the rows of the one before."""

    title: str
    shown: tuple[Pictured, ...]
    pruned: int  # of the rows, all but the dense ones


def table(record: dict[str, Any], *, width: int | None = None) -> Table:
    """A rich table of the record: a line per row, a column per figure that any row has, – if it is missing.

    width: characters that the terminal has. Columns that do not fit, or exceed `MOST_FIGURES`, are left out, the spare ones
    first. None: every column. Raises ValueError with one sentence if the record is malformed.
    """
    from rich.table import Table, box

    check(record)
    output = Table(title=record["title"], title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    output.add_column("variant", overflow="fold", min_width=NAME_WIDTH)
    figures = columns(record) if width is None else _fitting(columns(record), record["rows"], width)
    for column in figures:
        output.add_column(
            "\n".join(_heading(column)), justify="left" if column.text else "right", overflow="fold", no_wrap=not column.text
        )
    for _, rows in by_keep(record["rows"]):
        for row in rows:
            output.add_row(row["name"], *(_terse(column.cell(row)) for column in figures), style="bold" if is_own(row) else "")
        output.add_section()
    return output


def _fitting(figures: list[Column], rows: Sequence[Row], width: int) -> list[Column]:
    read = _read(figures, rows, most=MOST_FIGURES)
    widths = {c: 2 + max(len(text) for text in (*_heading(c), *(_terse(c.cell(row)) for row in rows))) for c in read}
    widths |= {c: min(width, TEXT_WIDTH) for c, width in widths.items() if c.text}
    spare = _spare(read, rows)
    spare += [column for column in reversed(read[1:]) if column not in spare]
    while spare and NAME_WIDTH + 4 + sum(widths.values()) > width:
        del widths[spare.pop(0)]
    return list(widths)


def _read(figures: Sequence[Column], rows: Sequence[Row], *, most: int) -> list[Column]:
    """At most that many columns, those that are read; the spare ones go first."""
    gone = _spare(figures, rows)[: max(0, len(figures) - most)]
    return [column for column in figures if column not in gone]


def _spare(figures: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns that may be left out, the first of them first: those that few rows fill, then those of `SPARE`."""
    sparse = [column for column in figures if sum(column.cell(row) is not None for row in rows) < len(rows) / 2]
    return sparse + [c for title in SPARE for c in figures if c.title == title and c not in sparse]


def _heading(column: Column) -> list[str]:
    return [*column.title.split(), column.unit]


def _terse(cell: Cell | None) -> str:
    return "–" if cell is None else f"{cell.text} {cell.share:>5}" if cell.share else cell.text


def html(record: dict[str, Any]) -> str:
    """One self-contained page: headline, plots, pictures, figures, schedules, provenance; sections without data are left out.

    Raises ValueError with one sentence if the record is malformed, or names picture files instead of holding them.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    check(record)
    _check_whole(record)
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters["soft"] = _soft
    style, script = (Markup(_file(f"report.{kind}")) for kind in ("css", "js"))
    drawn = {"headline": headline(record), **_drawings(record), **_figures(record)}
    return page.from_string(_file("report.html.jinja")).render(record=record, style=style, script=script, **drawn)


def _file(name: str) -> str:
    return files("secateur.measuring").joinpath(name).read_text(encoding="utf-8")


def _soft(text: str) -> Markup:
    """The escaped text, which may break after an underscore or a slash, and not between a number and its unit."""
    from markupsafe import Markup, escape

    whole = re.sub(r"(?<=\d) (?=dB|%)", "\N{NO-BREAK SPACE}", str(escape(text)))
    return Markup(re.sub(r"(?<=[_/])(?=\w)", "<wbr>", whole))


def save_html(record: dict[str, Any], path: str | Path) -> None:
    """Write the page at once. Raises FileNotFoundError if the folder is missing, ValueError as `html`."""
    write_text(html(record), path)


def _check_whole(record: dict[str, Any]) -> None:
    for row in record["rows"]:
        for image in row.get("images") or ():
            if not image.startswith("data:"):
                raise ValueError(f"row {row['name']!r} names the picture {image}, wanted its bytes: use load(path)")


def _drawings(record: dict[str, Any]) -> dict[str, Any]:
    from markupsafe import Markup

    rows = record["rows"]
    series = [] if one_budget(rows) else series_of(rows)
    pictured = _pictured(rows)
    captions = _captions(record, len(pictured[0].row["images"]) if pictured else 0)
    drawn = [(row, Markup(svg)) for _, members in by_keep(rows) for row in members if (svg := _schedule(row, record))]
    return {
        "plots": [Markup(plot) for plot in plots(record, series)],
        "bars": [] if series else [chart for figure in BARRED if (chart := bars(record, figure))],
        "legend": [(name, Markup(swatch_svg(slot))) for slot, name in enumerate(shortened(series))],
        "sheets": _sheets(pictured),
        "captions": captions,
        "pictures_shown": PICTURES_SHOWN,
        "prompts": [(number, caption, "") for number, caption in enumerate(captions)],
        "choices": [(one.number, one.row["name"], " · ".join(one.notes)) for one in pictured],
        "schedules": [pair for pair in drawn if is_own(pair[0])] or drawn,
        "further_schedules": [pair for pair in drawn if not is_own(pair[0])] if any(is_own(row) for row, _ in drawn) else [],
    }


def _schedule(row: Row, record: dict[str, Any]) -> str:
    """The drawing of a row's schedule: its cells if any is reused, otherwise the timesteps that it chose."""
    if any("." in line for line in row.get("grid") or ()):
        return grid_svg(row["grid"], record["blocks"])
    return calls_svg(row["timesteps"]) if row.get("timesteps") else ""


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    figures = columns(record)
    few = _read(figures, record["rows"], most=MOST_ON_PAGE)
    tables = [(part, _sections(record, part)) for part in (few, [column for column in figures if column not in few]) if part]
    return {"tables": tables, "facts": _facts(record), "is_own": is_own, "tag": tag, "missed": missed(record)}


def _sections(record: dict[str, Any], figures: list[Column]) -> list[tuple[str, list[Row], set[tuple[str, int]]]]:
    """(title, rows, best figures) of the rows made for each keep."""
    return [(title, rows, best(rows, figures)) for title, rows in by_keep(record["rows"])]


def _pictured(rows: Sequence[Row]) -> list[Pictured]:
    numbers = {id(row): number for number, row in enumerate(rows)}
    ordered = (row for _, members in by_keep(rows) for row in members)
    return [Pictured(row, numbers[id(row)], _note(row)) for row in ordered if row.get("images")]


def _captions(record: dict[str, Any], count: int) -> list[str]:
    said = (record.get("conditions") or [f"image {number}" for number in range(count)])[:count]
    return [f"class {caption}" if isinstance(caption, int) else str(caption) for caption in said]


def _sheets(pictured: Sequence[Pictured]) -> list[Sheet]:
    """Pictures side by side, dense first; many rows of one keep are spread over several sheets, so that pictures stay large."""
    dense = [one for one in pictured if is_dense(one.row)]
    by_id = {id(one.row): one for one in pictured}
    pruned = by_keep([one.row for one in pictured if not is_dense(one.row)])
    return [
        Sheet(title if first else "", (*dense, *(by_id[id(row)] for row in part)), len(part))
        for title, members in pruned or [("", [])]
        for first, part in _evenly(members, most=SIDE_BY_SIDE)
        if dense or part
    ]


def _evenly(rows: Sequence[Row], *, most: int) -> list[tuple[bool, Sequence[Row]]]:
    """The rows in parts of nearly equal length, at most `most` long, each with whether it is the first part."""
    parts = max(1, -(-len(rows) // most))
    ends = [len(rows) * k // parts for k in range(parts + 1)]
    return [(start == 0, rows[start:end]) for start, end in pairwise(ends)]


def _note(row: Row) -> tuple[str, ...]:
    """Cost and figures of a row in short; empty if missing."""
    short = {"psnr_db": "{:.1f} dB", "ssim": "SSIM {:.3f}", "lpips": "LPIPS {:.3f}", "accuracy": "acc. {:.2f}"}
    values = ((form, centre(row, key)) for key, form in short.items())
    cost = [f"{percent(row['keep_linear'])} MACs"] if row.get("keep_linear") else []
    # no-break spaces: a narrow column may break between figures, never inside one
    return tuple(
        part.replace(" ", "\N{NO-BREAK SPACE}") for part in (*cost, *(f.format(v) for f, v in values if v is not None))
    )


def _facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of everything that says how the record was measured, except its command."""
    facts: dict[str, Any] = {"pipe": record.get("pipe"), "made": record.get("made"), "seeds": record.get("seeds")}
    facts |= {"conditions": len(record["conditions"])} if record.get("conditions") else {}
    facts |= record.get("options") or {}
    facts |= record.get("hardware") or {}
    return [(key.replace("_", " "), _plain(value)) for key, value in facts.items() if value is not None]


def _plain(value: Any) -> str:
    if isinstance(value, list) and len(value) > 2 and value == list(range(value[0], value[0] + len(value))):
        return f"{value[0]}–{value[-1]}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
