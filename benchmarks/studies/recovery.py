"""How students recover under distillation: prompt accuracy and judge-Fréchet against updates, equal budgets.

emoji-sd: LAPTOP-Diff's plans, BK-SDM's and random ones, and LAPTOP's under other losses; emoji-dit: six of its twelve blocks in
four ways (does a low loss foretell what is recovered, which TinyFusion, arXiv 2412.01199, denies?), and without pictures."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from secateur import DistilSettings, DistilStep, joint_loss, zoo
from secateur.distilling.distil import pipe_steps
from secateur.distilling.training import holding
from secateur.pipeline.pipes import component
from secateur.pruning.prune import with_plan
from students import TUPLES, School, case
from study import Job, Record, Row, Run, Study

SHARES = (0.1, 0.3, 1.0)  # of the updates, where students are judged; before training once for each plan
WATCHED, SHOWN = 200, 40  # records of the terms in a run, and those that the results keep
NORMALIZED = DistilSettings(
    batch_size=16, lr=5e-4, warmup=50, lr_schedule="cosine", timesteps="stratified", null_rate=0.1, ema=0.995
)
WAYS = {
    "normalized": NORMALIZED,
    "plain": replace(NORMALIZED, normalize="none"),
    "output-only": replace(NORMALIZED, task=0.0, feature=0.0),
    "task-only": replace(NORMALIZED, output=0.0, feature=0.0),
    "normalized, features weigh 1": replace(NORMALIZED, feature=1.0),
    "normalized, features weigh 0.01": replace(NORMALIZED, feature=0.01),
    "drawn by the teacher": NORMALIZED,
    "drawn by the teacher, prompts swapped": replace(NORMALIZED, swap_rate=0.5),
    "half of the classes drawn": NORMALIZED,
    "half of the classes drawn, all swapped": replace(NORMALIZED, swap_rate=0.5),
}
FEATURED = ("normalized", "plain")  # ways that look at features
LAPTOP = ("plain", "output-only", "task-only")
Arm = tuple[str, str]  # plan, and how it is distilled
ARMS: dict[str, tuple[Arm, ...]] = {  # what matters most first
    "emoji-sd": (
        *((plan, "normalized") for plan in ("laptop", "bk-small", "random")),
        *(("laptop", way) for way in LAPTOP),
        ("laptop at BK-Small's size", "normalized"),
    ),
    "emoji-sd-macs": (
        *((plan, "normalized") for plan in ("laptop", "bk-tiny", "random")),
        *(("laptop", way) for way in (*LAPTOP, "normalized, features weigh 1", "normalized, features weigh 0.01")),
    ),
    "emoji-dit": (
        *((plan, "normalized") for plan in ("laptop", "every second block", "random", "middle blocks")),
        *(("laptop", way) for way in ("plain", *(way for way in WAYS if "drawn" in way))),
    ),
}


def jobs(run: Run) -> Iterator[Job]:
    """The teacher; then for each seed and arm the student before training and at each mark."""
    given, updates, known = run.options, run.options["updates"], set[str]()
    kind = case(run.pipe, given["cost"])
    if kind not in ARMS:
        raise SystemExit(f"the blocks of {run.pipe} are all alike, and half of them is half of either: leave --cost out")
    school = School(run.pipe, cost=given["cost"], images=given["images"], examples=given["examples"], work=run.work)
    yield Job("teacher", lambda: {"plan": "teacher", "keep": 1.0, **school.judged()})
    for seed in range(given["seeds"]):
        for arm in ARMS[kind]:
            before = f"{arm[0]}, seed {seed}, untrained" if arm[0] == "random" else f"{arm[0]}, untrained"
            if before not in known:
                yield Job(before, partial(untrained, school, arm[0], seed))
            known.add(before)
            name = f"{', '.join(arm)}, seed {seed}"
            ended = run.row(f"{name}, {updates} updates") is not None  # then marks before are not made again
            for mark in marks(updates):
                make = partial(taught, school, arm, seed=seed, updates=updates, mark=mark)
                yield Job(f"{name}, {mark} updates", make, done=ended or None)


def marks(updates: int) -> list[int]:
    return sorted({round(share * updates) for share in SHARES} - {0})


def untrained(school: School, name: str, seed: int) -> Row:
    """The row of a plan's student before any training."""
    plan = school.plan(name, seed)
    student = with_plan(school.pipe, plan)
    [loss] = joint_loss(school.teacher, school.examples, school.pipe.scheduler, [plan], samples=TUPLES)
    known = {"plan": name, "way": None, "seed": seed, **school.kept(component(student)), "updates": 0}
    return {**known, "joint_loss": float(loss.mean()), **school.judged(student)}


def taught(school: School, arm: Arm, *, seed: int, updates: int, mark: int) -> Row:
    """The row of a run after so many of its updates; training goes on from the checkpoint of the mark before."""
    plan, folder, start = school.plan(arm[0], seed), folder_of(school.folder, arm, seed), time.perf_counter()
    student, (examples, others) = with_plan(school.pipe, plan), school.taught_with(arm[1])
    settings = replace(WAYS[arm[1]], updates=updates, seed=seed)
    steps = pipe_steps(student, school.pipe, examples, call={}, settings=settings, plan=plan, unpictured=others,
                       folder=folder, save_every=marks(updates)[0])  # fmt: skip
    for step in steps:
        if step.number % max(updates // WATCHED, 1) == 0 or step.number == 1:
            watch(folder, step)
        if step.number == mark:
            known = {"plan": arm[0], "way": arm[1], "seed": seed, **school.kept(component(student)), "updates": mark}
            spent = time.perf_counter() - start
            with holding(component(student), step.averaged):
                return {**known, "since_s": spent, **school.judged(student)}
    raise AssertionError(f"no run of {updates} updates ends before {mark}")


def watch(folder: Path, step: DistilStep) -> None:
    """Add the terms of an update to the run's own file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "terms.jsonl").open("a") as file:
        line = {"updates": step.number, "raw": dict(step.raw), "normalized": dict(step.normalized)}
        file.write(json.dumps(line) + "\n")


def folder_of(folder: Path, arm: Arm, seed: int) -> Path:
    """Where a run keeps its checkpoints."""
    return folder / f"{arm[0]} {arm[1]} {seed}".replace(" ", "-")


def term_jobs(run: Run) -> Iterator[Job]:
    """The feature terms of LAPTOP's first student, in every way that looks at features."""
    folder = run.work.parent / "recovery" / case(run.pipe, run.options["cost"])
    for way in FEATURED:
        yield Job(way, partial(term_rows, folder, way), last=f"{way}, update {run.options['updates']}")


def term_rows(folder: Path, way: str) -> Iterator[Row]:
    """Some of the terms of a run, evenly; an update that was made twice, after an interruption, counts once."""
    path = folder_of(folder, ("laptop", way), 0) / "terms.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    once = [line for _, line in sorted({line["updates"]: line for line in lines}.items())]
    for k in sorted({round(k * (len(once) - 1) / (SHOWN - 1)) for k in range(SHOWN)}):
        updates = once[k]["updates"]
        terms = {kind: {site: float(f"{x:.4g}") for site, x in once[k][kind].items()} for kind in ("raw", "normalized")}
        yield {"name": f"{way}, update {updates}", "way": way, "updates": updates, **terms}


def head(pipe: str, options: Mapping[str, Any]) -> Record:
    cost = {"cost": options["cost"]} if options["cost"] != "parameters" else {}
    return {"options": cost | {key: options[key] for key in ("updates", "images", "examples")}}


OPTIONS = {"updates": 2000, "examples": 8192, "images": 128, "seeds": 3, "cost": "parameters"}
HOW: dict[str, Any] = {"options": OPTIONS, "pipes": zoo.NAMES, "head": head}
TITLES = {"recovery": "Recovery of students of {pipe} under distillation"}
TITLES["recovery-terms"] = "Feature terms of a student of {pipe} by site"
STUDIES = tuple(
    Study(name, title, work, file=lambda pipe, options, name=name: f"{name}-{case(pipe, options['cost'])}", **HOW)
    for (name, title), work in zip(TITLES.items(), (jobs, term_jobs), strict=True)
)
