"""Tables of what was measured about searching: ablations, transfer, cost, and how additive errors are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import front_tables
from ablations_paper import TABLES, last
from pages import RESULTS, load, provenance, table

Row = dict[str, Any]
BASE = "DiP-GO"  # the paper's own choices, by the name of their rows
TITLES = {"loss": "loss, α = 1", "alpha": "α, with SSIM", "gamma": "sparsity", "search": "search"}
STAGES = ("additive, outputs held", "additive", "additive, refresh", "additive, refresh, local")
LABELS = {BASE: "DiP-GO's gradients", STAGES[0]: "additive, held calls repeated as in the rows above", STAGES[1]: "additive"}
HOLDS = {"output": "repeated", "extrapolate": "extrapolated", "adams_bashforth": "Adams–Bashforth"}
LIKENESS = {"psnr_db": "PSNR", "ssim": "SSIM", "accuracy": "accuracy"}


def sections() -> dict[str, str]:
    """What stands between the markers, of the records that there are."""
    makers: dict[str, tuple[str, Callable[[Row], str]]] = {
        "ablations": ("ablations", ablations),
        "search-ablation": ("ablations", searches),
        "transfer": ("transfer", transfer),
        "search-cost": ("search-cost", search_cost),
        "stages": ("stages", stages),
        "fullsize": ("fullsize", full_size),
        "additivity": ("additivity", additivity),
        "grids": ("grids", grids),
    }
    return {name: make(load(file)) for name, (file, make) in makers.items() if (RESULTS / f"{file}.json").exists()}


def ablations(record: Row) -> str:
    """The paper's choices beside its numbers, and whether their order is the same."""
    high, low = budgets(record)
    heads = (
        "",
        "searches",
        "paper, CLIP",
        f"PSNR, {high:g} of the MACs",
        "MACs used",
        "SSIM",
        "prompt accuracy",
        "PSNR, exact allocation",
        f"PSNR, {low:g} of the MACs",
    )
    rows = []
    for name in ("loss", "alpha", "gamma"):
        for label, variant in TABLES[name].items():
            main, exact, less = (
                last(record["rows"], variant, keep, exact=exact) for keep, exact in ((high, False), (high, True), (low, False))
            )
            if main:
                shown = f"{TITLES[name]}: {label}" + (" (the paper's)" if variant == BASE else "")
                cells = (f"{record['paper'][name][label]:.2f}", *quality(main), decibels(exact), decibels(less))
                rows.append((shown, f"{len(main)}", *cells))
    reduced = "Reduced against the paper: " + "; ".join(f"{what}: {how}" for what, how in record["reduced"].items()) + "."
    return "\n\n".join([table(heads, rows), table(*agreement(record)), reduced, counted(record)])


def quality(rows: Sequence[Row]) -> tuple[str, ...]:
    """Likeness, cost and accuracy of one variant, as the mean over its searches."""
    return (
        decibels(rows),
        f"{100 * mean(row['keep_linear'] for row in rows):.0f} %",
        f"{mean(row['ssim']['mean'] for row in rows):.3f}",
        f"{100 * mean(row['accuracy']['mean'] for row in rows):.1f} %",
    )


def decibels(rows: Sequence[Row]) -> str:
    """Mean PSNR over the searches, and their range."""
    means = [row["psnr_db"]["mean"] for row in rows]
    return f"{mean(means):.1f} dB" + (f" ({min(means):.1f}–{max(means):.1f})" if len(means) > 1 else "")


def agreement(record: Row) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """For each of the paper's tables and measure, whether its order is found here."""
    heads = ("", "the paper's order, best first", *(f"pairs in that order, by {name}" for name in LIKENESS.values()))
    rows = []
    for name, by_keep in record["orders"].items():
        for keep, found in by_keep.items():
            cells = [f"{v['agree']} of {v['pairs']}" + (" ✓" if v["reproduces"] else "") for v in found.values()]
            rows.append((f"{TITLES[name]}, {keep}", ", ".join(found["psnr_db"]["paper"]), *cells))
    return heads, rows


def searches(record: Row) -> str:
    """What each way of searching finds, and for how much."""
    keeps, paper, levels = budgets(record), record["paper"], ("search", "search_at_0.85", "search_at_0.90")
    heads = (
        "",
        "paper, CLIP at 0.2, 0.15, 0.1 (GPU hours)",
        *(x for k in keeps for x in (f"PSNR, {k:g} of the MACs", "evaluations", "CPU s")),
    )
    variants = ("random", "genetic", BASE, *STAGES)
    rows = []
    for variant in variants:
        at = [last(record["rows"], variant, keep) for keep in keeps]
        if any(at):
            said = ", ".join(f"{paper[level][variant]:.2f}" for level in levels if variant in paper[level])
            hours = paper["search_gpu_hours"].get(variant)
            cells = [x for found in at for x in cost(found)]
            rows.append((LABELS.get(variant, variant), f"{said} ({hours})" if said else "–", *cells))
    return table(heads, rows) + "\n\n" + counted(record)


def cost(rows: Sequence[Row]) -> tuple[str, str, str]:
    """What one way of searching found, after how many evaluations and CPU seconds."""
    if not rows:
        return "–", "–", "–"
    return decibels(rows), f"{mean(row['evaluations'] for row in rows):.0f}", f"{mean(row['search_cpu_s'] for row in rows):.0f}"


def budgets(record: Row) -> list[float]:
    """The fractions of the MACs that were searched for, the highest first."""
    return sorted({row["keep"] for row in record["rows"]} - {1.0}, reverse=True)


def transfer(record: Row) -> str:
    """For each dense run and number of calls: the retimed schedule and its rivals; then what is refused."""
    heads = (
        "dense run",
        "calls made",
        "retimed",
        "held evenly, extrapolated",
        "held evenly, Adams–Bashforth",
        "held evenly",
        "fewer steps, same scheduler",
        "fewer steps, DPM-Solver++",
    )
    places = dict.fromkeys((row["target"], row["entered"]) for row in record["rows"] if row["group"] != "dense")
    held = ("uniform hold, extrapolated", "uniform hold, Adams–Bashforth", "uniform hold")
    rows = []
    for target, calls in places:
        at = [row for row in record["rows"] if (row["target"], row["entered"]) == (target, calls)]
        own = f"fewer steps, {target.rpartition(',')[0]}, "
        groups = ("retimed", *held, own, "fewer steps, DPM")
        rows.append((target, f"{calls}", *(nearest(at, group) for group in groups)))
    refused = "\n".join(f"* {case['to']}: *{case['says']}*" for case in record["refused"])
    return f"{table(heads, rows)}\n\n{counted(record)}\n\n`retime` refuses:\n\n{refused}"


def nearest(rows: Sequence[Row], group: str) -> str:
    """The PSNR of a group, the best one's of all whose names begin like it where it is the plain fewer steps."""
    several = group.startswith("fewer steps")
    fits = [row for row in rows if (row["group"].startswith(group) if several else row["group"] == group)]
    return f"{max(row['psnr_db']['mean'] for row in fits):.1f} dB" if fits else "–"


def stages(record: Row) -> str:
    """What each stage of some searches added, DiP-GO's gradients among them, on the search's images and on others."""
    heads = (
        "",
        "stage",
        "measured",
        "PSNR, calibration images",
        "of its last update",
        "PSNR, other images (95 %)",
        "found better",
    )
    rows, place = [], ""
    for row in record["rows"]:
        before, place = place, f"{row['pipe']}, {row['calls']} calls, keep {row['keep']:g}"
        rows.append(
            (
                place if place != before else "",
                row["stage"],
                str(row["measured"]),
                f"{row['calibration_db']:.1f} dB",
                f"{row['last_db']:.1f} dB" if row["stage"] == "gradient" else "",
                front_tables.decibels(row["psnr_db"]),
                "yes" if row["kept"] else "no",
            )
        )
    return table(heads, rows) + "\n\n" + counted(record)


CROWDED = 1.2  # seconds that passed for one of the CPU
MEMORY = ("peak_memory_bytes", "peak_without_holes_bytes", "kept_bytes", "pruner_bytes")


def full_size(record: Row) -> str:
    """What an update of the gradient search takes at full size, with random weights."""
    heads = (
        "one update, random weights",
        "s",
        "peak memory above the weights",
        "weights",
        "the paper's whole search, by these seconds (the paper: 2.3 h of a GPU)",
    )
    rows = [
        (
            row["name"],
            f"{row['update_s']:.0f}",
            f"{row['peak_memory_bytes'] / 2**30:.1f} GiB",
            f"{row['weights_bytes'] / 2**30:.1f} GiB",
            f"{row['paper_search_h']:.0f} h",
        )
        for row in record["rows"]
    ]
    return table(heads, rows) + "\n\n" + provenance(record)


def search_cost(record: Row) -> str:
    """Seconds and memory of an update at each number of calls, and of every stage."""
    rows = [
        (
            row["name"],
            f"{row.get('update_cpu_s', row.get('search_cpu_s')):.1f}",
            f"{row.get('update_s', row.get('search_s')):.1f}",
            f"{row['measured']}" if "measured" in row else "",
            *(f"{row[key] / 2**20:.0f} MiB" if key in row else "" for key in MEMORY),
        )
        for row in record["rows"]
    ]
    beside = f" Other jobs ran beside (load average {record['load_average']:.1f}), so the seconds that passed are too many."
    heads = (
        "",
        "CPU s",
        "s",
        "schedules measured",
        "peak memory above the pipe's weights",
        "without holes in glibc's heap",
        "of it kept between calls",
        "the Pruner's weights alone",
    )
    passed, used = (sum(row.get(f"update{key}", row.get(f"search{key}")) for row in record["rows"]) for key in ("_s", "_cpu_s"))
    crowded = passed > CROWDED * used
    return table(heads, rows) + "\n\n" + provenance(record) + (beside if crowded else "")


def additivity(record: Row) -> str:
    """How well predicted errors of sets of calls rank the measured ones."""
    heads = (
        "",
        "Spearman, errors weighted by images",
        "by latents",
        "measured over predicted",
        "exact solution better than, by images",
        "by latents",
    )
    rows = [
        (
            row["name"],
            f"{row['spearman_images']:.2f}",
            f"{row['spearman_latents']:.2f}",
            f"{row['measured_over_predicted_db']:+.1f} dB".replace("-", "−"),
            f"{row['best_by_images_beats_percent']:.0f} % of random sets",
            f"{row['best_by_latents_beats_percent']:.0f} %",
        )
        for row in record["rows"]
    ]
    return table(heads, rows) + "\n\n" + counted(record)


def grids(record: Row) -> str:
    """How near as many calls come to the converged images on finer grids, by how calls are held."""
    dense = next(row for row in record["rows"] if row["hold"] is None)
    found = {(row["calls"], row["steps"], row["hold"]): row for row in record["rows"] if row["hold"]}
    heads = ("calls", "steps of the grid", *(f"PSNR to converged, {name}" for name in HOLDS.values()), "to dense, the same")
    rows = []
    whole = {key[:2] for key in found if all((*key[:2], hold) in found for hold in HOLDS)}
    for calls, steps in sorted(whole, key=lambda key: (-key[0], key[1])):
        near = [found[calls, steps, hold] for hold in HOLDS]
        values = [front_tables.decibels(row["converged_psnr_db"]) for row in near]
        rows.append((str(calls), str(steps), *values, ", ".join(f"{row['psnr_db']['mean']:.1f}" for row in near)))
    rows.append(
        (str(dense["calls"]), f"{dense['steps']}, all made", front_tables.decibels(dense["converged_psnr_db"]), "", "", "–")
    )
    return table(heads, rows) + "\n\n" + counted(record)


def counted(record: Row) -> str:
    """Where a record's numbers come from."""
    return f"{len(record['seeds'])} images a row, {provenance(record)}"
