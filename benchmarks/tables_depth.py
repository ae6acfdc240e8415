"""The tables of pruning in depth: what budgets choose before any training, how students recover, and both prunings together."""

from collections.abc import Iterator
from statistics import mean

from scipy.stats import spearmanr

from tables import PIPES, Record, Row, all_rows, provenance, shown, tables

KEEPS = (0.7, 0.5, 0.38)
DEPTHS = tuple(f"depth-{pipe}" for pipe in PIPES)
COSTLY = ("score", "cut", "load", "one update")  # of the steps at full size, those that take time or memory
RECOVERED = ("emoji-sd", "emoji-sd-macs", "emoji-dit")
SHOWN = ("output", "taylor", "cosine", "magnitude", "prompt score")  # criteria; the others choose as the output loss does
FORETOLD = (
    "Over the {count} plans, normalized: rank correlation (Spearman) of the joint output loss before training with the "
    "accuracy after it {accuracy:.2f}, with the Fréchet distance after it {frechet:.2f}.\n\n"
)
TAUGHT = (
    "On other images {pipe} draws {teacher.accuracy.mean:.1f %} right; its student draws {before.accuracy.mean:mean.1f %} "
    "right before it is taught and {after.accuracy.mean:mean.1f %} after."
)


def choices(*records: Record) -> Iterator[Row]:
    """What each criterion chooses at each budget."""
    for record in records:
        rows = {row["name"]: row for row in record["rows"] if row["group"] == "chosen"}
        for name in SHOWN:
            yield {"name": f"{record['pipe']}, {name}", "at": [rows[f"{name}, exact at {keep:g}"] for keep in KEEPS]}


def recovery(record: Record) -> Iterator[Row]:
    """A line for each plan and way of teaching: mean accuracy over its seeds before and after, and what it lost."""
    last, rows = record["options"]["updates"], record["rows"]
    cost, share = ("MACs", "keep_macs") if record["options"].get("cost") == "macs" else ("parameters", "keep")
    teacher = next(row for row in rows if row["plan"] == "teacher")
    first = {"name": "teacher", "cost": cost, "updates": last, "kept": "100 %", "frechet": teacher["frechet"]}
    yield first | {"right": [None, shown("{RIGHT}", teacher)]}
    for plan, way in dict.fromkeys((row["plan"], row["way"]) for row in rows if row.get("updates") == last):
        at = [students(record, plan, way if n else None, updates=n) for n in (0, last)]
        declines = [100 * (1 - row["accuracy"]["mean"] / teacher["accuracy"]["mean"]) for row in at[-1]]
        yield {
            "name": f"{plan}, {way}",
            "kept": f"{100 * mean(row[share] for row in at[0]):.1f} %",
            "loss": mean(row["joint_loss"] for row in at[0]),
            "right": [shown("{at.accuracy.mean:mean.1f %}", {"at": some}) for some in at],
            "decline": f"{mean(declines):.1f} % ({min(declines):.1f} to {max(declines):.1f})",
            "frechet": mean(row["frechet"] for row in at[-1]),
        }


def students(record: Record, plan: str, way: str | None, *, updates: int) -> list[Row]:
    """The rows of one plan and way of teaching after so many updates; a student that was not taught has no way."""
    known = (plan, way, updates)
    return [row for row in record["rows"] if (row["plan"], row.get("way"), row.get("updates")) == known]


def foretold(record: Record) -> str:
    """How losses before training rank students by what they are worth after it; random plans differ by seed."""
    ended, ends = record["options"]["updates"], dict[tuple, list[Row]]()
    before = {(row["plan"], row.get("seed")): row["joint_loss"] for row in record["rows"] if row.get("updates") == 0}
    for row in record["rows"]:
        if row.get("updates") == ended and row["way"] == "normalized":
            ends.setdefault((row["plan"], row["seed"] if row["plan"] == "random" else 0), []).append(row)
    losses = [before[plan] for plan in ends]
    values = {"accuracy": lambda row: row["accuracy"]["mean"], "frechet": lambda row: row["frechet"]}
    ranks = {key: spearmanr(losses, [mean(map(value, rows)) for rows in ends.values()]) for key, value in values.items()}
    found = {key: rank.statistic for key, rank in ranks.items()}
    return shown(FORETOLD, {"count": len(ends), **found}) + provenance(record)


def taught(record: Record) -> str:
    """What teaching is worth to the student that is shown: accuracy of its teacher, before and after."""
    teacher = next(row for row in record["rows"] if row["plan"] == "teacher")
    before = students(record, "laptop", None, updates=0)
    after = students(record, "laptop", "normalized", updates=record["options"]["updates"])
    return shown(TAUGHT, {"pipe": record["pipe"], "teacher": teacher, "before": before, "after": after})


def cases(record: Record) -> list[Row]:
    """The random sets of each denoiser and budget in one row."""
    names = dict.fromkeys(row["name"].partition(", set")[0] for row in record["rows"])
    return [{"name": name, "sets": [row for row in record["rows"] if row["name"].startswith(f"{name},")]} for name in names]


TABLES = tables(
    """
depth-criteria: = {pipe}, {criterion} | sets = {sets} | Pearson = {pearson:.2f} | Spearman = {spearman:.2f}
    | slope = {slope:.2g} | Spearman by size, smallest quarter of sets first = {quarters.spearman:.2f}
depth-choices: joint output loss / better than, of random sets (of emoji-dit: of all) / prompt accuracy = {name}
    | keep 0.7 = {at.0.joint_loss:.2g} / {at.0.beats_random_percent:.0f} % / {at.0.accuracy.mean:.0f %}
    | keep 0.5 = {at.1.joint_loss:.2g} / {at.1.beats_random_percent:.0f} % / {at.1.accuracy.mean:.0f %}
    | keep 0.38 = {at.2.joint_loss:.2g} / {at.2.beats_random_percent:.0f} % / {at.2.accuracy.mean:.0f %}
recovery-emoji-sd, recovery-emoji-sd-macs, recovery-emoji-dit: plan, distillation = {name} | {cost} kept = {kept}
    | joint output loss = {loss:.2g} | untaught = {right.0} | after {updates} updates = {right.1}
    | relative decline (range of seeds) = {decline} | Fréchet distance = {frechet:.3g}
product: = {pipe}, {name} | parameters = {parameters:.2f M} | MACs kept (with attention) = {KEPT}
    | faster (quartiles) = {FASTER} | accuracy (95 %) = {RIGHT} | Fréchet distance = {frechet:.3g}
    | PSNR to dense teacher = {psnr_db.mean:.1f dB}
milliseconds: random sets of layers = {name} | a call, s = {sets.latency_s.median:median.3f}
    | kept by the layers' times = {sets.keep_ms:.1f (%)} % | kept, timed = {sets.keep_timed:.1f (%)} %
    | MACs kept = {sets.keep_macs:.1f (%)} %
fullsize-depth: random weights, bfloat16 = {name} | s = {seconds:.1f}
    | GiB above what was there = {peak_memory_bytes:.2f (GiB)} | GiB of the whole process = {process_peak_bytes:.2f (GiB)}
""",
    records=dict.fromkeys(("depth-criteria", "depth-choices"), DEPTHS)
    | {"product": tuple(f"{study}-{pipe}" for study in ("product", "recovery") for pipe in PIPES)},
    rows={
        "depth-criteria": lambda *records: [
            row for row in all_rows(*records) if row["group"] == "additivity" and row["criterion"] in SHOWN
        ],
        "depth-choices": choices,
        "product": lambda *records: [row for row in all_rows(*records[:2]) if row["name"] != "teacher, fewer steps"],
        "milliseconds": cases,
        "fullsize-depth": lambda record: [row for row in record["rows"] if row["name"].endswith(COSTLY)],
        **{f"recovery-{name}": recovery for name in RECOVERED},
    },
    after={
        "product": lambda *records: "\n\n".join([*map(taught, records[2:]), provenance(*records[:2])]),
        **{f"recovery-{name}": foretold for name in RECOVERED},
    },
)
