"""The tables of what things cost and gain: README's one table, the demo, the zoo, memory, MACs, seconds, and the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import names
from secateur.measuring.plain_steps import in_words
from tables import FASTER, KEPT, Record, Row, Table, accuracy, decibels, percent, provenance, texts

CROWDED = 1.2  # seconds that passed for one of the CPU
PSNR = "{psnr_db.mean:.1f} dB"


def middle(rows: list[Row], **more: Any) -> Row:
    """The row of several searches: the median of each number."""
    keys = ("calls", "macs_linear", "macs_attention", "keep_linear", "keep_attention")
    pairs = {"psnr_db": "mean", "accuracy": "mean", "speedup": "median"}
    numbers = {key: median(row[key] for row in rows) for key in keys}
    return numbers | {key: {part: median(row[key][part] for row in rows)} for key, part in pairs.items()} | more


def best(rows: list[Row], *groups: str) -> Row:
    """The row of these groups that is nearest to the dense images."""
    return max((row for row in rows if row["group"] in groups), key=lambda row: row["psnr_db"]["mean"])


def gains(front: Record, product: Record, keep: float = 0.2) -> Iterator[Row]:
    """Dense, the rivals and what the search finds at a fifth of the MACs, and the student."""
    at = [row for row in front["rows"] if row["keep"] == keep]
    solver, curve = plain_curve(front, keep)
    hold, cache = best(at, *names.EVEN), best(at, "static cache, best setting")
    dense = next(row for row in front["rows"] if row["group"] == "dense")
    ours, student = [row for row in at if row["group"] == "Secateur, DDIM"], {row["name"]: row for row in product["rows"]}
    called = round(keep * dense["calls"])
    cached = "DeepCache, interval {interval}, depth {depth} (its best setting)".format_map(cache["setting"])
    titles = {
        f"dense, {dense['calls']} DDIM steps": (dense, dense["calls"]),
        f"fewer steps: {names.library(solver)}, the best stock solver": (best(at, solver), called),
        cached: (cache, dense["calls"]),
        f"{hold['group']}: the best evenly held calls": (hold, called),
        f"**Secateur: searched, {called} of {dense['calls']} calls** (median of {len(ours)} searches)": (middle(ours), called),
        "Secateur: student, half of the parameters": (student["student, dense"], dense["calls"]),
        "**Secateur: student, searched**": (student["student, schedule"], called),
    }
    for name, (row, calls) in titles.items():
        near = "–" if row is dense else in_words(row["psnr_db"]["mean"], curve)
        yield {**row, "name": name, "called": calls, "near": near}


def plain_curve(front: Record, keep: float) -> tuple[str, dict[int, float]]:
    """The stock solver that is nearest to the dense images at a budget, and its PSNR by steps; at last of 100 steps."""
    rows = [row for row in front["rows"] if row["group"] in names.PLAIN]
    solver = best([row for row in rows if row["keep"] == keep], *names.PLAIN)["group"]
    return solver, {row["steps"]: row["psnr_db"]["mean"] for row in rows if row["group"] == solver} | {100: limit_of(front)}


def limit_of(front: Record) -> float:
    """How near the dense images are to those of 100 steps of DPM-Solver++."""
    return next(row for row in front["rows"] if row["group"] == "dense")["converged_psnr_db"]["mean"]


def after_gains(front: Record, product: Record) -> str:
    return (
        "Faster: one image at a time, in turns with dense. PSNR: to the dense images, mean of 128. Plain steps as near: of the "
        f"best stock solver, interpolated. Never: 100 steps of DPM-Solver++ reach {limit_of(front):.1f} dB, because solvers "
        "other than DDIM converge to other images.\n\n" + "\n".join(map(provenance, (front, product)))
    )


GAINS = {
    "emoji-sd": "{name}",
    "calls": "{called}",
    "MACs (with attention)": "{macs_linear:.1f G} ({macs_attention:.1f G})",
    "faster": lambda row: f"{row.get('speedup', {'median': 1})['median']:.1f}×",
    "PSNR to dense": lambda row: decibels(row["psnr_db"], interval=False),
    "accuracy": "{accuracy.mean:.1f %}",
    "plain steps as near": "{near}",
}


def zoo_rows(record: Record) -> Iterator[Row]:
    """The judge's rows and the pipelines'; older records have them by kind."""
    yield from record.get("rows", ())
    for kind, before in (("judge", "judge, renders, "), ("pipelines", "")):
        for name, row in record.get(kind, {}).items():
            yield {"name": before + name, "count": row["images"], **{key: row[key] for key in ("mean", "ci95")}}


def search_seconds(key: str) -> Callable[[Row], str]:
    """Seconds of an update, or of a whole search."""
    return lambda row: f"{row.get(f'update{key}', row.get(f'search{key}')):.1f}"


def beside(record: Record) -> str:
    """Where the numbers come from, and whether other jobs ran at the same time."""
    passed, used = (sum(row.get(f"update{key}", row.get(f"search{key}")) for row in record["rows"]) for key in ("_s", "_cpu_s"))
    crowded = f" Other jobs ran beside (load average {record['load_average']:.1f}), so the seconds that passed are too many."
    return provenance(record) + (crowded if passed > CROWDED * used else "")


def cases(record: Record) -> list[Row]:
    """The random sets of each denoiser and budget in one row."""
    found: dict[str, list[Row]] = {}
    for row in record["rows"]:
        found.setdefault(row["name"].partition(", set")[0], []).append(row)
    return [{"name": name, "sets": rows} for name, rows in found.items()]


def each(key: str) -> Callable[[Row], str]:
    return lambda case: ", ".join(f"{100 * row[key]:.1f}" for row in case["sets"]) + " %"


def remark(row: Row) -> str:
    """What else a phase says of itself."""
    get = row.get
    parts = (
        get("latent_side") and f"{row['latent_side']} × {row['latent_side']} latents",
        get("tuples") and row["name"].endswith("score") and f"samples a layer: {row['tuples']}",
        get("layers") and f"{row['layers']} layers to choose from",
        get("removed") and f"{row['removed']} layers go",
        get("keep") and f"{100 * row['keep']:.1f} % of the parameters stay",
        get("disk_bytes") and f"{row['disk_bytes'] / 2**30:.2f} GiB on disk, loaded as float32",
        get("batch_size") and f"batch of {row['batch_size']}",
    )
    return ", ".join(part for part in parts if part)


TABLES = {
    "gains": Table(("front-emoji-sd", "product-emoji-sd"), GAINS, rows=gains, after=after_gains),
    "demo": Table(
        ("demo/record",),
        {
            "": "{name}",
            "calls": "{calls}",
            "MACs, conv + linear": "{macs_linear:.2f G} ({keep_linear:.0f %})",
            "with attention": "{macs_attention:.2f G} ({keep_attention:.0f %})",
            "s an image": "{latency_s.median:.2f}",
            "faster": "{speedup.median:.2f}×",
            "PSNR to dense": PSNR,
            "prompt accuracy (95 %)": accuracy,
        },
    ),
    "zoo": Table(("zoo",), {"": "{name}", "images": "{count}", "right (95 %)": percent}, rows=zoo_rows),
    "cache": Table(
        ("cache",),
        {
            "": "{name}",
            "every block's output, MiB": lambda row: f"{row['every_output_bytes'] / 2**20:.1f}",
            "freed after the last reader, MiB": lambda row: f"{row['peak_cached_bytes'] / 2**20:.1f}",
        },
    ),
    "paper-macs": Table(
        ("paper-macs",),
        {
            "": "{name}",
            "conv + linear": "{macs_linear:.2f T}",
            "with attention": "{macs_attention:.2f T}",
            "the paper": "{paper}",
            "its convention": "{convention}",
            "off": lambda row: f"{row['off_percent']:+.2f} %".replace("-", "−"),
        },
    ),
    "runtime": Table(
        ("runtime",),
        {
            "": "{name}",
            "MACs kept, conv + linear": "{keep_linear:.1f %}",
            "with attention": "{keep_attention:.1f %}",
            "s, 50 calls": "{latency_s.median:.1f}",
            "faster (quartiles)": FASTER,
            "faster ÷ MACs reduction": "{efficiency:.2f}",
        },
        before="{title}.",
    ),
    "fullsize": Table(
        ("fullsize",),
        {
            "one update, random weights": "{name}",
            "s": "{update_s:.0f}",
            "peak memory above the weights": "{peak_memory_bytes:.1f GiB}",
            "weights": "{weights_bytes:.1f GiB}",
            "the paper's whole search, by these seconds (the paper: 2.3 h of a GPU)": "{paper_search_h:.0f h}",
        },
    ),
    "search-cost": Table(
        ("search-cost",),
        {
            "": "{name}",
            "CPU s": search_seconds("_cpu_s"),
            "s": search_seconds("_s"),
            "schedules measured": "{measured}",
            "peak memory above the pipe's weights": "{peak_memory_bytes:.0f MiB}",
            "without holes in glibc's heap": "{peak_without_holes_bytes:.0f MiB}",
            "of it kept between calls": "{kept_bytes:.0f MiB}",
            "the Pruner's weights alone": "{pruner_bytes:.0f MiB}",
        },
        after=beside,
        missing="",
    ),
    "fullsize-depth": Table(
        ("fullsize-depth",),
        {
            "random weights, bfloat16": "{name}",
            "s": "{seconds:.1f}",
            "GiB above what was there": lambda row: f"{row['peak_memory_bytes'] / 2**30:.2f}",
            "GiB of the whole process": lambda row: f"{row['process_peak_bytes'] / 2**30:.2f}",
            "": remark,
        },
    ),
    "milliseconds": Table(
        ("milliseconds",),
        {
            "random sets of layers": "{name}",
            "a call, s": lambda case: f"{median(row['latency_s']['median'] for row in case['sets']):.3f}",
            "kept by the layers' times": each("keep_ms"),
            "kept, timed": each("keep_timed"),
            "MACs kept": each("keep_macs"),
        },
        rows=cases,
    ),
    "product": Table(
        ("product-emoji-sd", "product-emoji-dit"),
        {
            "": "{pipe}, {name}",
            "parameters": "{parameters:.2f M}",
            "on disk": "{disk_bytes:.1f MiB}",
            "loaded in": "{load_s.median:.2f s}",
            "MACs kept (with attention)": KEPT,
            "s an image": "{latency_s.median:.2f}",
            "faster (quartiles)": FASTER,
            "prompt accuracy (95 %)": accuracy,
            "Fréchet distance": "{frechet:.3g}",
            "PSNR to dense teacher": PSNR,
        },
    ),
}


def sections() -> dict[str, str]:
    """The text between each pair of markers."""
    found = texts(TABLES)
    return found | {"numbers": numbers(found)}


def numbers(found: dict[str, str]) -> str:
    """The tables of the zoo, of memory, of the paper's MACs and of milliseconds, each under its heading."""
    heads = {
        "zoo": "### The zoo\n\nPrompt accuracy: the share of images in which the judge reads just what was asked for.",
        "cache": "### Memory\n\nPeak bytes cached by a schedule, float16, guidance on (batch 2).",
        "paper-macs": "### The MACs of the paper's tables",
        "runtime": "### Milliseconds for MACs",
    }
    return "\n\n".join(f"{head}\n\n{found[name]}" for name, head in heads.items())
