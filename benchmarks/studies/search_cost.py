"""What searching costs: seconds and peak memory of a gradient update as T grows, of each stage of `secateur search`, of rivals.

Memory is what a process of the job's own grew by (VmHWM). Updates are made again with a low MALLOC_MMAP_THRESHOLD_, since the
tensors that calls keep leave holes in glibc's heap. Seconds are given as they passed and of the CPU."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

from bench import SEARCH_SEED, Bench
from rivals import TRIALS as RIVALS
from secateur.denoiser.families import dummy_inputs
from secateur.measuring.memory import peak_memory
from secateur.schedule.cache import block_bytes
from secateur.searching.dip_go.gradient import search
from secateur.searching.dip_go.pruner import Pruner
from secateur.searching.dip_go.updates import Settings
from study import Job, Row, Run, Study

PIPE, IMAGES, KEEP, TRIALS, EVALUATIONS = "emoji-sd", 8, 0.2, 20, 40
THRESHOLD = 8192  # bytes
UPDATES = ((10, 512), (25, 512), (50, 512), (50, 64))  # calls, width of the Pruner: the paper's, and one that weighs nothing


def jobs(run: Run) -> Iterator[Job]:
    """Every measurement, each in a process of its own."""
    for calls, width in UPDATES:
        yield Job(f"gradient update, T = {calls}, width {width}", partial(update_row, calls, width))
    yield Job("all stages", partial(apart, stage_rows))
    for name in RIVALS:
        yield Job(name, partial(apart, tried_row, name))


def apart(make: Callable[..., Any], *what: Any, **env: str) -> Any:
    """The rows of one measurement, from a fresh process with this in its environment."""
    with patch.dict(os.environ, env), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(make, *what).result()


def update_row(calls: int, width: int) -> Row:
    """The row of an update, and its memory without the holes in glibc's heap."""
    row, tight = (apart(gradient_row, calls, width, **env) for env in ({}, {"MALLOC_MMAP_THRESHOLD_": str(THRESHOLD)}))
    return row | {"peak_without_holes_bytes": tight["peak_memory_bytes"]}


def gradient_row(calls: int, width: int) -> Row:
    """Two updates of DiP-GO as the paper has them: batch 1, fresh noise; the second one is timed. width: of the Pruner."""
    bench, ends = Bench(PIPE, steps=calls, images=1, calibration=2, more=0), list[tuple[float, float]]()
    pipe, blocks, how = bench.pipe, bench.macs.blocks, Settings(steps=2, width=width)
    updates = search(pipe, bench.trajectory(SEARCH_SEED), keep=KEEP, macs=bench.macs, settings=how)
    peak = peak_memory(lambda: ends.extend(clocks() for _ in updates))
    weights = sum(p.numel() * p.element_size() for p in Pruner(calls, len(blocks), width=width).parameters())
    between = sum(block_bytes(pipe.unet, blocks, dummy_inputs(pipe.unet, batch=2)))  # what one call leaves to the next
    sizes = {"pruner_bytes": weights, "kept_bytes": calls * between, "peak_memory_bytes": peak.peak_bytes}
    return {"calls": calls, **spent("update", *ends), **sizes}


def stage_rows() -> list[Row]:
    """Every stage of the default search, 8 calibration images, T = 50."""
    begun, bench = clocks(), Bench(PIPE, images=1, calibration=IMAGES, more=3 * IMAGES)
    bench.trajectory(SEARCH_SEED)
    ends, measured = {"recording, loading included": clocks()}, dict[str, int]()
    steps = bench.search(SEARCH_SEED, keep=KEEP, trials=TRIALS)

    def run() -> None:
        for step in steps:
            ends[step.stage], measured[step.stage] = clocks(), step.measured

    peak, rows, before = peak_memory(run), list[Row](), begun
    for name, end in ends.items():
        count = {"measured": measured[name]} if name in measured else {}
        rows.append({"name": name, **spent("search", before, end), **count})
        before = end
    return [*rows, {"name": "all stages", **spent("search", begun, before), "peak_memory_bytes": peak.peak_bytes}]


def tried_row(name: str) -> Row:
    """Random or genetic search, which measure as many schedules on as many images as the stages do at most."""
    bench, trials = Bench(PIPE, images=1, calibration=IMAGES, more=0), []
    value, _ = bench.objective(SEARCH_SEED)
    begun = clocks()
    steps = RIVALS[name](bench.macs, bench.steps, keep=KEEP, objective=value, trials=EVALUATIONS, seed=0)
    peak = peak_memory(lambda: trials.extend(steps))
    return {**spent("search", begun, clocks()), "measured": len(trials), "peak_memory_bytes": peak.peak_bytes}


def clocks() -> tuple[float, float]:
    """The time, as it passes and of the CPU."""
    return time.perf_counter(), time.process_time()


def spent(what: str, begun: tuple[float, float], ended: tuple[float, float]) -> Row:
    """Seconds between two times."""
    return {f"{what}_s": ended[0] - begun[0], f"{what}_cpu_s": ended[1] - begun[1]}


OPTIONS = {"keep": KEEP, "calibration_images": IMAGES, "trials": TRIALS, "malloc_mmap_threshold": THRESHOLD}
HEAD = {"pipe": PIPE, "options": OPTIONS}
LOAD = lambda run: run.record.update(load_average=os.getloadavg()[2])  # noqa: E731
STUDIES = (Study("search-cost", f"What searching costs on {PIPE}", jobs, head=HEAD, finish=LOAD),)
