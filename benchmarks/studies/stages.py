"""What each stage of a search adds, DiP-GO's gradients after the additive solution among them.

Each stage starts from the best that those before it found and keeps what is surely better on the calibration images; what is
best after it is measured on 64 images of other captions and noises. `last_db` is of the last schedule that a stage measured,
at most that of the best, and of 8 images alone if these say that it is worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from bench import FIRST_SEED, SEARCH_SEED, Bench
from secateur.searching.settings import stages_for
from study import Job, Record, Row, Run, Study

IMAGES, UPDATES, TRIALS = 64, 40, 20
CASES = (("emoji-sd", 50, 0.2), ("emoji-dit", 50, 0.2), ("emoji-sd", 10, 0.5))  # pipe, dense calls, fraction that is kept


def jobs(run: Run) -> Iterator[Job]:
    """One search a job."""
    for pipe, calls, keep in CASES:
        name = f"{pipe}, {calls} calls, {keep:g}"
        bench = Bench(pipe, steps=calls, images=IMAGES)
        yield Job(name, lambda name=name, bench=bench, keep=keep: rows(bench, name, keep), last=f"{name}, local")


def rows(bench: Bench, name: str, keep: float) -> Iterator[Row]:
    """A row for each stage, in turn: the default ones, with gradients from their exact solution before the local search."""
    *before, local = stages_for(bench.steps, free=False)
    stages = (*before, "gradient", local)
    steps = bench.search(SEARCH_SEED, keep=keep, stages=stages, trials=TRIALS, updates=UPDATES)
    best = None
    for stage, measured in groupby(steps, key=lambda found: found.stage):
        *_, last = measured
        images = bench.draw(last.schedule)
        yield {
            "name": f"{name}, {stage}",
            "pipe": bench.name,
            "calls": bench.steps,
            "keep": keep,
            "stage": stage,
            "measured": last.measured,
            "calibration_db": last.value_db,
            "last_db": last.last_db,
            "kept": last.schedule is not best,
            "keep_linear": bench.spent(last.schedule)["keep_linear"],
            **bench.judged(images),
            "schedule": list(last.schedule.grid),
            "hold": last.schedule.hold,
        }
        best = last.schedule


def settings(pipe: str, options: Mapping[str, Any]) -> Record:
    measured = {
        "calibration_images": 16,
        "calibration_images_in_doubt": 64,
        "search_seed": SEARCH_SEED,
        "gradient_updates": UPDATES,
        "trials": TRIALS,
    }
    return {"seeds": range(FIRST_SEED, FIRST_SEED + IMAGES), "options": measured}


STUDY = Study("stages", "What each stage of a search adds", jobs, settings=settings)
