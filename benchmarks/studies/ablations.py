"""The paper's ablations, reduced: what each choice of DiP-GO is worth, and what searching costs in CPU seconds, on emoji-sd.

Ten DDIM calls, half of the MACs kept (and, from the same scores, three tenths), 64 images that no search saw."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

from bench import FIRST_SEED, Bench, counted
from paper import PAPER, orders
from secateur import Schedule, allocate, zoo
from secateur.searching.dip_go.gradient import search
from secateur.searching.dip_go.updates import Settings
from secateur.searching.random_and_genetic import genetic_search, random_search
from secateur.searching.stages import additive_schedules
from study import Job, Row, Run, Study

PIPE, CALLS, IMAGES = "emoji-sd", 10, 64
KEEPS, SEARCHED = (0.5, 0.3), 0.5  # gradients are searched at one of them
SEEDS, PROMPTS, CALIBRATION = (40_000, 41_000), 40, 16  # gradients see all prompts, the others the first few
UPDATES, LR = 40, 0.5  # the paper: 1000 updates from 0.1 at 50 calls; the sum of the steps over the calls is the same
SEEN_AT = (10, 20, 40)  # updates
TRIALS, TRIED_AT, LOCAL = 96, (12, 24, 48, 96), 40
LOSSES, ALPHAS = {"L1": "l1", "L2": "l2", "L1 + SSIM": "l1+ssim"}, {"α = 0.1": 0.1, "α = 0.5": 0.5, "α = 2": 2.0}
GRADIENT = {"DiP-GO": {}, **{name: {"loss": loss} for name, loss in LOSSES.items()}}
GRADIENT |= {**{name: {"alpha": alpha} for name, alpha in ALPHAS.items()}, "without γ": {"weighted": False}}
REDUCED = {
    "model": "emoji-sd, 64 px, 9.5 M parameters, for SD-1.5",
    "calls": f"{CALLS} of DDIM for 50",
    "kept": f"{KEEPS[0]} and {KEEPS[1]} of the MACs for 0.2, 0.15 and 0.1",
    "updates": f"{UPDATES} from a learning rate of {LR} for 1000 from 0.1: the same sum of steps for each call",
    "prompts": f"{PROMPTS} for 1000",
    "evaluation": f"{IMAGES} images for 5,000; likeness to the dense images and what a judge reads for CLIP",
    "random and genetic": f"{TRIALS} schedules tried for 25 GPU hours, ten times what the gradients took",
}


class Shot(NamedTuple):
    """A schedule that a search has arrived at after so many evaluations: updates, or schedules tried on calibration images."""

    schedule: Schedule
    keep: float
    evaluations: int
    allocation: str | None = None
    variant: str | None = None  # if it is not the job's
    spent: float | None = None  # CPU seconds, if the search is over before this is yielded


def learned(bench: Bench, number: int, *, settings: Mapping[str, Any]) -> Iterator[Shot]:
    """The paper's search: its scores allocated by its bisection for both budgets, and exactly at the end."""
    how = Settings(steps=UPDATES, lr=LR, seed=number, **settings)
    for step in search(bench.pipe, bench.trajectory(SEEDS[number]), keep=SEARCHED, macs=bench.macs, settings=how):
        last = step.number == UPDATES
        if last or (not settings and step.number in SEEN_AT):
            for method in ("bisection", "exact") if last else ("bisection",):
                for keep in KEEPS:
                    yield Shot(allocate(step.scores, keep=keep, method=method), keep, step.number, method)


def tried(bench: Bench, number: int, *, keep: float, look: Callable) -> Iterator[Shot]:
    """The best of a search that only tries, as it goes; held calls give their last output, as in the paper."""
    value, _ = bench.objective(SEEDS[number])
    for trial in look(bench.macs, CALLS, keep=keep, objective=value, trials=TRIALS, seed=number):
        if trial.number in TRIED_AT:
            yield Shot(trial.best, keep, trial.number)


def solved(bench: Bench, number: int, *, keep: float) -> Iterator[Shot]:
    """The additive solution among schedules that give the last output at held calls, like the paper's."""
    task = bench.task(SEEDS[number], keep=keep, number=number)
    held = [schedule for schedule in additive_schedules(task) if schedule.hold == "output"]
    yield Shot(max(held, key=bench.objective(SEEDS[number])[0]), keep, len(held))


def staged(bench: Bench, number: int, *, keep: float) -> Iterator[Shot]:
    """What the search has after its additive stage, the one that finds partial calls, and the local one."""
    ends, start = dict[str, Shot](), time.process_time()
    stages = ("additive", "refresh", "local")
    steps = bench.search(SEEDS[number], keep=keep, number=number, stages=stages, trials=LOCAL)
    for count, step in enumerate(steps, start=1):
        variant = ", ".join(dict.fromkeys((*ends, step.stage)))
        ends[step.stage] = Shot(step.schedule, keep, count, variant=variant, spent=time.process_time() - start)
    yield from ends.values()


def jobs(run: Run) -> Iterator[Job]:
    """Every search, one search seed after the other."""
    bench = Bench(PIPE, steps=CALLS, images=IMAGES, calibration=PROMPTS, more=0)
    few = Bench(PIPE, steps=CALLS, images=IMAGES, calibration=CALIBRATION)
    dense = {"job": "dense", "group": "dense", "variant": "dense", "keep": 1.0, "allocation": None, "evaluations": 0}
    yield Job("dense", lambda: dense | measured(bench, None))
    tries = {"additive, outputs held": solved, "additive, refresh, local": staged}
    tries |= {"random": partial(tried, look=random_search), "genetic": partial(tried, look=genetic_search)}
    for number in range(len(SEEDS)):
        for variant, settings in GRADIENT.items():
            make, name = partial(learned, settings=settings), f"{variant}, seed {number}"
            yield Job(name, partial(rows, bench, number, name=name, variant=variant, make=make))
        for keep in KEEPS:
            for variant, look in tries.items():
                make, name = partial(look, keep=keep), f"{variant}, keep {keep}, seed {number}"
                yield Job(name, partial(rows, few, number, name=name, variant=variant, make=make))


def rows(bench: Bench, number: int, *, name: str, variant: str, make: Callable[..., Iterator[Shot]]) -> Iterator[Row]:
    """A row for each Shot of a search, with the CPU seconds that the search took until then."""
    bench.trajectory(SEEDS[number])  # recorded before the clock runs
    spent, start = 0.0, time.process_time()
    for shot in make(bench, number):
        spent += time.process_time() - start
        yield {
            "name": ", ".join(filter(None, (name, f"keep {shot.keep}", shot.allocation, f"after {shot.evaluations}"))),
            "job": name,
            "variant": shot.variant or variant,
            "keep": shot.keep,
            "allocation": shot.allocation,
            "evaluations": shot.evaluations,
            "search_cpu_s": shot.spent or spent,
            **measured(bench, shot.schedule),
        }
        start = time.process_time()


def measured(bench: Bench, schedule: Schedule | None) -> Row:
    """Cost and quality of a schedule, or of the dense pipe."""
    images = bench.draw(schedule) if schedule else bench.dense
    more = {"grid": schedule and list(schedule.grid), "hold": schedule and schedule.hold}
    return {"calls": CALLS, **bench.measured(images, schedule), **more}


def finish(run: Run) -> None:
    """Adds the blocks of the grids, and whether the paper's orders are found here."""
    run.record.update(blocks=list(counted(PIPE).blocks.names), orders=orders(run.record["rows"], KEEPS))


OPTIONS = {"guidance_scale": zoo.GUIDANCE[PIPE], "samples_an_image": 2, "search_seeds": SEEDS, "prompts": PROMPTS}
OPTIONS |= {"calibration_images": CALIBRATION, "gradient": asdict(Settings(steps=UPDATES, lr=LR))}
HEAD = {"pipe": PIPE, "seeds": range(FIRST_SEED, FIRST_SEED + IMAGES), "options": OPTIONS, "paper": PAPER, "reduced": REDUCED}
TITLE = f"DiP-GO's ablations on {PIPE}: {CALLS} DDIM calls"
STUDIES = (Study("ablations", TITLE, jobs, head=HEAD, finish=finish),)
