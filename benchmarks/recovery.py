"""How students of emoji-sd recover under distillation: prompt accuracy and judge-Fréchet against updates, equal budgets.

    python benchmarks/recovery.py [--updates 2000] [--seeds 3] [--images 128] [--plan laptop=plan.json]
    python benchmarks/recovery.py --draw        the figures of what is measured already

Plans: LAPTOP-Diff's at keep 0.5 and at BK-Small's size, BK-Small, and a random one for each seed, all with normalized
distillation; LAPTOP's also with plain features, with outputs alone, and with the task alone. Every row is saved when it is
done, and a rerun goes on within a run too. 21 runs of 2000 updates are sized for a night on two cores.
Writes results/recovery-emoji-sd.json and .png, and results/recovery-terms-emoji-sd.png: raw feature terms by site.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from secateur import dataset, drop_layers, features, measure, planning, quality, records, zoo
from secateur.calibration import generate
from secateur.distil import DistilStep, distil, holding
from secateur.examples import Examples
from secateur.lessons import DistilSettings
from secateur.plan import Plan, bk_sdm_small
from secateur.score import output_loss
from secateur.surgery import candidates, freed, parameters, plan_without
from secateur.zoo import judge

RESULTS, NAME = Path(__file__).parents[1] / "results", "emoji-sd"
KEEP, EXAMPLES, TUPLES, STEPS, BATCH = 0.5, 8192, 64, 25, 8
FIRST_SEED = 60_000  # of the images that are judged
SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)  # of the updates, where students are judged
WATCHED = 200  # records of the terms in a run
NORMALIZED = DistilSettings(
    batch_size=16, lr=5e-4, warmup=50, schedule="cosine", timesteps="stratified", null_rate=0.1, ema=0.995
)
WAYS = {
    "normalized": NORMALIZED,
    "plain": replace(NORMALIZED, normalize="none"),
    "output-only": replace(NORMALIZED, task=0.0, feature=0.0),
    "task-only": replace(NORMALIZED, output=0.0, feature=0.0),
}
ARMS = (  # plan, how it is distilled; what matters most first
    ("laptop", "normalized"),
    ("bk-small", "normalized"),
    ("random", "normalized"),
    ("laptop", "plain"),
    ("laptop", "output-only"),
    ("laptop", "task-only"),
    ("laptop at BK-Small's size", "normalized"),
)
COLOURS = dict(zip(ARMS, ("#1a7f4b", "#c8641b", "#7f8c8d", "#2b6cb0", "#8b4fa0", "#8a6d00", "#5dbb87"), strict=True))


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    pipe: Any
    examples: Examples
    null: dict[str, Any]
    plans: dict[str, Plan]
    images: int
    folder: Path

    def judged(self) -> dict[str, Any]:
        """Accuracy with its interval and judge-Fréchet of what the pipe draws now."""
        asked, captions = zoo.conditions(NAME, self.images)
        seeds = range(FIRST_SEED, FIRST_SEED + self.images)
        call = {"num_inference_steps": STEPS, "guidance_scale": zoo.GUIDANCE[NAME], "batch_size": BATCH}
        images = generate(self.pipe, asked, seeds=seeds, **call)
        right = quality.prompt_accuracy(images, captions, judge)
        low, high = quality.wilson(int(right.sum()), len(right))
        frechet = quality.judge_frechet(images, zoo.renders(captions), judge)
        return {"accuracy": {"mean": float(right.mean()), "low": low, "high": high}, "frechet": frechet}


def bench(images: int, folder: Path, examples: int, given: dict[str, Path]) -> Bench:
    """The pipe, its examples (encoded once) and the plans."""
    pipe = zoo.load(NAME)
    pipe.set_progress_bar_config(disable=True)
    path, made = folder / f"examples-{examples}.safetensors", {"pipe": NAME, "examples": examples}
    if not path.exists():
        pairs = dataset.scenes(NAME)
        dataset.save(dataset.together(dataset.encoded(pipe, pairs, batch_size=64, limit=examples)), path, made=made)
    found = dataset.load(path, made=made)
    return Bench(pipe, found, dataset.null(pipe), plans(pipe, found, given, folder), images, folder)


def plans(pipe, examples: Examples, given: dict[str, Path], folder: Path) -> dict[str, Plan]:
    """The plans by name; random ones are made for each seed."""
    small = bk_sdm_small()
    size = parameters(drop_layers(pipe.unet, small)) / parameters(pipe.unet)
    found = {"bk-small": small} | {name: Plan.load(path) for name, path in given.items()}
    for name, keep in (("laptop", KEEP), ("laptop at BK-Small's size", size)):
        if name not in found:
            *_, last = output_loss(pipe.unet, examples, pipe.scheduler, samples=TUPLES, path=folder / "scores.safetensors")
            found[name] = planning.planned(last.scores, keep=keep)
    return found


def random_plan(unet, seed: int) -> Plan:
    """Layers taken out in random order until no more than KEEP is left."""
    found = candidates(unet)
    sizes = dict(zip(found, freed(unet, found), strict=True))
    order, gone, left = list(found), [], parameters(unet)
    Random(seed).shuffle(order)
    while left > KEEP * parameters(unet):
        gone.append(order.pop())
        left -= sizes[gone[-1]]
    return plan_without(unet, gone, made={"method": "random", "seed": seed})


def run(shared: Bench, arm: tuple[str, str], seed: int, updates: int, *, done: set[int]) -> Iterator[dict[str, Any]]:
    """The rows of one run as they are found, but for those done: the student judged after so many updates."""
    name, way = arm
    teacher = shared.pipe.unet
    plan = random_plan(teacher, seed) if name == "random" else shared.plans[name]
    student = drop_layers(teacher, plan)
    known = {"plan": name, "way": way, "seed": seed, "keep": parameters(student) / parameters(teacher)}
    marks = sorted({round(share * updates) for share in SHARES} - {0})
    folder = shared.folder / f"{name} {way} {seed}".replace(" ", "-")
    settings = replace(WAYS[way], steps=updates, seed=seed)
    steps = distil(teacher, student, shared.examples, shared.pipe.scheduler, settings=settings, null=shared.null, folder=folder,
                   save_every=marks[0], sites=features.sites(teacher, student))  # fmt: skip
    if 0 not in done:
        yield known | {"updates": 0, **judged(shared, student, {})}
    start = time.perf_counter()
    for step in steps:
        if step.number % max(updates // WATCHED, 1) == 0 or step.number == 1:
            watch(folder, step)
        if step.number in marks and step.number not in done:
            spent = time.perf_counter() - start
            yield known | {"updates": step.number, "since_s": spent, **judged(shared, student, step.averaged)}
            start = time.perf_counter()


def judged(shared: Bench, student, weights) -> dict[str, Any]:
    """What the student's images are worth, with its averaged weights."""
    teacher = shared.pipe.unet
    try:
        with holding(student, weights):
            shared.pipe.unet = student
            return shared.judged()
    finally:
        shared.pipe.unet = teacher


def watch(folder: Path, step: DistilStep) -> None:
    """Add the terms of an update to the run's own file."""
    folder.mkdir(parents=True, exist_ok=True)
    line = {"updates": step.number, "raw": dict(step.raw), "normalized": dict(step.normalized)}
    with (folder / "terms.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def terms(folder: Path, arm: tuple[str, str], seed: int) -> list[dict[str, Any]]:
    """The terms of a run; an update that was made twice, after an interruption, counts once."""
    path = folder / f"{arm[0]} {arm[1]} {seed}".replace(" ", "-") / "terms.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for _, row in sorted({row["updates"]: row for row in found}.items())]


# Rows


def name_of(arm: tuple[str, str], seed: int, updates: int | None) -> str:
    return f"{arm[0]}, {arm[1]}, seed {seed}, {updates} updates"


def measured(shared: Bench, document: dict[str, Any], path: Path, *, seeds: int, arms: int, updates: int) -> None:
    """Measure what is missing; the file is whole after every row."""
    if not document["rows"]:
        document["rows"].append({"name": "teacher", "plan": "teacher", "keep": 1.0, **shared.judged()})
        records.save(document, path)
    for seed in range(seeds):
        for arm in ARMS[:arms]:
            done = {row["updates"] for row in document["rows"] if row["name"] == name_of(arm, seed, row.get("updates"))}
            if updates in done:
                continue
            for row in run(shared, arm, seed, updates, done=done):
                name = name_of(arm, seed, row["updates"])
                document["rows"].append({"name": name, **row})
                records.save(document, path)
                print(f"{name}: accuracy {row['accuracy']['mean']:.3f}, Fréchet {row['frechet']:.3g}", flush=True)


def started(path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The document so far, or a new one; ValueError where it was measured otherwise."""
    if path.exists():
        found = records.load(path)
        if found["options"] != options:
            raise SystemExit(f"{path} was measured with {found['options']}: give the same, or another --results")
        return found
    return {
        "format": 1,
        "title": f"Recovery of students of {NAME} under distillation",
        "command": f"python benchmarks/recovery.py --updates {options['updates']} --images {options['images']}",
        "pipe": NAME,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": measure.hardware(),
        "options": options,
        "rows": [],
    }


# Figures


def draw(document: dict[str, Any], path: Path) -> None:
    """Accuracy and Fréchet distance against updates, mean over seeds, each seed as a dot."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6))
    teacher = next(row for row in document["rows"] if row["plan"] == "teacher")
    for axis, value, title in (
        (axes[0], lambda row: row["accuracy"]["mean"], "prompt accuracy"),
        (axes[1], lambda row: row["frechet"], "judge-Fréchet distance"),
    ):
        axis.axhline(value(teacher), color="#1d2420", lw=1, ls="--", label="teacher")
        if axis is axes[0]:
            axis.axhline(0.96 * value(teacher), color="#bbbbbb", lw=1, ls=":", label="4 % below")
        for arm in ARMS:
            curve(axis, [row for row in document["rows"] if (row["plan"], row.get("way")) == arm], value, arm)
        axis.set_xscale("symlog", linthresh=max(document["options"]["updates"] / 10, 1))
        axis.set_xlabel("updates")
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(alpha=0.2)
    axes[1].set_yscale("log")
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def curve(axis, rows: list[dict[str, Any]], value, arm: tuple[str, str]) -> None:
    if not rows:
        return
    marks = sorted({row["updates"] for row in rows})
    means = [np.mean([value(row) for row in rows if row["updates"] == mark]) for mark in marks]
    keep = np.mean([row["keep"] for row in rows])
    axis.plot(marks, means, color=COLOURS[arm], label=f"{arm[0]}, {arm[1]} ({keep:.2f})")
    axis.plot([row["updates"] for row in rows], [value(row) for row in rows], ".", color=COLOURS[arm], ms=4)


def draw_terms(folder: Path, path: Path) -> None:
    """Terms of LAPTOP's student by site, raw, as shares of their sum, with plain and with normalized distillation."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), sharex=True)
    for column, way in enumerate(("plain", "normalized")):
        found = terms(folder, ("laptop", way), 0)
        names = [name for name in found[-1]["raw"] if name.startswith("feature.")] if found else []
        colours = plt.get_cmap("viridis")(np.linspace(0, 0.95, max(len(names), 1)))
        for colour, name in zip(colours, names, strict=False):
            at = [row["updates"] for row in found]
            axes[0, column].semilogy(at, [row["raw"][name] for row in found], color=colour, label=name.removeprefix("feature."))
            minimised = [row["normalized"][name] / sum(row["normalized"][n] for n in names) for row in found]
            axes[1, column].semilogy(at, minimised, color=colour)
        axes[0, column].set_title(f"{way}: raw terms", fontsize=10, loc="left")
        axes[1, column].set_title(f"{way}: share of what is minimised", fontsize=10, loc="left")
        axes[1, column].set_xlabel("updates")
    for axis in axes.flat:
        axis.grid(alpha=0.2)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", frameon=False, fontsize=8, ncol=9)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", type=int, default=len(ARMS), help="only so many of them, from the first")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--plan", action="append", default=[], help="NAME=FILE instead of the plan of this name")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, default=Path("recovery-work"), help="checkpoints and examples")
    parser.add_argument("--draw", action="store_true", help="only the figures")
    args = parser.parse_args()
    path = args.results / f"recovery-{NAME}.json"
    document = started(path, {name: getattr(args, name) for name in ("updates", "images", "examples", "plan")})
    if not args.draw:
        args.folder.mkdir(parents=True, exist_ok=True)
        given = {name: Path(file) for name, _, file in (text.partition("=") for text in args.plan)}
        shared = bench(args.images, args.folder, args.examples, given)
        measured(shared, document, path, seeds=args.seeds, arms=args.arms, updates=args.updates)
    draw(document, path.with_suffix(".png"))
    draw_terms(args.folder, args.results / f"recovery-terms-{NAME}.png")


if __name__ == "__main__":
    main()
