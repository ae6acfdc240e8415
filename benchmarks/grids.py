"""What calls between the levels of a sampler's grid are worth: as many of Euler's on grids of 50 and of 200 steps.

    python benchmarks/grids.py      writes results/grids.json

Every way of holding is solved by the additive stage, and the nearest to the converged images of the calibration samples is
measured on others, to the converged images and to the dense ones of 50 steps. The finest grid is about what `timesteps=`
would give: its levels are five training timesteps apart. Every row is saved when it is done, and a rerun goes on.
"""

from __future__ import annotations

import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from front import nearness
from secateur import zoo
from secateur.denoiser import macs
from secateur.measuring import records
from secateur.measuring.hardware import hardware
from secateur.pipeline import schedulers
from secateur.pipeline.generate import generate
from secateur.pipeline.trajectory import Trajectory, record
from secateur.schedule import baselines
from secateur.schedule.apply import apply
from secateur.schedule.schedule import HOLDS, Schedule
from secateur.searching.objective import Objective, to_converged
from secateur.searching.paired_gain import PairedGain
from secateur.searching.stages import additive_schedules
from secateur.searching.task import Search

RESULTS = Path(__file__).parents[1] / "results"
PIPE, BATCH, CALIBRATION, IMAGES = "emoji-sd", 8, 8, 40
SEED, FIRST_SEED = 40_000, 50_000  # of the calibration samples, and of those measured
GRIDS, CALLS, DENSE = (50, 200), (10, 17, 5), 50
SAMPLER = "EulerDiscreteScheduler", {"timestep_spacing": "linspace"}


class Bench:
    """The pipe, with Euler, and what its images are measured to."""

    def __init__(self) -> None:
        self.pipe = zoo.load(PIPE)
        self.pipe.set_progress_bar_config(disable=True)
        self.macs = macs.count(self.pipe.unet)
        self.asked = zoo.conditions(PIPE, CALIBRATION, calibration=True)[0]
        self.call = {"guidance_scale": zoo.GUIDANCE[PIPE], "batch_size": BATCH}

    def images(self, steps: int, made: Schedule | None = None) -> np.ndarray:
        """Images of the measured samples, of so many steps."""
        with apply(self.pipe, made or baselines.dense(self.macs.blocks, steps), blocks=self.macs.blocks):
            asked = zoo.conditions(PIPE, IMAGES)[0]
            return generate(
                self.pipe, asked, seeds=range(FIRST_SEED, FIRST_SEED + IMAGES), num_inference_steps=steps, **self.call
            )

    @cached_property
    def dense(self) -> np.ndarray:
        return self.images(DENSE)

    @cached_property
    def converged(self) -> np.ndarray:
        with schedulers.scheduled(self.pipe, *schedulers.SOLVERS["DPM-Solver++"]):
            return self.images(100)

    def recorded(self, steps: int) -> Trajectory:
        seeds = range(SEED, SEED + CALIBRATION)
        return record(self.pipe, self.asked, seeds=seeds, num_inference_steps=steps, **self.call)

    def row(self, found: Schedule, *, steps: int, calls: int, hold: str, calibration_db: float) -> dict[str, Any]:
        """A schedule measured on other samples than it was found with."""
        images = self.images(steps, found)
        return {
            "name": name_of(steps, calls, hold),
            "steps": steps,
            "calls": calls,
            "hold": hold,
            "calibration_psnr_db": calibration_db,
            "timesteps": [round(t) for k, t in enumerate(self.timesteps(steps)) if not found.held(k)],
            **nearness(images, self.dense, ""),
            **nearness(images, self.converged, "converged_"),
        }

    def timesteps(self, steps: int) -> list[float]:
        self.pipe.scheduler.set_timesteps(steps)
        return self.pipe.scheduler.timesteps.tolist()


def name_of(steps: int, calls: int, hold: str) -> str:
    return f"{calls} calls of a grid of {steps}, {hold}"


def best(search: Search, value: Objective) -> dict[str, tuple[float, Schedule]]:
    """The solution nearest to the target of every way of holding, and how near it is."""
    found: dict[str, tuple[float, Schedule]] = {}
    for schedule in additive_schedules(search):
        bound = schedule.bound_to(search.pipe.scheduler)
        near = value(bound)
        if near > found.get(bound.hold, (-np.inf, bound))[0]:
            found[bound.hold] = near, bound
    return found


def measured(bench: Bench, document: dict[str, Any], path: Path) -> None:
    """Measure what is missing; the file is whole after every row."""
    for steps in GRIDS:
        missing = [calls for calls in CALLS if any(name_of(steps, calls, hold) not in names(document) for hold in HOLDS)]
        if not missing:
            continue
        told = bench.recorded(steps)
        value = to_converged(bench.pipe, told, blocks=bench.macs.blocks)
        for calls in missing:
            bench.pipe.scheduler.set_timesteps(steps)
            search = Search(bench.pipe, told, bench.macs, calls / steps, PairedGain(value), batch_size=BATCH)
            for hold, (near, schedule) in best(search, value).items():
                if name_of(steps, calls, hold) in names(document):
                    continue
                document["rows"].append(bench.row(schedule, steps=steps, calls=calls, hold=hold, calibration_db=near))
                document["made"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                records.save(document, path)
                last = document["rows"][-1]
                print(last["name"], round(last["converged_psnr_db"]["mean"], 2), round(last["psnr_db"]["mean"], 2), flush=True)


def names(document: dict[str, Any]) -> set[str]:
    return {row["name"] for row in document["rows"]}


def blank() -> dict[str, Any]:
    return {
        "format": 1,
        "title": f"Euler's calls on {PIPE}, chosen among the levels of finer grids",
        "command": "python benchmarks/grids.py",
        "pipe": PIPE,
        "made": "",
        "hardware": hardware(),
        "seeds": list(range(FIRST_SEED, FIRST_SEED + IMAGES)),
        "options": {"guidance_scale": zoo.GUIDANCE[PIPE], "scheduler": SAMPLER[0], **SAMPLER[1], "calibration": CALIBRATION},
        "rows": [],
    }


def main() -> None:
    bench, path = Bench(), RESULTS / "grids.json"
    document = records.load(path) if path.exists() else blank()
    with schedulers.scheduled(bench.pipe, *SAMPLER):
        if "dense" not in names(document):
            near = nearness(bench.dense, bench.converged, "converged_")
            document["rows"].append({"name": "dense", "steps": DENSE, "calls": DENSE, "hold": None, **near})
        measured(bench, document, path)


if __name__ == "__main__":
    main()
