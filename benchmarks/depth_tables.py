"""The tables of pruning in depth, of both shears together and of full-size models, from results/."""

from __future__ import annotations

from statistics import mean, median

from pages import RESULTS, load, percent, provenance, table
from scipy.stats import spearmanr

PIPES, BUDGETS = ("emoji-sd", "emoji-dit"), (0.7, 0.5, 0.38)
KEPT = "keep_ms", "keep_timed", "keep_macs"
OTHERS = "better than, of random sets (of emoji-dit: of all)"


def sections() -> dict[str, str]:
    """What stands between the markers of these tables; of what was not measured there is none."""
    records = {pipe: load(f"depth-{pipe}") for pipe in PIPES}
    found = {"depth": depth(records), "depth-criteria": criteria(records), "depth-choices": choices(records)}
    if is_every(records["emoji-dit"]):
        found["depth-every"] = every(records["emoji-dit"])
    products = [name for pipe in PIPES if (RESULTS / f"{(name := f'product-{pipe}')}.json").exists()]
    if products:
        found["product"] = product([load(name) for name in products])
    if (RESULTS / "milliseconds.json").exists():
        found["milliseconds"] = milliseconds(load("milliseconds"))
    if (RESULTS / "fullsize-depth.json").exists():
        found["fullsize-depth"] = full_size(load("fullsize-depth"))
    return found


def product(records: list[dict]) -> str:
    """Teacher and student, dense, with a schedule and with fewer steps: what they cost and what they draw."""
    heads = ("", "parameters", "on disk", "loaded in", "MACs kept (with attention)", "s an image", "faster (quartiles)",
             "prompt accuracy (95 %)", "Fréchet distance", "PSNR to dense teacher")  # fmt: skip
    rows = [
        (
            f"{record['pipe']}, {row['name']}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['disk_bytes'] / 2**20:.1f} MiB",
            f"{row['load_s']['median']:.2f} s" if "load_s" in row else "–",
            f"{100 * row['keep_linear']:.1f} % ({100 * row['keep_attention']:.1f} %)",
            f"{row['latency_s']['median']:.2f}" if "latency_s" in row else "–",
            "{median:.2f}× ({low:.2f}–{high:.2f})".format_map(row["speedup"]) if "speedup" in row else "–",
            percent(row["accuracy"]),
            f"{row['frechet']:.3g}",
            f"{row['psnr_db']['mean']:.1f} dB" if row["psnr_db"] else "–",
        )
        for record in records
        for row in record["rows"]
    ]
    return table(heads, rows) + "\n\n" + "\n".join(map(provenance, records))


def full_size(record: dict) -> str:
    """Seconds and memory of each phase."""
    whole = [gib(row["process_peak_bytes"]) if "process_peak_bytes" in row else "–" for row in record["rows"]]
    rows = [
        (row["name"], f"{row['seconds']:.1f}", gib(row["peak_memory_bytes"]), peak, remark(row))
        for row, peak in zip(record["rows"], whole, strict=True)
    ]
    heads = ("random weights, bfloat16", "s", "GiB above what was there", "GiB of the whole process", "")
    return table(heads, rows) + "\n\n" + provenance(record)


def milliseconds(record: dict) -> str:
    """What the layers' times say is kept, beside the student's time, in random sets of layers at each budget."""
    heads = ("random sets of layers", "a call, s", "kept by the layers' times", "kept, timed", "MACs kept")
    cases: dict[str, list[dict]] = {}
    for row in record["rows"]:
        cases.setdefault(row["name"].partition(", set")[0], []).append(row)
    rows = [
        (case, f"{median(row['latency_s']['median'] for row in found):.3f}", *(each(found, key) for key in KEPT))
        for case, found in cases.items()
    ]
    return table(heads, rows) + "\n\n" + provenance(record)


def each(rows: list[dict], key: str) -> str:
    return ", ".join(f"{100 * row[key]:.1f}" for row in rows) + " %"


def gib(count: int) -> str:
    return f"{count / 2**30:.2f}"


def remark(row: dict) -> str:
    """What else a phase says of itself."""
    side, size, kept = row.get("latent_side"), row.get("disk_bytes"), row.get("keep")
    said = (
        side and f"{side} × {side} latents",
        row.get("tuples") and row["name"].endswith("score") and f"samples a layer: {row['tuples']}",
        row.get("layers") and f"{row['layers']} layers to choose from",
        row.get("removed") and f"{row['removed']} layers go",
        kept and f"{100 * kept:.1f} % of the parameters stay",
        size and f"{gib(size)} GiB on disk, loaded as float32",
        row.get("batch_size") and f"batch of {row['batch_size']}",
    )
    return ", ".join(part for part in said if part)


def depth(records: dict[str, dict]) -> str:
    """The exact choice, random sets and handcrafted ones of each pipe."""
    heads = (
        "before any training",
        "parameters kept",
        "joint output loss",
        OTHERS,
        "prompt accuracy (95 %)",
    )
    rows = [row for pipe, record in records.items() for row in of_pipe(pipe, record)]
    return table(heads, rows) + "\n\n" + "\n".join(map(provenance, records.values()))


def of_pipe(pipe: str, record: dict) -> list[tuple[str, ...]]:
    """The exact choice, random sets and handcrafted ones, budget by budget."""
    named = {row["name"]: row for row in record["rows"]}
    found = []
    for keep in BUDGETS:
        found.append(line(f"{pipe}, {keep:g} asked: least output loss, exact", named[f"output, exact at {keep:g}"]))
        rivals = of_budget(record, keep)
        sets = f"all {len(rivals)} sets" if is_every(record) else f"{len(rivals)} random sets"
        found.append(random_line(f"{pipe}: {sets}, median (least; accuracy: mean)", rivals))
    for name, row in named.items():
        if row["group"] in ("handcrafted", "equal"):
            found.append(line(f"{pipe}: {name.partition(' at ')[0]}", row))
    return found


def criteria(records: dict[str, dict]) -> str:
    """How the sums of single scores go with the joint output loss of sets of layers, by criterion."""
    heads = ("", "sets", "Pearson", "Spearman", "slope", "Spearman by size, smallest quarter of sets first")
    rows = [
        (
            f"{pipe}, {row['criterion']}",
            str(row["sets"]),
            f"{row['pearson']:.2f}",
            f"{row['spearman']:.2f}",
            f"{row['slope']:.2g}",
            ", ".join(f"{part['spearman']:.2f}" for part in row["quarters"]),
        )
        for pipe, record in records.items()
        for row in record["rows"]
        if row["group"] == "additivity"
    ]
    return table(heads, rows) + "\n\n" + "\n".join(map(provenance, records.values()))


def is_every(record: dict) -> bool:
    """Whether all sets of a budget were measured, not random ones alone."""
    return record["options"].get("sets") == "all"


def every(record: dict) -> str:
    """How the sums of single scores rank all sets of one size, by criterion."""
    rows = [(name, *(ranked(record, scores, keep) for keep in BUDGETS)) for name, scores in record["scores"].items()]
    sizes = [of_budget(record, keep) for keep in BUDGETS]
    heads = (
        "Spearman of sums with joint output losses",
        *(f"all {len(found)} sets without {len(found[0]['layers'])}" for found in sizes),
    )
    return table(heads, rows) + "\n\n" + provenance(record)


def ranked(record: dict, scores: dict[str, float], keep: float) -> str:
    found = of_budget(record, keep)
    sums = [sum(scores[layer] for layer in row["layers"]) for row in found]
    return f"{spearmanr(sums, [row['joint_loss'] for row in found]).statistic:.2f}"


def of_budget(record: dict, keep: float) -> list[dict]:
    """The rows of random sets, or of all, at a budget."""
    return [row for row in record["rows"] if row["group"] == "random" and row["wanted"] == keep]


def choices(records: dict[str, dict]) -> str:
    """What every criterion and way of solving chooses at each budget: joint output loss, and how much is drawn right."""
    names = list(dict.fromkeys(row["name"].partition(" at ")[0] for record in records.values() for row in record["rows"]
                               if row["group"] == "chosen"))  # fmt: skip
    rows = [(f"{pipe}, {name}", *chosen(record, name)) for pipe, record in records.items() for name in names]
    heads = (f"joint output loss / {OTHERS} / prompt accuracy", *(f"keep {keep:g}" for keep in BUDGETS))
    return table(heads, rows)


def chosen(record: dict, name: str) -> list[str]:
    """One way of choosing at each budget."""
    named = {row["name"]: row for row in record["rows"]}
    found = [named[f"{name} at {keep:g}"] for keep in BUDGETS]
    return [
        f"{row['joint_loss']:.2g} / {row['beats_random_percent']:.0f} % / {100 * row['accuracy']['mean']:.0f} %"
        for row in found
    ]


def line(name: str, row: dict) -> tuple[str, ...]:
    beats = f"{row['beats_random_percent']:.0f} %" if "beats_random_percent" in row else "–"
    return name, f"{100 * row['keep']:.1f} %", f"{row['joint_loss']:.2g}", beats, percent(row["accuracy"])


def random_line(name: str, rows: list[dict]) -> tuple[str, ...]:
    keeps, losses = [row["keep"] for row in rows], [row["joint_loss"] for row in rows]
    seen = [row["accuracy"]["mean"] for row in rows if "accuracy" in row]
    right = f"{100 * mean(seen):.1f} % ({len(seen)} of them)" if seen else "–"
    return name, f"{100 * median(keeps):.1f} %", f"{median(losses):.2g} ({min(losses):.2g})", "–", right
