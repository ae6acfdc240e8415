"""What reuse costs in memory: peak bytes cached when tensors go after their last reader, against keeping every block's output.

    python benchmarks/cache.py      writes results/cache.json

Counted on the meta device at full size, float16, guidance on (batch 2): sizes need no weights.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

from secateur.denoiser import macs
from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.families import dummy_inputs
from secateur.measuring import report
from secateur.measuring.hardware import hardware
from secateur.schedule import baselines
from secateur.schedule.cache import block_bytes, peak_cached_bytes

RESULTS = Path(__file__).parents[1] / "results"
CALLS = 50


def rows(name: str, granularity: str) -> Iterator[dict]:
    """A line per schedule of one denoiser at one granularity."""
    denoiser = macs.meta_denoiser(name).half()
    blocks = find_blocks(denoiser, granularity)
    with torch.device("meta"):
        inputs = dummy_inputs(denoiser, batch=2)
    half = {k: v.half() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs.items()}
    half |= {k: {n: x.half() for n, x in v.items()} for k, v in inputs.items() if isinstance(v, dict)}
    sizes = block_bytes(denoiser, blocks, half)
    plans = {"uniform hold, every 5th call": baselines.uniform(blocks, CALLS, every=5),
             "DeepCache, interval 5": baselines.deepcache(blocks, CALLS, interval=5)}  # fmt: skip
    if name == "sd15" and granularity == "stage":
        plans["published DiP-GO"] = baselines.published_dip_go(blocks)
    for method, plan in plans.items():
        yield {
            "name": f"{name}, {granularity}, {method}",
            "calls": CALLS,
            "every_output_bytes": sum(sizes),
            "peak_cached_bytes": peak_cached_bytes(plan, blocks, sizes),
        }


def main() -> None:
    record = {
        "format": 1,
        "title": "Bytes cached at most, freed after the last reader, against every block's output",
        "command": "python benchmarks/cache.py",
        "pipe": "sd15, sdxl (meta)",
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "options": {"dtype": "float16", "batch": 2},
        "rows": [row for name in ("sd15", "sdxl") for granularity in ("stage", "layer") for row in rows(name, granularity)],
    }
    report.save(record, RESULTS / "cache.json")
    Console().print(report.table(record))


if __name__ == "__main__":
    main()
