"""The front: fidelity and accuracy against compute, of every rival and of what the search finds.

Calibration captions and noises are others than those measured. Budgets are in dense calls of 50; plain steps and held calls
are rounded down to whole ones. Rows are timed one after the other, beside whatever else the machine does: see `timing`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rivals
from bench import BATCH, FIRST_SEED, SEARCH_SEED, Bench
from secateur import zoo
from secateur.measuring import timing
from secateur.measuring.hardware import hardware
from secateur.pipeline import schedulers
from secateur.pipeline.generate import generate
from secateur.schedule import baselines
from secateur.schedule.apply import apply
from secateur.schedule.schedule import Schedule, load
from study import Job, Record, Row, Run, Study

STEPS, TRIALS, MOST_IMAGES = 50, 40, 192
BUDGETS = (10, 5, 17, 7.5, 25, 12.5)  # dense calls; the most interesting first
AGAIN = (5,)  # the closest: here rivals that search do so from every seed
SEEDS = (SEARCH_SEED, 41_000, 42_000)
SOLVERS = {  # that are searched with: scheduler, options, and what the search comes near to
    "DDIM": (None, {}, "dense"),
    "DPM-Solver++": (*schedulers.SOLVERS["DPM-Solver++"], "converged"),
    "UniPC": (*schedulers.SOLVERS["UniPC"], "converged"),
}


@dataclass(frozen=True)
class Way:
    """How a row draws its images: a scheduler, with so many plain steps or with a schedule."""

    group: str
    budget: float
    steps: int = STEPS
    scheduler: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def bench_of(run: Run) -> Bench:
    images = run.options["images"]
    if images > MOST_IMAGES:
        raise SystemExit(f"found --images {images}: give at most {MOST_IMAGES}, as further classes are searched with")
    return Bench(run.pipe, steps=STEPS, images=images, folder=run.work)


def jobs(run: Run) -> Iterator[Job]:
    """Every row, the ones that others build on first."""
    bench = bench_of(run)
    caches = rivals.Caches(bench, SEEDS[0])
    yield job(bench, "dense", Way("dense", STEPS))
    for budget in BUDGETS:
        yield from plain(bench, budget)
        yield from static(bench, caches, budget)
        yield from ours(bench, budget, SEEDS[0], folder=run.results / "schedules")
    for budget in BUDGETS:
        yield from searching_rivals(bench, budget, SEEDS[0])
    for seed in SEEDS[1:]:
        for budget in BUDGETS:
            yield from ours(bench, budget, seed, folder=run.results / "schedules")
        for budget in AGAIN:
            yield from searching_rivals(bench, budget, seed)


def job(bench: Bench, name: str, way: Way, make: Any = None) -> Job:
    return Job(name, lambda: [row(bench, name, way, make)])


def plain(bench: Bench, budget: float) -> Iterator[Job]:
    """Fewer steps of every stock solver."""
    for name, (scheduler, options) in schedulers.SOLVERS.items():
        yield job(bench, f"{name}, {int(budget)} steps", Way(name, budget, int(budget), scheduler, options))


def static(bench: Bench, caches: rivals.Caches, budget: float) -> Iterator[Job]:
    """Evenly held calls in three ways; the best setting of DeepCache or FORA; the published pattern."""
    for group, schedule in rivals.evenly(bench, int(budget)).items():
        yield job(bench, f"{group}, {int(budget)} calls", Way(group, budget), lambda s=schedule: (s, {}))
    if caches.fits(budget):
        yield job(bench, f"static cache, {budget:g}", Way("static cache, best setting", budget), partial(caches.best, budget))
    if budget == 10 and len(bench.macs.blocks) == 9:
        published = lambda: (baselines.published_dip_go(bench.macs.blocks), {})  # noqa: E731
        yield job(bench, "DiP-GO, published pattern", Way("DiP-GO, published", budget), published)


def ours(bench: Bench, budget: float, seed: int, *, folder: Path) -> Iterator[Job]:
    """What `secateur search` finds: under DDIM near the dense images, under two solvers of second order near the converged."""
    for solver, (scheduler, options, target) in SOLVERS.items():
        name = f"Secateur, {solver}, {budget:g}, seed {seed}"
        way = Way(f"Secateur, {solver}", budget, STEPS, scheduler, options)
        yield job(bench, name, way, partial(searched, bench, name, way, target=target, seed=seed, folder=folder))


def searched(bench: Bench, name: str, way: Way, *, target: str, seed: int, folder: Path) -> rivals.Made:
    """The schedule of one search, saved beside the records too."""
    path = folder / f"{bench.name} {name}.json".replace(", ", "-").replace(" ", "-").lower()
    start, stages = time.perf_counter(), {}
    with bench.scheduled(way.scheduler, way.options):
        for found in bench.search(seed, keep=way.budget / STEPS, target=target, trials=TRIALS, number=seed):
            stages[found.stage] = {"psnr_db": found.value_db, "seconds": found.seconds, "measured": found.measured}
    folder.mkdir(parents=True, exist_ok=True)
    replace(found.schedule, made={**found.schedule.made, "stages": stages}).save(path)
    return load(path), {"search_s": time.perf_counter() - start, "stages": stages}


def searching_rivals(bench: Bench, budget: float, seed: int) -> Iterator[Job]:
    """DiP-GO, random and genetic search; their evaluations are 51, ours 61 at most."""
    number, folder = SEEDS.index(seed), bench.folder
    more = f", seed {seed}" if number else ""
    path = folder / f"{bench.name}-dip-go{more.replace(', seed ', '-')}.safetensors"
    for method in ("bisection", "greedy"):
        group = f"DiP-GO ({rivals.UPDATES} updates), {method}"
        make = partial(rivals.learned, bench, path, method=method, budget=budget, seed=seed, number=number)
        yield job(bench, f"{group}, {budget:g}{more}", Way(group, budget), make)
    for group in rivals.TRIALS:
        make = partial(rivals.tried, bench, group, budget=budget, seed=seed, number=number, trials=TRIALS + 8)
        yield job(bench, f"{group}, {budget:g}{more}", Way(group, budget), make)


def row(bench: Bench, name: str, way: Way, make: Any) -> Row:
    """A way measured: what it costs, how long it took, and how near its images come."""
    schedule, more = make() if make else (None, {})
    with bench.scheduled(way.scheduler, way.options):
        steps = schedule.calls if schedule and schedule.timesteps else way.steps
        images, seconds = drawn(bench, schedule, steps)
        calls = len(bench.pipe.scheduler.timesteps)
    grid = "grid" if bench.counted(schedule) is bench.macs else "layer_grid"
    return {
        "name": name,
        "group": way.group,
        "keep": way.budget / STEPS,
        "calls": calls,
        "steps": steps,
        "scheduler": way.scheduler,
        "options": dict(way.options),
        **bench.spent(schedule, calls=calls, dense_calls=STEPS),
        "latency_s": timing.Timing(name, seconds).as_json(),
        "cpu": hardware()["cpu"],
        **bench.judged(images, fully=True),
        **saved_by_calls(bench, schedule),
        grid: list(schedule.grid) if schedule else None,
        "timesteps": list(schedule.timesteps) if schedule and schedule.timesteps else None,
        "hold": schedule.hold if schedule else None,
        "reuse": list(schedule.reuse) if schedule else None,
        **more,
    }


def drawn(bench: Bench, schedule: Schedule | None, steps: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """The images, and the seconds that one took in each batch."""
    parts, seconds = [], []
    with apply(bench.pipe, schedule) if schedule else nullcontext():
        for start in range(0, len(bench.seeds), BATCH):
            part, begun = slice(start, start + BATCH), time.perf_counter()
            call = {"seeds": bench.seeds[part], "num_inference_steps": steps, **bench.call}
            parts.append(generate(bench.pipe, bench.conditions[part], **call))
            seconds.append((time.perf_counter() - begun) / len(parts[-1]))
    return np.concatenate(parts), tuple(seconds)


def saved_by_calls(bench: Bench, schedule: Schedule | None) -> Row:
    """Which share of the saved MACs comes from calls that are not made or held whole, not from blocks of the others."""
    if schedule is None:
        return {}
    counted = bench.counted(schedule)
    entered = sum(not schedule.held(t) for t in range(schedule.calls))
    saved = STEPS * counted.call() - counted.of(schedule)
    return {"saved_by_calls": (STEPS - entered) * counted.call() / saved if saved else 0.0}


def settings(pipe: str, options: Mapping[str, Any]) -> Record:
    measured = {
        "guidance_scale": zoo.GUIDANCE[pipe],
        "samples_an_image": 2,
        "batch_size": BATCH,
        "calibration_images": 16,
        "calibration_images_in_doubt": 64,
        "search_seeds": list(SEEDS),
        "trials": TRIALS,
        "gradient_updates": rivals.UPDATES,
        "gradient_lr": rivals.LR,
    }
    return {"seeds": range(FIRST_SEED, FIRST_SEED + options["images"]), "options": measured}


def finish(run: Run) -> None:
    run.record["blocks"] = list(bench_of(run).macs.blocks.names)


STUDY = Study(
    "front",
    "The front on {pipe}: 50 dense DDIM calls and less",
    jobs,
    options={"images": 128},
    pipes=zoo.NAMES,
    settings=settings,
    finish=finish,
)
