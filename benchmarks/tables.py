"""Tables as data: which records, which rows, and the text of each column; one renderer makes Markdown of them.

Columns are one text, "heading = cell | heading = cell". Both are templates, a heading of the first row and a cell of its own:
"{psnr_db.mean:.1f dB}" is a field's path, its digits and its unit. Units of UNITS scale the number, and one in brackets is not
printed. A path through a list reads every item: all are printed, or their mean, median or range if the digits begin so. "near"
prints a mean with its interval, a sign a true minus. Names of SHORT stand for longer templates. A missing field is a dash.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
Row = dict[str, Any]
Record = dict[str, Any]
SAME_DB = 100.0  # images nearer than this differ by rounding alone
UNITS = {"%": 0.01, "M": 1e6, "G": 1e9, "T": 1e12, "MiB": 2**20, "GiB": 2**30}
FIELD = re.compile(r"\{([^{}:]+)(?::(mean|median|range|)([^} ]*)(?: ([^}]+))?)?\}")
PIPES = ("emoji-sd", "emoji-dit")
SHORT = {
    "KEPT": "{keep_linear:.1f %} ({keep_attention:.1f %})",
    "FASTER": "{speedup.median:.2f}× ({speedup.low:.2f}–{speedup.high:.2f})",
    "RIGHT": "{accuracy.mean:.1f %} ({accuracy.ci95.0:.0f (%)}–{accuracy.ci95.1:.0f (%)})",
}


def load(name: str) -> Record:
    """The record results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def shown(template: str, row: Row) -> str:
    """The text of a template; a dash if the row lacks one of its fields."""
    try:
        return FIELD.sub(lambda match: field(row, *match.groups(default="")), template)
    except LookupError:
        return "–"


def field(row: Row, path: str, kind: str, digits: str, unit: str) -> str:
    """The text of one field, with its unit; raises LookupError if there is none."""
    if path in SHORT:
        return shown(SHORT[path], row)
    value = look_up(row, path)
    if digits == "near":
        same = value is None or value["mean"] > SAME_DB
        return "the same" if same else shown("{mean:.1f dB} ({ci95.0:.1f}–{ci95.1:.1f})", value)
    if value is None or (isinstance(value, list) and not value):
        raise LookupError(path)
    scale, after = UNITS.get(unit.strip("()")), f" {unit}" if unit and unit[0] != "(" else ""
    values = [one / scale if scale else one for one in (value if isinstance(value, list) else [value])]
    if kind == "range" and len(values) > 1:
        after += f" ({min(values):{digits}}–{max(values):{digits}})"
    middle = [median(values) if kind == "median" else fmean(values)] if kind else values
    text = ", ".join(format(one, digits) for one in middle)
    return (text.replace("-", "−") if "+" in digits else text) + after


def look_up(value: Any, path: str) -> Any:
    """The value at a dotted path, of every item of a list; raises LookupError if there is none."""
    for key in path.split("."):
        if isinstance(value, list) and not key.isdigit():
            value = [look_up(item, key) for item in value]
        else:
            value = (value or {})[int(key) if key.isdigit() else key]
    return value


UNIT = re.compile(r"(?<=\d) (?=(?:dB|%|G|M|MB|GB|GiB|ms|s|min|h)(?!\w))")  # a number stays beside its unit


def markdown(columns: str, rows: Iterable[Row]) -> str:
    """Rows in Markdown, a column for each heading; the first column is text and the others are numbers."""
    if not (rows := list(rows)):
        return ""
    parts = [[part.strip() for part in column.split("=", 1)] for column in columns.split("|")]
    heads = [shown(head, rows[0]) for head, _ in parts]
    lines = [[UNIT.sub("\u00a0", shown(cell, row)) for _, cell in parts] for row in rows]
    align = f"|---|{'---:|' * (len(parts) - 1)}"
    first, *others = (f"| {' | '.join(line)} |" for line in (heads, *lines))
    return "\n".join([first, align, *others])


def by_group(rows: Iterable[Row], key: str = "psnr_db") -> dict[str, list[float]]:
    """The mean of each row that has it, by group: one for each search."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row.get(key):
            groups.setdefault(row["group"], []).append(row[key]["mean"])
    return groups


def budgets(record: Record) -> list[float]:
    """The fractions of the MACs below 1 that rows were made for, the highest first."""
    return sorted({row["keep"] for row in record["rows"]} - {1.0, None}, reverse=True)


def provenance(*records: Record) -> str:
    """Where the numbers come from, a line a record: how many images a row, the command, the machine, the versions, the day."""
    return "\n".join(map(source, records))


def source(record: Record) -> str:
    machine, images = record["hardware"], len(record.get("seeds") or ())
    parts = [part for row in record.get("rows", ()) for part in (row, *row.values()) if isinstance(part, dict)]
    later = [part[key] for part in parts for key in ("on", "cpu") if key in part]  # rows that were added say where
    on = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
    on = " and ".join([on, *dict.fromkeys(name for name in later if name not in on)])
    count = f"{images} images a row, " if images > 1 else ""
    versions = f"torch {machine['torch']}, diffusers {machine['diffusers']}"
    return f"{count}`{record['command']}`, {on}, {versions}, {record['made'][:10]}."


def all_rows(*records: Record) -> list[Row]:
    """The rows of every record, each with its pipe."""
    return [{"pipe": record.get("pipe"), **row} for record in records for row in record["rows"]]


@dataclass(frozen=True)
class Table:
    """A table of some records: rows of them, by their headings if there are several tables. after: the text below."""

    columns: str
    records: Sequence[str]
    rows: Callable[..., Iterable[Row] | Mapping[str, Iterable[Row]]] = all_rows
    after: Callable[..., str] = provenance

    def text(self, records: Sequence[Record]) -> str:
        """The Markdown between this table's markers."""
        rows = self.rows(*records)
        parts = rows if isinstance(rows, Mapping) else {"": rows}
        tables = [text for head, some in parts.items() for text in (head, markdown(self.columns, some))]
        return "\n\n".join(filter(None, (*tables, self.after(*records))))


def tables(columns: str, **parts: Mapping[str, Any]) -> dict[str, Table]:
    """Tables of "MARKER, MARKER: columns", which go on in indented lines. parts: other fields of Table, by marker."""
    found = {}
    for names, text in re.findall(r"^(\S[^:]*): (.*(?:\n .*)*)", columns, re.MULTILINE):
        for name in names.split(", "):
            more = {part: values[name] for part, values in parts.items() if name in values}
            found[name] = Table(text, **{"records": (name,), **more})
    return found
