"""What a schedule is worth elsewhere: found at 50 DDIM calls, retimed to other numbers of calls and other schedulers.

    python benchmarks/transfer.py      writes results/transfer.json

Each target's own dense images are what its rows are measured to. Beside the retimed schedule: calls held evenly, as many,
and fewer steps, as many; where `retime` refuses, its sentence. Every row is saved when it is done, and a rerun goes on.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from front import nearness
from secateur import zoo
from secateur.denoiser import macs
from secateur.measuring import quality, records, report
from secateur.measuring.hardware import hardware
from secateur.measuring.variants import EVEN
from secateur.pipeline import schedulers
from secateur.pipeline.generate import generate
from secateur.schedule import baselines, schedule
from secateur.schedule.apply import apply
from secateur.schedule.retime import retime
from secateur.schedule.schedule import Schedule
from secateur.zoo import judge

RESULTS = Path(__file__).parents[1] / "results"
PIPE, BATCH, IMAGES, FIRST_SEED = "emoji-sd", 8, 64, 50_000
FOUND = ("emoji-sd-secateur-ddim-10-seed-40000", "emoji-sd-secateur-ddim-5-seed-40000")
CHOSEN = "emoji-sd-secateur-dpm-solver++-10-seed-40000"
EULER, DPM = "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"


@dataclass(frozen=True)
class Target:
    """A dense run: a scheduler, by name and options (None: the pipe's own DDIM), and its steps."""

    name: str
    steps: int
    scheduler: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


TARGETS = (
    Target("DDIM", 25),
    Target("Euler", 50, EULER),
    Target("DDIM", 100),
    Target("DDIM", 50),
    Target("Euler", 25, EULER),
)
STRONG = {  # beside fewer steps of the target's own scheduler
    "DPM-Solver++, linspace": (DPM, {"timestep_spacing": "linspace"}),
    "DPM-Solver++, Karras": (DPM, {"timestep_spacing": "linspace", "use_karras_sigmas": True}),
}
REFUSED = (
    Target("fewer calls than it runs", 8),
    Target("DPM-Solver++", 50, DPM),
    Target("UniPC", 50, "UniPCMultistepScheduler"),
    Target("PNDM", 50, "PNDMScheduler", {"skip_prk_steps": True}),
    Target("Heun, two calls a step", 50, "HeunDiscreteScheduler"),
    Target("Euler ancestral", 50, "EulerAncestralDiscreteScheduler"),
    Target("DDIM, linear betas", 50, "DDIMScheduler", {"beta_schedule": "linear"}),
)


@dataclass(frozen=True)
class Job:
    """One row: what draws the images, and how much of the target's dense MACs it takes."""

    name: str
    group: str
    target: Target
    calls: int
    images: Callable[[], np.ndarray]
    schedule: Schedule | None = None


class Bench:
    """The pipe, and the images that several rows need."""

    def __init__(self) -> None:
        self.pipe = zoo.load(PIPE)
        self.macs = macs.count(self.pipe.unet)
        self.conditions, self.captions = zoo.conditions(PIPE, IMAGES)
        self.found = [schedule.load(RESULTS / "schedules" / f"{name}.json") for name in FOUND]
        self.dense = cache(lambda place: self.drawn(TARGETS[place]))
        self.fewer = cache(lambda name, scheduler, spacing, steps: self.drawn(Target(name, steps, scheduler, dict(spacing))))

    def drawn(self, target: Target, made: Schedule | None = None) -> np.ndarray:
        """The images of a target, dense or under a schedule."""
        call = {"guidance_scale": zoo.GUIDANCE[PIPE], "num_inference_steps": target.steps, "batch_size": BATCH}
        with (
            schedulers.scheduled(self.pipe, target.scheduler, target.options),
            apply(self.pipe, made, blocks=self.macs.blocks) if made else nullcontext(),
        ):
            return generate(self.pipe, self.conditions, seeds=range(FIRST_SEED, FIRST_SEED + IMAGES), **call)

    def retimed(self, made: Schedule, target: Target) -> Schedule:
        """The schedule for a target; ValueError where `retime` refuses."""
        home = self.pipe.scheduler
        with schedulers.scheduled(self.pipe, target.scheduler, target.options):
            return retime(made, home, self.pipe.scheduler, calls=target.steps)


def jobs(bench: Bench) -> Iterator[Job]:
    """Every row that is drawn, one target after the other."""
    for place, target in enumerate(TARGETS):
        title = f"{target.name}, {target.steps} calls"
        yield Job(f"{title}: dense", "dense", target, target.steps, lambda place=place: bench.dense(place))
        for made in bench.found:
            yield from rivals(bench, target, f"{title}: {entered(made)} of them", made)


def rivals(bench: Bench, target: Target, title: str, made: Schedule) -> Iterator[Job]:
    """A schedule retimed to a target, and what else makes as many calls."""
    count, moved = entered(made), bench.retimed(made, target)
    evenly = partial(baselines.evenly, bench.macs.blocks, target.steps, count)
    held = {"retimed": moved, **{group: evenly(hold=hold) for group, hold in EVEN.items()}}
    for group, shown in held.items():
        yield Job(f"{title}, {group}", group, target, count, lambda shown=shown: bench.drawn(target, shown), shown)
    spacings = {f"{target.name}, {s}": (target.scheduler, {"timestep_spacing": s}) for s in ("leading", "trailing")}
    for name, (scheduler, options) in {**spacings, **STRONG}.items():
        images = lambda name=name, scheduler=scheduler, options=options: bench.fewer(  # noqa: E731
            name, scheduler, tuple(options.items()), count
        )
        yield Job(f"{title}, fewer steps, {name}", f"fewer steps, {name}", target, count, images)


def entered(made: Schedule) -> int:
    """How many calls enter the denoiser."""
    return sum(not made.held(t) for t in range(made.calls))


def row(bench: Bench, job: Job) -> dict[str, Any]:
    """A job drawn and measured."""
    images, counted = job.images(), bench.macs
    spent = {
        attention: counted.of(job.schedule, attention=attention)
        if job.schedule
        else job.calls * counted.call(attention=attention)
        for attention in (False, True)
    }
    right = quality.prompt_accuracy(images, bench.captions, judge)
    return {
        "name": job.name,
        "group": job.group,
        "scheduler": job.target.scheduler or type(bench.pipe.scheduler).__name__,
        "steps": job.target.steps,
        "target": f"{job.target.name}, {job.target.steps} calls",
        "entered": job.calls,
        "macs_linear": 2 * spent[False],
        "macs_attention": 2 * spent[True],
        "keep_linear": spent[False] / (job.target.steps * counted.call()),
        "keep_attention": spent[True] / (job.target.steps * counted.call(attention=True)),
        **nearness(images, bench.dense(TARGETS.index(job.target)), ""),
        "accuracy": {"mean": float(right.mean()), "ci95": list(quality.wilson(int(right.sum()), len(right)))},
        "run": [t for t in range(job.schedule.calls) if not job.schedule.held(t)] if job.schedule else None,
        "hold": job.schedule.hold if job.schedule else None,
    }


def refusals(bench: Bench) -> list[dict[str, str]]:
    """What cannot be carried over, and the sentence that says so."""
    cases = [(bench.found[0], target) for target in REFUSED]
    cases += [(schedule.load(RESULTS / "schedules" / f"{CHOSEN}.json"), Target("of a schedule with timesteps of its own", 25))]
    return [{"to": target.name, "says": refusal(bench, made, target)} for made, target in cases]


def refusal(bench: Bench, made: Schedule, target: Target) -> str:
    try:
        bench.retimed(made, target)
    except ValueError as error:
        return str(error)
    raise SystemExit(f"{target.name} was not refused")


def blank(bench: Bench) -> dict[str, Any]:
    found = {name: {"hold": made.hold, "grid": list(made.grid)} for name, made in zip(FOUND, bench.found, strict=True)}
    return {
        "format": 1,
        "title": f"Schedules of {PIPE} found at 50 DDIM calls, carried over",
        "command": "python benchmarks/transfer.py",
        "pipe": PIPE,
        "made": "",
        "hardware": hardware(),
        "seeds": list(range(FIRST_SEED, FIRST_SEED + IMAGES)),
        "options": {"guidance_scale": zoo.GUIDANCE[PIPE], "samples_an_image": 2, "schedules": found},
        "refused": refusals(bench),
        "rows": [],
    }


def main() -> None:
    bench, path = Bench(), RESULTS / "transfer.json"
    document = blank(bench)
    if path.exists():
        before = records.load(path)
        if before["options"] != document["options"]:
            raise SystemExit(f"{path.name} was made with other schedules: move it away")
        names = {job.name for job in jobs(bench)}
        document |= {"made": before["made"], "rows": [found for found in before["rows"] if found["name"] in names]}
        report.save(document, path)
    done = {found["name"] for found in document["rows"]}
    for job in jobs(bench):
        if job.name not in done:
            document["rows"].append(row(bench, job))
            document["made"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            report.save(document, path)
            found = document["rows"][-1]["psnr_db"]
            print(f"{job.name:70s}", found and round(found["mean"], 2), flush=True)


if __name__ == "__main__":
    main()
