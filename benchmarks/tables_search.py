"""The tables of searching: ablations, transfer, what each stage adds, grids, and how additive errors are."""

from __future__ import annotations

from collections.abc import Iterator

from paper import TABLES as PAPERS
from paper import last
from tables import Record, Row, budgets, by_group, markdown, provenance, tables

BASE = "DiP-GO"  # the paper's own choices, by the name of their rows
TITLES = {"loss": "loss, α = 1", "alpha": "α, with SSIM", "gamma": "sparsity", "search": "search"}
STAGES = ("additive, outputs held", "additive", "additive, refresh", "additive, refresh, local")
LABELS = {BASE: "DiP-GO's gradients", STAGES[0]: "additive, held calls repeated as in the rows above"}
ORDERS = """= {name} | the paper's order, best first = {order} | pairs in that order, by PSNR = {psnr_db}
    | pairs in that order, by SSIM = {ssim} | pairs in that order, by accuracy = {accuracy}"""


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
    """For each of the paper's tables and measures, whether its order is found here; what is smaller than in the paper."""
    rows = []
    for name, by_keep in record["orders"].items():
        for keep, by in by_keep.items():
            agreed = {key: f"{v['agree']} of {v['pairs']}" + " ✓" * v["reproduces"] for key, v in by.items()}
            rows.append({"name": f"{TITLES[name]}, {keep}", "order": by["psnr_db"]["paper"], **agreed})
    reduced = "Reduced against the paper: " + "; ".join(f"{what}: {how}" for what, how in record["reduced"].items()) + "."
    return "\n\n".join([markdown(ORDERS, rows), reduced, provenance(record)])


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


# Transfer, stages, grids


def transfer(record: Record) -> Iterator[Row]:
    """For each dense run and number of calls, the PSNR of the best row of each group."""
    for target, calls in dict.fromkeys((row["target"], row["entered"]) for row in record["rows"] if row["group"] != "dense"):
        groups = by_group(row for row in record["rows"] if (row["target"], row["entered"]) == (target, calls))
        best = {group: max(values) for group, values in groups.items()}
        for name, solver in (("own", f"{target.rpartition(',')[0]}, "), ("strong", "DPM")):
            if plain := [best[group] for group in groups if group.startswith(f"fewer steps, {solver}")]:
                best[name] = max(plain)
        yield best | {"target": target, "calls": calls}


def after_transfer(record: Record) -> str:
    refused = "\n".join(f"* {case['to']}: *{case['says']}*" for case in record["refused"])
    return f"{provenance(record)}\n\n`retime` refuses:\n\n{refused}"


def stages(record: Record) -> Iterator[Row]:
    """Every stage; only the first of a search says which search."""
    before = ""
    for row in record["rows"]:
        place = f"{row['pipe']}, {row['calls']} calls, keep {row['keep']:g}"
        updated = row["last_db"] if row["stage"] == "gradient" else None
        yield row | {"place": place if place != before else "", "last_db": updated, "better": "yes" if row["kept"] else "no"}
        before = place


def grids(record: Record) -> Iterator[Row]:
    """A row for each number of calls and grid, with every way of holding, then the dense one."""
    dense, *rows = record["rows"]
    for calls, steps in sorted({(row["calls"], row["steps"]) for row in rows}, key=lambda at: (-at[0], at[1])):
        held = [row for row in rows if (row["calls"], row["steps"]) == (calls, steps)]  # in the order of the columns
        yield {
            "calls": calls,
            "steps": steps,
            "held": held,
            "dense": ", ".join(f"{row['psnr_db']['mean']:.1f}" for row in held),
        }
    yield dense | {"steps": f"{dense['steps']}, all made", "held": [dense], "dense": "–"}


TABLES = tables(
    """
search-ablation: = {name} | paper, CLIP at 0.2, 0.15, 0.1 (GPU hours) = {paper:.2f} ({hours})
    | PSNR, 0.5 of the MACs = {at.0.of.psnr_db.mean:range.1f dB} | evaluations = {at.0.of.evaluations:mean.0f}
    | CPU s = {at.0.of.search_cpu_s:mean.0f} | PSNR, 0.3 of the MACs = {at.1.of.psnr_db.mean:range.1f dB}
    | evaluations = {at.1.of.evaluations:mean.0f} | CPU s = {at.1.of.search_cpu_s:mean.0f}
ablations: = {name} | searches = {searches} | paper, CLIP = {paper:.2f}
    | PSNR, 0.5 of the MACs = {main.psnr_db.mean:range.1f dB} | MACs used = {main.keep_linear:mean.0f %}
    | SSIM = {main.ssim.mean:mean.3f} | prompt accuracy = {main.accuracy.mean:mean.1f %}
    | PSNR, exact allocation = {exact.psnr_db.mean:range.1f dB} | PSNR, 0.3 of the MACs = {less.psnr_db.mean:range.1f dB}
transfer: dense run = {target} | calls made = {calls} | retimed = {retimed:.1f dB}
    | held evenly, extrapolated = {uniform hold, extrapolated:.1f dB}
    | held evenly, Adams–Bashforth = {uniform hold, Adams–Bashforth:.1f dB} | held evenly = {uniform hold:.1f dB}
    | fewer steps, same scheduler = {own:.1f dB} | fewer steps, DPM-Solver++ = {strong:.1f dB}
stages: = {place} | stage = {stage} | measured = {measured} | PSNR, calibration images = {calibration_db:.1f dB}
    | of its last update = {last_db:.1f dB} | PSNR, other images (95 %) = {psnr_db:near} | found better = {better}
additivity: = {name} | Spearman, errors weighted by images = {spearman_images:.2f} | by latents = {spearman_latents:.2f}
    | measured over predicted = {measured_over_predicted_db:+.1f dB}
    | exact solution better than, by images = {best_by_images_beats_percent:.0f} % of random sets
    | by latents = {best_by_latents_beats_percent:.0f} %
grids: calls = {calls} | steps of the grid = {steps} | PSNR to converged, repeated = {held.0.converged_psnr_db:near}
    | PSNR to converged, extrapolated = {held.1.converged_psnr_db:near}
    | PSNR to converged, Adams–Bashforth = {held.2.converged_psnr_db:near} | to dense, the same = {dense}
""",
    records={"search-ablation": ("ablations",)},
    rows={
        "search-ablation": searches,
        "ablations": ablations,
        "transfer": transfer,
        "stages": stages,
        "grids": grids,
    },
    after={"ablations": after_ablations, "transfer": after_transfer},
    missing={"stages": "", "grids": ""},
)
