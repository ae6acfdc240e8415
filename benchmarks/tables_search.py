"""The tables of searching: ablations, transfer, what each stage adds, grids, and how additive errors are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean

from paper import TABLES as PAPERS
from paper import last
from tables import Cell, Record, Row, Table, Text, budgets, decibels, ends, markdown, means, provenance, table

BASE = "DiP-GO"  # the paper's own choices, by the name of their rows
TITLES = {"loss": "loss, α = 1", "alpha": "α, with SSIM", "gamma": "sparsity", "search": "search"}
STAGES = ("additive, outputs held", "additive", "additive, refresh", "additive, refresh, local")
LABELS = {BASE: "DiP-GO's gradients", STAGES[0]: "additive, held calls repeated as in the rows above"}
HOLDS = {"output": "repeated", "extrapolate": "extrapolated", "adams_bashforth": "Adams–Bashforth"}
HELD = ("uniform hold, extrapolated", "uniform hold, Adams–Bashforth", "uniform hold")


def ablation_rows(record: Record) -> Iterable[Row]:
    """The paper's choices beside its numbers; for each variant the last rows of its searches."""
    high, low = budgets(record)
    for name in ("loss", "alpha", "gamma"):
        for label, variant in PAPERS[name].items():
            if main := last(record["rows"], variant, high):
                yield {
                    "name": f"{TITLES[name]}: {label}" + (" (the paper's)" if variant == BASE else ""),
                    "paper": record["paper"][name][label],
                    "main": main,
                    "exact": last(record["rows"], variant, high, exact=True),
                    "less": last(record["rows"], variant, low),
                }


def ablations(record: Record) -> str:
    """The paper's choices beside its numbers, and whether their order is the same."""
    high, low = budgets(record)
    columns: dict[str, Cell] = {
        "": "{name}",
        "searches": lambda row: str(len(row["main"])),
        "paper, CLIP": "{paper:.2f}",
        f"PSNR, {high:g} of the MACs": lambda row: psnr(row["main"]),
        "MACs used": lambda row: f"{100 * mean(r['keep_linear'] for r in row['main']):.0f} %",
        "SSIM": lambda row: f"{mean(means(row['main'], 'ssim')):.3f}",
        "prompt accuracy": lambda row: f"{100 * mean(means(row['main'], 'accuracy')):.1f} %",
        "PSNR, exact allocation": lambda row: psnr(row["exact"]),
        f"PSNR, {low:g} of the MACs": lambda row: psnr(row["less"]),
    }
    reduced = "Reduced against the paper: " + "; ".join(f"{what}: {how}" for what, how in record["reduced"].items()) + "."
    return "\n\n".join([table(columns, ablation_rows(record)), agreement(record), reduced, provenance(record)])


def psnr(rows: Sequence[Row]) -> str:
    """Mean PSNR over the searches, and their range."""
    values = means(rows, "psnr_db")
    return f"{mean(values):.1f} dB{ends(values)}"


def agreement(record: Record) -> str:
    """For each of the paper's tables and measures, whether its order is found here."""
    heads = ("", "the paper's order, best first", *(f"pairs in that order, by {by}" for by in ("PSNR", "SSIM", "accuracy")))
    rows = []
    for name, by_keep in record["orders"].items():
        for keep, verdicts in by_keep.items():
            cells = [f"{v['agree']} of {v['pairs']}" + (" ✓" if v["reproduces"] else "") for v in verdicts.values()]
            rows.append((f"{TITLES[name]}, {keep}", ", ".join(verdicts["psnr_db"]["paper"]), *cells))
    return markdown(heads, rows)


def searches(record: Record) -> str:
    """What each way of searching finds, and for how much."""
    keeps, paper, levels = budgets(record), record["paper"], ("search", "search_at_0.85", "search_at_0.90")
    kinds = [f"{kind}" for keep in keeps for kind in (f"PSNR, {keep:g} of the MACs", "evaluations", "CPU s")]
    rows = []
    for variant in ("random", "genetic", BASE, *STAGES):
        ended = [last(record["rows"], variant, keep) for keep in keeps]
        if any(ended):
            scores = ", ".join(f"{paper[level][variant]:.2f}" for level in levels if variant in paper[level])
            hours = paper["search_gpu_hours"].get(variant)
            cost = [cell for found in ended for cell in search_cost(found)]
            rows.append((LABELS.get(variant, variant), f"{scores} ({hours})" if scores else "–", *cost))
    heads = ("", "paper, CLIP at 0.2, 0.15, 0.1 (GPU hours)", *kinds)
    return markdown(heads, rows) + "\n\n" + provenance(record)


def search_cost(rows: Sequence[Row]) -> tuple[str, str, str]:
    """What one way of searching found, after how many evaluations and CPU seconds."""
    if not rows:
        return "–", "–", "–"
    return psnr(rows), f"{mean(row['evaluations'] for row in rows):.0f}", f"{mean(row['search_cpu_s'] for row in rows):.0f}"


# Transfer, stages, grids


def transfer_rows(record: Record) -> Iterable[Row]:
    """For each dense run and number of calls, the PSNR of the best row of each group."""
    places = dict.fromkeys((row["target"], row["entered"]) for row in record["rows"] if row["group"] != "dense")
    for target, calls in places:
        at = [row for row in record["rows"] if (row["target"], row["entered"]) == (target, calls)]
        own = f"fewer steps, {target.rpartition(',')[0]}, "
        yield {
            "target": target,
            "calls": calls,
            "retimed": nearest(at, "retimed"),
            **{hold: nearest(at, hold) for hold in HELD},
            "own": nearest(at, own, exactly=False),
            "strong": nearest(at, "fewer steps, DPM", exactly=False),
        }


def nearest(rows: Sequence[Row], group: str, *, exactly: bool = True) -> str:
    """The PSNR of the best row of a group, or of all groups whose names begin like it."""
    fits = [row for row in rows if (row["group"] == group if exactly else row["group"].startswith(group))]
    return f"{max(means(fits, 'psnr_db')):.1f} dB" if fits else "–"


def after_transfer(record: Record) -> str:
    refused = "\n".join(f"* {case['to']}: *{case['says']}*" for case in record["refused"])
    return f"{provenance(record)}\n\n`retime` refuses:\n\n{refused}"


def stage_rows(record: Record) -> Iterable[Row]:
    """Every stage; only the first of a search says which search."""
    before = ""
    for row in record["rows"]:
        place = f"{row['pipe']}, {row['calls']} calls, keep {row['keep']:g}"
        yield row | {"place": place if place != before else ""}
        before = place


def grid_rows(record: Record) -> list[Row]:
    """A row for each number of calls and grid in which every way of holding was measured, then the dense one."""
    found = {(row["calls"], row["steps"], row["hold"]): row for row in record["rows"] if row["hold"]}
    dense = next(row for row in record["rows"] if row["hold"] is None)
    whole = sorted({key[:2] for key in found if all((*key[:2], h) in found for h in HOLDS)}, key=lambda key: (-key[0], key[1]))
    rows = [{"calls": c, "steps": s, **{hold: found[c, s, hold] for hold in HOLDS}} for c, s in whole]
    return [*rows, {"calls": dense["calls"], "steps": f"{dense['steps']}, all made", "output": dense}]


def converged(hold: str) -> Cell:
    return lambda row: decibels(row[hold]["converged_psnr_db"]) if hold in row else ""


def to_dense(row: Row) -> str:
    return ", ".join(f"{row[hold]['psnr_db']['mean']:.1f}" for hold in HOLDS) if "extrapolate" in row else "–"


TABLES: dict[str, Table | Text] = {
    "search-ablation": Text(("ablations",), searches),
    "ablations": Text(("ablations",), ablations),
    "transfer": Table(
        ("transfer",),
        {
            "dense run": "{target}",
            "calls made": "{calls}",
            "retimed": "{retimed}",
            "held evenly, extrapolated": lambda row: row[HELD[0]],
            "held evenly, Adams–Bashforth": lambda row: row[HELD[1]],
            "held evenly": lambda row: row[HELD[2]],
            "fewer steps, same scheduler": "{own}",
            "fewer steps, DPM-Solver++": "{strong}",
        },
        rows=transfer_rows,
        after=after_transfer,
    ),
    "stages": Table(
        ("stages",),
        {
            "": "{place}",
            "stage": "{stage}",
            "measured": "{measured}",
            "PSNR, calibration images": "{calibration_db:.1f} dB",
            "of its last update": lambda row: f"{row['last_db']:.1f} dB" if row["stage"] == "gradient" else "",
            "PSNR, other images (95 %)": lambda row: decibels(row["psnr_db"]),
            "found better": lambda row: "yes" if row["kept"] else "no",
        },
        rows=stage_rows,
    ),
    "additivity": Table(
        ("additivity",),
        {
            "": "{name}",
            "Spearman, errors weighted by images": "{spearman_images:.2f}",
            "by latents": "{spearman_latents:.2f}",
            "measured over predicted": lambda row: f"{row['measured_over_predicted_db']:+.1f} dB".replace("-", "−"),
            "exact solution better than, by images": "{best_by_images_beats_percent:.0f} % of random sets",
            "by latents ": "{best_by_latents_beats_percent:.0f} %",
        },
    ),
    "grids": Table(
        ("grids",),
        {
            "calls": "{calls}",
            "steps of the grid": "{steps}",
            **{f"PSNR to converged, {name}": converged(hold) for hold, name in HOLDS.items()},
            "to dense, the same": to_dense,
        },
        rows=grid_rows,
    ),
}
