"""What all tables of the pages share: records by name, tables, and where numbers come from."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    align = "|" + "|".join(["---"] + ["---:"] * (len(heads) - 1)) + "|"
    return "\n".join(["| " + " | ".join(heads) + " |", align, *("| " + " | ".join(row) + " |" for row in rows)])


def percent(spread: dict) -> str:
    low, high = spread["ci95"]
    return f"{100 * spread['mean']:.1f} % ({100 * low:.0f}–{100 * high:.0f})"


def provenance(record: dict) -> str:
    cpu = record["hardware"]
    on = cpu["gpu"] or f"{cpu['cores']} cores of {' and '.join(processors(record))}"
    count = f"{len(record['conditions'])} images a row, " if record.get("conditions") else ""
    return f"{count}`{record['command']}`, {on}, torch {cpu['torch']}, diffusers {cpu['diffusers']}, {record['made'][:10]}."


def processors(record: dict) -> list[str]:
    """The processors that a record was measured on: the first one's, and those that rows and timings name as theirs."""
    later = [found for row in record.get("rows", ()) for found in (row, *row.values()) if isinstance(found, dict)]
    return list(dict.fromkeys([record["hardware"]["cpu"], *(found["cpu"] for found in later if "cpu" in found)]))
