"""Pruning in depth at full size: `fullsize-depth`, phase by phase with random weights; `milliseconds`, a call's that are kept.

Scoring, solving, cutting, saving, loading and one update of distillation; and in random sets of layers what the sum of layers'
times says is kept, beside the student's time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn

from secateur import drop_layers, zoo
from secateur.denoiser import macs
from secateur.denoiser.families import dummy_inputs
from secateur.distilling.settings import DistilSettings
from secateur.distilling.training import distil_steps
from secateur.measuring import timing
from secateur.measuring.memory import peak_memory
from secateur.pipeline.examples import Examples
from secateur.pipeline.pipes import component
from secateur.pruning import planning
from secateur.pruning.scoring import costed, output_loss
from secateur.pruning.surgery import parameters
from studies.full_size import measured_with, random_unet
from study import Job, Row, Run, Study

KEEPS = {"sd15": 0.5, "sdxl": 0.3}  # AdamW takes 16 bytes a parameter: of SDXL's half that is 20 GB beside a teacher of 5
SIDES = {"sd15": 64, "sdxl": 32}
ONE_UPDATE = DistilSettings(updates=1, batch_size=1, mixed_precision="bf16", checkpointing=True, ema=None)


def depth_jobs(run: Run) -> Iterator[Job]:
    """The teacher is in bfloat16; the student learns in float32 under bfloat16 autocast with gradient checkpointing."""
    for name in SIDES:
        yield Job(name, partial(phases, name, tuples=run.options["tuples"]), last=f"{name}, one update")


def phases(name: str, *, tuples: int) -> list[Row]:
    """The whole way, phase by phase. Memory is what a phase adds at most to what was there."""
    rows, scheduler, side = list[Row](), DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False), SIDES[name]
    phase = partial(clocked, rows, name)
    teacher = phase("random weights", lambda: random_unet(name, dtype=torch.bfloat16).requires_grad_(False))
    examples, options = noise_examples(teacher, side), {"latent_side": side, "tuples": tuples}
    score = partial(output_loss, teacher, examples, scheduler, samples=tuples, batch_size=1)
    scores = phase("score", lambda: list(score())[-1].scores, **options)
    plan = phase("solve", lambda: planning.planned(scores, keep=KEEPS[name]), layers=len(scores.layers))
    student = phase("cut", lambda: drop_layers(teacher, plan), removed=len(plan.layers))
    rows[-1]["keep"] = parameters(student) / parameters(teacher)
    with tempfile.TemporaryDirectory() as folder:
        phase("save", partial(student.save_pretrained, folder))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        load = partial(type(student).from_pretrained, folder, dtype=torch.float32)
        student = phase("load", load, disk_bytes=size)
    steps = distil_steps(teacher, student.train(), examples, scheduler, settings=ONE_UPDATE)
    phase("one update", lambda: [step.total for step in steps], batch_size=1, **options)
    return rows


def clocked(rows: list[Row], name: str, label: str, run: Callable[[], Any], **more: Any) -> Any:
    """What `run` gives; a row with its seconds and peak memory is added."""
    results, start = [], time.perf_counter()
    peak = peak_memory(lambda: results.append(run()))
    process = 1024 * getrusage(RUSAGE_SELF).ru_maxrss
    cost = {"seconds": time.perf_counter() - start, "peak_memory_bytes": peak.peak_bytes, "process_peak_bytes": process}
    rows.append({"name": f"{name}, {label}", **cost, **more, "denoiser": name})
    return results[0]


def noise_examples(teacher: UNet2DConditionModel, side: int) -> Examples:
    """Two samples of noise, with the conditions that this U-Net takes."""
    given = dummy_inputs(teacher, batch=2, size=side)
    latents, _ = given.pop("sample"), given.pop("timestep")
    return Examples(torch.randn(latents.shape), {name: filled(value) for name, value in given.items()})


def filled(value: Any) -> Any:
    """Noise for the zeros of a nest of tensors."""
    return {k: filled(v) for k, v in value.items()} if isinstance(value, dict) else torch.randn(value.shape)


# Milliseconds kept

TIMED, MS_KEEPS, SETS, TIMED_CALLS, REPEATS = ("emoji-sd", "emoji-dit", "sd15"), (0.7, 0.5), 3, 5, 9


def millisecond_jobs(run: Run) -> Iterator[Job]:
    """Random sets of layers at each budget: the sum of the layers' times, beside teacher and student timed in turns."""
    known = cache(teacher_and_costs)
    for name in TIMED:
        for keep in MS_KEEPS:
            for number in range(SETS):
                row = f"{name}, {keep:g} asked, set {number}"
                yield Job(row, partial(millisecond_rows, known, name, row, keep=keep, seed=number))


def teacher_and_costs(name: str) -> tuple[nn.Module, Callable[[], Any], Any]:
    """The denoiser of a pipe of the zoo, or a full-size one, a call for one image, and its layers with their times."""
    teacher = component(zoo.load(name)) if name in zoo.NAMES else random_unet(name)
    call = caller(teacher)
    call()
    return teacher, call, planning.with_times(costed(teacher), teacher, run=lambda: [call() for _ in range(TIMED_CALLS)])


def caller(denoiser: nn.Module) -> Callable[[], Any]:
    inputs = dummy_inputs(denoiser)
    return torch.inference_mode()(lambda: denoiser(**inputs))


def millisecond_rows(known: Callable[[str], Any], name: str, row: str, *, keep: float, seed: int) -> list[Row]:
    """What is kept of a call's time by the sum of layers' times, by the clock, and by MACs."""
    teacher, call, costs = known(name)
    losses = np.random.default_rng(seed).random((len(costs.layers), 1))
    plan = planning.planned(replace(costs, losses=losses), keep=keep, cost="ms", method="greedy")
    student = drop_layers(teacher, plan)
    times = timing.time_together({"teacher": call, "student": caller(student)}, repeats=REPEATS)
    median, high, low = (1 / x for x in timing.speedup(times["teacher"], times["student"]))
    return [
        {
            "name": row,
            "denoiser": name,
            "keep_ms": plan.made["kept"],
            "keep_timed": median,
            "keep_timed_quartiles": [low, high],
            "keep_macs": macs.count(student).call() / macs.count(teacher).call(),
            "latency_s": times["teacher"].as_json(),
            "removed": len(plan.layers),
        }
    ]


STUDIES = (
    Study(
        "fullsize-depth",
        "Pruning in depth at full size (random weights)",
        depth_jobs,
        options={"tuples": 1},
        settings=measured_with(lambda options: {"keep": KEEPS, "teacher": "bfloat16"}, pipe="random weights"),
    ),
    Study(
        "milliseconds",
        "What is kept of a call's time: by the sum of layers' times, and timed",
        millisecond_jobs,
        settings=measured_with(
            lambda options: {"keep": MS_KEEPS, "sets": SETS, "calls": TIMED_CALLS, "repeats": REPEATS},
            pipe="emoji-sd, emoji-dit, sd15 with random weights",
        ),
    ),
)
