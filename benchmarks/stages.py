"""What each stage of a search adds, DiP-GO's gradients after the additive solution among them.

    python benchmarks/stages.py     writes results/stages.json

Each stage starts from the best that those before it found and keeps what is surely better on the calibration images; what is
best after it is measured on 64 images of other captions and noises. `last_db` is of the
last schedule that a stage measured, at most that of the best, and of 8 images alone where these say that it is worse.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from front import nearness
from secateur import zoo
from secateur.denoiser import macs
from secateur.measuring import quality, records, report
from secateur.measuring.hardware import hardware
from secateur.pipeline.generate import generate
from secateur.pipeline.pipes import component
from secateur.pipeline.trajectory import record
from secateur.schedule.apply import apply
from secateur.schedule.schedule import Schedule
from secateur.searching.objective import more_for, objective_for
from secateur.searching.paired_gain import PairedGain
from secateur.searching.settings import SearchSettings, stages_for
from secateur.searching.stages import BestSoFar, run_stages
from secateur.searching.task import Search
from secateur.zoo import judge

RESULTS = Path(__file__).parents[1] / "results"
IMAGES, FIRST_SEED, BATCH = 64, 50_000, 8
CALIBRATION, MORE, SEARCH_SEED = 16, 48, 40_000
UPDATES, TRIALS = 40, 20


class Case(NamedTuple):
    """One search: a pipe of the zoo, its dense calls, and the fraction of their MACs that is kept."""

    pipe: str
    calls: int
    keep: float

    @property
    def stages(self) -> tuple[str, ...]:
        """The default ones, with gradients from their exact solution before the local search."""
        *before, local = stages_for(self.calls, free=False)
        return *before, "gradient", local


CASES = (Case("emoji-sd", 50, 0.2), Case("emoji-dit", 50, 0.2), Case("emoji-sd", 10, 0.5))


class Bench:
    """A pipe with as many calls, its calibration trajectory and the dense images it is measured by."""

    def __init__(self, pipe: str, calls: int):
        self.pipe, self.name = zoo.load(pipe), pipe
        self.pipe.set_progress_bar_config(disable=True)
        self.call = {"num_inference_steps": calls, "guidance_scale": zoo.GUIDANCE[pipe], "batch_size": BATCH}
        self.macs = macs.count(component(self.pipe))
        self.conditions, self.captions = zoo.conditions(pipe, IMAGES)
        self.dense = self.drawn()

    def drawn(self) -> np.ndarray:
        """(64, H, W, 3) float32 images, of the schedule that is applied, if any."""
        return generate(self.pipe, self.conditions, seeds=range(FIRST_SEED, FIRST_SEED + IMAGES), **self.call)

    def searched(self, case: Case) -> Iterator[BestSoFar]:
        """The search of a case, every schedule that it measures."""
        asked, seeds = zoo.conditions(self.name, CALIBRATION + MORE, calibration=True)[0], range(SEARCH_SEED, SEARCH_SEED + 64)
        told = record(self.pipe, asked[:CALIBRATION], seeds=seeds[:CALIBRATION], **self.call)
        value = objective_for(self.pipe, told, target="dense", blocks=self.macs.blocks)
        more = more_for(value, asked[CALIBRATION:], seeds[CALIBRATION:], target="dense")
        settings = SearchSettings(stages=case.stages, trials=TRIALS, updates=UPDATES)
        yield from run_stages(Search(self.pipe, told, self.macs, case.keep, PairedGain(value, more), settings))


def rows(bench: Bench, case: Case) -> Iterator[dict[str, Any]]:
    """A row for each stage, in turn."""
    before = None
    for stage, measured in groupby(bench.searched(case), key=lambda found: found.stage):
        *_, last = measured
        yield {
            "name": f"{case.pipe}, {case.calls} calls, {case.keep:g}, {stage}",
            "pipe": case.pipe,
            "calls": case.calls,
            "keep": case.keep,
            "stage": stage,
            "measured": last.measured,
            "calibration_db": last.value_db,
            "last_db": last.last_db,
            "kept": last.schedule is not before,
            **fidelity(bench, last.schedule),
            "schedule": list(last.schedule.grid),
            "hold": last.schedule.hold,
        }
        before = last.schedule


def fidelity(bench: Bench, schedule: Schedule) -> dict[str, Any]:
    """How near to the dense images a schedule comes, and how often the judge reads what was asked for."""
    with apply(bench.pipe, schedule, blocks=bench.macs.blocks):
        images = bench.drawn()
    right = quality.prompt_accuracy(images, bench.captions, judge)
    accuracy = {"mean": float(right.mean()), "ci95": list(quality.wilson(int(right.sum()), len(right)))}
    spent = bench.macs.of(schedule) / (schedule.calls * bench.macs.call())
    return {"keep_linear": spent, **nearness(images, bench.dense, ""), "accuracy": accuracy}


def main() -> None:
    path = RESULTS / "stages.json"
    document = records.load(path) if path.exists() else blank()
    done = {(row["pipe"], row["calls"], row["keep"]) for row in document["rows"]}
    for case in CASES:
        if case in done:
            continue
        for row in (found := list(rows(Bench(case.pipe, case.calls), case))):
            print(
                f"{row['name']:44s} {row['calibration_db']:.2f} {row['psnr_db']['mean']:.2f} {row['last_db']:.2f}", flush=True
            )
        document["rows"] += found
        document["made"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        report.save(document, path)


def blank() -> dict[str, Any]:
    return {
        "format": 1,
        "title": "What each stage of a search adds",
        "command": "python benchmarks/stages.py",
        "made": "",
        "hardware": hardware(),
        "seeds": list(range(FIRST_SEED, FIRST_SEED + IMAGES)),
        "options": {
            "calibration_images": CALIBRATION,
            "calibration_images_in_doubt": CALIBRATION + MORE,
            "search_seed": SEARCH_SEED,
            "gradient_updates": UPDATES,
            "trials": TRIALS,
        },
        "rows": [],
    }


if __name__ == "__main__":
    main()
