"""What calls between the levels of a sampler's grid are worth: as many of Euler's on grids of 50 and of 200 steps.

Every way of holding is solved by the additive stage, and the nearest to the converged images of the calibration samples is
measured on others, to the converged images and to the dense ones of 50 steps. The finest grid is about what `timesteps=`
would give: its levels are five training timesteps apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any

from bench import BATCH, FIRST_SEED, SEARCH_SEED, Bench
from secateur import zoo
from secateur.measuring.quality import nearness
from secateur.schedule.schedule import HOLDS, Schedule
from secateur.searching.objective import to_converged
from secateur.searching.paired_gain import PairedGain
from secateur.searching.stages import additive_schedules
from secateur.searching.task import Search
from study import Job, Record, Row, Run, Study

PIPE, CALIBRATION, IMAGES = "emoji-sd", 8, 40
GRIDS, CALLS, DENSE = (50, 200), (10, 17, 5), 50
SAMPLER = "EulerDiscreteScheduler", {"timestep_spacing": "linspace"}


def jobs(run: Run) -> Iterator[Job]:
    """The dense row, and one for each grid, number of calls and way of holding."""
    benches = {steps: Bench(PIPE, steps=steps, images=IMAGES, calibration=CALIBRATION) for steps in GRIDS}
    solved = cache(lambda steps, calls: solutions(benches[steps], calls))
    yield Job("dense", lambda: [dense_row(benches[DENSE])])
    for steps in GRIDS:
        for calls in CALLS:
            for hold in HOLDS:
                name = f"{calls} calls of a grid of {steps}, {hold}"
                make = partial(row, benches, solved, steps=steps, calls=calls, hold=hold)
                yield Job(name, lambda name=name, make=make: [{"name": name, **make()}])


def dense_row(bench: Bench) -> Row:
    with bench.scheduled(*SAMPLER):
        near = nearness(bench.dense, bench.converged, prefix="converged_")
    return {"name": "dense", "steps": DENSE, "calls": DENSE, "hold": None, **near}


def solutions(bench: Bench, calls: int) -> dict[str, tuple[float, Schedule]]:
    """The solution nearest to the converged images for every way of holding, and how near it is."""
    found: dict[str, tuple[float, Schedule]] = {}
    trajectory = bench.trajectory(SEARCH_SEED)
    value = to_converged(bench.pipe, trajectory, blocks=bench.macs.blocks)
    bench.pipe.scheduler.set_timesteps(bench.steps)
    search = Search(bench.pipe, trajectory, bench.macs, calls / bench.steps, PairedGain(value), batch_size=BATCH)
    for schedule in additive_schedules(search):
        bound = schedule.bound_to(bench.pipe.scheduler)
        near = value(bound)
        if bound.hold not in found or near > found[bound.hold][0]:
            found[bound.hold] = near, bound
    return found


def row(benches: Mapping[int, Bench], solved: Any, *, steps: int, calls: int, hold: str) -> Row:
    """A schedule measured on other samples than it was found with."""
    bench, first = benches[steps], benches[DENSE]
    with first.scheduled(*SAMPLER):
        dense, converged = first.dense, first.converged
    with bench.scheduled(*SAMPLER):
        near, schedule = solved(steps, calls)[hold]
        bench.pipe.scheduler.set_timesteps(steps)
        timesteps = bench.pipe.scheduler.timesteps.tolist()
        images = bench.draw(schedule)
    return {
        "steps": steps,
        "calls": calls,
        "hold": hold,
        "calibration_psnr_db": near,
        "timesteps": [round(t) for k, t in enumerate(timesteps) if not schedule.held(k)],
        **nearness(images, dense),
        **nearness(images, converged, prefix="converged_"),
    }


def settings(pipe: str, options: Mapping[str, Any]) -> Record:
    measured = {"guidance_scale": zoo.GUIDANCE[PIPE], "scheduler": SAMPLER[0], **SAMPLER[1], "calibration": CALIBRATION}
    return {"pipe": PIPE, "seeds": range(FIRST_SEED, FIRST_SEED + IMAGES), "options": measured}


STUDY = Study("grids", f"Euler's calls on {PIPE}, chosen among the levels of finer grids", jobs, settings=settings)
