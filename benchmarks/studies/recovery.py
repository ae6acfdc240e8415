"""How students recover under distillation: prompt accuracy and judge-Fréchet against updates, equal budgets.

emoji-sd: LAPTOP-Diff's plans, BK-SDM's and random ones, and LAPTOP's under other losses; emoji-dit: six of its twelve blocks in
four ways (does a low loss foretell what is recovered, which TinyFusion, arXiv 2412.01199, denies?), and without pictures."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from bench import Bench, kept
from secateur import DistilSettings, Examples, LayerScores, Plan, count, drop_layers, joint_loss, output_loss, planned, zoo
from secateur.denoiser.of_pipe import denoiser_of
from secateur.distilling import encoded, pictures
from secateur.distilling.distil import pipe_steps
from secateur.distilling.training import holding
from secateur.pipeline.examples import concatenate, draw_examples
from secateur.pruning.presets import bk_sdm_small, bk_sdm_tiny
from secateur.pruning.prune import with_plan
from secateur.pruning.surgery import plan_without
from studies.depth import random_plan
from study import Job, Row, Run, Study

KEEP, TUPLES, STEPS = 0.5, 64, 25
FIRST_SEED, DRAWN_SEED = 60_000, 200_000  # of the images that are judged, and of those that are taught with
DRAWN, CLASSES, HALF = 1024, 256, 128  # images that the teacher draws; classes of emoji-dit, and half of them
SHARES = (0.1, 0.3, 1.0)  # of the updates, where students are judged; before training once for each plan
TAUGHT = {"batch_size": 16, "lr": 5e-4, "warmup": 50, "lr_schedule": "cosine", "ema": 0.995}
NORMALIZED = DistilSettings(**TAUGHT, timesteps="stratified", null_rate=0.1)
WAYS: dict[str, dict[str, Any]] = {
    "normalized": {},
    "plain": {"normalize": "none"},
    "output-only": {"task": 0.0, "feature": 0.0},
    "task-only": {"output": 0.0, "feature": 0.0},
    "normalized, features weigh 1": {"feature": 1.0},
    "normalized, features weigh 0.01": {"feature": 0.01},
    "drawn by the teacher": {},
    "drawn by the teacher, prompts swapped": {"swap_rate": 0.5},
    "half of the classes drawn": {},
    "half of the classes drawn, all swapped": {"swap_rate": 0.5},
}
LAPTOP = ("plain", "output-only", "task-only")
PLANS = {  # what matters most first
    "emoji-sd": ("laptop", "bk-small", "random"),
    "emoji-sd-macs": ("laptop", "bk-tiny", "random"),
    "emoji-dit": ("laptop", "every second block", "random", "middle blocks"),
}
OTHERS = {  # ways in which LAPTOP's students are taught too
    "emoji-sd": LAPTOP,
    "emoji-sd-macs": (*LAPTOP, *(way for way in WAYS if "weigh" in way)),
    "emoji-dit": ("plain", *(way for way in WAYS if "drawn" in way)),
}


class School:
    """What all runs share: the pipe, its examples, the scores of its layers, and the plans."""

    def __init__(self, name: str, *, cost: str, images: int, examples: int, work: Path):
        self.bench, self.cost, self.count = Bench(name, steps=STEPS, images=images, seed=FIRST_SEED), cost, examples
        self.folder = work / case(name, cost)

    @cached_property
    def examples(self) -> Examples:
        """The renderer's pictures."""
        pairs = pictures.scenes(self.bench.name)
        return concatenate(encoded.encoded(self.bench.pipe, pairs, limit=self.count, batch_size=64))

    @cached_property
    def drawn(self) -> Examples:
        """What the teacher draws."""
        asked, _ = zoo.conditions(self.bench.name, DRAWN, calibration=True)
        call = {"num_inference_steps": STEPS, **self.bench.call}
        return concatenate(draw_examples(self.bench.pipe, asked, count=DRAWN, seed=DRAWN_SEED, **call))

    @cached_property
    def scores(self) -> LayerScores:
        """The output loss of each layer."""
        *_, last = output_loss(denoiser_of(self.bench.pipe), self.examples, self.bench.pipe.scheduler, samples=TUPLES)
        return last.scores

    def plan(self, name: str, seed: int) -> Plan:
        """The plan of a name; a random one for each seed. Students keep six blocks of the transformer, or half."""
        teacher = denoiser_of(self.bench.pipe)
        left = lambda plan: kept(teacher, drop_layers(teacher, plan))  # noqa: E731
        keep = KEEP if self.bench.name == "emoji-sd" else left(blocks_gone(teacher, range(1, 12, 2)))
        plans: dict[str, Callable[[], Plan]] = {
            "laptop": lambda: planned(self.scores, keep=keep, cost=self.cost),
            "laptop at BK-Small's size": lambda: planned(self.scores, keep=left(bk_sdm_small()), cost=self.cost),
            "bk-small": bk_sdm_small,
            "bk-tiny": bk_sdm_tiny,
            "every second block": lambda: blocks_gone(teacher, range(1, 12, 2)),
            "middle blocks": lambda: blocks_gone(teacher, range(3, 9)),
            "random": lambda: random_plan(self.scores, seed, keep=keep, cost=self.cost),
        }
        return plans[name]()

    def lessons(self, way: str) -> tuple[Examples, Examples | None]:
        """The renderer's pictures, or what the teacher draws by prompts alone; and prompts that are only heard."""
        if "drawn" not in way:
            return self.examples, None
        if not way.startswith("half"):
            return self.drawn, None
        labels = self.drawn.conditions["class_labels"]
        seen = labels < HALF
        half = replace(self.drawn, latents=self.drawn.latents[seen], conditions={"class_labels": labels[seen]})
        others = concatenate(encoded.unpictured(self.bench.pipe, range(HALF, CLASSES)))
        return half, others if way.endswith("swapped") else None

    def row(self, plan: str, way: str | None, seed: int, updates: int, student: Any) -> Row:
        """What a student keeps of the teacher's parameters and MACs, and what its images are worth."""
        teacher, net = denoiser_of(self.bench.pipe), denoiser_of(student)
        shares = {"keep": kept(teacher, net), "keep_macs": count(net).call() / count(teacher).call()}
        return {"plan": plan, "way": way, "seed": seed, **shares, "updates": updates, **self.bench.judged(student)}


def case(name: str, cost: str) -> str:
    """What the files of students of a pipe with a fraction of its parameters, or of its MACs, are called."""
    return name if cost == "parameters" else f"{name}-{cost}"


def blocks_gone(transformer: Any, numbers: Iterable[int]) -> Plan:
    """A transformer without some of its blocks."""
    return plan_without(transformer, [f"transformer_blocks.{n}" for n in numbers], made={"method": "handcrafted"})


def jobs(run: Run) -> Iterator[Job]:
    """The teacher; then for each seed and arm the student before training and at each mark."""
    given, updates, known = run.options, run.options["updates"], set[str]()
    rows = {row["name"] for row in run.record["rows"]}
    kind = case(run.pipe, given["cost"])
    if kind not in PLANS:
        raise SystemExit(f"the blocks of {run.pipe} are all alike, and half of them is half of either: leave --cost out")
    school = School(run.pipe, cost=given["cost"], images=given["images"], examples=given["examples"], work=run.work)
    yield Job("teacher", lambda: {"plan": "teacher", "keep": 1.0, **school.bench.judged(school.bench.pipe)})
    for seed in range(given["seeds"]):
        for plan, way in arms(kind):
            before = f"{plan}, seed {seed}, untrained" if plan == "random" else f"{plan}, untrained"
            if before not in known:
                yield Job(before, partial(untrained, school, plan, seed))
            known.add(before)
            name = f"{plan}, {way}, seed {seed}"
            ended = f"{name}, {updates} updates" in rows  # then marks before are not made again
            for mark in marks(updates):
                make = partial(taught, school, plan, way, seed=seed, updates=updates, mark=mark)
                yield Job(f"{name}, {mark} updates", make, done=ended or None)


def arms(kind: str) -> Iterator[tuple[str, str]]:
    """Plans, and how each is distilled."""
    yield from ((plan, "normalized") for plan in PLANS[kind])
    yield from (("laptop", way) for way in OTHERS[kind])
    if kind == "emoji-sd":
        yield "laptop at BK-Small's size", "normalized"


def marks(updates: int) -> list[int]:
    return sorted({round(share * updates) for share in SHARES} - {0})


def untrained(school: School, name: str, seed: int) -> Row:
    """The row of a plan's student before any training."""
    plan, pipe = school.plan(name, seed), school.bench.pipe
    [loss] = joint_loss(denoiser_of(pipe), school.examples, pipe.scheduler, [plan], samples=TUPLES)
    return school.row(name, None, seed, 0, with_plan(pipe, plan)) | {"joint_loss": float(loss.mean())}


def taught(school: School, name: str, way: str, *, seed: int, updates: int, mark: int) -> Row:
    """The row of a run after so many of its updates; training goes on from the checkpoint of the mark before."""
    plan, folder, start = school.plan(name, seed), f"{name} {way} {seed}".replace(" ", "-"), time.perf_counter()
    student, (examples, others) = with_plan(school.bench.pipe, plan), school.lessons(way)
    settings = replace(NORMALIZED, **WAYS[way], updates=updates, seed=seed)
    how = {"plan": plan, "unpictured": others, "folder": school.folder / folder, "save_every": marks(updates)[0]}
    for step in pipe_steps(student, school.bench.pipe, examples, call={}, settings=settings, **how):
        if step.number == mark:
            spent = time.perf_counter() - start
            with holding(denoiser_of(student), step.averaged):
                return school.row(name, way, seed, mark, student) | {"since_s": spent}
    raise AssertionError(f"no run of {updates} updates ends before {mark}")


OPTIONS = {"updates": 2000, "examples": 8192, "images": 128, "seeds": 3, "cost": "parameters"}
HOW: dict[str, Any] = {"options": OPTIONS, "pipes": zoo.NAMES}
HOW["file"] = lambda pipe, given: f"recovery-{case(pipe, given['cost'])}"
HOW["head"] = lambda pipe, given: {"options": {k: v for k, v in given.items() if k != "seeds" and v != "parameters"}}
STUDIES = (Study("recovery", "Recovery of students of {pipe} under distillation", jobs, **HOW),)
