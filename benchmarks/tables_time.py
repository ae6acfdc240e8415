"""The tables of pruning in time: README's one table, the demo, the fronts, what searches find, and what they cost."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import carried_rows
from names import is_plain, is_published, library
from paper import TABLES as PAPERS
from paper import last
from secateur.measuring.columns import plain_curve
from secateur.measuring.plain_steps import in_words
from secateur.measuring.variants import EVEN
from tables import PIPES, SAME_DB, Record, Row, all_rows, budgets, by_group, provenance, shown, tables

SOLVERS = ("DDIM", "DPM-Solver++", "UniPC")
NEAR = {"psnr_db": SOLVERS[:1], "converged_psnr_db": SOLVERS[1:]}  # a row's two measures, and the searches that aim there
OURS = {f"Secateur, {solver}": solver for solver in SOLVERS}
NEAR_OF = {solver: key for key, solvers in NEAR.items() for solver in solvers}
WHICH = {"psnr_db": "dense", "converged_psnr_db": "converged"}
BUDGETS = (0.5, 0.34, 0.25, 0.2, 0.15, 0.1)  # of the fronts, as fractions of the MACs
FRONTS = tuple(f"front-{pipe}" for pipe in PIPES)
GAINED = (
    "PSNR: to the dense images. Accuracy: a small classifier reads the caption off the image. Never: even {most} steps, the "
    "most tried, are farther. 128 images a row; commands and machines: [front](docs/front.md), [student](docs/distil.md)."
)


def gains(front: Record, product: Record, *, keep: float = 0.2) -> Iterator[Row]:
    """Dense, the rivals and what the search finds at a fifth of the MACs, and the student."""
    student = {row["name"]: row for row in product["rows"]}
    dense, at = dense_of(front), [row for row in front["rows"] if row["keep"] == keep]
    every, few = dense["calls"], round(keep * dense["calls"])
    plain, hold = best(at, is_plain), best(at, EVEN.__contains__)
    cache, published = best(at, "static cache, best setting".__eq__), best(at, is_published)
    ours, curve = [row for row in at if row["group"] == "Secateur, DDIM"], envelope(front, "psnr_db")
    setting = "DeepCache, interval {interval}, depth {depth} (its best setting)".format_map(cache["setting"])
    titles = {
        f"dense, {every} DDIM steps": (dense, every),
        f"fewer steps: {library(plain['group'])}, the best stock solver": (plain, few),
        f"{published['group'].partition(',')[0]}: the best published sampler": (published, few),
        setting: (cache, every),
        "evenly held calls, no search: `apply(pipe, keep=0.2)`": (hold, few),
        f"**Secateur: searched, {few} of {every} calls** (median of {len(ours)} searches)": (middle(ours), few),
        "Secateur: student, half of the parameters": (student["student, dense"], every),
        "**Secateur: student, searched**": (student["student, schedule"], few),
    }
    for name, (row, calls) in titles.items():
        near = {"near": "the same" if row is dense else shown("{psnr_db.mean:.1f dB}", row), "as_near": as_near(row, curve)}
        yield ({"speedup": {"median": 1}} if row is dense else {}) | row | {"name": name, "called": calls, **near}


def dense_of(record: Record) -> Row:
    """The row of the dense images."""
    return next(row for row in record["rows"] if row["group"] == "dense")


def best(rows: list[Row], fits: Callable[[str], bool]) -> Row:
    """The row of these groups that is nearest to the dense images."""
    return max((row for row in rows if fits(row["group"])), key=lambda row: row["psnr_db"]["mean"])


def middle(values: list[Any]) -> Any:
    """The row of several searches: the median of each number."""
    if isinstance(values[0], dict):
        return {key: middle([value[key] for value in values]) for key in values[0] if all(key in value for value in values)}
    return median(values) if isinstance(values[0], int | float) else values[0]


def as_near(row: Row, curve: dict[int, float]) -> str:
    """How many plain steps come as near to the dense images; a dash for these."""
    return in_words(row["psnr_db"]["mean"], curve) if row["psnr_db"] and row["psnr_db"]["mean"] < SAME_DB else "–"


# The fronts


def front(record: Record) -> Iterator[Row]:
    """Of each budget: the rivals nearest to the dense and to the converged images, and what the search finds."""
    curves = {key: envelope(record, key) for key in NEAR}
    for keep in searched(record):
        at = [row for row in record["rows"] if row["keep"] == keep]
        first, right = next(row for row in at if row["group"] == "Secateur, DDIM"), by_group(at, "accuracy")
        yield first | {
            "calls": 50 * keep,
            "dense": dense_of(record)["accuracy"],
            "right": [fmean(values) for group, values in right.items() if group in OURS],
            **{key: nearest(by_group(at, key), curves[key], aim) for key, aim in NEAR.items()},
        }


def searched(*records: Record) -> list[float]:
    """The budgets at which searches for the dense images were made, for all of these records."""
    made = [{row["keep"] for row in record["rows"] if row["group"] == "Secateur, DDIM"} for record in records]
    return [keep for keep in BUDGETS if all(keep in keeps for keeps in made)]


def envelope(record: Record, key: str) -> dict[int, float]:
    """PSNR of the best stock solver at each number of plain steps."""
    curve: dict[int, float] = {}
    for row in record["rows"]:
        if is_plain(row["group"]) and row.get(key):
            curve[row["calls"]] = max(row[key]["mean"], curve.get(row["calls"], 0.0))
    return curve


def nearest(groups: dict[str, list[float]], plain: dict[int, float], aim: Sequence[str]) -> dict[str, str]:
    """The rival that is nearest in the mean, and the searches under each solver: bold if no rival is nearer.

    plain: the curve by which it is told how many plain steps come as near as the best of the solvers that aim there.
    """
    rival = max((group for group in groups if not group.startswith("Secateur")), key=lambda group: fmean(groups[group]))
    texts = {"rival": shown("{values:range.1f dB}", {"values": groups[rival]}) + f", {library(rival)}"}
    made = {solver: groups[group] for group, solver in OURS.items() if group in groups}
    if aimed := [fmean(made[solver]) for solver in aim if solver in made]:
        texts["steps"] = in_words(max(aimed), plain)
    for solver, values in made.items():
        mean, _, ends = shown("{values:range.1f dB}", {"values": values}).partition(" (")
        bold = "**" if fmean(values) >= fmean(groups[rival]) else ""
        texts[solver] = f"{bold}{mean}{bold}" + (f" ({ends}" if ends else "")
    return texts


def whole(record: Record) -> dict[str, list[Row]]:
    """Every way that was measured, the mean of its searches at each budget; those nearest at a fifth of the MACs first."""
    return {f"### Nearness to the {which} images": list(ways(record, key)) for key, which in WHICH.items()}


def ways(record: Record, key: str) -> Iterator[Row]:
    """For each way, its PSNR at each budget, in order."""
    at = [by_group((row for row in record["rows"] if row["keep"] == keep), key) for keep in BUDGETS]
    where = BUDGETS.index(0.2)
    order = sorted({group for groups in at for group in groups}, key=lambda g: (-fmean(at[where].get(g, [0.0])), g))
    for group in order:
        values = [groups.get(group, []) for groups in at]
        yield {"name": library(group), "calls": [50 * keep for keep in BUDGETS], "at": values}


def by_solver(*records: Record) -> Iterator[Row]:
    """Of each budget, what each stage of the search adds, by pipe and solver: the mean of the searches."""
    for keep in searched(*records):
        row: Row = {"calls": 50 * keep}
        for pipe, solver in SEARCHES:
            group = [one for one in all_rows(*records) if (one["pipe"], one["keep"]) == (pipe, keep)]
            found = [one["stages"] for one in group if one["group"] == f"Secateur, {solver}"]
            if found:
                reached = [fmean(stages[key]["psnr_db"] for stages in found) for key in found[0]]
                gained = " + ".join(f"{x:.1f}" for x in (reached[0], *(b - a for a, b in pairwise(reached))))
                row[f"{pipe}, {solver}"] = f"{gained} dB"
        yield row


def every_stage(*records: Record) -> Iterator[Row]:
    """What each stage reaches on the calibration images, in how many seconds, and what the whole is worth on others."""
    rows = {(row["pipe"], row["name"]): row for row in all_rows(*records)}
    for (pipe, name), row in rows.items():
        if ", every stage, " in name:
            usual, key = rows[pipe, name.replace(", every stage", "")], NEAR_OF[row["group"].split(", ")[1]]
            stages = list(row["stages"].values())
            gains = [b["psnr_db"] - a["psnr_db"] for a, b in pairwise(stages)]
            found = {"first": stages[0]["psnr_db"], "gains": gains, "seconds": [stage["seconds"] for stage in stages]}
            others = {"usual": usual[key]["mean"], "every": row[key]["mean"]}
            yield {"name": f"{pipe}, {name.split(', ')[1]}", "calls": row["calls"], **found, **others}


# The paper's ablations, costs

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


def zoo_rows(record: Record) -> Iterator[Row]:
    """The judge's rows and the pipelines'; older records have them by kind."""
    yield from record.get("rows", ())
    for kind, before in (("judge", "judge, renders, "), ("pipelines", "")):
        for name, row in record.get(kind, {}).items():
            yield {"name": before + name, "count": row["images"], "mean": row["mean"], "ci95": row["ci95"]}


def seconds(record: Record) -> list[Row]:
    """The rows, with the seconds of an update or of a whole search under the same names."""
    return [{key.removeprefix("update_").removeprefix("search_"): row[key] for key in row} for row in record["rows"]]


SEARCHES = [(pipe, solver) for pipe in PIPES for solver in SOLVERS]
COLUMNS = """
gains: emoji-sd = {name} | calls = {called} | MACs (with attention) = {macs_linear:.1f G} ({macs_attention:.1f G})
    | faster = {speedup.median:.1f}× | PSNR to dense = {near} | accuracy = {accuracy.mean:.1f %}
    | plain steps as near = {as_near}
gains-short: emoji-sd, beside 50 calls of DDIM = {name} | calls = {called} | faster = {speedup.median:.1f}×
    | PSNR to their images = {near}
demo: = {name} | calls = {calls} | MACs, conv + linear = {macs_linear:.2f G} ({keep_linear:.0f %})
    | with attention = {macs_attention:.2f G} ({keep_attention:.0f %}) | s an image = {latency_s.median:.2f}
    | faster = {speedup.median:.2f}× | PSNR to dense = {psnr_db.mean:.1f dB} | prompt accuracy (95 %) = {RIGHT}
    | plain steps as near = {as_near}
front-emoji-sd, front-emoji-dit: dense calls = {calls:g} | nearest rival to the dense images = {psnr_db.rival}
    | Secateur, DDIM = {psnr_db.DDIM} | plain steps as near = {psnr_db.steps}
    | nearest rival to the converged images = {converged_psnr_db.rival}
    | Secateur, DPM-Solver++ = {converged_psnr_db.DPM-Solver++} | Secateur, UniPC = {converged_psnr_db.UniPC}
    | plain steps as near = {converged_psnr_db.steps}
    | prompt accuracy of the three (dense {dense.mean:.1f %}) = {right:.1f (%)} % | MACs kept, DDIM (with attention) = {KEPT}
front-whole-emoji-sd, front-whole-emoji-dit: PSNR in dB, dense calls: = {name} | {calls.0:g} = {at.0:range.1f}
    | {calls.1:g} = {at.1:range.1f} | {calls.2:g} = {at.2:range.1f} | {calls.3:g} = {at.3:range.1f}
    | {calls.4:g} = {at.4:range.1f} | {calls.5:g} = {at.5:range.1f}
search-ablation: = {name} | paper, CLIP at 0.2, 0.15, 0.1 (GPU hours) = {paper:.2f} ({hours})
    | PSNR, 0.5 of the MACs = {at.0.of.psnr_db.mean:range.1f dB} | evaluations = {at.0.of.evaluations:mean.0f}
    | CPU s = {at.0.of.search_cpu_s:mean.0f} | PSNR, 0.3 of the MACs = {at.1.of.psnr_db.mean:range.1f dB}
    | evaluations = {at.1.of.evaluations:mean.0f} | CPU s = {at.1.of.search_cpu_s:mean.0f}
ablations: = {name} | searches = {searches} | paper, CLIP = {paper:.2f}
    | PSNR, 0.5 of the MACs = {main.psnr_db.mean:range.1f dB} | MACs used = {main.keep_linear:mean.0f %}
    | SSIM = {main.ssim.mean:mean.3f} | prompt accuracy = {main.accuracy.mean:mean.1f %}
    | PSNR, exact allocation = {exact.psnr_db.mean:range.1f dB} | PSNR, 0.3 of the MACs = {less.psnr_db.mean:range.1f dB}
carried-samples: calibration samples = {samples} | 10 calls, fitted rows: on those samples = {10.seen:mean.1f dB}
    | on {images} others = {10.found:range.1f dB} | the same calls, best stock rows = {10.same:range.1f dB}
    | 5 calls, fitted rows: on those samples = {5.seen:mean.1f dB} | on {images} others = {5.found:range.1f dB}
    | the same calls, best stock rows = {5.same:range.1f dB}
carried: used = {dense.condition} | its dense images to those at home = {dense.psnr_db.mean:.1f dB} | calls = {calls}
    | found at home = {found:range.1f dB} | the same calls, best stock rows = {same:range.1f dB}
    | plain steps, best stock solver = {plain:mean.1f dB}, {plain_name} | searched again there = {searched:range.1f dB}
zoo: = {name} | images = {count} | right (95 %) = {mean:.1f %} ({ci95.0:.0f (%)}–{ci95.1:.0f (%)})
schedulers: scheduler = {name} | calls of ten steps = {calls} | predictions in a step, at most = {predictions}
sampler-latency: pipe = {name} | seconds of ten plain steps ÷ those of ten calls of its schedule (quartiles) = {FASTER}
cache: = {name} | every block's output, MiB = {every_output_bytes:.1f (MiB)}
    | freed after the last reader, MiB = {peak_cached_bytes:.1f (MiB)}
paper-macs: = {name} | conv + linear = {macs_linear:.2f T} | with attention = {macs_attention:.2f T} | the paper = {paper}
    | its convention = {convention} | off = {off_percent:+.2f} %
gpu: = {name} | MACs kept = {KEPT} | s = {latency_s.median:.2f} | faster (quartiles) = {FASTER}
    | faster ÷ MACs reduction = {efficiency:.2f} | kept between calls, MiB = {cached_bytes:.1f (MiB)}
runtime: = {name} | MACs kept, conv + linear = {keep_linear:.1f %} | with attention = {keep_attention:.1f %}
    | s, 50 calls = {latency_s.median:.1f} | faster (quartiles) = {FASTER} | faster ÷ MACs reduction = {efficiency:.2f}
fullsize: one update, random weights = {name} | s = {update_s:.0f} | peak memory above the weights = {peak_memory_bytes:.1f GiB}
    | weights = {weights_bytes:.1f GiB}
    | the paper's whole search, by these seconds (the paper: 2.3 h of a GPU) = {paper_search_h:.0f h}
search-cost: = {name} | CPU s = {cpu_s:.1f} | s = {s:.1f} | schedules measured = {measured}
    | peak memory above the pipe's weights = {peak_memory_bytes:.0f MiB}
    | of it kept between calls = {kept_bytes:.0f MiB}
    | the Pruner's weights alone = {pruner_bytes:.0f MiB}
every-stage: search = {name} | calls = {calls} | stock = {first:.1f} dB | placed and fitted = {gains.0:+.1f}
    | local search = {gains.1:+.1f} | gradients = {gains.2:+.1f} | seconds = {seconds:.0f}
    | on other images: the usual search = {usual:.1f} dB | every stage = {every:.1f} dB
front-stages: dense calls = {calls:g} | """
COLUMNS += " | ".join(f"{pipe}, {solver} = {{{pipe}, {solver}}}" for pipe, solver in SEARCHES)
TABLES = tables(
    COLUMNS,
    records={
        "gains": ("front-emoji-sd", "product-emoji-sd"),
        "gains-short": ("front-emoji-sd", "product-emoji-sd"),
        "demo": ("demo/record",),
        "front-stages": FRONTS,
        "every-stage": FRONTS,
        "search-ablation": ("ablations",),
        "carried": ("carried-emoji-dit",),
        "carried-samples": ("carried-emoji-dit",),
        **{f"front-whole-{pipe}": (f"front-{pipe}",) for pipe in PIPES},
    },
    rows={
        "gains": gains,
        "gains-short": lambda *records: [row for row in gains(*records) if "student" not in row["name"]][1:],
        "demo": lambda record: [row | {"as_near": as_near(row, plain_curve(record))} for row in record["rows"]],
        "front-stages": by_solver,
        "every-stage": every_stage,
        "search-ablation": searches,
        "ablations": ablations,
        "carried": carried_rows.conditions,
        "carried-samples": carried_rows.samples,
        "schedulers": lambda record: [row for row in record["rows"] if "calls" in row],
        "gpu": lambda record: [row for row in record["rows"] if "speedup" in row],
        "zoo": zoo_rows,
        "search-cost": seconds,
        **dict.fromkeys(FRONTS, front),
        **{f"front-whole-{pipe}": whole for pipe in PIPES},
    },
    after={
        "gains": lambda *records: shown(GAINED, {"most": max(envelope(records[0], "psnr_db"))}),
        "gains-short": lambda *_: "",
        "ablations": after_ablations,
        "schedulers": after_schedulers,
    },
)
