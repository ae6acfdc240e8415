"""The tables of pruning in depth: what budgets choose before any training, and how students recover."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import mean, median

from scipy.stats import spearmanr

from tables import Record, Row, Table, Text, accuracy, markdown, provenance

PIPES, KEEPS = ("emoji-sd", "emoji-dit"), (0.7, 0.5, 0.38)
DEPTHS = tuple(f"depth-{pipe}" for pipe in PIPES)
RECOVERED = ("emoji-sd", "emoji-sd-macs", "emoji-dit")
OTHERS = "better than, of random sets (of emoji-dit: of all)"
LEVELS = (0.0, 0.1, 0.3, 1.0)  # shares of the updates


def named(record: Record) -> dict[str, Row]:
    return {row["name"]: row for row in record["rows"]}


def of_budget(record: Record, keep: float) -> list[Row]:
    """The rows of random sets, or of all, at a budget."""
    return [row for row in record["rows"] if row["group"] == "random" and row["wanted"] == keep]


def is_every(record: Record) -> bool:
    """Whether all sets of a budget were measured, not random ones alone."""
    return record["options"].get("sets") == "all"


def depth_rows(*records: Record) -> Iterator[Row]:
    """The exact choice, random sets and handcrafted ones of each pipe, budget by budget."""
    for record in records:
        pipe, rows = record["pipe"], named(record)
        for keep in KEEPS:
            yield shown_as(rows[f"output, exact at {keep:g}"], f"{pipe}, {keep:g} asked: least output loss, exact")
            rivals = of_budget(record, keep)
            sets = f"all {len(rivals)} sets" if is_every(record) else f"{len(rivals)} random sets"
            yield summary(f"{pipe}: {sets}, median (least; accuracy: mean)", rivals)
        for name, row in rows.items():
            if row["group"] in ("handcrafted", "equal"):
                yield shown_as(row, f"{pipe}: {name.partition(' at ')[0]}")


def shown_as(row: Row, name: str) -> Row:
    """The row under a name, its loss and accuracy as text."""
    return row | {"name": name, "loss": f"{row['joint_loss']:.2g}", "right": accuracy(row)}


def summary(name: str, rows: list[Row]) -> Row:
    """Many sets in one row."""
    losses, seen = [row["joint_loss"] for row in rows], [row["accuracy"]["mean"] for row in rows if "accuracy" in row]
    right = f"{100 * mean(seen):.1f} % ({len(seen)} of them)" if seen else "–"
    loss = f"{median(losses):.2g} ({min(losses):.2g})"
    return {"name": name, "keep": median(row["keep"] for row in rows), "loss": loss, "right": right}


def criteria_rows(*records: Record) -> list[Row]:
    """How the sums of single scores go with the joint output loss of sets of layers, by criterion."""
    return [row | {"pipe": record["pipe"]} for record in records for row in record["rows"] if row["group"] == "additivity"]


def every(record: Record) -> str:
    """How the sums of single scores rank all sets of one size, by criterion; nothing if only random sets were measured."""
    if not is_every(record):
        return ""
    sizes = [of_budget(record, keep) for keep in KEEPS]
    heads = [f"all {len(rows)} sets without {len(rows[0]['layers'])}" for rows in sizes]
    rows = [(name, *(ranked(rows, scores) for rows in sizes)) for name, scores in record["scores"].items()]
    return markdown(("Spearman of sums with joint output losses", *heads), rows) + "\n\n" + provenance(record)


def ranked(rows: list[Row], scores: dict[str, float]) -> str:
    sums = [sum(scores[layer] for layer in row["layers"]) for row in rows]
    return f"{spearmanr(sums, [row['joint_loss'] for row in rows]).statistic:.2f}"


def choices(*records: Record) -> str:
    """What every criterion and way of solving chooses at each budget: joint output loss, and how much is drawn right."""
    rows = [row for record in records for row in record["rows"] if row["group"] == "chosen"]
    names = dict.fromkeys(row["name"].partition(" at ")[0] for row in rows)
    heads = (f"joint output loss / {OTHERS} / prompt accuracy", *(f"keep {keep:g}" for keep in KEEPS))
    lines = [
        (f"{record['pipe']}, {name}", *(chosen(named(record)[f"{name} at {keep:g}"]) for keep in KEEPS))
        for record in records
        for name in names
    ]
    return markdown(heads, lines)


def chosen(row: Row) -> str:
    return f"{row['joint_loss']:.2g} / {row['beats_random_percent']:.0f} % / {100 * row['accuracy']['mean']:.0f} %"


# Recovery


def recovery(record: Record) -> str:
    """A line for each plan and way of teaching: mean accuracy at each mark over its seeds, and what it lost at the end."""
    last, rows = record["options"]["updates"], record["rows"]
    marks = [round(share * last) for share in LEVELS]
    teacher = next(row for row in rows if row["plan"] == "teacher")
    kept, share = ("MACs kept", "keep_macs") if record["options"].get("cost") == "macs" else ("parameters kept", "keep")
    heads = ("plan, distillation", kept, "joint output loss", *(f"after {n} updates" for n in marks),
             "relative decline (range of seeds)", "Fréchet distance", "seeds")  # fmt: skip
    first = ("teacher", "100 %", "–", *["–"] * (len(marks) - 1), accuracy(teacher), "–", f"{teacher['frechet']:.3g}", "–")
    arms = dict.fromkeys((row["plan"], row["way"]) for row in rows if row.get("updates") == last)
    lines = [first, *(recovered(rows, arm, marks, teacher=teacher, share=share) for arm in arms)]
    return "\n\n".join([markdown(heads, lines), *foretold(rows, last), provenance(record)])


def recovered(rows: list[Row], arm: tuple[str, str], marks: list[int], *, teacher: Row, share: str) -> tuple[str, ...]:
    """The line of a plan and its way of teaching."""
    plan, way = arm
    before = [row for row in rows if row["plan"] == plan and row.get("updates") == 0]
    taught = [row for row in rows if (row["plan"], row.get("way")) == arm]
    right = [[row["accuracy"]["mean"] for row in (taught if n else before) if row["updates"] == n] for n in marks]
    ends = [row for row in taught if row["updates"] == marks[-1]]
    declines = [100 * (1 - row["accuracy"]["mean"] / teacher["accuracy"]["mean"]) for row in ends]
    return (
        f"{plan}, {way}",
        f"{100 * mean(row[share] for row in before):.1f} %",
        f"{mean(row['joint_loss'] for row in before):.2g}",
        *(f"{100 * mean(values):.1f} %" if values else "–" for values in right),
        f"{mean(declines):.1f} % ({min(declines):.1f} to {max(declines):.1f})",
        f"{mean(row['frechet'] for row in ends):.3g}",
        str(len(ends)),
    )


def foretold(rows: list[Row], last: int) -> list[str]:
    """How losses before training rank students by what they are worth after it; nothing for fewer than four of them."""
    losses = {student(row): row["joint_loss"] for row in rows if row.get("updates") == 0}
    ends = [row for row in rows if row.get("updates") == last and row["way"] == "normalized"]
    students = {key: [row for row in ends if student(row) == key] for key in dict.fromkeys(map(student, ends))}
    if len(students) < 4:
        return []

    def rank(value: Callable[[Row], float]) -> float:
        after = [mean(map(value, found)) for found in students.values()]
        return float(spearmanr([losses[key] for key in students], after).statistic)

    return [
        f"Over the {len(students)} plans, normalized: rank correlation (Spearman) of the joint output loss before training "
        f"with the accuracy after it {rank(lambda row: row['accuracy']['mean']):.2f}, "
        f"with the Fréchet distance after it {rank(lambda row: row['frechet']):.2f}."
    ]


def student(row: Row) -> tuple[str, int | None]:
    """Which plan a row is of: random ones differ by seed."""
    return row["plan"], row["seed"] if row["plan"] == "random" else None


def imbalance_rows(*records: Record) -> Iterator[Row]:
    """How uneven the feature terms of LAPTOP's student are, early and at the last update, and what the largest weighs."""
    for pipe, record in zip(RECOVERED, records, strict=True):
        name = pipe.replace("-macs", ", half of its MACs")
        for way in dict.fromkeys(row["way"] for row in record["rows"]):
            rows = [row for row in record["rows"] if row["way"] == way]
            yield from (row | {"name": f"{name}, {way}"} | uneven(row) for row in (rows[1], rows[-1]))


def uneven(row: Row) -> Row:
    """The largest raw feature term, how far it is above the median one, and its share of the sum that is minimised."""
    raw, used = (sites(row[kind]) for kind in ("raw", "normalized"))
    site = max(raw, key=lambda site: raw[site])
    largest, shares = f"{site.removeprefix('feature.')}: {raw[site]:.2g}", used[site] / sum(used.values())
    return {"largest": largest, "over": raw[site] / median(raw.values()), "share": shares, "sites": len(raw)}


def sites(terms: dict[str, float]) -> dict[str, float]:
    return {site: x for site, x in terms.items() if site.startswith("feature.")}


TABLES: dict[str, Table | Text] = {
    "depth": Table(
        DEPTHS,
        {
            "before any training": "{name}",
            "parameters kept": "{keep:.1f %}",
            "joint output loss": "{loss}",
            OTHERS: "{beats_random_percent:.0f} %",
            "prompt accuracy (95 %)": "{right}",
        },
        rows=depth_rows,
    ),
    "depth-criteria": Table(
        DEPTHS,
        {
            "": "{pipe}, {criterion}",
            "sets": "{sets}",
            "Pearson": "{pearson:.2f}",
            "Spearman": "{spearman:.2f}",
            "slope": "{slope:.2g}",
            "Spearman by size, smallest quarter of sets first": lambda row: ", ".join(
                f"{part['spearman']:.2f}" for part in row["quarters"]
            ),
        },
        rows=criteria_rows,
    ),
    "depth-choices": Text(DEPTHS, choices),
    "depth-every": Text(("depth-emoji-dit",), every),
    **{f"recovery-{pipe}": Text((f"recovery-{pipe}",), recovery) for pipe in RECOVERED},
    "imbalance": Table(
        tuple(f"recovery-terms-{pipe}" for pipe in RECOVERED),
        {
            "": "{name}",
            "update": "{updates}",
            "largest raw term": "{largest}",
            "raw terms, largest ÷ median": "{over:.1f}",
            "its share of what is minimised": "{share:.0f %}",
            "sites": "{sites}",
        },
        rows=imbalance_rows,
    ),
}
