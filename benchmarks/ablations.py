"""The paper's ablations, reduced: what each choice of DiP-GO is worth, and what searching costs, on emoji-sd.

    python benchmarks/ablations.py [--seeds 2]     writes results/ablations.json

Ten DDIM calls, half of the MACs kept (and, from the same scores, three tenths), 64 images of captions and noises that no
search saw. A search is saved when it is done and measured, and a rerun goes on with those that are missing. Cost is CPU
seconds, which other jobs on the machine disturb least; drawing the dense calibration images is not counted.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from front import nearness
from paper import PAPER, orders
from secateur import zoo
from secateur.denoiser import macs
from secateur.measuring import quality, records, report
from secateur.measuring.hardware import hardware
from secateur.pipeline.generate import generate
from secateur.pipeline.trajectory import Trajectory, first, record
from secateur.schedule.allocate import allocate
from secateur.schedule.apply import apply
from secateur.schedule.schedule import Schedule
from secateur.searching import objective
from secateur.searching.dip_go.gradient import search
from secateur.searching.dip_go.updates import Settings
from secateur.searching.paired_gain import PairedGain
from secateur.searching.rivals import genetic_search, random_search
from secateur.searching.settings import SearchSettings
from secateur.searching.stages import additive_schedules, run_stages
from secateur.searching.task import Search
from secateur.zoo import judge

RESULTS = Path(__file__).parents[1] / "results"
PIPE, CALLS, BATCH, IMAGES, FIRST_SEED = "emoji-sd", 10, 8, 64, 50_000
KEEPS, SEARCHED = (0.5, 0.3), 0.5  # gradients are searched at one of them
SEARCH_SEEDS, PROMPTS, CALIBRATION = (40_000, 41_000, 42_000), 40, 16  # gradients see all prompts, the others the first few
MORE = 48  # images that `find` may draw where a gain is in doubt
UPDATES, LR = 40, 0.5  # the paper: 1000 updates from 0.1 at 50 calls; the sum of the steps over the calls is the same
SEEN_AT = (10, 20, 40)  # updates
TRIALS, TRIED_AT, LOCAL = 96, (12, 24, 48, 96), 40
GRADIENT: dict[str, dict[str, Any]] = {
    "DiP-GO": {},
    "L1": {"loss": "l1"},
    "L2": {"loss": "l2"},
    "L1 + SSIM": {"loss": "l1+ssim"},
    "α = 0.1": {"alpha": 0.1},
    "α = 0.5": {"alpha": 0.5},
    "α = 2": {"alpha": 2.0},
    "without γ": {"weighted": False},
}
REDUCED = {
    "model": "emoji-sd, 64 px, 9.5 M parameters, for SD-1.5",
    "calls": f"{CALLS} of DDIM for 50",
    "kept": f"{KEEPS[0]} and {KEEPS[1]} of the MACs for 0.2, 0.15 and 0.1",
    "updates": f"{UPDATES} from a learning rate of {LR} for 1000 from 0.1: the same sum of steps for each call",
    "prompts": f"{PROMPTS} for 1000",
    "evaluation": f"{IMAGES} images for 5,000; likeness to the dense images and what a judge reads for CLIP",
    "random and genetic": f"{TRIALS} schedules tried for 25 GPU hours, ten times what the gradients took",
}
DENSE = {"variant": "dense", "keep": 1.0, "allocation": None, "evaluations": 0}


@dataclass(frozen=True)
class Shot:
    """A schedule that a search has arrived at after so many evaluations: updates, or schedules tried on calibration images."""

    schedule: Schedule
    keep: float
    evaluations: int
    allocation: str | None = None
    variant: str | None = None  # where it is not the job's
    spent: float | None = None  # CPU seconds, where the search is over before it is yielded


@dataclass(frozen=True)
class Job:
    """One search with one seed; make: its Shots."""

    variant: str
    name: str
    seed: int
    make: Callable[[], Iterator[Shot]]


class Bench:
    """The pipe, what it is searched with, and what it is measured on."""

    def __init__(self) -> None:
        self.pipe = zoo.load(PIPE)
        self.macs = macs.count(self.pipe.unet)
        self.call = {"guidance_scale": zoo.GUIDANCE[PIPE], "num_inference_steps": CALLS, "batch_size": BATCH}
        self.conditions, self.captions = zoo.conditions(PIPE, IMAGES)
        self.recorded: dict[int, Trajectory] = {}
        self.dense = self.images()

    def images(self) -> np.ndarray:
        """What the pipe draws as it is."""
        return generate(self.pipe, self.conditions, seeds=range(FIRST_SEED, FIRST_SEED + IMAGES), **self.call)

    def trajectory(self, seed: int) -> Trajectory:
        """The calibration trajectory of one search seed; recorded once."""
        if seed not in self.recorded:
            asked = zoo.conditions(PIPE, PROMPTS, calibration=True)[0]
            self.recorded[seed] = record(self.pipe, asked, seeds=range(seed, seed + PROMPTS), **self.call)
        return self.recorded[seed]

    def objective(self, seed: int) -> objective.Objective:
        """Nearness to the first few dense images of one search seed."""
        return objective.to_dense(self.pipe, first(self.trajectory(seed), CALIBRATION), blocks=self.macs.blocks)


def jobs(bench: Bench, seeds: int) -> Iterator[Job]:
    """Every search, one search seed after the other."""
    for number, seed in enumerate(SEARCH_SEEDS[:seeds]):
        for variant, settings in GRADIENT.items():
            yield Job(variant, f"{variant}, seed {number}", seed, partial(learned, bench, seed, number, settings))
        for keep in KEEPS:
            tries = {
                "additive, outputs held": partial(solved, bench, seed, number, keep),
                "additive, refresh, local": partial(found, bench, seed, number, keep),
                "random": partial(tried, bench, seed, number, keep, random_search),
                "genetic": partial(tried, bench, seed, number, keep, genetic_search),
            }
            for variant, make in tries.items():
                yield Job(variant, f"{variant}, keep {keep}, seed {number}", seed, make)


def learned(bench: Bench, seed: int, number: int, settings: dict[str, Any]) -> Iterator[Shot]:
    """The paper's search: its scores allocated by its bisection for both budgets, and exactly at the end."""
    how = Settings(steps=UPDATES, lr=LR, seed=number, **settings)
    for step in search(bench.pipe, bench.trajectory(seed), keep=SEARCHED, macs=bench.macs, settings=how):
        methods = ("bisection", "exact") if step.number == UPDATES else ("bisection",)
        if step.number == UPDATES or (not settings and step.number in SEEN_AT):
            for method in methods:
                for keep in KEEPS:
                    yield Shot(allocate(step.scores, keep=keep, method=method), keep, step.number, method)


def tried(bench: Bench, seed: int, number: int, keep: float, look: Callable) -> Iterator[Shot]:
    """The best of a search that only tries, as it goes; held calls give their last output, as in the paper."""
    value = bench.objective(seed)
    for trial in look(bench.macs, CALLS, keep=keep, objective=value, trials=TRIALS, seed=number):
        if trial.number in TRIED_AT:
            yield Shot(trial.best, keep, trial.number)


def solved(bench: Bench, seed: int, number: int, keep: float) -> Iterator[Shot]:
    """The additive solution among schedules that give the last output at held calls, like the paper's."""
    value = bench.objective(seed)
    told = first(bench.trajectory(seed), CALIBRATION)
    whole = Search(bench.pipe, told, bench.macs, keep, PairedGain(value), seed=number, batch_size=BATCH)
    held = [schedule for schedule in additive_schedules(whole) if schedule.hold == "output"]
    yield Shot(max(held, key=value), keep, len(held))


def found(bench: Bench, seed: int, number: int, keep: float) -> Iterator[Shot]:
    """What `find` has after its additive stage, the one that finds partial calls, and the local one."""
    told, value, stages = first(bench.trajectory(seed), CALIBRATION), bench.objective(seed), ("additive", "refresh", "local")
    ends, start = dict[str, Shot](), time.process_time()
    asked = zoo.conditions(PIPE, CALIBRATION + MORE, calibration=True)[0][CALIBRATION:]
    more = objective.more_for(value, asked, range(seed + CALIBRATION, seed + CALIBRATION + MORE), target="dense")
    gain, settings = PairedGain(value, more), SearchSettings(stages=stages, trials=LOCAL)
    parts = run_stages(Search(bench.pipe, told, bench.macs, keep, gain, settings, seed=number))
    for count, part in enumerate(parts, start=1):
        variant = ", ".join(dict.fromkeys((*ends, part.stage)))
        ends[part.stage] = Shot(part.schedule, keep, count, variant=variant, spent=time.process_time() - start)
    yield from ends.values()


def timed(job: Job) -> Iterator[tuple[Shot, float]]:
    """Each Shot of a job, and the CPU seconds that its search took until then."""
    spent, start = 0.0, time.process_time()
    for shot in job.make():
        spent += time.process_time() - start
        yield shot, spent
        start = time.process_time()


def rows(bench: Bench, job: Job) -> list[dict[str, Any]]:
    """A job done and measured: a row for each Shot."""
    bench.trajectory(job.seed)  # recorded before the clock runs
    return [
        {
            "name": ", ".join(filter(None, (job.name, f"keep {shot.keep}", shot.allocation, f"after {shot.evaluations}"))),
            "job": job.name,
            "variant": shot.variant or job.variant,
            "keep": shot.keep,
            "allocation": shot.allocation,
            "evaluations": shot.evaluations,
            "search_cpu_s": shot.spent or spent,
            **measured(bench, shot.schedule),
        }
        for shot, spent in timed(job)
    ]


def measured(bench: Bench, schedule: Schedule | None) -> dict[str, Any]:
    """Cost and quality of a schedule, or of the dense pipe."""
    images = bench.dense
    if schedule:
        with apply(bench.pipe, schedule, blocks=bench.macs.blocks):
            images = bench.images()
    right = quality.prompt_accuracy(images, bench.captions, judge)
    whole = {a: CALLS * bench.macs.call(attention=a) for a in (False, True)}
    spent = {a: bench.macs.of(schedule, attention=a) if schedule else whole[a] for a in whole}
    return {
        "calls": CALLS,
        "macs_linear": 2 * spent[False],
        "macs_attention": 2 * spent[True],
        "keep_linear": spent[False] / whole[False],
        "keep_attention": spent[True] / whole[True],
        **(nearness(images, bench.dense, "") if schedule else {}),
        "accuracy": {"mean": float(right.mean()), "ci95": list(quality.wilson(int(right.sum()), len(right)))},
        "grid": list(schedule.grid) if schedule else None,
        "hold": schedule.hold if schedule else None,
    }


def blank(bench: Bench, seeds: int) -> dict[str, Any]:
    return {
        "format": 1,
        "title": f"DiP-GO's ablations on {PIPE}: {CALLS} DDIM calls",
        "command": f"python benchmarks/ablations.py --seeds {seeds}",
        "pipe": PIPE,
        "made": "",
        "hardware": hardware(),
        "blocks": list(bench.macs.blocks.names),
        "seeds": list(range(FIRST_SEED, FIRST_SEED + IMAGES)),
        "options": {
            "guidance_scale": zoo.GUIDANCE[PIPE],
            "samples_an_image": 2,
            "search_seeds": list(SEARCH_SEEDS[:seeds]),
            "calibration_images": CALIBRATION,
            "prompts": PROMPTS,
            "gradient": asdict(Settings(steps=UPDATES, lr=LR)),
        },
        "paper": PAPER,
        "reduced": REDUCED,
        "orders": {},
        "rows": [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2, choices=range(1, len(SEARCH_SEEDS) + 1), help="of the searches")
    seeds, path, bench = parser.parse_args().seeds, RESULTS / "ablations.json", Bench()
    document = blank(bench, seeds)
    if path.exists():
        document = {**document, "rows": records.load(path)["rows"]}
    else:
        document["rows"] = [{"name": "dense", "job": "dense", "group": "dense", **DENSE, **measured(bench, None)}]
    done = {row["job"] for row in document["rows"]}
    for job in jobs(bench, seeds):
        if job.name not in done:
            document["rows"] += rows(bench, job)
            save(document, path)
            print(f"{job.name:40s}", [round(row["psnr_db"]["mean"], 2) for row in document["rows"] if row["job"] == job.name],
                  flush=True)  # fmt: skip


def save(document: dict[str, Any], path: Path) -> None:
    """The record with its verdicts on disk."""
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    document.update(made=made, orders=orders(document["rows"], KEEPS))
    report.save(document, path)


if __name__ == "__main__":
    main()
