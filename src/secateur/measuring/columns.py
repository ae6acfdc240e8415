"""What the rows of a record say: the columns of its tables, and the tables as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.measuring.plain_steps import in_words
from secateur.measuring.records import FOUND, GIVEN, ROW_KEYS, SPREADS, interval

Row = dict[str, Any]
UNITS = ("ms", "s", "px", "macs")


@dataclass(frozen=True)
class Cell:
    """One figure of a row: its text, its interval and its share of dense as text, and the number that ranks it."""

    text: str
    detail: str = ""
    share: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Column:
    """A column: title, unit, the cell of a row (None if it has none); better: +1 if more is better, −1 if less is."""

    title: str
    unit: str
    cell: Callable[[Row], Cell | None]
    better: int = 0
    text: bool = False


NAME = Column("", "", lambda row: Cell(row["name"]), text=True)  # the rows' own names


def markdown(rows: Sequence[Row], figures: Sequence[Column]) -> str:
    """A Markdown table: a line per row, a cell per column; its share or interval in brackets, the best of a column bold."""
    heads = (", ".join(filter(None, (column.title, column.unit))) for column in figures)
    top = best(rows, figures)
    lines = ([_marked(c.cell(row), bold=(row["name"], k) in top) for k, c in enumerate(figures)] for row in rows)
    align = "|".join("---" if column.text else "---:" for column in figures)
    return "\n".join([f"| {' | '.join(heads)} |", f"|{align}|", *(f"| {' | '.join(line)} |" for line in lines)])


def _marked(cell: Cell | None, *, bold: bool) -> str:
    if cell is None:
        return "–"
    beside = cell.share or cell.detail
    return (f"**{cell.text}**" if bold else cell.text) + (f" ({beside})" if beside else "")


def best(rows: Sequence[Row], figures: Sequence[Column]) -> set[tuple[str, int]]:
    """(row name, column number) of the best figures of each ranked column, as printed; none if all print the same."""
    cells_in_bold = set()
    for number, column in enumerate(figures):
        cells = {row["name"]: cell for row in rows if (cell := column.cell(row)) and cell.value is not None}
        if column.better and len({cell.text for cell in cells.values()}) > 1:
            top = max(cells.values(), key=lambda cell: column.better * (cell.value or 0.0))
            cells_in_bold |= {(name, number) for name, cell in cells.items() if cell.text == top.text}
    return cells_in_bold


def by_keep(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """(title, rows) of the rows made for the same keep; rows without a keep have no title.

    The rows that the record is about come first, then those nearest to the dense images.
    """
    groups: dict[float | None, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (not is_dense(row), not is_own(row), -(centre(row, "psnr_db") or 0.0))):
        groups.setdefault(None if is_dense(row) else row.get("keep"), []).append(row)
    order = list(dict.fromkeys(None if is_dense(row) else row.get("keep") for row in rows))
    return [("" if aim is None else f"keep {aim:.2g}", groups[aim]) for aim in order]


def plain_curve(record: dict[str, Any]) -> dict[int, float]:
    """PSNR in dB of the best stock solver by its steps, if the record has it."""
    return {int(steps): psnr for steps, psnr in (record.get("plain_steps") or {}).get("psnr_db", {}).items()}


def all_kept(row: Row) -> float | None:
    """The fraction of MACs kept, with attention if it is known: attention takes time too."""
    return row.get("keep_attention") or row.get("keep_linear")


def centre(row: Row, key: str) -> float | None:
    """The mean or median of a row's figure; None if it is missing."""
    return (row.get(key) or {}).get(SPREADS[key])


def is_dense(row: Row) -> bool:
    """Whether the row is the denoiser that nothing was pruned from."""
    return row.get("group") == "dense"


def is_own(row: Row) -> bool:
    """Whether the row is a schedule that Secateur found or that the user gave."""
    return (row.get("group") or "").startswith((FOUND, GIVEN))


def tag(row: Row) -> str:
    """What marks the row of a found schedule, or of one that the user gave; empty for all others."""
    return ("ours" if (row.get("group") or "").startswith(FOUND) else "yours") if is_own(row) else ""


def dense_row(record: dict[str, Any]) -> Row | None:
    """The record's dense row; None if it has none."""
    return next((row for row in record["rows"] if is_dense(row)), None)


def keep(row: Row) -> float:
    """The fraction of cost that a row was made for, or that it kept."""
    return row.get("keep") or row["keep_linear"]


def percent(share: float) -> str:
    """A fraction as per cent, two digits at least."""
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.2g} %"


def columns(record: dict[str, Any]) -> list[Column]:
    """The columns that any row fills: the known figures first, then whatever else the rows bring along."""
    rows = record["rows"]
    figures = [
        Column("calls", "", _number("calls", "d")),
        *_cost_columns(rows),
        Column("latency", "s", _spread("latency_s")),
        Column("faster", "×", _spread("speedup", ".2f"), better=1),
        Column("PSNR", "dB", _spread("psnr_db", ".1f"), better=1),
        Column("SSIM", "", _spread("ssim", ".3f"), better=1),
        Column("LPIPS", "", _spread("lpips", ".3f"), better=-1),
        Column("prompt accuracy", "", _spread("accuracy", ".2f"), better=1),
        Column("as near as", "plain steps", _as_near(plain_curve(record))),
        Column("Fréchet", "", _number("frechet", ".3g"), better=-1),
    ]
    extra = dict.fromkeys(key for row in rows for key in row if key not in ROW_KEYS)
    both = figures + [_extra_column(key, rows) for key in extra]
    return [column for column in both if any(column.cell(row) for row in rows)]


def _cost_columns(rows: Sequence[Row]) -> list[Column]:
    costs = [row[key] for row in rows for key in ("macs_linear", "macs_attention") if row.get(key)]
    unit, letter = next((pair for pair in ((1e12, "T"), (1e9, "G")) if max(costs, default=0) >= pair[0]), (1e6, "M"))
    form = ".1f" if max(costs, default=0) >= 10 * unit else ".2f"
    return [
        Column("MACs", letter, _cost("macs_linear", "keep_linear", form, unit=unit)),
        Column("with attention", letter, _cost("macs_attention", "keep_attention", form, unit=unit)),
    ]


def _cost(key: str, share_key: str, form: str, *, unit: float) -> Callable[[Row], Cell | None]:
    def cell(row: Row) -> Cell | None:
        if row.get(key) is None and row.get(share_key) is None:
            return None
        text = "–" if row.get(key) is None else format(row[key] / unit, form)
        return Cell(text, share="" if row.get(share_key) is None else percent(row[share_key]))

    return cell


def _number(key: str, form: str = "", *, unit: float = 1) -> Callable[[Row], Cell | None]:
    """A number as `form` has it, otherwise with four digits if it is no whole one; or a text."""

    def cell(row: Row) -> Cell | None:
        value = row.get(key)
        if not isinstance(value, int | float):
            return Cell(value) if isinstance(value, str) else None
        digits = form or (".4g" if isinstance(value, float) else "")
        return Cell(format(value if unit == 1 else value / unit, digits), value=value)

    return cell


def _spread(key: str, form: str = "") -> Callable[[Row], Cell | None]:
    def cell(row: Row) -> Cell | None:
        value = centre(row, key)
        if value is None:
            return None
        digits = form or f".{max(0, 2 - math.floor(math.log10(abs(value) or 1)))}f"  # three of them
        ends = [format(end, digits) for end in interval(row[key]) or ()]
        return Cell(format(value, digits), detail="–".join(ends) if len(set(ends)) > 1 else "", value=value)

    return cell


def _as_near(plain: Mapping[int, float]) -> Callable[[Row], Cell | None]:
    def cell(row: Row) -> Cell | None:
        psnr = centre(row, "psnr_db")
        return None if psnr is None or not plain else Cell(in_words(psnr, plain))

    return cell


def _extra_column(key: str, rows: Sequence[Row]) -> Column:
    """A column for a figure this module does not know, its unit read from its name; nested values are not shown."""
    values = [row[key] for row in rows if isinstance(row.get(key), int | float | str)]
    if any(isinstance(value, str) for value in values):
        return Column(key.replace("_", " "), "", _number(key), text=True)
    if key.endswith("_bytes"):
        unit, name = (2**30, "GiB") if max(values, default=0) >= 2**30 else (2**20, "MiB")
        return Column(key.removesuffix("_bytes").replace("_", " "), name, _number(key, ".1f", unit=unit))
    stem, _, unit = key.rpartition("_")
    title, unit = (stem, unit) if unit in UNITS else (key, "")
    return Column(title.replace("_", " "), unit, _number(key))
