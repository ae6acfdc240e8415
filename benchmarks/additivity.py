"""How additive are the errors of calls? Predicted against measured, over random sets of calls and over the best ones.

    python benchmarks/additivity.py [--sets 60] [--images 4]     writes results/additivity.json and results/additivity.png

For each way of holding under DDIM and for DPM-Solver++ 2M: sets of calls at random, as many as a budget pays for, and the
exact solutions. Predicted: the sum of local errors, in the latents and weighted by how much they show in the images.
Measured: mean square error of the images to the dense ones (DDIM) or those of the fine grid (DPM-Solver++). What is measured
is saved kind by kind, and a rerun goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import datetime
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import matplotlib
import numpy as np
from rich.progress import track
from scipy.stats import pearsonr, spearmanr

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

from secateur import zoo
from secateur.denoiser import macs
from secateur.measuring import records, report
from secateur.measuring.hardware import hardware
from secateur.pipeline import schedulers
from secateur.pipeline.generate import generate
from secateur.pipeline.trajectory import record
from secateur.schedule import baselines
from secateur.schedule.apply import apply
from secateur.searching import additive, paths, refresh
from secateur.searching import ladder as ladders
from secateur.searching.sensitivity import sensitivity

RESULTS = Path(__file__).parents[1] / "results"
STEPS, SEED, CALLS = 50, 40_000, (5, 10, 17)
DPM = ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"})
KINDS = {
    "DDIM, held": (None, {}, "output"),
    "DDIM, extrapolated": (None, {}, "extrapolate"),
    "DDIM, Adams–Bashforth": (None, {}, "adams_bashforth"),
    "DPM-Solver++ 2M": (*DPM, "output"),
}


def study(pipe, name: str, kind: tuple, *, sets: int, images: int) -> list[dict[str, Any]]:
    """A row for each number of calls: correlations of the logarithms, and how far off the prediction is."""
    scheduler, options, hold = kind
    blocks = macs.count(pipe.unet).blocks
    asked, seeds = zoo.conditions("emoji-sd", images, calibration=True)[0], range(SEED, SEED + images)
    call = {"guidance_scale": zoo.GUIDANCE["emoji-sd"], "num_inference_steps": STEPS}
    with schedulers.scheduled(pipe, scheduler, options):
        steps = ladders.levels(pipe.scheduler, 40) if scheduler else None
        grid = replace(baselines.dense(blocks, len(steps) if steps else STEPS), timesteps=steps)
        with apply(pipe, grid, blocks=blocks):
            told = record(pipe, asked, seeds=seeds, **call)
        ladder = ladders.free(told, pipe.scheduler) if steps else ladders.held(told, pipe.scheduler, hold=hold)
        shown = sensitivity(pipe, told, ladder, blocks=blocks, gap=len(ladder) // 10)
        weighted = {"latents": additive.local_errors(ladder), "images": additive.local_errors(ladder, weights=shown)}
        rows, cpu = [], hardware()["cpu"]
        for calls in CALLS:
            best = {f"best by {w}": additive.solve(errors, calls=calls)[-1].levels for w, errors in weighted.items()}
            drawn = {f"random {k}": levels for k, levels in enumerate(spread(len(ladder), calls, sets))}
            points = []
            for label, levels in track({**drawn, **best}.items(), description=f"{name}, {calls} calls"):
                schedule = made(additive.Solution(levels, 0.0), ladder, blocks, hold)
                with apply(pipe, schedule, blocks=blocks):
                    found = generate(pipe, asked, seeds=seeds, **call)
                measured = float(((found - told.images) ** 2).mean())
                points.append({"set": label, "measured": measured, **{w: path(e, levels) for w, e in weighted.items()}})
            rows.append(
                {"name": f"{name}, {calls} calls", "calls": calls, "cpu": cpu, **correlations(points, sets), "points": points}
            )
    return rows


def spread(levels: int, calls: int, sets: int) -> list[tuple[int, ...]]:
    """Sets of calls at random that leave no gap longer than three times the mean one: others nobody would try."""
    rng, found = Random(0), []
    while len(found) < sets:
        chosen = (0, *sorted(rng.sample(range(1, levels), calls - 1)))
        if max(np.diff((*chosen, levels))) <= 3 * levels / calls:
            found.append(chosen)
    return found


def path(errors: np.ndarray, levels: tuple[int, ...]) -> float:
    """The sum of local errors along a set of calls."""
    before, after = (levels[0], *levels[:-1]), (*levels[1:], len(errors))
    return float(sum(errors[u, s, t] for u, s, t in zip(before, levels, after, strict=True)))


def made(solution: additive.Solution, ladder: ladders.Ladder, blocks, hold: str):
    path = paths.of_whole_calls(solution.levels, solution.error)
    return refresh.schedule_of(path, ladder, blocks, hold=hold, made={})


def correlations(points: list[dict], sets: int) -> dict[str, float]:
    """Over the random sets, of log errors: Pearson, Spearman, slope; and predicted minus measured in dB, by images."""
    random = points[:sets]
    found: dict[str, float] = {}
    measured = np.log([p["measured"] for p in random])
    for weights in ("latents", "images"):
        predicted = np.log([p[weights] for p in random])
        found[f"pearson_{weights}"] = float(pearsonr(predicted, measured).statistic)
        found[f"spearman_{weights}"] = float(spearmanr(predicted, measured).statistic)
        found[f"slope_{weights}"] = float(np.polyfit(predicted, measured, 1)[0])
    found["measured_over_predicted_db"] = float(
        10 * np.log10(np.e) * np.median(measured - np.log([p["images"] for p in random]))
    )
    ranks = sorted(p["measured"] for p in random)
    for p in points[sets:]:
        found[f"{p['set']}_beats_percent".replace(" ", "_")] = 100 * float(np.mean([p["measured"] < r for r in ranks]))
    return found


def draw(rows: list[dict]) -> None:
    figure, axes = plt.subplots(len(KINDS), len(CALLS), figsize=(13, 4 * len(KINDS)))
    for axis, row in zip(axes.flat, rows, strict=True):
        for kind, colour, marker in (
            ("random", "#7f8c8d", "."),
            ("best by latents", "#2b6cb0", "s"),
            ("best by images", "#1a7f4b", "o"),
        ):
            points = [p for p in row["points"] if p["set"].startswith(kind)]
            axis.loglog([p["images"] for p in points], [p["measured"] for p in points], marker, color=colour, label=kind)
        low, high = (f(p[k] for p in row["points"] for k in ("images", "measured")) for f in (min, max))
        axis.plot([low, high], [low, high], color="#bbbbbb", lw=1, zorder=0)
        found = f"Spearman {row['spearman_images']:.2f}, by latents {row['spearman_latents']:.2f}"
        axis.set_title(f"{row['name']}\n{found}", fontsize=10, loc="left")
        for side in (axis.xaxis, axis.yaxis):
            side.set_minor_formatter(NullFormatter())
        axis.set_xlabel("predicted mean square error")
        axis.set_ylabel("measured")
        axis.grid(alpha=0.2)
    axes.flat[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(RESULTS / "additivity.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=60)
    parser.add_argument("--images", type=int, default=4)
    args = parser.parse_args()
    pipe, path = zoo.load("emoji-sd"), RESULTS / "additivity.json"
    document = blank(args)
    if path.exists() and (before := records.load(path))["command"] == document["command"]:
        document = before
    for name, kind in KINDS.items():
        if not any(row["name"].startswith(f"{name}, ") for row in document["rows"]):
            document["rows"] += study(pipe, name, kind, sets=args.sets, images=args.images)
            document["rows"].sort(key=lambda row: list(KINDS).index(row["name"].rpartition(", ")[0]))
            document["made"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            report.save(document, path)
    draw(document["rows"])


def blank(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "format": 1,
        "title": "Predicted and measured error of sets of calls on emoji-sd",
        "command": f"python benchmarks/additivity.py --sets {args.sets} --images {args.images}",
        "pipe": "emoji-sd",
        "made": "",
        "hardware": hardware(),
        "seeds": list(range(SEED, SEED + args.images)),
        "options": {"steps": STEPS, "guidance_scale": zoo.GUIDANCE["emoji-sd"], "sets": args.sets},
        "rows": [],
    }


if __name__ == "__main__":
    main()
