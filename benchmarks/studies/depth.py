"""Pruning in depth before any training: is the loss of layers additive, and how good are the sets that a budget chooses?

Additivity: random sets of layers, from two to all; the sum of each criterion over them against the measured joint output loss.
Regret: at each budget the sets that each criterion chooses, exactly and greedily, the handcrafted ones and random ones (of
emoji-dit, whose layers cost alike, all that there are): joint output loss and prompt accuracy of what is left, untrained. What
is measured is kept in the folder --work, and a rerun goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr

from secateur import artifact, zoo
from secateur.measuring import quality
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
from study import Job, Record, Row, Run, Study

KEEPS, SETS, RANDOM, DRAWN = (0.7, 0.5, 0.38), 200, 100, 16  # DRAWN: random sets whose pictures are judged
FIRST_SEED, CALIBRATION_SEED, EXAMPLES, STEPS, BATCH = 60_000, 61_000, 64, 10, 16
PROMPTS, MIN_SNR = "prompt score", "output, Min-SNR"
SOLVER = schedulers.SOLVERS["DPM-Solver++"]
BK = {"BK-SDM Base": presets.bk_sdm_base, "BK-SDM Small": presets.bk_sdm_small, "BK-SDM Tiny": presets.bk_sdm_tiny}


class Bench:
    """A pipe of the zoo, its scores, and the losses and pictures that were measured so far, which are kept in a folder."""

    def __init__(self, name: str, *, samples: int, images: int, work: Path):
        self.name, self.samples, self.images, self.work = name, samples, images, work
        self.file = work / f"measured-{samples}-{images}.json"
        self.known: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    @cached_property
    def pipe(self) -> Any:
        self.work.mkdir(parents=True, exist_ok=True)
        return zoo.load(self.name)

    @property
    def teacher(self) -> Any:
        return component(self.pipe)

    @cached_property
    def examples(self) -> examples.Examples:
        """Pictures of calibration captions with their conditions."""
        asked, captions = zoo.conditions(self.name, EXAMPLES, calibration=True)
        return examples.from_images(self.pipe, zoo.renders(captions, each=1), asked)

    @cached_property
    def scores(self) -> dict[str, LayerScores]:
        """The scores of every layer by each criterion, by what pictures show without it, and weighted by Min-SNR."""
        found = {criterion: self.scored(criterion) for criterion in CRITERIA} | {PROMPTS: self.prompt_scores()}
        output = found["output"]
        weights = min_snr(self.pipe.scheduler)(torch.tensor(output.timesteps)).numpy()
        return found | {MIN_SNR: replace(output, weights=weights)}

    def scored(self, criterion: str) -> LayerScores:
        how = {"samples": self.samples, "path": self.work / f"{criterion}-{self.samples}.safetensors", "batch_size": BATCH}
        *_, step = scored(self.teacher, self.examples, self.pipe.scheduler, criterion=criterion, **how)
        return step.scores

    def prompt_scores(self) -> LayerScores:
        """The scores of every layer by how much less likely the judge finds the captions of what is drawn without it."""
        asked, captions = zoo.conditions(self.name, self.images, calibration=True)
        scenes, made = [parse(caption) for caption in captions], {"solver": SOLVER[0], "steps": STEPS, **SOLVER[1]}
        *_, step = score_change(
            self.teacher,
            lambda: judge.likelihoods(self.drawn(asked, CALIBRATION_SEED), scenes),
            name=PROMPTS,
            samples=self.images,
            path=self.work / f"prompts-{self.images}.safetensors",
            made={**made, "seed": CALIBRATION_SEED},
        )
        return step.scores

    def drawn(self, asked: Sequence[Any], seed: int) -> np.ndarray:
        """An image (H, W, 3) of each condition, in few steps."""
        call = {"num_inference_steps": STEPS, "guidance_scale": zoo.GUIDANCE[self.name], "batch_size": BATCH}
        with schedulers.scheduled(self.pipe, *SOLVER):
            return generate(self.pipe, asked, seeds=range(seed, seed + len(asked)), **call)

    def joint(self, plans: Iterable[Plan]) -> list[float]:
        """The joint output loss of each plan; every twentieth is saved."""
        plans = list(plans)
        missing = {key(p): p for p in plans if key(p) not in self.known}
        how = {"samples": self.samples, "batch_size": BATCH}
        losses = joint_loss(self.teacher, self.examples, self.pipe.scheduler, missing.values(), **how)
        for name, loss in zip(missing, losses, strict=True):
            self.known[name] = float(loss.mean())
            if len(self.known) % 20 == 0:
                artifact.save(self.known, self.file)
        artifact.save(self.known, self.file)
        return [self.known[key(p)] for p in plans]

    def accuracy(self, given: Plan | None) -> Row:
        """How many pictures show what their captions say, drawn without the plan's layers."""
        name = f"right: {key(given) if given else 'dense'}"
        if name not in self.known:
            self.known[name] = self.read() if given is None else without(self.teacher, given, self.read)
            artifact.save(self.known, self.file)
        return quality.rate_of(self.known[name])

    def read(self) -> list[bool]:
        asked, captions = zoo.conditions(self.name, self.images)
        return quality.prompt_accuracy(self.drawn(asked, FIRST_SEED), captions, judge).tolist()

    def share(self, given: Plan) -> float:
        """The fraction of the parameters that stays."""
        whole = parameters(self.teacher)
        return (whole - sum(freed(self.teacher, dict(given.items())))) / whole


def without(teacher: Any, given: Plan, run: Callable[[], Any]) -> Any:
    with bypassed(teacher, given):
        return run()


def key(given: Plan) -> str:
    return " ".join(given.layers)


def jobs(run: Run) -> Iterator[Job]:
    """Additivity, the dense pipe, handcrafted sets, and at each budget the chosen and the random ones."""
    bench = Bench(run.pipe, samples=run.options["samples"], images=run.options["images"], work=run.work / run.pipe)
    shapes = {name: make() for name, make in BK.items()} if run.pipe == "emoji-sd" else {}
    yield Job("additivity", lambda: additivity(bench), last="additivity, output")
    yield Job("dense", lambda: [dense_row(run, bench)])
    for name, given in shapes.items():
        yield group(run, bench, "handcrafted", name, lambda n=name, g=given: (bench.share(g), {n: g}))
    for keep in KEEPS:
        yield group(run, bench, "chosen", f"output, exact at {keep:.3g}", lambda k=keep: (k, dict(chosen(bench.scores, k))))
        yield group(run, bench, "random", f"random 0 at {keep:.3g}", lambda k=keep: (k, feasible(bench, k)))
    for name, given in shapes.items():  # the same budget in truth
        yield group(run, bench, "equal", f"output, exact, as {name}", lambda n=name, g=given: equal(bench, n, g))


def group(run: Run, bench: Bench, kind: str, first: str, make: Callable[[], tuple[float, dict[str, Plan]]]) -> Job:
    """The rows of some plans of one budget. first: how the name of the first of them begins."""
    known = next((row["name"] for row in run.record["rows"] if f"{row['name']} at".startswith(f"{first} at")), "")
    return Job(f"{kind}: {first}", lambda: measured(bench, *make(), kind=kind), done=bool(known))


def dense_row(run: Run, bench: Bench) -> Row:
    run.record["options"]["sets"] = "all" if alike(bench.scores["output"]) else "random"
    run.record["scores"] = {n: dict(zip(s.layers, s.values.tolist(), strict=True)) for n, s in bench.scores.items()}
    return {"name": "dense", "group": "dense", "keep": 1.0, "joint_loss": 0.0, "accuracy": bench.accuracy(None)}


def equal(bench: Bench, name: str, given: Plan) -> tuple[float, dict[str, Plan]]:
    keep = bench.share(given)
    return keep, {f"output, exact, as {name}": planned(bench.scores["output"], keep=keep)}


def measured(bench: Bench, keep: float, plans: Mapping[str, Plan], *, kind: str) -> Iterator[Row]:
    """A row for each plan; pictures of all but most of the random ones."""
    for k, ((name, given), loss) in enumerate(zip(plans.items(), bench.joint(plans.values()), strict=True)):
        shared = {"group": kind, "wanted": keep, "keep": bench.share(given), "joint_loss": loss}
        row = {"name": f"{name} at {keep:.3g}", **shared}
        if kind != "random" or k < DRAWN:
            row["accuracy"] = bench.accuracy(given)
        if kind != "handcrafted":
            scores = bench.scores["output"]
            inner = [layer for layer in scores.layers if any(f"{layer}.".startswith(f"{out}.") for out in given.layers)]
            row |= {"predicted": predicted(scores, inner), "keep_macs": kept_share(scores, inner, cost="macs")}
        yield row | {"layers": list(given.layers)}


def chosen(scored: Mapping[str, LayerScores], keep: float) -> Iterator[tuple[str, Plan]]:
    """What each method and each criterion chooses."""
    for method in METHODS:
        yield f"output, {method.replace('_', ' by ')}", planned(scored["output"], keep=keep, method=method)
    yield "output, exact, stages spared", planned(scored["output"], keep=keep, keep_every_stage=True)
    for name, scores in scored.items():
        if name not in ("output", "output, root"):
            yield f"{name}, exact", planned(scores, keep=keep)


def feasible(bench: Bench, keep: float) -> dict[str, Plan]:
    """Random sets, each another: layers going in random order until the budget is met. Of layers alike, then all the others."""
    scores, found = bench.scores["output"], dict[str, Plan]()
    for k in range(100 * RANDOM):
        if len(found) == RANDOM:
            break
        order = Random(k).sample(range(len(scores.layers)), len(scores.layers))
        values = replace(scores, losses=np.broadcast_to(np.array(order)[:, None], scores.losses.shape))
        given = planned(values, keep=keep, method="greedy")
        found[key(given)] = given
    size = len(next(iter(found.values())).layers)
    for layers in combinations(scores.layers, size) if alike(scores) else ():
        given = plan_of(scores, layers, made={})
        found.setdefault(key(given), given)
    return {f"random {k}": given for k, given in enumerate(found.values())}


def alike(scores: LayerScores) -> bool:
    """Whether all layers cost the same, so that all sets that meet a budget are of one size, and few."""
    return len(set(scores.costs["parameters"].layers)) == 1


def additivity(bench: Bench) -> Iterator[Row]:
    """A row for each criterion, with the points of the picture."""
    output = bench.scores["output"]
    sets = random_layers(output)
    joint = bench.joint(plan_of(output, layers, made={}) for layers in sets)
    sizes = [len(layers) / len(output.layers) for layers in sets]
    for name, scores in bench.scores.items():
        sums = [predicted(scores, layers) for layers in sets]
        row = {"name": f"additivity, {name}", "group": "additivity", "criterion": name, "sets": len(sets)}
        points = [list(point) for point in zip(sizes, sums, joint, strict=True)]
        yield row | agreement(sums, joint, sizes) | sure(scores) | {"points": points}


def random_layers(scores: LayerScores) -> list[list[str]]:
    """Random sets of layers, each another, sizes from two to all as often as each other as far as there are so many."""
    rng, found = Random(0), dict[tuple[str, ...], None]()
    while len(found) < SETS:
        for size in range(2, len(scores.layers) + 1):
            found[tuple(sorted(rng.sample(scores.layers, size), key=scores.layers.index))] = None
    return [list(layers) for layers in found]


def agreement(sums: list[float], joint: list[float], sizes: list[float]) -> Row:
    """Correlations over all the sets and, by the share of layers that goes, within each quarter of it; and joint over sum."""
    quarters = []
    for k in range(4):
        part = [i for i, size in enumerate(sizes) if k / 4 < size <= (k + 1) / 4]
        s, j = np.array(sums)[part], np.array(joint)[part]
        ratio = {"joint_over_sum": float(np.median(j / s)), "slope_of_logs": slope_of_logs(s, j)}
        quarters.append({"removed": [k / 4, (k + 1) / 4], "sets": len(part), "spearman": correlation(s, j), **ratio})
    return {
        "pearson": float(pearsonr(sums, joint).statistic),
        "spearman": correlation(sums, joint),
        "slope": float(np.polyfit(sums, joint, 1)[0]),
        "quarters": quarters,
    }


def correlation(sums: Sequence[float] | np.ndarray, joint: Sequence[float] | np.ndarray) -> float | None:
    """Of the ranks; None if all sets are one."""
    value = float(spearmanr(sums, joint).statistic) if len(set(sums)) > 1 else float("nan")
    return None if np.isnan(value) else value


def slope_of_logs(sums: np.ndarray, joint: np.ndarray) -> float | None:
    """1 if they are proportional; None if a sum is not above 0."""
    return float(np.polyfit(np.log(sums), np.log(joint), 1)[0]) if (sums > 0).all() and len(set(sums)) > 2 else None


def sure(scores: LayerScores) -> Row:
    """How stable the ranking is under bootstrap; nothing for a criterion that looks at no tuples."""
    if len(scores.weights) < 2:
        return {}
    found, relative = stability(scores), np.median(scores.errors / np.abs(scores.values))
    return {"bootstrap_spearman": found.spearman, "bootstrap_spearman_low": found.spearman_low, "error": float(relative)}


def finish(run: Run) -> None:
    """Adds the percentage of random sets of its budget that lose more than each chosen set."""
    for row in run.record["rows"]:
        rivals = [r["joint_loss"] for r in run.record["rows"] if r["group"] == "random" and r["wanted"] == row.get("wanted")]
        if row["group"] == "chosen" and rivals:
            row["beats_random_percent"] = 100 * float(np.mean([row["joint_loss"] < loss for loss in rivals]))


def settings(pipe: str, options: Mapping[str, Any]) -> Record:
    return {"options": {**options, "steps": STEPS, "guidance_scale": zoo.GUIDANCE[pipe]}}


STUDY = Study(
    "depth",
    "Additivity and regret of pruning {pipe} in depth, before any training",
    jobs,
    options={"samples": 32, "images": 32},
    pipes=zoo.NAMES,
    settings=settings,
    finish=finish,
)
