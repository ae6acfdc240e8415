"""Pruning in depth before any training: is the loss of layers additive, and how good are the sets that a budget chooses?

Additivity: random sets of layers, from two to all; the sum of each criterion over them against the measured joint output loss.
Regret: at each budget the sets that each criterion chooses, their loss and accuracy, and the losses of random ones.
`milliseconds`: what of a call's time is kept by the sum of layers' times, beside the student's time, for random sets of layers.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from itertools import combinations
from random import Random
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn

import secateur
from bench import Bench
from secateur import Examples, LayerScores, Plan, planned, zoo
from secateur.denoiser.families import dummy_inputs
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring.timing import speedup, time_together
from secateur.pipeline.schedulers import SOLVERS
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.planning import METHODS, plan_of, predicted, with_times
from secateur.pruning.prune import with_plan
from secateur.pruning.scoring import costed, min_snr
from secateur.zoo import judge
from secateur.zoo.scenes import parse
from stock import random_net
from study import Job, Row, Run, Study

KEEPS, SETS, RANDOM = (0.7, 0.5, 0.38), 200, 100
FIRST_SEED, CALIBRATION_SEED, EXAMPLES, STEPS, BATCH = 60_000, 61_000, 64, 10, 16
SOLVER = SOLVERS["DPM-Solver++"]


class Teacher:
    """A pipe of the zoo, the scores of its layers, and what it is worth without some of them."""

    def __init__(self, name: str, *, samples: int, images: int):
        self.how = {"samples": samples, "batch_size": BATCH}
        self.bench = Bench(name, steps=STEPS, images=images, seed=FIRST_SEED)

    @cached_property
    def asked(self) -> tuple[Any, Examples, Any]:
        """What predicts, pictures of calibration captions with their conditions, and the scheduler that makes them noisy."""
        conditions, captions = zoo.conditions(self.bench.name, EXAMPLES, calibration=True)
        examples = secateur.from_images(self.bench.pipe, zoo.renders(captions, each=1), conditions)
        return denoiser_of(self.bench.pipe), examples, self.bench.pipe.scheduler

    @cached_property
    def scores(self) -> dict[str, LayerScores]:
        """The scores of every layer by each criterion, by what pictures show without it, and weighted by Min-SNR."""
        steps = {name: secateur.scored(*self.asked, criterion=name, **self.how) for name in CRITERIA}
        with self.bench.scheduled(*SOLVER):
            how = {"images": len(self.bench.seeds), "steps": STEPS, "seed": CALIBRATION_SEED}
            pictured = list(secateur.prune_steps(self.bench.pipe, criterion=prompt_score, **how))
        found = {name: list(steps)[-1].scores for name, steps in steps.items()} | {"prompt score": pictured[-1].scores}
        weights = min_snr(self.bench.pipe.scheduler)(torch.tensor(found["output"].timesteps)).numpy()
        return found | {"output, Min-SNR": replace(found["output"], weights=weights)}

    def joint(self, plans: Iterable[Plan]) -> list[float]:
        """The joint output loss of each plan."""
        return [float(loss.mean()) for loss in secateur.joint_loss(*self.asked, plans, **self.how)]

    def accuracy(self, plan: Plan | None = None) -> Row:
        """How many pictures show what their captions say, drawn without the plan's layers."""
        with self.bench.scheduled(*SOLVER):
            return self.bench.judged(with_plan(self.bench.pipe, plan) if plan else self.bench.pipe)["accuracy"]


def prompt_score(images: np.ndarray, prompts: Sequence[str] | Sequence[int]) -> np.ndarray:
    """How likely the judge finds what each picture was asked for."""
    return judge.likelihoods(images, [parse(p if isinstance(p, str) else zoo.caption_of(p)) for p in prompts])


def jobs(run: Run) -> Iterator[Job]:
    """Additivity, the dense pipe, and at each budget the chosen sets and the random ones."""
    teacher = Teacher(run.pipe, **run.options)
    yield Job("additivity", partial(additivity, teacher), last="additivity, output")
    yield Job("dense", lambda: {"group": "dense", "keep": 1.0, "joint_loss": 0.0, "accuracy": teacher.accuracy()})
    for keep in KEEPS:
        for kind, (make, first) in {"chosen": (chosen, "output, exact"), "random": (feasible, "random 0")}.items():
            name = f"{first} at {keep:g}"
            yield Job(f"{kind}: {name}", partial(measured, teacher, kind, make, keep), last=name)


def measured(teacher: Teacher, kind: str, make: Callable[..., dict[str, Plan]], keep: float) -> Iterator[Row]:
    """A row for each plan of a budget; pictures of those that are chosen."""
    plans = make(teacher, keep)
    for (name, plan), loss in zip(plans.items(), teacher.joint(plans.values()), strict=True):
        row = {"name": f"{name} at {keep:g}", "group": kind, "wanted": keep, "joint_loss": loss, "layers": list(plan.layers)}
        yield row | ({"accuracy": teacher.accuracy(plan)} if kind == "chosen" else {})


def chosen(teacher: Teacher, keep: float) -> dict[str, Plan]:
    """What each method and each criterion chooses."""
    output = teacher.scores["output"]
    plans = {f"output, {method.replace('_', ' by ')}": planned(output, keep=keep, method=method) for method in METHODS}
    plans["output, exact, stages spared"] = planned(output, keep=keep, keep_every_stage=True)
    others = {name: scores for name, scores in teacher.scores.items() if name != "output"}
    return plans | {f"{name}, exact": planned(scores, keep=keep) for name, scores in others.items()}


def feasible(teacher: Teacher, keep: float) -> dict[str, Plan]:
    """Random sets, each another. Of layers alike, then all the others."""
    scores, found = teacher.scores["output"], dict[tuple[str, ...], Plan]()
    for k in range(100 * RANDOM):
        plan = random_plan(scores, k, keep=keep)
        found[plan.layers] = plan
        if len(found) == RANDOM:
            break
    for layers in combinations(scores.layers, len(plan.layers)) if alike(scores) else ():
        found.setdefault(layers, plan_of(scores, layers, made={}))
    return {f"random {k}": plan for k, plan in enumerate(found.values())}


def random_plan(scores: LayerScores, seed: int, **budget: Any) -> Plan:
    """The plan by which layers go in random order until a budget is met."""
    order = np.array(Random(seed).sample(range(len(scores.layers)), len(scores.layers)))
    return planned(replace(scores, losses=np.broadcast_to(order[:, None], scores.losses.shape)), method="greedy", **budget)


def alike(scores: LayerScores) -> bool:
    """Whether all layers cost the same, so that all sets that meet a budget are of one size, and few."""
    return len(set(scores.costs["parameters"].layers)) == 1


def additivity(teacher: Teacher) -> Iterator[Row]:
    """A row for each criterion: how its sums go with joint losses over random sets of layers, of all sizes from two on."""
    output, rng, sets = teacher.scores["output"], Random(0), dict[tuple[str, ...], None]()
    while len(sets) < SETS:
        for size in range(2, len(output.layers) + 1):
            sets[tuple(sorted(rng.sample(output.layers, size), key=output.layers.index))] = None
    joint = np.array(teacher.joint(plan_of(output, layers, made={}) for layers in sets))
    quarter = np.array([math.ceil(4 * len(layers) / len(output.layers)) for layers in sets])
    for name, scores in teacher.scores.items():
        sums = np.array([predicted(scores, layers) for layers in sets])
        agreed = {"pearson": float(pearsonr(sums, joint).statistic), "spearman": correlation(sums, joint)}
        agreed |= {"slope": float(np.polyfit(sums, joint, 1)[0])}
        quarters = [{"removed": [k / 4 - 1 / 4, k / 4], "spearman": correlation(sums[quarter == k], joint[quarter == k])}
                    for k in range(1, 5)]  # fmt: skip
        row = {"name": f"additivity, {name}", "group": "additivity", "criterion": name, "sets": len(sets)}
        yield row | agreed | {"quarters": quarters}


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


# Milliseconds

TIMED, MS_KEEPS, TIMED_SETS, TIMED_CALLS, REPEATS = ("emoji-sd", "emoji-dit", "sd15"), (0.7, 0.5), 3, 5, 9


def millisecond_jobs(run: Run) -> Iterator[Job]:
    """Random sets of layers at each budget: the sum of the layers' times, beside teacher and student timed in turns."""
    known = cache(teacher_and_costs)
    for name in TIMED:
        for keep in MS_KEEPS:
            for number in range(TIMED_SETS):
                make = partial(timed_row, known, name, keep=keep, seed=number)
                yield Job(f"{name}, {keep:g} asked, set {number}", make)


def teacher_and_costs(name: str) -> tuple[nn.Module, Callable[[], Any], Any]:
    """The denoiser of a pipe of the zoo, or a full-size one, a call for one image, and its layers with their times."""
    teacher = denoiser_of(zoo.load(name)) if name in zoo.NAMES else random_net(name, dtype=torch.float32).cpu()
    (call := caller(teacher))()
    return teacher, call, with_times(costed(teacher), teacher, run=lambda: [call() for _ in range(TIMED_CALLS)])


def caller(denoiser: nn.Module) -> Callable[[], Any]:
    inputs = dummy_inputs(denoiser)
    return torch.inference_mode()(lambda: denoiser(**inputs))


def timed_row(known: Callable[[str], Any], name: str, *, keep: float, seed: int) -> Row:
    """What is kept of a call's time by the sum of layers' times, by the clock, and by MACs."""
    teacher, call, costs = known(name)
    plan = random_plan(costs, seed, keep=keep, cost="ms")
    student = secateur.drop_layers(teacher, plan)
    times = time_together({"teacher": call, "student": caller(student)}, repeats=REPEATS)
    median, high, low = (1 / x for x in speedup(times["teacher"], times["student"]))
    kept = {"keep_ms": plan.made["kept"], "keep_timed": median, "keep_timed_quartiles": [low, high]}
    kept["keep_macs"] = secateur.count(student).call() / secateur.count(teacher).call()
    return {"denoiser": name, **kept, "latency_s": times["teacher"].as_json(), "removed": len(plan.layers)}


TITLE = "Additivity and regret of pruning {pipe} in depth, before any training"
HOW: dict[str, Any] = {"options": {"samples": 32, "images": 32}, "pipes": zoo.NAMES, "finish": finish}
HOW["head"] = lambda pipe, options: {"options": {**options, "steps": STEPS, "guidance_scale": zoo.GUIDANCE[pipe]}}
MS_OPTIONS = {"keep": MS_KEEPS, "sets": TIMED_SETS, "calls": TIMED_CALLS, "repeats": REPEATS}
MS = "What is kept of a call's time: by the sum of layers' times, and timed"
STUDIES = (Study("depth", TITLE, jobs, **HOW), Study("milliseconds", MS, millisecond_jobs, head={"options": MS_OPTIONS}))
