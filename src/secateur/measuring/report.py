"""Records of measurements as a table in the terminal and as one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.artifact import write_text
from secateur.measuring.columns import Cell, Column, Row, best, centre, columns, dense_row, is_dense, is_own, percent, tag
from secateur.measuring.dots import Dot, dots_svg
from secateur.measuring.finding import headline, missed
from secateur.measuring.records import check, interval, load, save
from secateur.measuring.svg import Axis, Point, plot_svg, swatch_svg
from secateur.schedule.drawing import grid_svg

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["check", "grid_svg", "headline", "html", "load", "missed", "save", "save_html", "table"]

PLOTTED = (("psnr_db", "PSNR to the dense images, dB", ".1f"), ("accuracy", "Prompt accuracy", ".2f"))
COSTS = (0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
NAME_WIDTH = 14  # characters: narrower, and the names fold into too many lines
MOST_FIGURES = 6  # beside the name: more are not read, and are in the record
SPARE = ("Fréchet", "SSIM", "peak memory", "of ideal", "calls", "peak cached", "latency")  # never a convention of MACs
SIDE_BY_SIDE = 7  # beside the dense one: more on one sheet would be too small to see
PICTURES_SHOWN = 4  # further prompts are folded away, so that the page can be read to its end


@dataclass(frozen=True)
class Sheet:
    """Pictures side by side: rows of one keep, the dense one first, each with its name and its figures in short."""

    title: str
    rows: tuple[Row, ...]
    notes: tuple[tuple[str, ...], ...]


def table(record: dict[str, Any], *, width: int | None = None) -> Table:
    """A rich table of the record: a line per row, a column per figure that any row has, – if it is missing.

    width: characters that the terminal has. Columns that do not fit, or exceed `MOST_FIGURES`, are left out, in the order of
    `SPARE`. None: every column. Raises ValueError with one sentence if the record is malformed.
    """
    from rich.table import Table, box

    check(record)
    output = Table(title=record["title"], title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    output.add_column("variant", overflow="fold", min_width=NAME_WIDTH)
    figures = _fitting(columns(record), record["rows"], width)
    for column in figures:
        output.add_column("\n".join(_heading(column)), justify="left" if column.text else "right", no_wrap=True)
    for _, rows in _by_keep(record["rows"]):
        for row in rows:
            output.add_row(row["name"], *(_terse(column.cell(row)) for column in figures), style="bold" if is_own(row) else "")
        output.add_section()
    return output


def _fitting(figures: list[Column], rows: Sequence[Row], width: int | None) -> list[Column]:
    if width is None:
        return figures
    read = _read(figures)
    widths = {c: 2 + max(len(text) for text in (*_heading(c), *(_terse(c.cell(row)) for row in rows))) for c in read}
    spare = [column for title in SPARE for column in read if column.title == title]
    while spare and NAME_WIDTH + 4 + sum(widths.values()) > width:
        del widths[spare.pop(0)]
    return list(widths)


def _heading(column: Column) -> list[str]:
    return [*column.title.split(), column.unit]


def _terse(cell: Cell | None) -> str:
    return "–" if cell is None else f"{cell.text} {cell.share:>5}" if cell.share else cell.text


def html(record: dict[str, Any]) -> str:
    """One self-contained page: headline, plots, pictures, figures, schedules, provenance; sections without data are left out.

    Raises ValueError with one sentence if the record is malformed, or names picture files instead of holding them.
    """
    from jinja2 import Environment, StrictUndefined

    check(record)
    _check_whole(record)
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = page.from_string(files("secateur.measuring").joinpath("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(record=record, headline=headline(record), **_drawings(record), **_figures(record))


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

    groups = [] if _one_budget(record["rows"]) else _plotted_groups(record["rows"])
    rows = [row for row in record["rows"] if any("." in line for line in row.get("grid") or ())]
    return {
        "plots": [Markup(plot) for plot in (_plots(record, groups) if groups else _dots(record["rows"]))],
        "legend": [(group, Markup(swatch_svg(slot))) for slot, group in enumerate(groups)],
        "sheets": _sheets(record["rows"]),
        "pictures_shown": PICTURES_SHOWN,
        "grids": [(row, Markup(grid_svg(row["grid"], record["blocks"]))) for row in rows],
    }


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    figures = columns(record)
    few = _read(figures)
    tables = [(part, _sections(record, part)) for part in (few, [column for column in figures if column not in few]) if part]
    return {"tables": tables, "facts": _facts(record), "is_own": is_own, "tag": tag, "missed": missed(record)}


def _sections(record: dict[str, Any], figures: list[Column]) -> list[tuple[str, list[Row], set[tuple[str, int]]]]:
    """(title, rows, best figures) of the rows made for each keep."""
    return [(title, rows, best(rows, figures)) for title, rows in _by_keep(record["rows"])]


def _read(figures: Sequence[Column]) -> list[Column]:
    """The `MOST_FIGURES` columns that are read; those of `SPARE` go first."""
    spare = [column for title in SPARE for column in figures if column.title == title]
    gone = spare[: max(0, len(figures) - MOST_FIGURES)]
    return [column for column in figures if column not in gone]


def _one_budget(rows: Sequence[Row]) -> bool:
    """Whether all rows but dense cost about the same, so that a plot against cost would be a single line."""
    shares = [row["keep_linear"] for row in rows if row.get("keep_linear") and not is_dense(row)]
    return bool(shares) and max(shares) < min(shares) * 1.15


def _dots(rows: Sequence[Row]) -> Iterator[str]:
    for key, title, form in PLOTTED:
        points = [(row, point) for row in rows if (point := _point(row, key))]
        if len({format(point.value, form) for _, point in points}) > 1:  # equal figures need no drawing
            yield dots_svg([Dot(p.name, p.value, p.ends, own=is_own(row)) for row, p in points], Axis(title, form))


def _plotted_groups(rows: Sequence[Row]) -> list[str]:
    plotted = (row for row in rows if any(_point(row, key) for key, _, _ in PLOTTED))
    return list(dict.fromkeys(row.get("group") or row["name"] for row in plotted))


def _point(row: Row, key: str) -> Point | None:
    value = centre(row, key)
    if value is None or not row.get("keep_linear") or is_dense(row):
        return None
    return Point(kept=row["keep_linear"], value=value, ends=interval(row[key]), name=row["name"])


def _plots(record: dict[str, Any], groups: Sequence[str]) -> Iterator[str]:
    dense = dense_row(record) or {}
    for key, title, form in PLOTTED:
        series = [[] for _ in groups]
        for row in record["rows"]:
            point = _point(row, key)
            if point:
                series[groups.index(row.get("group") or row["name"])].append(point)
        if any(series):
            axis = Axis(title, form, dense=centre(dense, key))
            yield plot_svg(series, axis, ticks=_cost_ticks(record["rows"], series))


def _cost_ticks(rows: Sequence[Row], series: Sequence[Sequence[Point]]) -> list[float]:
    """The costs that the rows were made for if these are few, otherwise round costs in the range of the points."""
    aims = {row["keep"] for row in rows if row.get("keep") and not is_dense(row)}
    least = min(point.kept for line in series for point in line)
    return [*(aims if 1 < len(aims) <= 5 else (cost for cost in COSTS if cost >= least * 0.85)), 1.0]


def _by_keep(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """(title, rows) of the rows made for the same keep, in the record's order; rows without a keep have no title."""
    groups: dict[float | None, list[Row]] = {}
    for row in rows:
        groups.setdefault(None if is_dense(row) else row.get("keep"), []).append(row)
    return [("" if aim is None else f"keep {aim:.2g}", members) for aim, members in groups.items()]


def _sheets(rows: Sequence[Row]) -> list[Sheet]:
    """Pictures side by side, dense first; many rows of one keep are spread over several sheets, so that pictures stay large."""
    pictured = [row for row in rows if row.get("images")]
    dense = [row for row in pictured if is_dense(row)]
    pruned = _by_keep([row for row in pictured if not is_dense(row)])
    return [
        Sheet(title if first else "", (*dense, *part), tuple(map(_note, (*dense, *part))))
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
    """Cost, PSNR and accuracy of a row in short; empty if missing."""
    psnr, accuracy = centre(row, "psnr_db"), centre(row, "accuracy")
    parts = [
        f"{percent(row['keep_linear'])} MACs" if row.get("keep_linear") else "",
        f"{psnr:.1f} dB" if psnr is not None else "",
        f"acc. {accuracy:.2f}" if accuracy is not None else "",
    ]
    # no-break spaces: a narrow column may break between figures, never inside one
    return tuple(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)


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
