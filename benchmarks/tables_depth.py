"""The tables of pruning in depth: what budgets choose before any training, and how students recover."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean, median

from scipy.stats import spearmanr

from tables import PIPES, Record, Row, all_rows, provenance, shown, tables

KEEPS = (0.7, 0.5, 0.38)
DEPTHS = tuple(f"depth-{pipe}" for pipe in PIPES)
RECOVERED = ("emoji-sd", "emoji-sd-macs", "emoji-dit")
LEVELS = (0.0, 0.1, 0.3, 1.0)  # shares of the updates
FORETOLD = (
    "Over the {count} plans, normalized: rank correlation (Spearman) of the joint output loss before training with the "
    "accuracy after it {accuracy:.2f}, with the Fréchet distance after it {frechet:.2f}.\n\n"
)


def of_budget(record: Record, keep: float) -> list[Row]:
    """The rows of random sets, or of all, at a budget."""
    return [row for row in record["rows"] if row["group"] == "random" and row["wanted"] == keep]


def depth(*records: Record) -> Iterator[Row]:
    """The exact choice, random sets and handcrafted ones of each pipe, budget by budget."""
    for record in records:
        pipe, named = record["pipe"], {row["name"]: row for row in record["rows"]}
        for keep in KEEPS:
            yield chosen(named[f"output, exact at {keep:g}"], f"{pipe}, {keep:g} asked: least output loss, exact")
            sets, kind = of_budget(record, keep), "all {} sets" if record["options"].get("sets") == "all" else "{} random sets"
            yield summary(sets, f"{pipe}: {kind.format(len(sets))}, median (least; accuracy: mean)")
        for name, row in named.items():
            if row["group"] in ("handcrafted", "equal"):
                yield chosen(row, f"{pipe}: {name.partition(' at ')[0]}")


def chosen(row: Row, name: str) -> Row:
    return row | {"name": name, "loss": f"{row['joint_loss']:.2g}", "right": shown("{RIGHT}", row)}


def summary(rows: list[Row], name: str) -> Row:
    """Many sets in one row."""
    losses, seen = [row["joint_loss"] for row in rows], [row["accuracy"]["mean"] for row in rows if "accuracy" in row]
    right, loss = f"{100 * mean(seen):.1f} % ({len(seen)} of them)", f"{median(losses):.2g} ({min(losses):.2g})"
    return {"name": name, "keep": median(row["keep"] for row in rows), "loss": loss, "right": right}


def criteria(*records: Record) -> list[Row]:
    """How the sums of single scores go with the joint output loss of sets of layers, by criterion."""
    return [row for row in all_rows(*records) if row["group"] == "additivity"]


def every(record: Record) -> Iterator[Row]:
    """How the sums of single scores rank all sets of one size, by criterion."""
    sizes = [of_budget(record, keep) for keep in KEEPS]
    about = {"sets": [len(rows) for rows in sizes], "gone": [len(rows[0]["layers"]) for rows in sizes]}
    for name, scores in record["scores"].items():
        sums = [[sum(scores[layer] for layer in row["layers"]) for row in rows] for rows in sizes]
        joint = [[row["joint_loss"] for row in rows] for rows in sizes]
        yield about | {"name": name, "ranks": [spearmanr(*pair).statistic for pair in zip(sums, joint, strict=True)]}


def choices(*records: Record) -> Iterator[Row]:
    """What every criterion and way of solving chooses at each budget."""
    for record in records:
        rows = {row["name"]: row for row in record["rows"] if row["group"] == "chosen"}
        for name in dict.fromkeys(name.partition(" at ")[0] for name in rows):
            yield {"name": f"{record['pipe']}, {name}", "at": [rows[f"{name} at {keep:g}"] for keep in KEEPS]}


# Recovery


def recovery(record: Record) -> Iterator[Row]:
    """A line for each plan and way of teaching: mean accuracy at each mark over its seeds, and what it lost at the end."""
    last, rows = record["options"]["updates"], record["rows"]
    marks = [round(share * last) for share in LEVELS]
    cost, share = ("MACs", "keep_macs") if record["options"].get("cost") == "macs" else ("parameters", "keep")
    teacher = next(row for row in rows if row["plan"] == "teacher")
    first = {"name": "teacher", "cost": cost, "marks": marks, "kept": "100 %", "frechet": teacher["frechet"]}
    yield first | {"right": [None, None, None, shown("{RIGHT}", teacher)]}
    for plan, way in dict.fromkeys((row["plan"], row["way"]) for row in rows if row.get("updates") == last):
        before = [row for row in rows if row["plan"] == plan and row.get("updates") == 0]
        taught = [row for row in rows if (row["plan"], row.get("way")) == (plan, way)]
        at = [[row for row in (taught if n else before) if row["updates"] == n] for n in marks]
        declines = [100 * (1 - row["accuracy"]["mean"] / teacher["accuracy"]["mean"]) for row in at[-1]]
        yield {
            "name": f"{plan}, {way}",
            "kept": f"{100 * mean(row[share] for row in before):.1f} %",
            "loss": mean(row["joint_loss"] for row in before),
            "right": [shown("{at.accuracy.mean:mean.1f %}", {"at": some}) for some in at],
            "decline": f"{mean(declines):.1f} % ({min(declines):.1f} to {max(declines):.1f})",
            "frechet": mean(row["frechet"] for row in at[-1]),
            "seeds": len(at[-1]),
        }


def foretold(record: Record) -> str:
    """How losses before training rank students by what they are worth after it."""
    before = {student(row): row["joint_loss"] for row in record["rows"] if row.get("updates") == 0}
    last = record["options"]["updates"]
    ends = [row for row in record["rows"] if row.get("updates") == last and row["way"] == "normalized"]
    plans = dict.fromkeys(map(student, ends))
    losses = [before[plan] for plan in plans]
    accuracies, distances = (
        [mean(values(row) for row in ends if student(row) == plan) for plan in plans]
        for values in (lambda row: row["accuracy"]["mean"], lambda row: row["frechet"])
    )
    ranks = {"accuracy": spearmanr(losses, accuracies).statistic, "frechet": spearmanr(losses, distances).statistic}
    return shown(FORETOLD, {"count": len(plans), **ranks}) + provenance(record)


def student(row: Row) -> tuple[str, int | None]:
    """Which plan a row is of: random ones differ by seed."""
    return row["plan"], row["seed"] if row["plan"] == "random" else None


def imbalance(*records: Record) -> Iterator[Row]:
    """How uneven the feature terms of LAPTOP's student are, early and at the last update, and what the largest weighs."""
    for record in records:
        name = record["pipe"] + (", half of its MACs" if record["options"].get("cost") == "macs" else "")
        for way in dict.fromkeys(row["way"] for row in record["rows"]):
            rows = [row for row in record["rows"] if row["way"] == way]
            yield from (row | {"name": f"{name}, {way}"} | uneven(row) for row in (rows[1], rows[-1]))


def uneven(row: Row) -> Row:
    """The largest raw feature term, how far it is above the median one, and its share of the sum that is minimised."""
    raw, used = ({s: x for s, x in row[kind].items() if s.startswith("feature.")} for kind in ("raw", "normalized"))
    site = max(raw, key=lambda site: raw[site])
    largest, share = f"{site.removeprefix('feature.')}: {raw[site]:.2g}", used[site] / sum(used.values())
    return {"largest": largest, "over": raw[site] / median(raw.values()), "share": share, "sites": len(raw)}


TABLES = tables(
    """
depth: before any training = {name} | parameters kept = {keep:.1f %} | joint output loss = {loss}
    | better than, of random sets (of emoji-dit: of all) = {beats_random_percent:.0f} % | prompt accuracy (95 %) = {right}
depth-criteria: = {pipe}, {criterion} | sets = {sets} | Pearson = {pearson:.2f} | Spearman = {spearman:.2f}
    | slope = {slope:.2g} | Spearman by size, smallest quarter of sets first = {quarters.spearman:.2f}
depth-choices: joint output loss / better than, of random sets (of emoji-dit: of all) / prompt accuracy = {name}
    | keep 0.7 = {at.0.joint_loss:.2g} / {at.0.beats_random_percent:.0f} % / {at.0.accuracy.mean:.0f %}
    | keep 0.5 = {at.1.joint_loss:.2g} / {at.1.beats_random_percent:.0f} % / {at.1.accuracy.mean:.0f %}
    | keep 0.38 = {at.2.joint_loss:.2g} / {at.2.beats_random_percent:.0f} % / {at.2.accuracy.mean:.0f %}
depth-every: Spearman of sums with joint output losses = {name} | all {sets.0} sets without {gone.0} = {ranks.0:.2f}
    | all {sets.1} sets without {gone.1} = {ranks.1:.2f} | all {sets.2} sets without {gone.2} = {ranks.2:.2f}
recovery-emoji-sd, recovery-emoji-sd-macs, recovery-emoji-dit: plan, distillation = {name} | {cost} kept = {kept}
    | joint output loss = {loss:.2g} | after {marks.0} updates = {right.0} | after {marks.1} updates = {right.1}
    | after {marks.2} updates = {right.2} | after {marks.3} updates = {right.3}
    | relative decline (range of seeds) = {decline} | Fréchet distance = {frechet:.3g} | seeds = {seeds}
imbalance: = {name} | update = {updates} | largest raw term = {largest} | raw terms, largest ÷ median = {over:.1f}
    | its share of what is minimised = {share:.0f %} | sites = {sites}
""",
    records=dict.fromkeys(("depth", "depth-criteria", "depth-choices"), DEPTHS)
    | {"depth-every": ("depth-emoji-dit",), "imbalance": tuple(f"recovery-terms-{name}" for name in RECOVERED)},
    rows={"depth": depth, "depth-criteria": criteria, "depth-choices": choices, "depth-every": every, "imbalance": imbalance}
    | {f"recovery-{name}": recovery for name in RECOVERED},
    after={"depth-choices": None, **{f"recovery-{name}": foretold for name in RECOVERED}},
)
