"""Pruning in depth before any training: is the loss of layers additive, and how good are the sets that a budget chooses?

Additivity: random sets of layers, from two to all; the sum of each criterion over them against the measured joint output loss.
Regret: at each budget the sets that each criterion chooses, the handcrafted and the random ones: their loss and accuracy.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, cached_property, partial
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr

from bench import Bench
from secateur import Examples, LayerScores, Plan, artifact, from_images, joint_loss, planned, scored, zoo
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring import quality
from secateur.pipeline.schedulers import SOLVERS
from secateur.pruning import presets
from secateur.pruning.bypass import bypassed
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.layer_scores import stability
from secateur.pruning.planning import METHODS, kept_share, plan_of, predicted
from secateur.pruning.scoring import min_snr, score_change
from secateur.pruning.surgery import freed, parameters
from secateur.zoo import judge
from secateur.zoo.scenes import parse
from study import Job, Row, Run, Study

KEEPS, SETS, RANDOM, DRAWN = (0.7, 0.5, 0.38), 200, 100, 16  # DRAWN: random sets whose pictures are judged
FIRST_SEED, CALIBRATION_SEED, EXAMPLES, STEPS, BATCH = 60_000, 61_000, 64, 10, 16
PROMPTS, MIN_SNR = "prompt score", "output, Min-SNR"
SOLVER = SOLVERS["DPM-Solver++"]
BK = {"BK-SDM Base": presets.bk_sdm_base, "BK-SDM Small": presets.bk_sdm_small, "BK-SDM Tiny": presets.bk_sdm_tiny}
Make = Callable[[], tuple[float, dict[str, Plan]]]  # what is kept, and plans by name


class Teacher:
    """A pipe of the zoo, its scores, and the losses and pictures that were measured so far, which are kept in a folder."""

    def __init__(self, name: str, *, samples: int, images: int, work: Path):
        self.samples, self.images, self.work = samples, images, work
        self.bench = Bench(name, steps=STEPS, images=images, seed=FIRST_SEED)
        self.file = work / f"measured-{samples}-{images}.json"
        self.known: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}

    @property
    def net(self) -> Any:
        return denoiser_of(self.bench.pipe)

    @cached_property
    def examples(self) -> Examples:
        """Pictures of calibration captions with their conditions."""
        conditions, captions = zoo.conditions(self.bench.name, EXAMPLES, calibration=True)
        return from_images(self.bench.pipe, zoo.renders(captions, each=1), conditions)

    @cached_property
    def scores(self) -> dict[str, LayerScores]:
        """The scores of every layer by each criterion, by what pictures show without it, and weighted by Min-SNR."""
        self.work.mkdir(parents=True, exist_ok=True)
        found, how = dict[str, LayerScores](), {"samples": self.samples, "batch_size": BATCH}
        for name in CRITERIA:
            path = self.work / f"{name}-{self.samples}.safetensors"
            *_, step = scored(self.net, self.examples, self.bench.pipe.scheduler, criterion=name, path=path, **how)
            found[name] = step.scores
        weights = min_snr(self.bench.pipe.scheduler)(torch.tensor(found["output"].timesteps)).numpy()
        return found | {PROMPTS: self.prompt_scores(), MIN_SNR: replace(found["output"], weights=weights)}

    def prompt_scores(self) -> LayerScores:
        """The scores of every layer by how much less likely the judge finds the captions of what is drawn without it."""
        bench = Bench(self.bench.name, steps=STEPS, images=self.images, seed=CALIBRATION_SEED)
        bench.conditions, captions = zoo.conditions(bench.name, self.images, calibration=True)
        scenes, path = [parse(caption) for caption in captions], self.work / f"prompts-{self.images}.safetensors"
        made = {"solver": SOLVER[0], "steps": STEPS, **SOLVER[1], "seed": CALIBRATION_SEED}
        how: dict[str, Any] = {"name": PROMPTS, "samples": self.images, "path": path, "made": made}
        *_, step = score_change(self.net, lambda: judge.likelihoods(self.drawn(bench), scenes), **how)
        return step.scores

    def drawn(self, bench: Bench) -> np.ndarray:
        """The images of a bench, drawn by this pipe in few steps."""
        with self.bench.scheduled(*SOLVER):
            return bench.draw(pipe=self.bench.pipe)

    def joint(self, plans: Iterable[Plan]) -> list[float]:
        """The joint output loss of each plan; every twentieth is saved."""
        plans = list(plans)
        missing = {key(p): p for p in plans if key(p) not in self.known}
        how = {"samples": self.samples, "batch_size": BATCH}
        losses = joint_loss(self.net, self.examples, self.bench.pipe.scheduler, missing.values(), **how)
        for number, (name, loss) in enumerate(zip(missing, losses, strict=True), start=1):
            self.known[name] = float(loss.mean())
            if number % 20 == 0 or number == len(missing):
                artifact.save(self.known, self.file)
        return [self.known[key(p)] for p in plans]

    def accuracy(self, given: Plan | None) -> Row:
        """How many pictures show what their captions say, drawn without the plan's layers."""
        name = f"right: {key(given) if given else 'dense'}"
        if name not in self.known:
            with bypassed(self.net, given) if given else nullcontext():
                images = self.drawn(self.bench)
            self.known[name] = quality.prompt_accuracy(images, self.bench.captions, judge).tolist()
            artifact.save(self.known, self.file)
        return quality.rate_of(self.known[name])

    def share(self, given: Plan) -> float:
        """The fraction of the parameters that stays."""
        whole = parameters(self.net)
        return (whole - sum(freed(self.net, dict(given.items())))) / whole


def key(given: Plan) -> str:
    return " ".join(given.layers)


def jobs(run: Run) -> Iterator[Job]:
    """Additivity, the dense pipe, handcrafted sets, and at each budget the chosen and the random ones."""
    teacher = Teacher(run.pipe, **run.options, work=run.work / run.pipe)
    shapes = {name: make() for name, make in BK.items()} if run.pipe == "emoji-sd" else {}
    yield Job("additivity", partial(additivity, teacher), last="additivity, output")
    yield Job("dense", partial(dense_row, run, teacher))

    def group(kind: str, first: str, make: Make) -> Job:
        """The rows of some plans of one budget. first: how the name of the first of them begins."""
        known = any(f"{row['name']} at".startswith(f"{first} at") for row in run.record["rows"])
        return Job(f"{kind}: {first}", lambda: measured(teacher, *make(), kind=kind), done=known)

    for name, given in shapes.items():
        yield group("handcrafted", name, lambda n=name, g=given: (teacher.share(g), {n: g}))
    for keep in KEEPS:
        yield group("chosen", f"output, exact at {keep:.3g}", lambda k=keep: (k, dict(chosen(teacher.scores, k))))
        yield group("random", f"random 0 at {keep:.3g}", lambda k=keep: (k, feasible(teacher.scores["output"], k)))
    for name, given in shapes.items():  # the same budget in truth
        same, keep = f"output, exact, as {name}", cache(partial(teacher.share, given))
        exact = lambda same=same, keep=keep: (keep(), {same: planned(teacher.scores["output"], keep=keep())})  # noqa: E731
        yield group("equal", same, exact)


def dense_row(run: Run, teacher: Teacher) -> Row:
    run.record["options"]["sets"] = "all" if alike(teacher.scores["output"]) else "random"
    run.record["scores"] = {n: dict(zip(s.layers, s.values.tolist(), strict=True)) for n, s in teacher.scores.items()}
    return {"group": "dense", "keep": 1.0, "joint_loss": 0.0, "accuracy": teacher.accuracy(None)}


def measured(teacher: Teacher, keep: float, plans: Mapping[str, Plan], *, kind: str) -> Iterator[Row]:
    """A row for each plan; pictures of all but most of the random ones."""
    for k, ((name, given), loss) in enumerate(zip(plans.items(), teacher.joint(plans.values()), strict=True)):
        row: Row = {"group": kind, "wanted": keep, "keep": teacher.share(given), "joint_loss": loss}
        if kind != "random" or k < DRAWN:
            row["accuracy"] = teacher.accuracy(given)
        if kind != "handcrafted":
            scores = teacher.scores["output"]
            inner = [layer for layer in scores.layers if any(f"{layer}.".startswith(f"{out}.") for out in given.layers)]
            row |= {"predicted": predicted(scores, inner), "keep_macs": kept_share(scores, inner, cost="macs")}
        yield {"name": f"{name} at {keep:.3g}", **row, "layers": list(given.layers)}


def chosen(by: Mapping[str, LayerScores], keep: float) -> Iterator[tuple[str, Plan]]:
    """What each method and each criterion chooses."""
    for method in METHODS:
        yield f"output, {method.replace('_', ' by ')}", planned(by["output"], keep=keep, method=method)
    yield "output, exact, stages spared", planned(by["output"], keep=keep, keep_every_stage=True)
    for name, scores in by.items():
        if name not in ("output", "output, root"):
            yield f"{name}, exact", planned(scores, keep=keep)


def feasible(scores: LayerScores, keep: float) -> dict[str, Plan]:
    """Random sets, each another: layers going in random order until the budget is met. Of layers alike, then all the others."""
    found = dict[str, Plan]()
    for k in range(100 * RANDOM):
        order = Random(k).sample(range(len(scores.layers)), len(scores.layers))
        values = replace(scores, losses=np.broadcast_to(np.array(order)[:, None], scores.losses.shape))
        given = planned(values, keep=keep, method="greedy")
        found[key(given)] = given
        if len(found) == RANDOM:
            break
    size = len(next(iter(found.values())).layers)
    for layers in combinations(scores.layers, size) if alike(scores) else ():
        given = plan_of(scores, layers, made={})
        found.setdefault(key(given), given)
    return {f"random {k}": given for k, given in enumerate(found.values())}


def alike(scores: LayerScores) -> bool:
    """Whether all layers cost the same, so that all sets that meet a budget are of one size, and few."""
    return len(set(scores.costs["parameters"].layers)) == 1


def additivity(teacher: Teacher) -> Iterator[Row]:
    """A row for each criterion, with the points of the picture: over random sets of layers, of all sizes from two on."""
    output, rng, sets = teacher.scores["output"], Random(0), dict[tuple[str, ...], None]()
    while len(sets) < SETS:
        for size in range(2, len(output.layers) + 1):
            sets[tuple(sorted(rng.sample(output.layers, size), key=output.layers.index))] = None
    joint = teacher.joint(plan_of(output, layers, made={}) for layers in sets)
    sizes = [len(layers) / len(output.layers) for layers in sets]
    for name, scores in teacher.scores.items():
        sums = [predicted(scores, layers) for layers in sets]
        row = {"name": f"additivity, {name}", "group": "additivity", "criterion": name, "sets": len(sets)}
        if len(scores.weights) > 1:  # how stable the ranking is; a criterion that looks at no tuples has none
            found, error = stability(scores), float(np.median(scores.errors / np.abs(scores.values)))
            row |= {"bootstrap_spearman": found.spearman, "bootstrap_spearman_low": found.spearman_low, "error": error}
        points = [list(point) for point in zip(sizes, sums, joint, strict=True)]
        yield row | agreement(np.array(sums), np.array(joint), np.array(sizes)) | {"points": points}


def agreement(sums: np.ndarray, joint: np.ndarray, sizes: np.ndarray) -> Row:
    """Correlations over all the sets and, by the share of layers that goes, within each quarter of it; and joint over sum."""
    quarters = []
    for low, high in ((k / 4, (k + 1) / 4) for k in range(4)):
        part = (low < sizes) & (sizes <= high)
        s, j = sums[part], joint[part]
        logs = (s > 0).all() and len(set(s)) > 2
        quarter = {"removed": [low, high], "sets": int(part.sum()), "spearman": correlation(s, j)}
        slope = float(np.polyfit(np.log(s), np.log(j), 1)[0]) if logs else None  # 1 if they are proportional
        quarters.append(quarter | {"joint_over_sum": float(np.median(j / s)), "slope_of_logs": slope})
    whole = {"pearson": float(pearsonr(sums, joint).statistic), "spearman": correlation(sums, joint)}
    return {**whole, "slope": float(np.polyfit(sums, joint, 1)[0]), "quarters": quarters}


def correlation(sums: np.ndarray, joint: np.ndarray) -> float | None:
    """Of the ranks; None if all sets are one."""
    value = float(spearmanr(sums, joint).statistic) if len(set(sums)) > 1 else float("nan")
    return None if np.isnan(value) else value


def finish(run: Run) -> None:
    """Adds the percentage of random sets of its budget that lose more than each chosen set."""
    for row in run.record["rows"]:
        rivals = [r["joint_loss"] for r in run.record["rows"] if r["group"] == "random" and r["wanted"] == row.get("wanted")]
        if row["group"] == "chosen" and rivals:
            row["beats_random_percent"] = 100 * float(np.mean([row["joint_loss"] < loss for loss in rivals]))


TITLE = "Additivity and regret of pruning {pipe} in depth, before any training"
HOW: dict[str, Any] = {"options": {"samples": 32, "images": 32}, "pipes": zoo.NAMES, "finish": finish}
HOW["head"] = lambda pipe, options: {"options": {**options, "steps": STEPS, "guidance_scale": zoo.GUIDANCE[pipe]}}
STUDIES = (Study("depth", TITLE, jobs, **HOW),)
