"""What searching costs: seconds and peak memory of a gradient update as T grows, of each stage of `secateur search`, of rivals.

    python benchmarks/search_cost.py      writes results/search-cost.json

Memory is what the process grew by (VmHWM), weights not counted; each row runs in a process of its own, so that none inherits
another's heap. Updates are made again with MALLOC_MMAP_THRESHOLD_ so low that glibc gives all tensors back when they are freed:
what the calls keep leaves holes in its heap, which then grows by several times that. Seconds are given twice, as they passed
and of the CPU: where the load average says that other jobs ran beside, only the latter mean much.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from secateur import zoo
from secateur.denoiser import macs
from secateur.denoiser.families import dummy_inputs
from secateur.measuring import report
from secateur.measuring.hardware import hardware
from secateur.measuring.memory import peak_memory
from secateur.pipeline.trajectory import record
from secateur.schedule.cache import block_bytes
from secateur.searching.dip_go.gradient import search
from secateur.searching.dip_go.pruner import Pruner
from secateur.searching.dip_go.updates import Settings
from secateur.searching.objective import more_for, objective_for
from secateur.searching.paired_gain import PairedGain
from secateur.searching.rivals import genetic_search, random_search
from secateur.searching.settings import SearchSettings
from secateur.searching.stages import run_stages
from secateur.searching.task import Search

RESULTS = Path(__file__).parents[1] / "results"
IMAGES, KEEP, TRIALS, SEED = 8, 0.2, 20, 40_000
THRESHOLD = 8192  # bytes
TRIED, EVALUATIONS = {"random search": random_search, "genetic search": genetic_search}, 40
UPDATES = ((10, 512), (25, 512), (50, 512), (50, 64))  # calls, width of the Pruner: the paper's, and one that weighs nothing


def gradient_row(calls: int, width: int) -> dict[str, Any]:
    """Two updates of DiP-GO as the paper has them: batch 1, fresh noise; the second one is timed. width: of the Pruner."""
    pipe, told = told_by(calls, images=2)
    counted, seconds = macs.count(pipe.unet), []
    updates = search(pipe, told, keep=KEEP, macs=counted, settings=Settings(steps=2, width=width))

    def run() -> None:
        for _ in updates:
            seconds.append((time.perf_counter(), time.process_time()))

    peak = peak_memory(run)
    return {
        "name": f"gradient update, T = {calls}, width {width}",
        "calls": calls,
        "update_s": seconds[1][0] - seconds[0][0],
        "update_cpu_s": seconds[1][1] - seconds[0][1],
        "pruner_bytes": pruner_bytes(calls, len(counted.blocks), width),
        "kept_bytes": calls * kept_bytes(pipe.unet, counted.blocks),
        "peak_memory_bytes": peak.peak_bytes,
    }


def pruner_bytes(calls: int, blocks: int, width: int) -> int:
    """Of the Pruner's weights, of which every cell has two layers of its own; their gradients take as much again."""
    return sum(p.numel() * p.element_size() for p in Pruner(calls, blocks, width=width).parameters())


def kept_bytes(denoiser, blocks) -> int:
    """What one call leaves to the next, which is kept until the way back: what every block and the denoiser gave, guided."""
    return sum(block_bytes(denoiser, blocks, dummy_inputs(denoiser, batch=2)))


def stage_rows() -> list[dict[str, Any]]:
    """Every stage of the default search, 8 calibration images, T = 50."""
    begun = time.perf_counter(), time.process_time()
    pipe, told = told_by(50, images=IMAGES)
    ends, measured = {"recording, loading included": clocks(begun)}, {}
    counted = macs.count(pipe.unet)
    value = objective_for(pipe, told, target="dense", blocks=counted.blocks)
    asked, seeds = zoo.conditions("emoji-sd", 4 * IMAGES, calibration=True)[0], range(SEED, SEED + 4 * IMAGES)
    more = more_for(value, asked[IMAGES:], seeds[IMAGES:], target="dense")

    def run() -> None:
        for part in run_stages(Search(pipe, told, counted, KEEP, PairedGain(value, more), SearchSettings(trials=TRIALS))):
            ends[part.stage], measured[part.stage] = clocks(begun), part.measured

    peak, rows, before = peak_memory(run), [], (0.0, 0.0)
    for name, end in ends.items():
        rows.append({"name": name, "search_s": end[0] - before[0], "search_cpu_s": end[1] - before[1]})
        rows[-1] |= {"measured": measured[name]} if name in measured else {}
        before = end
    whole = {"name": "all stages", "search_s": before[0], "search_cpu_s": before[1], "peak_memory_bytes": peak.peak_bytes}
    return [*rows, whole]


def tried_row(name: str) -> dict[str, Any]:
    """Random or genetic search, which measure as many schedules on as many images as the stages do at most."""
    pipe, told = told_by(50, images=IMAGES)
    counted, found = macs.count(pipe.unet), []
    value = objective_for(pipe, told, target="dense", blocks=counted.blocks)
    begun = time.perf_counter(), time.process_time()
    look = TRIED[name](counted, 50, keep=KEEP, objective=value, trials=EVALUATIONS, seed=0)
    peak = peak_memory(lambda: found.extend(look))
    passed, used = clocks(begun)
    return {
        "name": name,
        "search_s": passed,
        "search_cpu_s": used,
        "measured": len(found),
        "peak_memory_bytes": peak.peak_bytes,
    }


def clocks(begun: tuple[float, float]) -> tuple[float, float]:
    """Seconds since then, as they passed and of the CPU."""
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


def told_by(calls: int, *, images: int):
    pipe, asked = zoo.load("emoji-sd"), zoo.conditions("emoji-sd", images, calibration=True)[0]
    seeds = range(SEED, SEED + images)
    return pipe, record(pipe, asked, seeds=seeds, num_inference_steps=calls, guidance_scale=zoo.GUIDANCE["emoji-sd"])


def update_rows(calls: int, width: int) -> list[dict[str, Any]]:
    """The row of an update, and its memory without the holes in glibc's heap."""
    [row], [tight] = apart(calls, width), apart(calls, width, MALLOC_MMAP_THRESHOLD_=str(THRESHOLD))
    return [row | {"peak_without_holes_bytes": tight["peak_memory_bytes"]}]


def apart(*what: object, **env: str) -> list[dict[str, Any]]:
    """The rows of one measurement, from a fresh process with this in its environment."""
    env = os.environ | env
    done = subprocess.run([sys.executable, __file__, *map(str, what)], check=True, capture_output=True, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def rows_of(what: str, *more: str) -> list[dict[str, Any]]:
    """The rows that one process measures."""
    if what in TRIED:
        return [tried_row(what)]
    return stage_rows() if what == "stages" else [gradient_row(int(what), *map(int, more))]


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(rows_of(*sys.argv[1:])))
        return
    record_ = {
        "format": 1,
        "title": "What searching costs on emoji-sd",
        "command": "python benchmarks/search_cost.py",
        "pipe": "emoji-sd",
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "options": {"keep": KEEP, "calibration_images": IMAGES, "trials": TRIALS, "malloc_mmap_threshold": THRESHOLD},
        "rows": [
            *(row for what in UPDATES for row in update_rows(*what)),
            *apart("stages"),
            *(row for name in TRIED for row in apart(name)),
        ],
        "load_average": os.getloadavg()[2],
    }
    report.save(record_, RESULTS / "search-cost.json")
    Console(width=120).print(report.table(record_))


if __name__ == "__main__":
    main()
