"""What each stage of a search adds, DiP-GO's gradients after the additive solution among them, on 64 images that it never saw.

`last_db` is of the last schedule that a stage measured: at most that of the best, and of 8 images alone if it is worse."""

from collections.abc import Iterator
from functools import partial
from itertools import groupby

from bench import FIRST_SEED, SEARCH_SEED, Bench
from secateur.searching.settings import stages_for
from study import Job, Row, Run, Study

IMAGES, UPDATES, TRIALS = 64, 40, 20
CASES = (("emoji-sd", 50, 0.2), ("emoji-dit", 50, 0.2), ("emoji-sd", 10, 0.5))  # pipe, dense calls, fraction that is kept


def jobs(run: Run) -> Iterator[Job]:
    """One search a job."""
    for pipe, calls, keep in CASES:
        name = f"{pipe}, {calls} calls, {keep:g}"
        yield Job(name, partial(rows, Bench(pipe, steps=calls, images=IMAGES), name, keep), last=f"{name}, local")


def rows(bench: Bench, name: str, keep: float) -> Iterator[Row]:
    """A row for each stage, in turn: the default ones, with gradients from their exact solution before the local search."""
    *before, local = stages_for(bench.steps, free=False)
    stages = (*before, "gradient", local)
    steps, best = bench.search(SEARCH_SEED, keep=keep, stages=stages, trials=TRIALS, updates=UPDATES), None
    for stage, measured in groupby(steps, key=lambda found: found.stage):
        *_, last = measured
        row = {"name": f"{name}, {stage}", "pipe": bench.name, "calls": bench.steps, "stage": stage, "keep": keep}
        row |= {"measured": last.measured, "calibration_db": last.value_db, "last_db": last.last_db}
        row |= {"kept": last.schedule is not best, "schedule": list(last.schedule.grid), "hold": last.schedule.hold}
        yield row | bench.measured(bench.draw(last.schedule), last.schedule)
        best = last.schedule


OPTIONS = {"calibration_images": 16, "calibration_images_in_doubt": 64, "search_seed": SEARCH_SEED}
HEAD = {"seeds": range(FIRST_SEED, FIRST_SEED + IMAGES), "options": OPTIONS | {"gradient_updates": UPDATES, "trials": TRIALS}}
STUDIES = (Study("stages", "What each stage of a search adds", jobs, head=HEAD),)
