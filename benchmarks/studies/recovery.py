"""How students recover under distillation: prompt accuracy and judge-Fréchet against updates, equal budgets.

emoji-sd: LAPTOP-Diff's plan at keep 0.5 and at BK-Small's size, BK-Small, and a random one for each seed, all with normalized
distillation; LAPTOP's also with plain features, with outputs alone, and with the task alone. With half of the MACs (--cost
macs) more is lost; BK-Tiny then stands for BK-Small, and LAPTOP's is taught with other weights of the features too. emoji-dit:
six of its twelve blocks, LAPTOP's choice, every second one, the middle ones and random ones: does a low output loss before
training foretell what is recovered (TinyFusion, arXiv 2412.01199, says it does not)? LAPTOP's also without any pictures, taught
with what the teacher draws: of all classes, or of half of them, and then with the other half heard at noisy samples or not.

The study `recovery-terms` reads the feature terms of LAPTOP's student by site from the same folder --work.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from secateur import drop_layers, zoo
from secateur.distilling import features
from secateur.distilling.settings import DistilSettings
from secateur.distilling.training import DistilStep, distil_steps
from secateur.pruning import scoring
from students import TUPLES, Bench, case
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


# Rows


def jobs(run: Run) -> Iterator[Job]:
    """The teacher; then for each seed and arm the student before training and at each mark."""
    given, updates = run.options, run.options["updates"]
    kind = case(run.pipe, given["cost"])
    if kind not in ARMS:
        raise SystemExit(f"the blocks of {run.pipe} are all alike, and half of them is half of either: leave --cost out")
    bench = Bench(run.pipe, cost=given["cost"], images=given["images"], examples=given["examples"], work=run.work)
    yield Job("teacher", lambda: [{"name": "teacher", "plan": "teacher", "keep": 1.0, **bench.judged()}])
    known = set[str]()
    for seed in range(given["seeds"]):
        for arm in ARMS[kind]:
            before = f"{arm[0]}, seed {seed}, untrained" if arm[0] == "random" else f"{arm[0]}, untrained"
            if before not in known:
                yield Job(before, lambda row=before, arm=arm, seed=seed: [{"name": row, **untrained(bench, arm[0], seed)}])
            known.add(before)
            name = f"{', '.join(arm)}, seed {seed}"
            ended = run.row(f"{name}, {updates} updates") is not None  # then marks before are not made again
            for mark in marks(updates):
                row = f"{name}, {mark} updates"
                yield Job(row, partial(taught, bench, row, arm, seed, updates=updates, mark=mark), done=ended or None)


def marks(updates: int) -> list[int]:
    return sorted({round(share * updates) for share in SHARES} - {0})


def untrained(bench: Bench, name: str, seed: int) -> Row:
    """The row of a plan's student before any training."""
    plan = bench.plan(name, seed)
    student = drop_layers(bench.teacher, plan)
    [loss] = scoring.joint_loss(bench.teacher, bench.examples, bench.pipe.scheduler, [plan], samples=TUPLES)
    known = {"plan": name, "way": None, "seed": seed, **bench.kept(student), "updates": 0}
    return {**known, "joint_loss": float(loss.mean()), **bench.student_judged(student, {})}


def taught(bench: Bench, name: str, arm: Arm, seed: int, *, updates: int, mark: int) -> Iterator[Row]:
    """The row of a run after so many of its updates; training goes on from the checkpoint of the mark before."""
    plan, folder = bench.plan(arm[0], seed), folder_of(bench.folder, arm, seed)
    student = drop_layers(bench.teacher, plan)
    settings, (examples, others) = replace(WAYS[arm[1]], updates=updates, seed=seed), bench.taught_with(arm[1])
    sites, start = features.sites(bench.teacher, student, plan=plan), time.perf_counter()
    steps = distil_steps(bench.teacher, student, examples, bench.pipe.scheduler, settings=settings, null=bench.null,
                         others=others, folder=folder, save_every=marks(updates)[0], sites=sites)  # fmt: skip
    for step in steps:
        if step.number % max(updates // WATCHED, 1) == 0 or step.number == 1:
            watch(folder, step)
        if step.number == mark:
            known = {"plan": arm[0], "way": arm[1], "seed": seed, **bench.kept(student), "updates": mark}
            spent = time.perf_counter() - start
            yield {"name": name, **known, "since_s": spent, **bench.student_judged(student, step.averaged)}
            return


def watch(folder: Path, step: DistilStep) -> None:
    """Add the terms of an update to the run's own file."""
    folder.mkdir(parents=True, exist_ok=True)
    line = {"updates": step.number, "raw": dict(step.raw), "normalized": dict(step.normalized)}
    with (folder / "terms.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def folder_of(folder: Path, arm: Arm, seed: int) -> Path:
    """Where a run keeps its checkpoints."""
    return folder / f"{arm[0]} {arm[1]} {seed}".replace(" ", "-")


# Feature terms


def term_jobs(run: Run) -> Iterator[Job]:
    """The feature terms of LAPTOP's first student, in every way that looks at features."""
    folder = run.work.parent / "recovery" / case(run.pipe, run.options["cost"])
    for way in FEATURED:
        yield Job(way, partial(term_rows, folder, way), last=f"{way}, update {run.options['updates']}")


def term_rows(folder: Path, way: str) -> list[Row]:
    """Some of the terms of a run, evenly; an update that was made twice, after an interruption, counts once."""
    path = folder_of(folder, ("laptop", way), 0) / "terms.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    once = [line for _, line in sorted({line["updates"]: line for line in lines}.items())]
    kept = sorted({round(k * (len(once) - 1) / (SHOWN - 1)) for k in range(SHOWN)})
    return [
        {"name": f"{way}, update {line['updates']}", "way": way, "updates": line["updates"]}
        | {kind: {site: float(f"{x:.4g}") for site, x in line[kind].items()} for kind in ("raw", "normalized")}
        for line in (once[k] for k in kept)
    ]


def settings(pipe: str, options: Mapping[str, Any]) -> Record:
    cost = {"cost": options["cost"]} if options["cost"] != "parameters" else {}
    return {"options": cost | {key: options[key] for key in ("updates", "images", "examples")}}


OPTIONS = {"updates": 2000, "examples": 8192, "images": 128, "seeds": 3, "cost": "parameters"}
STUDIES = tuple(
    Study(
        name,
        title,
        work,
        options=OPTIONS,
        pipes=zoo.NAMES,
        settings=settings,
        file=lambda pipe, options, name=name: f"{name}-{case(pipe, options['cost'])}",
    )
    for name, title, work in (
        ("recovery", "Recovery of students of {pipe} under distillation", jobs),
        ("recovery-terms", "Feature terms of a student of {pipe} by site", term_jobs),
    )
)
