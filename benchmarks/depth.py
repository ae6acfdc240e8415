"""Pruning in depth before any training: is the loss of layers additive, and how good are the sets that a budget chooses?

    python benchmarks/depth.py [emoji-sd|emoji-dit] [--samples 32] [--images 32]     writes results/depth-PIPE.json and .png

Additivity: random sets of layers, from two to all; the sum of each criterion over them against the measured joint output loss.
Regret: at each budget the sets that each criterion chooses, exactly and greedily, the handcrafted ones and random ones (of
emoji-dit, whose layers cost alike, all that there are): joint output loss and prompt accuracy of what is left, untrained. What
is measured is kept in depth-work/, and a rerun goes on.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from rich.progress import track
from scipy.stats import pearsonr, spearmanr

from depth_figure import draw
from secateur import artifact, zoo
from secateur.measuring import quality, records
from secateur.measuring.hardware import hardware
from secateur.pipeline import examples, schedulers
from secateur.pipeline.generate import generate
from secateur.pipeline.pipes import component
from secateur.pruning import presets
from secateur.pruning.bypass import bypassed
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.layer_scores import LayerScores, stability
from secateur.pruning.plan import Plan
from secateur.pruning.planning import METHODS, kept_share, plan_of, planned, predicted
from secateur.pruning.scoring import joint_loss, min_snr, score_change, scored
from secateur.pruning.surgery import freed, parameters
from secateur.zoo import judge
from secateur.zoo.scenes import parse

RESULTS = Path(__file__).parents[1] / "results"
KEEPS, SETS, RANDOM, DRAWN = (0.7, 0.5, 0.38), 200, 100, 16  # DRAWN: random sets whose pictures are judged
FIRST_SEED, CALIBRATION_SEED, EXAMPLES = 60_000, 61_000, 64
PROMPTS = "prompt score"
SOLVER = ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"})
STEPS, BATCH = 10, 16
BK = {"BK-SDM Base": presets.bk_sdm_base, "BK-SDM Small": presets.bk_sdm_small, "BK-SDM Tiny": presets.bk_sdm_tiny}


@dataclass
class Bench:
    """A pipe of the zoo and what was measured of it so far. work: the folder where that is kept."""

    name: str
    samples: int
    images: int
    work: Path
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.work.mkdir(parents=True, exist_ok=True)
        if self.file.exists():
            self.found = json.loads(self.file.read_text())

    @property
    def file(self) -> Path:
        return self.work / f"measured-{self.samples}-{self.images}.json"

    @cached_property
    def pipe(self):
        return zoo.load(self.name)

    @property
    def teacher(self):
        return component(self.pipe)

    @cached_property
    def examples(self) -> examples.Examples:
        """Pictures of calibration captions with their conditions."""
        asked, captions = zoo.conditions(self.name, EXAMPLES, calibration=True)
        return examples.from_images(self.pipe, zoo.renders(captions, each=1), asked)

    def scores(self, criterion: str) -> LayerScores:
        """The scores of every layer by one criterion."""
        settings = {"samples": self.samples, "path": self.work / f"{criterion}-{self.samples}.safetensors"}
        run = scored(self.teacher, self.examples, self.pipe.scheduler, criterion=criterion, batch_size=BATCH, **settings)
        *_, step = track(run, description=f"{self.name}, {criterion}")
        return step.scores

    def prompt_scores(self) -> LayerScores:
        """The scores of every layer by how much less likely the judge finds the captions of what is drawn without it."""
        asked, captions = zoo.conditions(self.name, self.images, calibration=True)
        scenes, solver = [parse(caption) for caption in captions], SOLVER[1] | {"solver": SOLVER[0], "steps": STEPS}
        run = score_change(
            self.teacher,
            lambda: judge.likelihoods(self.drawn(asked, CALIBRATION_SEED), scenes),
            name=PROMPTS,
            samples=self.images,
            path=self.work / f"prompts-{self.images}.safetensors",
            made=solver | {"seed": CALIBRATION_SEED},
        )
        *_, step = track(run, description=f"{self.name}, {PROMPTS}")
        return step.scores

    def drawn(self, asked: Sequence[Any], seed: int) -> np.ndarray:
        """An image (H, W, 3) of each condition, in few steps."""
        call = {"num_inference_steps": STEPS, "guidance_scale": zoo.GUIDANCE[self.name], "batch_size": BATCH}
        with schedulers.scheduled(self.pipe, *SOLVER):
            return generate(self.pipe, asked, seeds=range(seed, seed + len(asked)), **call)

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, or gave when it was asked for before."""
        if key not in self.found:
            self.found[key] = make()
            artifact.save(self.found, self.file)
        return self.found[key]

    def joint(self, plans: Iterable[Plan], *, description: str) -> list[float]:
        """The joint output loss of each plan."""
        plans = list(plans)
        missing = {key(p): p for p in plans if key(p) not in self.found}
        losses = joint_loss(self.teacher, self.examples, self.pipe.scheduler, missing.values(), **self.settings)
        for name, loss in track(zip(missing, losses, strict=True), description=description, total=len(missing)):
            self.found[name] = float(loss.mean())
            if len(self.found) % 20 == 0:
                artifact.save(self.found, self.file)
        artifact.save(self.found, self.file)
        return [self.found[key(p)] for p in plans]

    @property
    def settings(self) -> dict[str, int]:
        return {"samples": self.samples, "batch_size": BATCH}

    def right(self, given: Plan | None) -> list[bool]:
        """Whether each picture shows what its caption says, drawn without the plan's layers."""
        asked, captions = zoo.conditions(self.name, self.images)

        def read() -> list[bool]:
            return quality.prompt_accuracy(self.drawn(asked, FIRST_SEED), captions, judge).tolist()

        if given is None:
            return self.once("right: dense", read)
        return self.once(f"right: {key(given)}", lambda: without(self.teacher, given, read))


def without(teacher, given: Plan, run: Callable[[], Any]) -> Any:
    with bypassed(teacher, given):
        return run()


def key(given: Plan) -> str:
    return " ".join(given.layers)


# Additivity


def sets(scores: LayerScores) -> list[list[str]]:
    """Random sets of layers, each another, sizes from two to all as often as each other as far as there are so many."""
    rng, L = Random(0), len(scores.layers)
    found: dict[tuple[str, ...], None] = {}
    while len(found) < SETS:
        for size in range(2, L + 1):
            found[tuple(sorted(rng.sample(scores.layers, size), key=scores.layers.index))] = None
    return [list(layers) for layers in found]


def additivity(bench: Bench, scored: dict[str, LayerScores]) -> list[dict[str, Any]]:
    """A row for each criterion, and the points of the picture in the first."""
    any_ = scored["output"]
    chosen = sets(any_)
    joint = bench.joint((plan_of(any_, c, made={}) for c in chosen), description=f"{bench.name}, random sets")
    sizes = [len(c) / len(any_.layers) for c in chosen]
    rows = []
    for name, scores in scored.items():
        sums = [predicted(scores, c) for c in chosen]
        row = {"name": f"additivity, {name}", "group": "additivity", "criterion": name, "sets": len(chosen)}
        row |= agreement(sums, joint, sizes)
        rows.append(row | sure(scores) | {"points": [list(p) for p in zip(sizes, sums, joint, strict=True)]})
    return rows


def agreement(sums: list[float], joint: list[float], sizes: list[float]) -> dict[str, Any]:
    """Correlations over all the sets and, by the share of layers that goes, within each quarter of it; and joint over sum."""
    found: dict[str, Any] = {
        "pearson": float(pearsonr(sums, joint).statistic),
        "spearman": correlation(sums, joint),
        "slope": float(np.polyfit(sums, joint, 1)[0]),
        "quarters": [],
    }
    for k in range(4):
        part = [i for i, size in enumerate(sizes) if k / 4 < size <= (k + 1) / 4]
        s, j = np.array(sums)[part], np.array(joint)[part]
        found["quarters"].append(
            {"removed": [k / 4, (k + 1) / 4], "sets": len(part), "spearman": correlation(s, j)}
            | {"joint_over_sum": float(np.median(j / s)), "slope_of_logs": slope_of_logs(s, j)}
        )
    return found


def correlation(sums: Sequence[float], joint: Sequence[float]) -> float | None:
    """Of the ranks; None where all sets are one."""
    found = float(spearmanr(sums, joint).statistic) if len(set(sums)) > 1 else float("nan")
    return None if np.isnan(found) else found


def slope_of_logs(sums: np.ndarray, joint: np.ndarray) -> float | None:
    """1 where they are proportional; None where a sum is not above 0."""
    return float(np.polyfit(np.log(sums), np.log(joint), 1)[0]) if (sums > 0).all() and len(set(sums)) > 2 else None


def sure(scores: LayerScores) -> dict[str, Any]:
    """How stable the ranking is under bootstrap; nothing for a criterion that looks at no tuples."""
    if len(scores.weights) < 2:
        return {}
    found = stability(scores)
    relative = np.median(scores.errors / np.abs(scores.values))
    return {"bootstrap_spearman": found.spearman, "bootstrap_spearman_low": found.spearman_low, "error": float(relative)}


# Regret


def chosen(scored: dict[str, LayerScores], keep: float) -> Iterator[tuple[str, Plan]]:
    """What each method and each criterion chooses."""
    for method in METHODS:
        yield f"output, {method.replace('_', ' by ')}", planned(scored["output"], keep=keep, method=method)
    yield "output, exact, stages spared", planned(scored["output"], keep=keep, keep_every_stage=True)
    for name, scores in scored.items():
        if name not in ("output", "output, root"):
            yield f"{name}, exact", planned(scores, keep=keep)


def feasible(scores: LayerScores, keep: float) -> Iterator[Plan]:
    """Random sets, each another: layers going in random order until the budget is met. Of layers alike, then all the others."""
    found: dict[str, Plan] = {}
    for k in range(100 * RANDOM):
        if len(found) == RANDOM:
            break
        shuffled = Random(k).sample(range(len(scores.layers)), len(scores.layers))
        given = planned(with_values(scores, shuffled), keep=keep, method="greedy")
        found[key(given)] = given
    yield from found.values()
    size = len(next(iter(found.values())).layers)
    every = combinations(scores.layers, size) if alike(scores) else ()
    yield from (given for layers in every if key(given := plan_of(scores, layers, made={})) not in found)


def alike(scores: LayerScores) -> bool:
    """Whether all layers cost the same, so that all sets that meet a budget are of one size, and few."""
    return len(set(scores.costs["parameters"].layers)) == 1


def with_values(scores: LayerScores, values: list[int]) -> LayerScores:
    """The scores with other values, alike on all tuples."""
    return replace(scores, losses=np.broadcast_to(np.array(values)[:, None], scores.losses.shape))


def handcrafted(bench: Bench) -> dict[str, Plan]:
    return {name: make() for name, make in BK.items()} if bench.name == "emoji-sd" else {}


def regret(bench: Bench, scored: dict[str, LayerScores]) -> Iterator[dict[str, Any]]:
    """A row for every set at every budget."""
    output = scored["output"]
    yield {"name": "dense", "group": "dense", "keep": 1.0, "joint_loss": 0.0, "accuracy": accuracy(bench.right(None))}
    for name, given in handcrafted(bench).items():
        yield from measured(bench, {name: given}, group="handcrafted", keep=share(bench, given))
    for keep in KEEPS:
        yield from measured(bench, dict(chosen(scored, keep)), group="chosen", keep=keep, scores=output)
        drawn = {f"random {k}": p for k, p in enumerate(feasible(output, keep))}
        yield from measured(bench, drawn, group="random", keep=keep, scores=output)
    for name, given in handcrafted(bench).items():  # the same budget in truth
        equal = {f"output, exact, as {name}": planned(output, keep=share(bench, given))}
        yield from measured(bench, equal, group="equal", keep=share(bench, given), scores=output)


def measured(
    bench: Bench, plans: dict[str, Plan], *, group: str, keep: float, scores: LayerScores | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each plan; pictures of all but most of the random ones."""
    joint = bench.joint(plans.values(), description=f"{bench.name}, {group} at {keep:.2f}")
    for k, ((name, given), loss) in enumerate(zip(plans.items(), joint, strict=True)):
        row = {"name": f"{name} at {keep:.3g}", "group": group, "wanted": keep, "keep": share(bench, given), "joint_loss": loss}
        if group != "random" or k < DRAWN:
            row["accuracy"] = accuracy(bench.right(given))
        if scores is not None:
            inner = [layer for layer in scores.layers if any(f"{layer}.".startswith(f"{out}.") for out in given.layers)]
            row |= {"predicted": predicted(scores, inner), "keep_macs": kept_share(scores, inner, cost="macs")}
        yield row | {"layers": list(given.layers)}


def share(bench: Bench, given: Plan) -> float:
    """The fraction of the parameters that stays."""
    whole = parameters(bench.teacher)
    return (whole - sum(freed(bench.teacher, dict(given.items())))) / whole


def accuracy(right: list[bool]) -> dict[str, Any]:
    return {"mean": float(np.mean(right)), "ci95": list(quality.wilson(sum(right), len(right)))}


def ranks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each chosen set with the percentage of random sets of its budget that lose more."""
    random = [row for row in rows if row["group"] == "random"]
    for row in (row for row in rows if row["group"] == "chosen"):
        rivals = [r["joint_loss"] for r in random if r["wanted"] == row["wanted"]]
        row["beats_random_percent"] = 100 * float(np.mean([row["joint_loss"] < loss for loss in rivals]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipe", nargs="?", default="emoji-sd", choices=zoo.NAMES)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--work", type=Path, default=Path("depth-work"), help="folder for what a rerun takes up again")
    args = parser.parse_args()
    bench = Bench(args.pipe, args.samples, args.images, args.work / args.pipe)
    scored = {name: bench.scores(name) for name in CRITERIA}
    scored[PROMPTS] = bench.prompt_scores()
    output = scored["output"]
    weights = min_snr(bench.pipe.scheduler)(torch.tensor(output.timesteps)).numpy()
    scored["output, Min-SNR"] = replace(output, weights=weights)
    rows = additivity(bench, scored) + ranks(list(regret(bench, scored)))
    record = {
        "format": 1,
        "title": f"Additivity and regret of pruning {args.pipe} in depth, before any training",
        "command": f"python benchmarks/depth.py {args.pipe} --samples {args.samples} --images {args.images}",
        "pipe": args.pipe,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "options": {
            "samples": args.samples,
            "images": args.images,
            "steps": STEPS,
            "guidance_scale": zoo.GUIDANCE[args.pipe],
            "sets": "all" if alike(output) else "random",
        },
        "scores": {name: dict(zip(s.layers, s.values.tolist(), strict=True)) for name, s in scored.items()},
        "rows": rows,
    }
    records.save(record, RESULTS / f"depth-{args.pipe}.json")
    draw(record, RESULTS / f"depth-{args.pipe}.png")


if __name__ == "__main__":
    main()
