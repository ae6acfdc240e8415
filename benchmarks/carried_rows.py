"""The rows of the tables of carried schedules: by the samples that searches saw, and by condition."""

from collections.abc import Iterable, Iterator
from statistics import fmean

from tables import Record, Row, by_group

HOME, KINDS = "home", {"same": "same calls", "plain": "plain steps"}  # of which the best group counts


def samples(record: Record) -> Iterator[Row]:
    """For each number of samples that searches saw at home: what they found, and the same calls with stock rows."""
    home = [row for row in record["rows"] if row["condition"] == HOME and "samples" in row]
    for count in sorted({row["samples"] for row in home}):
        row: Row = {"samples": count, "images": len(record["seeds"])}
        for calls in {row["entered"] for row in home}:
            some = [one for one in home if (one["samples"], one["entered"]) == (count, calls)]
            seen = [one["calibration_psnr_db"] for one in some if one["group"] == "found at home"]
            row[calls] = beside(some) | {"seen": seen}
        yield row


def conditions(record: Record) -> Iterator[Row]:
    """For each number of calls and condition: how far its dense images are from home's, and what comes near them."""
    rows = record["rows"]
    count = next(row["samples"] for row in rows if row["condition"] != HOME and "samples" in row)
    for calls in sorted({row["entered"] for row in rows if row["group"] != "dense"}, reverse=True):
        for dense in (row for row in rows if row["group"] == "dense"):
            here = [row for row in rows if (row["condition"], row["entered"]) == (dense["condition"], calls)]
            yield {"dense": dense, "calls": calls, **beside(row for row in here if row.get("samples", count) == count)}


def beside(rows: Iterable[Row]) -> Row:
    """The dB of each search's schedule, found at home or there; of stock rows and of plain steps, those of the best."""
    groups, found = by_group(rows), Row()
    for name in sorted(groups, key=lambda name: fmean(groups[name])):
        kind = next((kind for kind, start in KINDS.items() if name.startswith(start)), name.partition(" ")[0])
        found |= {kind: groups[name], f"{kind}_name": name.partition(", ")[2]}
    return found
