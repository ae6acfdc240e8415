"""The tables of how students recover, from results/recovery-*.json."""

from __future__ import annotations

from statistics import mean, median
from typing import Any

from pages import RESULTS, load, percent, provenance, table
from scipy.stats import spearmanr

PIPES = ("emoji-sd", "emoji-sd-macs", "emoji-dit")
LEVELS = (0.0, 0.1, 0.3, 1.0)  # shares of the updates


def sections() -> dict[str, str]:
    """What stands between the markers of these tables; nothing for a pipe that was not measured."""
    records = {pipe: load(f"recovery-{pipe}") for pipe in PIPES if (RESULTS / f"recovery-{pipe}.json").exists()}
    tables = {f"recovery-{pipe}": of_pipe(record) for pipe, record in records.items()}
    terms = {pipe: load(f"recovery-terms-{pipe}") for pipe in records if (RESULTS / f"recovery-terms-{pipe}.json").exists()}
    return tables | ({"imbalance": imbalance(terms)} if terms else {})


def of_pipe(record: dict[str, Any]) -> str:
    """A line for each plan and way of teaching: mean accuracy at each mark over its seeds, and what it lost at the end."""
    last = record["options"]["updates"]
    marks = [round(share * last) for share in LEVELS]
    teacher = next(row for row in record["rows"] if row["plan"] == "teacher")
    kept = "MACs kept" if record["options"].get("cost") == "macs" else "parameters kept"
    heads = ("plan, distillation", kept, "joint output loss", *(f"after {n} updates" for n in marks))
    heads = (*heads, "relative decline (range of seeds)", "Fréchet distance", "seeds")
    gaps = ("–",) * (len(marks) - 1)
    rows = [("teacher", "100 %", "–", *gaps, percent(teacher["accuracy"]), "–", f"{teacher['frechet']:.3g}", "–")]
    share = "keep_macs" if kept == "MACs kept" else "keep"
    rows += [line(record["rows"], arm, marks, teacher, share) for arm in arms(record["rows"], last)]
    return "\n\n".join([table(heads, rows), *foretold(record["rows"], last), provenance(record)])


def arms(rows: list[dict[str, Any]], last: int) -> list[tuple[str, str]]:
    """Plans and ways that were taught to the end, in the order in which they were measured."""
    done = [(row["plan"], row["way"]) for row in rows if row.get("updates") == last]
    return list(dict.fromkeys(done))


def foretold(rows: list[dict[str, Any]], last: int) -> list[str]:
    """How losses before training rank students by what they are worth after it; nothing for fewer than four of them."""
    losses = {key(row): row["joint_loss"] for row in rows if row.get("updates") == 0}
    ends = [row for row in rows if row.get("updates") == last and row["way"] == "normalized"]
    students = {name: [row for row in ends if key(row) == name] for name in dict.fromkeys(map(key, ends))}
    if len(students) < 4:
        return []
    before = [losses[name] for name in students]
    ranks = [
        float(spearmanr(before, [mean(map(of, found)) for found in students.values()]).statistic)
        for of in (lambda row: row["accuracy"]["mean"], lambda row: row["frechet"])
    ]
    return [
        f"Over the {len(students)} plans, normalized: rank correlation (Spearman) of the joint output loss before training "
        f"with the accuracy after it {ranks[0]:.2f}, with the Fréchet distance after it {ranks[1]:.2f}."
    ]


def imbalance(found: dict[str, dict[str, Any]]) -> str:
    """How uneven the feature terms of LAPTOP's student are, early and at the last update, and what the largest weighs."""
    heads = ("", "update", "largest raw term", "raw terms, largest ÷ median", "its share of what is minimised", "sites")
    rows = []
    for pipe, record in found.items():
        name = pipe.replace("-macs", ", half of its MACs")
        for way in dict.fromkeys(row["way"] for row in record["rows"]):
            of_way = [row for row in record["rows"] if row["way"] == way]
            rows += [(f"{name}, {way}", str(row["updates"]), *uneven(row)) for row in (of_way[1], of_way[-1])]
    return "\n\n".join([table(heads, rows), "\n".join(map(provenance, found.values()))])


def uneven(row: dict[str, Any]) -> tuple[str, ...]:
    """The largest raw feature term, how far it is above the median one, and what it is of the sum that is minimised."""
    raw, used = ({site: x for site, x in row[kind].items() if site.startswith("feature.")} for kind in ("raw", "normalized"))
    largest = max(raw, key=lambda site: raw[site])
    return (
        f"{largest.removeprefix('feature.')}: {raw[largest]:.2g}",
        f"{raw[largest] / median(raw.values()):.1f}",
        f"{100 * used[largest] / sum(used.values()):.0f} %",
        str(len(raw)),
    )


def key(row: dict[str, Any]) -> tuple[str, int | None]:
    """Which plan a row is of: random ones differ by seed."""
    return row["plan"], row["seed"] if row["plan"] == "random" else None


def line(
    rows: list[dict[str, Any]], arm: tuple[str, str], marks: list[int], teacher: dict[str, Any], share: str
) -> tuple[str, ...]:
    plan, way = arm
    before = [row for row in rows if row["plan"] == plan and row.get("updates") == 0]
    taught = [row for row in rows if (row["plan"], row.get("way")) == arm]
    found = [[row["accuracy"]["mean"] for row in (taught if n else before) if row["updates"] == n] for n in marks]
    ends = [row for row in taught if row["updates"] == marks[-1]]
    declines = [100 * (1 - row["accuracy"]["mean"] / teacher["accuracy"]["mean"]) for row in ends]
    return (
        f"{plan}, {way}",
        f"{100 * mean(row[share] for row in before):.1f} %",
        f"{mean(row['joint_loss'] for row in before):.2g}",
        *(f"{100 * mean(values):.1f} %" if values else "–" for values in found),
        f"{mean(declines):.1f} % ({min(declines):.1f} to {max(declines):.1f})",
        f"{mean(row['frechet'] for row in ends):.3g}",
        str(len(ends)),
    )
