"""The tables of pruning in time that are not of a front: the demo, where schedules hold, the paper's ablations, costs."""

from collections.abc import Iterator
from textwrap import shorten

import carried_rows
from paper import TABLES as PAPERS
from paper import last
from secateur.measuring.columns import plain_curve
from tables import Record, Row, budgets, provenance, tables
from tables_front import as_near

BASE = "DiP-GO"  # the paper's own choices, by the name of their rows
TITLES = {"loss": "loss, α = 1", "alpha": "α, with SSIM", "gamma": "sparsity"}
STAGES = ("additive", "additive, refresh", "additive, refresh, local")
LABELS = {BASE: "DiP-GO's gradients"}


def ablations(record: Record) -> Iterator[Row]:
    """The paper's choices beside its numbers; for each variant the last rows of its searches."""
    high, low = budgets(record)
    for name in ("loss", "alpha", "gamma"):
        for label, variant in PAPERS[name].items():
            yield {
                "name": f"{TITLES[name]}: {label}" + (" (the paper's)" if variant == BASE else ""),
                "paper": record["paper"][name][label],
                "main": (rows := last(record["rows"], variant, high)),
                "searches": len(rows),
                "exact": last(record["rows"], variant, high, exact=True),
                "less": last(record["rows"], variant, low),
            }


def after_ablations(record: Record) -> str:
    """What is smaller than in the paper."""
    reduced = "; ".join(f"{what}: {how}" for what, how in record["reduced"].items())
    return f"Reduced against the paper: {reduced}.\n\n{provenance(record)}"


def searches(record: Record) -> Iterator[Row]:
    """What each way of searching finds, and for how much."""
    paper, levels = record["paper"], ("search", "search_at_0.85", "search_at_0.90")
    for variant in ("random", "genetic", BASE, *STAGES):
        yield {
            "name": LABELS.get(variant, variant),
            "paper": [paper[level][variant] for level in levels if variant in paper[level]],
            "hours": paper["search_gpu_hours"].get(variant),
            "at": [{"of": last(record["rows"], variant, keep)} for keep in budgets(record)],
        }


def after_schedulers(record: Record) -> str:
    """The other schedulers, by what keeps them from being one."""
    others = [row for row in record["rows"] if "why" in row]
    noisy = [row["name"] for row in others if row["why"].startswith("draws new noise")]
    rest = [row["name"] for row in others if row["name"] not in noisy]
    return f"Draw new noise: {', '.join(noisy)}. Step otherwise or want more: {', '.join(rest)}.\n\n{provenance(record)}"


def families(record: Record) -> Iterator[Row]:
    """What was seen of each class; those that are refused last, with the reason."""
    words = {True: "yes", False: "no", None: "not tried"}
    for row in sorted(record["rows"], key=lambda row: ("why" in row, row["name"].lower())):
        if "why" in row:
            yield {"name": row["name"], "why": shorten(row["why"].replace("|", "/"), 80, placeholder=" …")}
        else:
            yield row | {"exact": words[row.get("exact")], "holds": words[row.get("holds")]}


def zoo_rows(record: Record) -> Iterator[Row]:
    """The judge's rows and the pipelines'; older records have them by kind."""
    yield from record.get("rows", ())
    for kind, before in (("judge", "judge, renders, "), ("pipelines", "")):
        for name, row in record.get(kind, {}).items():
            yield {"name": before + name, "count": row["images"], "mean": row["mean"], "ci95": row["ci95"]}


def on_gpu(record: Record) -> list[Row]:
    """The timed rows; dense and plain steps only of SD-1.5, one image at a time."""
    first = record["rows"][0]["denoiser"], record["rows"][0]["batch"]
    kept = (
        row
        for row in record["rows"]
        if (row["denoiser"], row["batch"]) == first or not row["name"].partition(": ")[2].startswith(("dense", "plain"))
    )
    return [row for row in kept if "speedup" in row]


def seconds(record: Record) -> list[Row]:
    """The rows, with the seconds of an update or of a whole search under the same names; updates of 10 and of 50 calls."""
    rows = (row for row in record["rows"] if row.get("calls") != 25)
    return [{key.removeprefix("update_").removeprefix("search_"): row[key] for key in row} for row in rows]


COLUMNS = """
demo: = {name} | calls = {calls} | MACs (with attention) = {macs_linear:.2f G} ({macs_attention:.2f G})
    | faster = {speedup.median:.2f}× | PSNR to dense = {psnr_db.mean:.1f dB} | accuracy (95 %) = {RIGHT}
    | plain steps as near = {as_near}
search-ablation: = {name} | paper, CLIP at 0.2, 0.15, 0.1 (GPU hours) = {paper:.2f} ({hours})
    | PSNR, 0.5 of the MACs = {at.0.of.psnr_db.mean:range.1f dB} | CPU s = {at.0.of.search_cpu_s:mean.0f}
    | PSNR, 0.3 of the MACs = {at.1.of.psnr_db.mean:range.1f dB} | CPU s = {at.1.of.search_cpu_s:mean.0f}
ablations: = {name} | paper, CLIP = {paper:.2f} | PSNR, 0.5 of the MACs = {main.psnr_db.mean:range.1f dB}
    | MACs used = {main.keep_linear:mean.0f %} | PSNR, exact allocation = {exact.psnr_db.mean:range.1f dB}
    | PSNR, 0.3 of the MACs = {less.psnr_db.mean:range.1f dB}
carried-samples: calibration samples = {samples} | 10 calls: on them = {10.seen:mean.1f dB}
    | on {images} others = {10.found:range.1f dB} | stock rows = {10.same:range.1f dB}
    | 5 calls: on them = {5.seen:mean.1f dB} | on {images} others = {5.found:range.1f dB} | stock rows = {5.same:range.1f dB}
carried: used = {dense.condition} | dense to home's = {dense.psnr_db.mean:.1f dB} | calls = {calls}
    | found at home = {found:range.1f dB} | stock rows = {same:range.1f dB} | searched again there = {searched:range.1f dB}
    | best plain steps = {plain:mean.1f dB}, {plain_name}
zoo: = {name} | images = {count} | right (95 %) = {mean:.1f %} ({ci95.0:.0f (%)}–{ci95.1:.0f (%)})
schedulers: scheduler = {name} | calls of ten steps = {calls} | predictions in a step, at most = {predictions}
families: denoiser class = {name} | blocks = {blocks} | one that is left out repeats its = {reuse}
    | dense is exact = {exact} | half of the calls held = {holds} | refused, since = {why}
sampler-latency: pipe = {name} | seconds of ten plain steps ÷ those of ten calls of its schedule (quartiles) = {FASTER}
cache: = {name} | every block's output, MiB = {every_output_bytes:.1f (MiB)}
    | freed after the last reader, MiB = {peak_cached_bytes:.1f (MiB)}
paper-macs: = {name} | conv + linear = {macs_linear:.2f T} | with attention = {macs_attention:.2f T} | the paper = {paper}
    | its convention = {convention} | off = {off_percent:+.2f} %
gpu: = {name} | MACs kept = {KEPT} | s = {latency_s.median:.2f} | faster (quartiles) = {FASTER}
    | faster ÷ MACs reduction = {efficiency:.2f} | kept between calls, MiB = {cached_bytes:.1f (MiB)}
runtime: = {name} | MACs kept = {KEPT} | s, 50 calls = {latency_s.median:.1f} | faster (quartiles) = {FASTER}
    | faster ÷ MACs reduction = {efficiency:.2f}
fullsize: one update, random weights = {name} | s = {update_s:.0f} | peak memory above the weights = {peak_memory_bytes:.1f GiB}
    | weights = {weights_bytes:.1f GiB}
    | 1000 of them (the paper: 2.3 h of a GPU) = {paper_search_h:.0f h}
search-cost: = {name} | CPU s = {cpu_s:.1f} | s = {s:.1f} | schedules measured = {measured}
    | peak memory above the pipe's weights = {peak_memory_bytes:.0f MiB}
    | of it kept between calls = {kept_bytes:.0f MiB}
    | the Pruner's weights alone = {pruner_bytes:.0f MiB}
"""
TABLES = tables(
    COLUMNS,
    records={
        "demo": ("demo/record",),
        "search-ablation": ("ablations",),
        "carried": ("carried-emoji-dit",),
        "carried-samples": ("carried-emoji-dit",),
    },
    rows={
        "demo": lambda record: [row | {"as_near": as_near(row, plain_curve(record))} for row in record["rows"]],
        "search-ablation": searches,
        "ablations": ablations,
        "carried": carried_rows.conditions,
        "carried-samples": carried_rows.samples,
        "families": families,
        "schedulers": lambda record: [row for row in record["rows"] if "calls" in row],
        "gpu": on_gpu,
        "zoo": zoo_rows,
        "search-cost": seconds,
    },
    after={
        "ablations": after_ablations,
        "schedulers": after_schedulers,
    },
)
