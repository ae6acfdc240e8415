"""The front: fidelity and accuracy against compute, of every rival and of what the search finds.

Budgets are in dense calls of 50; plain steps and held calls are rounded down. Rows are timed beside other jobs."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import rivals
from bench import BATCH, FIRST_SEED, NONE, SEARCH_SEED, Bench
from secateur import Schedule, load, zoo
from secateur.measuring import timing
from secateur.measuring.hardware import hardware
from secateur.pipeline.schedulers import SOLVERS
from secateur.schedule import baselines
from study import Job, Record, Row, Run, Study

STEPS, TRIALS, MOST_IMAGES = 50, 40, 192
BUDGETS = (10, 5, 17, 7.5, 25, 12.5)  # dense calls; the most interesting first
AGAIN = (5,)  # the closest: here rivals that search do so from every seed
SEEDS = (SEARCH_SEED, 41_000, 42_000)
SEARCHED = {  # solvers: scheduler, options, and what the search comes near to
    "DDIM": (None, {}, "dense"),
    "DPM-Solver++": (*SOLVERS["DPM-Solver++"], "converged"),
    "UniPC": (*SOLVERS["UniPC"], "converged"),
}


class Way(NamedTuple):
    """How a row draws its images: a scheduler, with so many plain steps or with a schedule."""

    group: str
    budget: float
    steps: int = STEPS
    scheduler: str | None = None
    options: Mapping[str, Any] = NONE


def bench_of(run: Run) -> Bench:
    if (images := run.options["images"]) > MOST_IMAGES:
        raise SystemExit(f"found --images {images}: give at most {MOST_IMAGES}, as further classes are searched with")
    return Bench(run.pipe, steps=STEPS, images=images, folder=run.work)


def jobs(run: Run) -> Iterator[Job]:
    """Every row, the ones that others build on first."""
    bench, folder = bench_of(run), run.results / "schedules"
    caches = rivals.Caches(bench, SEEDS[0])
    yield Job("dense", partial(row, bench, Way("dense", STEPS)))
    for budget in BUDGETS:
        for name, (scheduler, options) in SOLVERS.items():
            way = Way(name, budget, int(budget), scheduler, options)
            yield Job(f"{name}, {int(budget)} steps", partial(row, bench, way))
        yield from static(bench, caches, budget)
        yield from ours(bench, budget, SEEDS[0], folder=folder)
    for seed in SEEDS:
        for budget in BUDGETS if seed != SEEDS[0] else ():
            yield from ours(bench, budget, seed, folder=folder)
        for budget in AGAIN if seed != SEEDS[0] else BUDGETS:
            yield from searching_rivals(bench, budget, seed)


def static(bench: Bench, caches: rivals.Caches, budget: float) -> Iterator[Job]:
    """Evenly held calls in three ways; the best setting of DeepCache or FORA; the published pattern."""
    for group, schedule in rivals.evenly(bench, int(budget)).items():
        yield Job(f"{group}, {int(budget)} calls", partial(row, bench, Way(group, budget), lambda s=schedule: (s, {})))
    if caches.fits(budget):
        way = Way("static cache, best setting", budget)
        yield Job(f"static cache, {budget:g}", partial(row, bench, way, partial(caches.best, budget)))
    if budget == 10 and len(blocks := bench.macs.blocks) == 9:
        published = lambda: (baselines.published_dip_go(blocks), {})  # noqa: E731
        yield Job("DiP-GO, published pattern", partial(row, bench, Way("DiP-GO, published", budget), published))


def ours(bench: Bench, budget: float, seed: int, *, folder: Path) -> Iterator[Job]:
    """What `secateur search` finds: under DDIM near the dense images, under two solvers of second order near the converged."""
    for solver, (scheduler, options, target) in SEARCHED.items():
        way = Way(f"Secateur, {solver}", budget, STEPS, scheduler, options)
        name = f"{way.group}, {budget:g}, seed {seed}"
        path = folder / f"{bench.name} {name}.json".replace(", ", "-").replace(" ", "-").lower()
        yield Job(name, partial(row, bench, way, partial(searched, bench, way, target=target, seed=seed, path=path)))


def searched(bench: Bench, way: Way, *, target: str, seed: int, path: Path) -> rivals.Made:
    """The schedule of one search, saved beside the records too."""
    start, stages = time.perf_counter(), {}
    with bench.scheduled(way.scheduler, way.options):
        for found in bench.search(seed, keep=way.budget / STEPS, target=target, trials=TRIALS, number=seed):
            stages[found.stage] = {"psnr_db": found.value_db, "seconds": found.seconds, "measured": found.measured}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(found.schedule, made={**found.schedule.made, "stages": stages}).save(path)
    return load(path), {"search_s": time.perf_counter() - start, "stages": stages}


def searching_rivals(bench: Bench, budget: float, seed: int) -> Iterator[Job]:
    """DiP-GO, random and genetic search; their evaluations are 51, ours 61 at most."""
    number = SEEDS.index(seed)
    end, more = (f"-{seed}", f", seed {seed}") if number else ("", "")
    how: dict[str, Any] = {"budget": budget, "seed": seed, "number": number}
    path = bench.folder / f"{bench.name}-dip-go{end}.safetensors"
    for method in ("bisection", "greedy"):
        way = Way(f"DiP-GO ({rivals.UPDATES} updates), {method}", budget)
        make = partial(rivals.learned, bench, path, method=method, **how)
        yield Job(f"{way.group}, {budget:g}{more}", partial(row, bench, way, make))
    for group in rivals.TRIALS:
        make = partial(rivals.tried, bench, group, trials=TRIALS + 8, **how)
        yield Job(f"{group}, {budget:g}{more}", partial(row, bench, Way(group, budget), make))


def row(bench: Bench, way: Way, make: Any = None) -> Row:
    """A way measured: what it costs, how long it took, and how near its images come."""
    schedule, more = make() if make else (None, {})
    with bench.scheduled(way.scheduler, way.options):
        steps = schedule.calls if schedule and schedule.timesteps else way.steps
        images, seconds = bench.clocked(schedule, steps=steps)
        calls = len(bench.pipe.scheduler.timesteps)
    head = {"group": way.group, "keep": way.budget / STEPS, "calls": calls, "steps": steps}
    head |= {"scheduler": way.scheduler, "options": dict(way.options), "cpu": hardware()["cpu"]}
    head |= {"latency_s": timing.Timing(way.group, tuple(seconds)).as_json(), "timesteps": None, "hold": None, "reuse": None}
    return head | bench.measured(images, schedule, calls=calls, fully=True) | described(bench, schedule) | more


def described(bench: Bench, schedule: Schedule | None) -> Row:
    """What a row says of its schedule, and which share of the saved MACs is of calls that are not made or held whole."""
    if schedule is None:
        return {"grid": None}
    counted = bench.counted(schedule)
    entered = sum(not schedule.held(t) for t in range(schedule.calls))
    saved = STEPS * counted.call() - counted.of(schedule)
    return {
        "saved_by_calls": (STEPS - entered) * counted.call() / saved if saved else 0.0,
        "grid" if counted is bench.macs else "layer_grid": list(schedule.grid),
        "timesteps": list(schedule.timesteps) if schedule.timesteps else None,
        "hold": schedule.hold,
        "reuse": list(schedule.reuse),
    }


def head(pipe: str, options: Mapping[str, Any]) -> Record:
    measured = {"guidance_scale": zoo.GUIDANCE[pipe], "samples_an_image": 2, "batch_size": BATCH, "calibration_images": 16}
    measured |= {"calibration_images_in_doubt": 64, "search_seeds": SEEDS, "trials": TRIALS}
    measured |= {"gradient_updates": rivals.UPDATES, "gradient_lr": rivals.LR}
    return {"seeds": range(FIRST_SEED, FIRST_SEED + options["images"]), "options": measured}


TITLE = "The front on {pipe}: 50 dense DDIM calls and less"
BLOCKS = lambda run: run.record.update(blocks=list(bench_of(run).macs.blocks.names))  # noqa: E731
STUDIES = (Study("front", TITLE, jobs, options={"images": 128}, pipes=zoo.NAMES, head=head, finish=BLOCKS),)
