"""The README's table of pruning in depth, from results/depth-*.json."""

from __future__ import annotations

from statistics import median

from pages import load, percent, provenance, table

PIPES, BUDGETS = ("emoji-sd", "emoji-dit"), (0.7, 0.5, 0.38)


def sections() -> dict[str, str]:
    """What stands between the markers of this table."""
    heads = (
        "before any training",
        "parameters kept",
        "joint output loss",
        "better than, of random sets",
        "prompt accuracy (95 %)",
    )
    records = {pipe: load(f"depth-{pipe}") for pipe in PIPES}
    rows = [row for pipe, record in records.items() for row in of_pipe(pipe, record)]
    return {"depth": table(heads, rows) + "\n\n" + "\n".join(map(provenance, records.values()))}


def of_pipe(pipe: str, record: dict) -> list[tuple[str, ...]]:
    """The exact choice, random sets and handcrafted ones, budget by budget."""
    named = {row["name"]: row for row in record["rows"]}
    found = []
    for keep in BUDGETS:
        found.append(line(f"{pipe}, {keep:g} asked: least output loss, exact", named[f"output, exact at {keep:g}"]))
        rivals = [row for name, row in named.items() if name.startswith("random ") and name.endswith(f" at {keep:g}")]
        found.append(random_line(f"{pipe}: {len(rivals)} random sets, median", rivals))
    found += [line(f"{pipe}: {name.partition(' at ')[0]}", row) for name, row in named.items() if row["group"] == "handcrafted"]
    return found


def line(name: str, row: dict) -> tuple[str, ...]:
    beats = f"{row['beats_random_percent']:.0f} %" if "beats_random_percent" in row else "–"
    return name, f"{100 * row['keep']:.1f} %", f"{row['joint_loss']:.2g}", beats, percent(row["accuracy"])


def random_line(name: str, rows: list[dict]) -> tuple[str, ...]:
    keeps, losses = [row["keep"] for row in rows], [row["joint_loss"] for row in rows]
    return name, f"{100 * median(keeps):.1f} %", f"{median(losses):.2g}", "–", "–"
