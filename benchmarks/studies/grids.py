"""What calls between the levels of a sampler's grid are worth: as many of Euler's on grids of 50 and of 200 steps.

The additive solution nearest to the converged calibration images, for every way of holding, is measured on other images."""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any

from bench import FIRST_SEED, SEARCH_SEED, Bench
from secateur import Schedule, zoo
from secateur.measuring.quality import nearness
from secateur.schedule.schedule import HOLDS
from secateur.searching.stages import additive_schedules
from study import Job, Row, Run, Study

PIPE, CALIBRATION, IMAGES = "emoji-sd", 8, 40
GRIDS, CALLS, DENSE = (50, 200), (10, 17, 5), 50
SAMPLER = "EulerDiscreteScheduler", {"timestep_spacing": "linspace"}


def jobs(run: Run) -> Iterator[Job]:
    """The dense row, and one for each grid, number of calls and way of holding."""
    benches = {steps: Bench(PIPE, steps=steps, images=IMAGES, calibration=CALIBRATION) for steps in GRIDS}
    solved = cache(lambda steps, calls: solutions(benches[steps], calls))
    yield Job("dense", partial(dense_row, benches[DENSE]))
    for steps in GRIDS:
        for calls in CALLS:
            for hold in HOLDS:
                make = partial(row, benches, solved, steps=steps, calls=calls, hold=hold)
                yield Job(f"{calls} calls of a grid of {steps}, {hold}", make)


def dense_row(bench: Bench) -> Row:
    with bench.scheduled(*SAMPLER):
        near = nearness(bench.dense, bench.converged, prefix="converged_")
    return {"steps": DENSE, "calls": DENSE, "hold": None, **near}


def solutions(bench: Bench, calls: int) -> dict[str, tuple[float, Schedule]]:
    """The solution nearest to the converged images for every way of holding, and how near it is."""
    task, best = bench.task(SEARCH_SEED, keep=calls / bench.steps, target="converged"), dict[str, tuple[float, Schedule]]()
    value, _ = bench.objective(SEARCH_SEED, "converged")
    bench.pipe.scheduler.set_timesteps(bench.steps)
    for schedule in additive_schedules(task):
        bound = schedule.bound_to(bench.pipe.scheduler)
        best[bound.hold] = max(best.get(bound.hold, (-1.0, bound)), (value(bound), bound), key=lambda pair: pair[0])
    return best


def row(benches: Mapping[int, Bench], solved: Any, *, steps: int, calls: int, hold: str) -> Row:
    """A schedule measured on other samples than it was found with."""
    bench, first = benches[steps], benches[DENSE]
    with first.scheduled(*SAMPLER):
        dense, converged = first.dense, first.converged
    with bench.scheduled(*SAMPLER):
        near, schedule = solved(steps, calls)[hold]
        bench.pipe.scheduler.set_timesteps(steps)
        times = bench.pipe.scheduler.timesteps.tolist()
        images = bench.draw(schedule)
    known = {"steps": steps, "calls": calls, "hold": hold, "calibration_psnr_db": near}
    known["timesteps"] = [round(t) for k, t in enumerate(times) if not schedule.held(k)]
    return {**known, **nearness(images, dense), **nearness(images, converged, prefix="converged_")}


OPTIONS = {"guidance_scale": zoo.GUIDANCE[PIPE], "scheduler": SAMPLER[0], **SAMPLER[1], "calibration": CALIBRATION}
HEAD = {"pipe": PIPE, "seeds": range(FIRST_SEED, FIRST_SEED + IMAGES), "options": OPTIONS}
STUDIES = (Study("grids", f"Euler's calls on {PIPE}, chosen among the levels of finer grids", jobs, head=HEAD),)
