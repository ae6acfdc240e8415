"""What searching is worth and what it costs, on emoji-sd.

`ablations`: the paper's, reduced, and what searches cost in CPU seconds; ten DDIM calls, half of the MACs kept (and, from the
same scores, three tenths), 64 images that no search saw. `search-cost`: seconds, of the CPU too, and peak memory of a gradient
update as T grows, of each stage of `secateur search`, and of its rivals."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from bench import FIRST_SEED, Bench, costing, counted
from paper import PAPER
from random_and_genetic import genetic_search, random_search
from secateur import Schedule, SearchSettings, allocate, dip_go, search_steps, zoo
from secateur.denoiser.families import dummy_inputs
from secateur.schedule.cache import block_bytes
from secateur.searching.dip_go.pruner import Pruner
from study import Job, Row, Run, Study

PIPE, CALLS, IMAGES = "emoji-sd", 10, 64
KEEPS, SEARCHED = (0.5, 0.3), 0.5  # gradients are searched at one of them
SEEDS, PROMPTS, CALIBRATION = (40_000, 41_000), 40, 16  # gradients see all prompts, the others the first few
UPDATES, LR = 40, 0.5  # the paper: 1000 updates from 0.1 at 50 calls; the sum of the steps over the calls is the same
TRIALS, LOCAL = 96, 40
GRADIENT = {"DiP-GO": {}, "L1": {"loss": "l1"}, "L2": {"loss": "l2"}, "L1 + SSIM": {"loss": "l1+ssim"}}
GRADIENT |= {**{f"α = {alpha:g}": {"alpha": alpha} for alpha in (0.1, 0.5, 2.0)}, "without γ": {"weighted": False}}
REDUCED = {
    "model": "emoji-sd, 64 px, 9.5 M parameters, for SD-1.5",
    "calls": f"{CALLS} of DDIM for 50",
    "kept": f"{KEEPS[0]} and {KEEPS[1]} of the MACs for 0.2, 0.15 and 0.1",
    "updates": f"{UPDATES} from a learning rate of {LR} for 1000 from 0.1: the same sum of steps for each call",
    "prompts": f"{PROMPTS} for 1000",
    "evaluation": f"{IMAGES} images for 5,000; likeness to the dense images and what a judge reads for CLIP",
    "random and genetic": f"{TRIALS} schedules tried for 25 GPU hours, ten times what the gradients took",
}
Shots = Iterator[tuple[Schedule, Row]]  # what a search ends with, and what its row says of that


def learned(bench: Bench, number: int, *, settings: Mapping[str, Any]) -> Shots:
    """The paper's search: its scores allocated by its bisection and exactly, for both budgets."""
    how = dip_go.Settings(steps=UPDATES, lr=LR, seed=number, **settings)
    *_, last = dip_go.search(bench.pipe, bench.trajectory(SEEDS[number]), keep=SEARCHED, macs=bench.macs, settings=how)
    for method in ("bisection", "exact"):
        for keep in KEEPS:
            row = {"keep": keep, "allocation": method, "evaluations": last.number}
            yield allocate(last.scores, keep=keep, method=method), row


def tried(bench: Bench, number: int, *, keep: float, look: Callable) -> Shots:
    """The best of a search that only tries; held calls give their last output, as in the paper."""
    value = bench.objective(SEEDS[number])
    *_, last = look(bench.macs, CALLS, keep=keep, objective=value, trials=TRIALS, seed=number)
    yield last.best, {"keep": keep, "evaluations": last.number}


def staged(bench: Bench, number: int, *, keep: float) -> Shots:
    """What the search has after its additive stage, the one that finds partial calls, and the local one; it records first."""
    ends, start = dict[tuple[str, int], tuple[Schedule, Row]](), time.process_time()
    settings = SearchSettings(stages=("additive", "refresh", "local"), trials=LOCAL)
    steps = search_steps(bench.pipe, keep=keep, steps=CALLS, seed=SEEDS[number], settings=settings)
    for count, step in enumerate(steps, start=1):
        variant = ", ".join(dict.fromkeys([*(stage for stage, _ in ends), step.stage]))
        row = {"keep": keep, "evaluations": count, "variant": variant, "search_cpu_s": time.process_time() - start}
        ends.setdefault((step.stage, step.measured), (step.schedule, row))  # the very last step measures no further schedule
    yield from {stage: end for (stage, _), end in ends.items()}.values()


def jobs(run: Run) -> Iterator[Job]:
    """Every search, one search seed after the other."""
    bench = Bench(PIPE, steps=CALLS, images=IMAGES, calibration=PROMPTS)
    few = Bench(PIPE, steps=CALLS, images=IMAGES, calibration=CALIBRATION)
    dense = {"job": "dense", "group": "dense", "variant": "dense", "keep": 1.0, "allocation": None, "evaluations": 0}
    yield Job("dense", lambda: dense | measured(bench, None))
    tries = {
        "additive, refresh, local": staged,
        "random": partial(tried, look=random_search),
        "genetic": partial(tried, look=genetic_search),
    }
    for number in range(len(SEEDS)):
        for variant, settings in GRADIENT.items():
            name, shots = f"{variant}, seed {number}", partial(learned, bench, number, settings=settings)
            yield Job(name, partial(rows, bench, number, shots, job=name, variant=variant))
        for keep in KEEPS:
            for variant, look in tries.items():
                name, shots = f"{variant}, keep {keep}, seed {number}", partial(look, few, number, keep=keep)
                yield Job(name, partial(rows, few, number, shots, job=name, variant=variant))


def rows(bench: Bench, number: int, shots: Callable[[], Shots], **known: str) -> Iterator[Row]:
    """A row for each schedule of a search, with the CPU seconds that the search took until then."""
    bench.trajectory(SEEDS[number])  # recorded before the clock runs
    spent, start = 0.0, time.process_time()
    for schedule, shot in shots():
        spent += time.process_time() - start
        row = {**known, "allocation": None, "search_cpu_s": spent, **shot}
        name = (row["job"], f"keep {row['keep']}", row["allocation"], f"after {row['evaluations']}")
        yield {"name": ", ".join(filter(None, name)), **row, **measured(bench, schedule)}
        start = time.process_time()


def measured(bench: Bench, schedule: Schedule | None) -> Row:
    """Cost and quality of a schedule, or of the dense pipe."""
    images = bench.draw(schedule) if schedule else bench.dense
    more = {"grid": schedule and list(schedule.grid), "hold": schedule and schedule.hold}
    return {"calls": CALLS, **bench.measured(images, schedule), **more}


def finish(run: Run) -> None:
    """Adds the blocks of the grids."""
    run.record.update(blocks=list(counted(PIPE).blocks.names))


# Seconds and memory

COST_IMAGES, COST_KEEP, COST_TRIALS, EVALUATIONS = 8, 0.2, 20, 40
COST_UPDATES = ((10, 512), (25, 512), (50, 512), (50, 64))  # calls, width of the Pruner: the paper's, and one of no weight


def cost_jobs(run: Run) -> Iterator[Job]:
    """Every measurement, each in a process of its own, as memory is what that process grew by (VmHWM)."""
    for calls, width in COST_UPDATES:
        yield Job(f"gradient update, T = {calls}, width {width}", partial(apart, gradient_row, calls, width))
    yield Job("all stages", partial(apart, stage_rows))
    for name, search in {"random search": random_search, "genetic search": genetic_search}.items():
        yield Job(name, partial(apart, tried_row, search))


def apart(make: Callable[..., Any], *what: Any) -> Any:
    """The rows of one measurement, from a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(make, *what).result()


def gradient_row(calls: int, width: int) -> Row:
    """Two updates of DiP-GO as the paper has them: batch 1, fresh noise; the second one is timed. width: of the Pruner."""
    bench, how = Bench(PIPE, steps=calls, images=1, calibration=2), dip_go.Settings(steps=2, width=width)
    unet, blocks = bench.pipe.unet, bench.macs.blocks
    updates = dip_go.search(bench.pipe, bench.trajectory(SEEDS[0]), keep=COST_KEEP, macs=bench.macs, settings=how)
    ends, both = costing(lambda: [clocks() for _ in updates])
    weights = sum(p.numel() * p.element_size() for p in Pruner(calls, len(blocks), width=width).parameters())
    between = sum(block_bytes(unet, blocks, dummy_inputs(unet, batch=2)))  # what one call leaves to the next
    return {"calls": calls, **both, **spent(*ends), "pruner_bytes": weights, "kept_bytes": calls * between}


def stage_rows() -> list[Row]:
    """Every stage of the default search, 8 calibration images, T = 50; the first one records them."""
    settings, begun = SearchSettings(more_images=3 * COST_IMAGES, trials=COST_TRIALS), clocks()
    steps = search_steps(zoo.load(PIPE), keep=COST_KEEP, images=COST_IMAGES, seed=SEEDS[0], settings=settings)
    found, whole = costing(lambda: [(step, clocks()) for step in steps])
    rows, before = [], begun
    for step, end in {step.stage: (step, end) for step, end in found}.values():  # the last of each stage
        rows.append({"name": step.stage, **spent(before, end), "measured": step.measured})
        before = end
    return [*rows, {"name": "all stages", **whole, **spent(begun, before)}]


def tried_row(search: Callable[..., Iterator[Any]]) -> Row:
    """Random or genetic search, which measure as many schedules on as many images as the stages do at most."""
    bench = Bench(PIPE, images=1, calibration=COST_IMAGES)
    trials = search(bench.macs, bench.steps, keep=COST_KEEP, objective=bench.objective(SEEDS[0]), trials=EVALUATIONS, seed=0)
    made, cost = costing(lambda: list(trials))
    return {**cost, "measured": len(made)}


def clocks() -> np.ndarray:
    """The time, as it passes and of the CPU."""
    return np.array([time.perf_counter(), time.process_time()])


def spent(begun: np.ndarray, ended: np.ndarray) -> Row:
    """Seconds between two times."""
    return dict(zip(("s", "cpu_s"), (ended - begun).tolist(), strict=True))


OPTIONS = {"guidance_scale": zoo.GUIDANCE[PIPE], "samples_an_image": 2, "search_seeds": SEEDS, "prompts": PROMPTS}
OPTIONS |= {"calibration_images": CALIBRATION, "gradient": asdict(dip_go.Settings(steps=UPDATES, lr=LR))}
HEAD = {"pipe": PIPE, "seeds": range(FIRST_SEED, FIRST_SEED + IMAGES), "options": OPTIONS, "paper": PAPER, "reduced": REDUCED}
TITLE = f"DiP-GO's ablations on {PIPE}: {CALLS} DDIM calls"
COST_HEAD = {"pipe": PIPE, "options": {"keep": COST_KEEP, "calibration_images": COST_IMAGES, "trials": COST_TRIALS}}
STUDIES = (
    Study("ablations", TITLE, jobs, head=HEAD, finish=finish),
    Study("search-cost", f"What searching costs on {PIPE}", cost_jobs, head=COST_HEAD),
)
