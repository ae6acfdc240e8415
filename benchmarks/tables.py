"""Tables as data: which records, which rows, and the text of each column; one renderer makes Markdown of them.

Columns are one text, "heading = cell | heading = cell". Both are templates, a heading of the first row and a cell of its own:
"{psnr_db.mean:.1f dB}" is a field's path, its digits and its unit. Units of UNITS scale the number, and one in brackets is not
printed. A sign in the digits prints a true minus. Names of SHORT stand for longer templates. A missing field is a dash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
Row = dict[str, Any]
Record = dict[str, Any]
Rows = Iterable[Row] | Mapping[str, Iterable[Row]]  # a mapping: headings, and the rows below each
SAME_DB = 100.0  # images nearer than this differ by rounding alone
UNITS = {"%": 0.01, "M": 1e6, "G": 1e9, "T": 1e12, "MiB": 2**20, "GiB": 2**30}
FIELD = re.compile(r"\{([^{}:]+)(?::([^} ]*)(?: ([^}]+))?)?\}")
PIPES = ("emoji-sd", "emoji-dit")
SHORT = {
    "KEPT": "{keep_linear:.1f %} ({keep_attention:.1f %})",
    "FASTER": "{speedup.median:.2f}× ({speedup.low:.2f}–{speedup.high:.2f})",
    "RIGHT": "{accuracy.mean:.1f %} ({accuracy.ci95.0:.0f (%)}–{accuracy.ci95.1:.0f (%)})",
}


def load(name: str) -> Record:
    """The record results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def shown(template: str, row: Row, *, missing: str = "–") -> str:
    """The text of a template; `missing` if the row lacks one of its fields."""
    try:
        return FIELD.sub(lambda match: field(row, *match.groups(default="")), template)
    except LookupError:
        return missing


def field(row: Row, path: str, digits: str, unit: str) -> str:
    """The text of one field, with its unit; raises LookupError if there is none."""
    if path in SHORT:
        return shown(SHORT[path], row)
    value, scale = look_up(row, path), UNITS.get(unit.strip("()"))
    text = format(value / scale if scale else value, digits)
    return (text.replace("-", "−") if "+" in digits else text) + (f" {unit}" if unit and unit[0] != "(" else "")


def look_up(row: Row, path: str) -> Any:
    """The value at a dotted path; raises LookupError if there is none."""
    value = reduce(lambda value, key: (value or {})[int(key) if key.isdigit() else key], path.split("."), row)
    if value is None:
        raise LookupError(path)
    return value


def markdown(columns: str, rows: Iterable[Row], *, missing: str = "–") -> str:
    """Rows in Markdown, a column for each heading; the first column is text and the others are numbers."""
    rows, parts = list(rows), [[part.strip() for part in column.split("=", 1)] for column in columns.split("|")]
    heads = [shown(head, rows[0]) for head, _ in parts]
    lines = ([shown(cell, row, missing=missing) for _, cell in parts] for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, *lines)).replace(
        "\n", f"\n|---|{'---:|' * len(heads[1:])}\n", 1
    )


def decibels(values: Row | None) -> str:
    """A mean with its interval; "the same" for images that differ by rounding alone."""
    close = values is None or values["mean"] > SAME_DB
    return "the same" if close else shown("{mean:.1f dB} ({ci95.0:.1f}–{ci95.1:.1f})", values)


def spread(values: Sequence[float], form: str = "{:.1f} dB") -> str:
    """The mean over several searches, and their range."""
    ends = f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""
    return form.format(fmean(values)) + ends


def means(rows: Iterable[Row], key: str) -> list[float]:
    return [row[key]["mean"] for row in rows if row.get(key)]


def by_group(rows: Iterable[Row], key: str = "psnr_db") -> dict[str, list[float]]:
    """The mean of each row that has it, by group: one for each search."""
    rows = list(rows)
    values = {group: means((row for row in rows if row["group"] == group), key) for group in (row["group"] for row in rows)}
    return {group: found for group, found in values.items() if found}


def budgets(record: Record) -> list[float]:
    """The fractions of the MACs below 1 that rows were made for, the highest first."""
    return sorted({row["keep"] for row in record["rows"]} - {1.0}, reverse=True)


def provenance(*records: Record) -> str:
    """Where the numbers come from, a line a record: how many images a row, the command, the machine, the versions, the day."""
    return "\n".join(map(source, records))


def source(record: Record) -> str:
    machine, images = record["hardware"], len(record.get("seeds") or ())
    parts = [part for row in record.get("rows", ()) for part in (row, *row.values()) if isinstance(part, dict)]
    processors = dict.fromkeys([machine["cpu"], *(part["cpu"] for part in parts if "cpu" in part)])  # later ones name theirs
    on = machine["gpu"] or f"{machine['cores']} cores of {' and '.join(processors)}"
    count = f"{images} images a row, " if images > 1 else ""
    versions = f"torch {machine['torch']}, diffusers {machine['diffusers']}"
    return f"{count}`{record['command']}`, {on}, {versions}, {record['made'][:10]}."


def all_rows(*records: Record) -> list[Row]:
    """The rows of every record, each with its pipe."""
    return [{"pipe": record.get("pipe"), **row} for record in records for row in record["rows"]]


@dataclass(frozen=True)
class Table:
    """A table of some records: rows of them, all by default. before, after: text around it."""

    records: str
    columns: str
    rows: Callable[..., Rows] = all_rows
    before: str = ""
    after: Callable[..., str] = provenance
    missing: str = "–"

    def text(self) -> str:
        """The Markdown between this table's markers."""
        records = [load(name) for name in self.records.split()]
        rows = self.rows(*records)
        parts = rows if isinstance(rows, Mapping) else {self.before.format(**records[0]): rows}
        tables = [text for head, some in parts.items() for text in (head, markdown(self.columns, some, missing=self.missing))]
        return "\n\n".join(filter(None, (*tables, self.after(*records))))
