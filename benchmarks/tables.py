"""Tables as data: which records, which rows, and the text of each column; one renderer makes Markdown of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
Row = dict[str, Any]
Record = dict[str, Any]
Cell = str | Callable[[Row], str]  # a template such as "{psnr_db.mean:.1f dB}", or a function of the row
SAME_DB = 100.0  # images nearer than this differ by rounding alone
UNITS = {"M": 1e6, "G": 1e9, "T": 1e12, "MiB": 2**20, "GiB": 2**30}
FIELD = re.compile(r"\{([\w.]+)(?::([^} ]*)(?: ([^}]+))?)?\}")
KEPT = "{keep_linear:.1f %} ({keep_attention:.1f %})"
FASTER = "{speedup.median:.2f}× ({speedup.low:.2f}–{speedup.high:.2f})"


def load(name: str) -> Record:
    """The record results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def shown(cell: Cell, row: Row, *, missing: str = "–") -> str:
    """The text of a cell; `missing` if the row lacks one of the template's numbers."""
    if callable(cell):
        return cell(row)
    try:
        return FIELD.sub(lambda match: number(look_up(row, match[1]), match[2] or "", match[3] or ""), cell)
    except LookupError:
        return missing


def look_up(row: Row, path: str) -> Any:
    """The value at a dotted path; raises LookupError if there is none."""
    value = reduce(lambda value, key: (value or {})[int(key) if key.isdigit() else key], path.split("."), row)
    if value is None:
        raise LookupError(path)
    return value


def number(value: Any, digits: str, unit: str) -> str:
    """A number with its unit; the unit scales it."""
    scaled = 100 * value if unit == "%" else value / UNITS[unit] if unit in UNITS else value
    return format(scaled, digits) + (f" {unit}" if unit else "")


def table(columns: Mapping[str, Cell], rows: Iterable[Row], *, missing: str = "–") -> str:
    """Rows in Markdown, a column for each heading; the first column is text and the others are numbers."""
    return markdown(
        [head.strip() for head in columns], [[shown(cell, row, missing=missing) for cell in columns.values()] for row in rows]
    )


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    align = "|" + "|".join(["---"] + ["---:"] * (len(heads) - 1)) + "|"
    return "\n".join([f"| {' | '.join(heads)} |", align, *(f"| {' | '.join(row)} |" for row in rows)])


def percent(spread: Row) -> str:
    """A share with its 95 % interval."""
    low, high = spread["ci95"]
    return f"{100 * spread['mean']:.1f} % ({100 * low:.0f}–{100 * high:.0f})"


def decibels(spread: Row | None, *, interval: bool = True) -> str:
    """A mean with its interval; "the same" for images that differ by rounding alone."""
    if spread is None or spread["mean"] > SAME_DB:
        return "the same"
    return f"{spread['mean']:.1f} dB" + (" ({:.1f}–{:.1f})".format(*spread["ci95"]) if interval else "")


def accuracy(row: Row) -> str:
    return percent(row["accuracy"])


def ends(values: Sequence[float]) -> str:
    """The range of several searches; nothing for one."""
    return f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""


def means(rows: Iterable[Row], key: str) -> list[float]:
    return [row[key]["mean"] for row in rows if row.get(key)]


def budgets(*records: Record) -> list[float]:
    """The fractions of the MACs below 1 that rows were made for, the highest first."""
    return sorted({row["keep"] for record in records for row in record["rows"]} - {1.0}, reverse=True)


def provenance(record: Record) -> str:
    """Where a record's numbers come from: how many images a row, the command, the machine, the versions, the day."""
    machine = record["hardware"]
    on = machine["gpu"] or f"{machine['cores']} cores of {' and '.join(processors(record))}"
    images = len(record.get("seeds") or ())
    count = f"{images} images a row, " if images > 1 else ""
    versions = f"torch {machine['torch']}, diffusers {machine['diffusers']}"
    return f"{count}`{record['command']}`, {on}, {versions}, {record['made'][:10]}."


def processors(record: Record) -> list[str]:
    """The processors that a record was measured on: the first one's, and those that rows and timings name as theirs."""
    later = [part for row in record.get("rows", ()) for part in (row, *row.values()) if isinstance(part, dict)]
    return list(dict.fromkeys([record["hardware"]["cpu"], *(part["cpu"] for part in later if "cpu" in part)]))


def all_rows(*records: Record) -> list[Row]:
    """The rows of every record, each with its pipe."""
    return [{"pipe": record.get("pipe"), **row} for record in records for row in record["rows"]]


@dataclass(frozen=True)
class Table:
    """A table of some records. rows: of those records, all by default. before, after: text around it."""

    records: tuple[str, ...]
    columns: Mapping[str, Cell]
    rows: Callable[..., Iterable[Row]] = all_rows
    before: str = ""
    after: Callable[..., str] = lambda *records: "\n".join(map(provenance, records))
    missing: str = "–"

    def text(self) -> str:
        """The Markdown between this table's markers."""
        records = [load(name) for name in self.records]
        whole = table(self.columns, self.rows(*records), missing=self.missing)
        return "\n\n".join(filter(None, (self.before.format(**records[0]), whole, self.after(*records))))


@dataclass(frozen=True)
class Text:
    """What `write` makes of some records, if it is more than one Table."""

    records: tuple[str, ...]
    write: Callable[..., str]

    def text(self) -> str:
        """The Markdown between these markers."""
        return self.write(*map(load, self.records))


def texts(parts: Mapping[str, Table | Text]) -> dict[str, str]:
    """The text between each pair of markers, if its records are there."""
    there = {name: all((RESULTS / f"{record}.json").exists() for record in part.records) for name, part in parts.items()}
    return {name: part.text() for name, part in parts.items() if there[name]}
