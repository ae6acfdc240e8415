"""What searching costs: seconds and peak memory of a gradient update as T grows, and of each stage of `secateur search`.

    python benchmarks/search_cost.py      writes results/search-cost.json

Memory is what the process grew by (VmHWM), weights not counted; each row runs in a process of its own, so that none inherits
another's heap.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from secateur import find, macs, measure, report, search, zoo
from secateur.calibration import record
from secateur.updates import Settings

RESULTS = Path(__file__).parents[1] / "results"
CALLS, IMAGES, KEEP, TRIALS, SEED = (10, 25, 50), 8, 0.2, 20, 40_000


def gradient_row(calls: int) -> dict[str, Any]:
    """Two updates of DiP-GO as the paper has them: batch 1, fresh noise, width 512; the second one is timed."""
    pipe, told = told_by(calls, images=2)
    updates, seconds = search(pipe, told, keep=KEEP, macs=macs.count(pipe.unet), settings=Settings(steps=2)), []

    def run() -> None:
        for _ in updates:
            seconds.append(time.perf_counter())

    peak = measure.peak_memory(run)
    return {
        "name": f"gradient update, T = {calls}",
        "calls": calls,
        "update_s": seconds[1] - seconds[0],
        "peak_memory_bytes": peak.peak_bytes,
    }


def stage_rows() -> list[dict[str, Any]]:
    """Every stage of the default search, 8 calibration images, T = 50."""
    start = time.perf_counter()
    pipe, told = told_by(50, images=IMAGES)
    recording, found = time.perf_counter() - start, {}
    counted = macs.count(pipe.unet)
    value = find.objective_for(pipe, told, target="dense", blocks=counted.blocks)

    def run() -> None:
        for part in find.find(pipe, told, macs=counted, keep=KEEP, objective=value, trials=TRIALS):
            found[part.stage] = part

    peak = measure.peak_memory(run)
    rows = [{"name": "recording, loading included", "search_s": recording}]
    rows += [{"name": name, "search_s": part.seconds, "measured": part.measured} for name, part in found.items()]
    return [
        *rows,
        {"name": "all stages", "search_s": sum(row["search_s"] for row in rows), "peak_memory_bytes": peak.peak_bytes},
    ]


def told_by(calls: int, *, images: int):
    pipe, asked = zoo.load("emoji-sd"), zoo.conditions("emoji-sd", images, calibration=True)[0]
    seeds = range(SEED, SEED + images)
    return pipe, record(pipe, asked, seeds=seeds, num_inference_steps=calls, guidance_scale=zoo.GUIDANCE["emoji-sd"])


def apart(what: str) -> list[dict[str, Any]]:
    """The rows of one measurement, from a fresh process."""
    done = subprocess.run([sys.executable, __file__, what], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if len(sys.argv) > 1:
        rows = stage_rows() if sys.argv[1] == "stages" else [gradient_row(int(sys.argv[1]))]
        print(json.dumps(rows))
        return
    record_ = {
        "format": 1,
        "title": "What searching costs on emoji-sd",
        "command": "python benchmarks/search_cost.py",
        "pipe": "emoji-sd",
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": measure.hardware(),
        "options": {"keep": KEEP, "calibration_images": IMAGES, "trials": TRIALS, "width_of_the_pruner": Settings().width},
        "rows": [row for what in (*map(str, CALLS), "stages") for row in apart(what)],
    }
    report.save(record_, RESULTS / "search-cost.json")
    Console(width=120).print(report.table(record_))


if __name__ == "__main__":
    main()
