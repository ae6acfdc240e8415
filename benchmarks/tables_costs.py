"""The tables of what things cost and gain: README's one table, the demo, the zoo, memory, MACs, seconds, and the product."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import names
from secateur.measuring.plain_steps import in_words
from tables import Record, Row, provenance, shown, tables

GAINED = (
    "Faster: one image at a time, in turns with dense. PSNR: to the dense images, mean of 128. Plain steps as near: of the "
    "best stock solver, interpolated. Never: 100 steps of DPM-Solver++ reach {converged_psnr_db.mean:.1f dB}, because solvers "
    "other than DDIM converge to other images.\n\n"
)
REMARKS = (  # what else a phase says of itself
    "{latent_side} × {latent_side} latents",
    "samples a layer: {tuples}",
    "{layers} layers to choose from",
    "{removed} layers go",
    "{keep:.1f %} of the parameters stay",
    "{disk_bytes:.2f GiB} on disk, loaded as float32",
    "batch of {batch_size}",
)


def gains(front: Record, product: Record, keep: float = 0.2) -> Iterator[Row]:
    """Dense, the rivals and what the search finds at a fifth of the MACs, and the student."""
    student = {row["name"]: row for row in product["rows"]}
    dense, at = front["rows"][0], [row for row in front["rows"] if row["keep"] == keep]
    every, few = dense["calls"], round(keep * dense["calls"])
    plain, hold = best(at, names.is_plain), best(at, names.EVEN.__contains__)
    cache = best(at, "static cache, best setting".__eq__)
    ours = [row for row in at if row["group"] == "Secateur, DDIM"]
    curve = {row["steps"]: row["psnr_db"]["mean"] for row in front["rows"] if row["group"] == plain["group"]}
    curve[100] = dense["converged_psnr_db"]["mean"]
    setting = "DeepCache, interval {interval}, depth {depth} (its best setting)".format_map(cache["setting"])
    titles = {
        f"dense, {every} DDIM steps": (dense, every),
        f"fewer steps: {names.library(plain['group'])}, the best stock solver": (plain, few),
        setting: (cache, every),
        f"{hold['group']}: the best evenly held calls": (hold, few),
        f"**Secateur: searched, {few} of {every} calls** (median of {len(ours)} searches)": (middle(ours), few),
        "Secateur: student, half of the parameters": (student["student, dense"], every),
        "**Secateur: student, searched**": (student["student, schedule"], few),
    }
    for name, (row, calls) in titles.items():
        psnr = row["psnr_db"]["mean"]
        near = (
            {"near": "the same", "steps": "–"} if row is dense else {"near": f"{psnr:.1f} dB", "steps": in_words(psnr, curve)}
        )
        yield {"speedup": {"median": 1}, **row, "name": name, "called": calls, **near}


def best(rows: list[Row], fits: Any) -> Row:
    """The row of these groups that is nearest to the dense images."""
    return max((row for row in rows if fits(row["group"])), key=lambda row: row["psnr_db"]["mean"])


def middle(values: list[Any]) -> Any:
    """The row of several searches: the median of each number."""
    if isinstance(values[0], dict):
        return {key: middle([value[key] for value in values]) for key in values[0] if all(key in value for value in values)}
    return median(values) if isinstance(values[0], int | float) else values[0]


def zoo_rows(record: Record) -> Iterator[Row]:
    """The judge's rows and the pipelines'; older records have them by kind."""
    yield from record.get("rows", ())
    for kind, before in (("judge", "judge, renders, "), ("pipelines", "")):
        for name, row in record.get(kind, {}).items():
            yield {"name": before + name, "count": row["images"], "mean": row["mean"], "ci95": row["ci95"]}


def seconds(record: Record) -> list[Row]:
    """The rows, with the seconds of an update or of a whole search under the same names."""
    return [{key.removeprefix("update_").removeprefix("search_"): row[key] for key in row} for row in record["rows"]]


def phases(record: Record) -> list[Row]:
    """The rows, each with what else it says of itself."""
    rows = [row if row["name"].endswith("score") else row | {"tuples": None} for row in record["rows"]]
    return [row | {"remarks": [text for remark in REMARKS if (text := shown(remark, row, missing=""))] or [""]} for row in rows]


def cases(record: Record) -> list[Row]:
    """The random sets of each denoiser and budget in one row."""
    names = dict.fromkeys(row["name"].partition(", set")[0] for row in record["rows"])
    return [{"name": name, "sets": [row for row in record["rows"] if row["name"].startswith(f"{name},")]} for name in names]


COLUMNS = """
gains: emoji-sd = {name} | calls = {called} | MACs (with attention) = {macs_linear:.1f G} ({macs_attention:.1f G})
    | faster = {speedup.median:.1f}× | PSNR to dense = {near} | accuracy = {accuracy.mean:.1f %} | plain steps as near = {steps}
demo: = {name} | calls = {calls} | MACs, conv + linear = {macs_linear:.2f G} ({keep_linear:.0f %})
    | with attention = {macs_attention:.2f G} ({keep_attention:.0f %}) | s an image = {latency_s.median:.2f}
    | faster = {speedup.median:.2f}× | PSNR to dense = {psnr_db.mean:.1f dB} | prompt accuracy (95 %) = {RIGHT}
zoo: = {name} | images = {count} | right (95 %) = {mean:.1f %} ({ci95.0:.0f (%)}–{ci95.1:.0f (%)})
cache: = {name} | every block's output, MiB = {every_output_bytes:.1f (MiB)}
    | freed after the last reader, MiB = {peak_cached_bytes:.1f (MiB)}
paper-macs: = {name} | conv + linear = {macs_linear:.2f T} | with attention = {macs_attention:.2f T} | the paper = {paper}
    | its convention = {convention} | off = {off_percent:+.2f} %
runtime: = {name} | MACs kept, conv + linear = {keep_linear:.1f %} | with attention = {keep_attention:.1f %}
    | s, 50 calls = {latency_s.median:.1f} | faster (quartiles) = {FASTER} | faster ÷ MACs reduction = {efficiency:.2f}
fullsize: one update, random weights = {name} | s = {update_s:.0f} | peak memory above the weights = {peak_memory_bytes:.1f GiB}
    | weights = {weights_bytes:.1f GiB}
    | the paper's whole search, by these seconds (the paper: 2.3 h of a GPU) = {paper_search_h:.0f h}
search-cost: = {name} | CPU s = {cpu_s:.1f} | s = {s:.1f} | schedules measured = {measured}
    | peak memory above the pipe's weights = {peak_memory_bytes:.0f MiB}
    | without holes in glibc's heap = {peak_without_holes_bytes:.0f MiB} | of it kept between calls = {kept_bytes:.0f MiB}
    | the Pruner's weights alone = {pruner_bytes:.0f MiB}
fullsize-depth: random weights, bfloat16 = {name} | s = {seconds:.1f}
    | GiB above what was there = {peak_memory_bytes:.2f (GiB)} | GiB of the whole process = {process_peak_bytes:.2f (GiB)}
    | = {remarks}
milliseconds: random sets of layers = {name} | a call, s = {sets.latency_s.median:median.3f}
    | kept by the layers' times = {sets.keep_ms:.1f (%)} % | kept, timed = {sets.keep_timed:.1f (%)} %
    | MACs kept = {sets.keep_macs:.1f (%)} %
product: = {pipe}, {name} | parameters = {parameters:.2f M} | on disk = {disk_bytes:.1f MiB} | loaded in = {load_s.median:.2f s}
    | MACs kept (with attention) = {KEPT} | s an image = {latency_s.median:.2f} | faster (quartiles) = {FASTER}
    | prompt accuracy (95 %) = {RIGHT} | Fréchet distance = {frechet:.3g} | PSNR to dense teacher = {psnr_db.mean:.1f dB}
"""
TABLES = tables(
    COLUMNS,
    records={
        "gains": ("front-emoji-sd", "product-emoji-sd"),
        "demo": ("demo/record",),
        "product": ("product-emoji-sd", "product-emoji-dit"),
    },
    rows={"gains": gains, "zoo": zoo_rows, "search-cost": seconds, "fullsize-depth": phases, "milliseconds": cases},
    after={"gains": lambda front, product: shown(GAINED, front["rows"][0]) + provenance(front, product)},
    missing={"search-cost": ""},
)
