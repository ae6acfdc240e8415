"""Pruning in depth at full size, with random weights: score, solve, cut, save, load, and one update of distillation.

    python benchmarks/fullsize_depth.py sd15 [--side 64] [--tuples 1]     adds to results/fullsize-depth.json
    python benchmarks/fullsize_depth.py sdxl [--side 32] [--tuples 1]

The teacher is in bfloat16, the student learns in float32 under bfloat16 autocast with gradient checkpointing. What it
takes does not ask for trained weights; which layers go does, and is not recorded. Memory is what a
phase adds at most to what was there.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from rich.console import Console

from secateur.denoiser import macs
from secateur.denoiser.families import dummy_inputs
from secateur.distilling.settings import DistilSettings
from secateur.distilling.training import distil_steps
from secateur.measuring import records, report
from secateur.measuring.hardware import hardware
from secateur.measuring.memory import peak_memory
from secateur.pipeline.examples import Examples
from secateur.pruning import planning
from secateur.pruning.scoring import output_loss
from secateur.pruning.surgery import drop_layers, parameters

RESULTS = Path(__file__).parents[1] / "results"
KEEPS = {"sd15": 0.5, "sdxl": 0.3}  # AdamW takes 16 bytes a parameter: of SDXL's half that is 20 GB beside a teacher of 5
SIDES, TUPLES = {"sd15": 64, "sdxl": 32}, {"sd15": 1, "sdxl": 1}
ONE_UPDATE = DistilSettings(updates=1, batch_size=1, mixed_precision="bf16", checkpointing=True, ema=None)


def teacher_of(name: str) -> UNet2DConditionModel:
    """The full-size U-Net with random weights, bfloat16."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        return UNet2DConditionModel.from_config(macs.denoiser_config(name)).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def examples_of(teacher: UNet2DConditionModel, side: int) -> Examples:
    """Two samples of noise, with the conditions that this U-Net takes."""
    given = dummy_inputs(teacher, batch=2, size=side)
    latents, _ = given.pop("sample"), given.pop("timestep")
    return Examples(torch.randn(latents.shape), {name: filled(value) for name, value in given.items()})


def filled(value: Any) -> Any:
    """Noise for the zeros of a nest of tensors."""
    return {k: filled(v) for k, v in value.items()} if isinstance(value, dict) else torch.randn(value.shape)


class Clock:
    """Phases with their seconds and peak memory, as rows of a record."""

    def __init__(self, name: str):
        self.name, self.rows = name, list[dict[str, Any]]()

    def phase(self, label: str, run: Callable[[], Any], **more: Any) -> Any:
        """What `run` gives; a row is added."""
        found, start = [], time.perf_counter()
        peak = peak_memory(lambda: found.append(run()))
        row = {"name": f"{self.name}, {label}", "seconds": time.perf_counter() - start, "peak_memory_bytes": peak.peak_bytes}
        self.rows.append(row | {"process_peak_bytes": 1024 * getrusage(RUSAGE_SELF).ru_maxrss} | more)
        print(f"{row['name']:28s} {row['seconds']:8.1f} s {peak.peak_bytes / 2**30:6.2f} GiB", flush=True)
        return found[0]


def phases(name: str, side: int, tuples: int) -> list[dict[str, Any]]:
    """The whole way, phase by phase."""
    clock, scheduler = Clock(name), DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    teacher = clock.phase("random weights", lambda: teacher_of(name))
    examples, options = examples_of(teacher, side), {"latent_side": side, "tuples": tuples}
    scores = clock.phase("score", lambda: scored(teacher, examples, scheduler, tuples), **options)
    plan = clock.phase("solve", lambda: planning.planned(scores, keep=KEEPS[name]), layers=len(scores.layers))
    student = clock.phase("cut", lambda: drop_layers(teacher, plan), removed=len(plan.layers))
    clock.rows[-1]["keep"] = parameters(student) / parameters(teacher)
    student = from_disk(clock, student)
    steps = distil_steps(teacher, student.train(), examples, scheduler, settings=ONE_UPDATE)
    clock.phase("one update", lambda: [step.total for step in steps], batch_size=1, **options)
    return clock.rows


def from_disk(clock: Clock, student: torch.nn.Module) -> Any:
    """The student saved and loaded again, in float32."""
    with tempfile.TemporaryDirectory() as folder:
        clock.phase("save", lambda: student.save_pretrained(folder))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        return clock.phase("load", lambda: type(student).from_pretrained(folder, dtype=torch.float32), disk_bytes=size)


def scored(teacher, examples: Examples, scheduler, tuples: int):
    *_, last = output_loss(teacher, examples, scheduler, samples=tuples, batch_size=1)
    return last.scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SIDES)
    parser.add_argument("--side", type=int, help="of the latents")
    parser.add_argument("--tuples", type=int)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    side, tuples = args.side or SIDES[args.name], args.tuples or TUPLES[args.name]
    path = args.results / "fullsize-depth.json"
    others = [row for row in records.load(path)["rows"] if row["denoiser"] != args.name] if path.exists() else []
    rows = [row | {"denoiser": args.name} for row in phases(args.name, side, tuples)]
    record = {
        "format": 1,
        "title": "Pruning in depth at full size (random weights)",
        "command": "python benchmarks/fullsize_depth.py sd15; python benchmarks/fullsize_depth.py sdxl",
        "pipe": "random weights",
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "options": {"keep": KEEPS, "teacher": "bfloat16", "student": "float32, bfloat16 autocast, gradient checkpointing"},
        "rows": [*others, *rows],
    }
    report.save(record, path)
    Console(width=120).print(report.table(record))


if __name__ == "__main__":
    main()
