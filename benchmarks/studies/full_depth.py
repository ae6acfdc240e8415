"""Pruning in depth at full size: `fullsize-depth`, phase by phase with random weights; `milliseconds`, what of a call's time is
kept by the sum of layers' times, beside the student's time, for random sets of layers."""

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
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from secateur import DistilSettings, Examples, count, distil_steps, drop_layers, output_loss, planned, zoo
from secateur.denoiser.families import dummy_inputs
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring.memory import peak_memory
from secateur.measuring.timing import speedup, time_together
from secateur.pruning.planning import with_times
from secateur.pruning.scoring import costed
from secateur.pruning.surgery import parameters
from studies.full_size import random_unet
from study import Job, Row, Run, Study

KEEPS = {"sd15": 0.5, "sdxl": 0.3}  # AdamW takes 16 bytes a parameter: of SDXL's half that is 20 GB beside a teacher of 5
SIDES = {"sd15": 64, "sdxl": 32}
ONE_UPDATE = DistilSettings(updates=1, batch_size=1, mixed_precision="bf16", checkpointing=True, ema=None)


def depth_jobs(run: Run) -> Iterator[Job]:
    """The teacher is in bfloat16; the student learns in float32 under bfloat16 autocast with gradient checkpointing."""
    for name in SIDES:
        yield Job(name, partial(phases, name), last=f"{name}, one update")


def phases(name: str) -> list[Row]:
    """The whole way, phase by phase. Memory is what a phase adds at most to what was there."""
    rows, scheduler, side = list[Row](), DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False), SIDES[name]
    phase = partial(clocked, rows, name)
    teacher = phase("random weights", lambda: random_unet(name, dtype=torch.bfloat16).requires_grad_(False))
    given = tree_map_only(Tensor, lambda x: torch.randn(x.shape), dummy_inputs(teacher, batch=2, size=side))
    examples = Examples(given.pop("sample"), {key: value for key, value in given.items() if key != "timestep"})
    options = {"latent_side": side, "tuples": 1}
    score = partial(output_loss, teacher, examples, scheduler, samples=1, batch_size=1)
    scores = phase("score", lambda: list(score())[-1].scores, **options)
    plan = phase("solve", lambda: planned(scores, keep=KEEPS[name]), layers=len(scores.layers))
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
    cost = {"seconds": time.perf_counter() - start, "peak_memory_bytes": peak.peak_bytes}
    cost["process_peak_bytes"] = 1024 * getrusage(RUSAGE_SELF).ru_maxrss
    rows.append({"name": f"{name}, {label}", **cost, **more, "denoiser": name})
    return results[0]


# Milliseconds kept

TIMED, MS_KEEPS, SETS, TIMED_CALLS, REPEATS = ("emoji-sd", "emoji-dit", "sd15"), (0.7, 0.5), 3, 5, 9


def millisecond_jobs(run: Run) -> Iterator[Job]:
    """Random sets of layers at each budget: the sum of the layers' times, beside teacher and student timed in turns."""
    known = cache(teacher_and_costs)
    for name in TIMED:
        for keep in MS_KEEPS:
            for number in range(SETS):
                make = partial(millisecond_row, known, name, keep=keep, seed=number)
                yield Job(f"{name}, {keep:g} asked, set {number}", make)


def teacher_and_costs(name: str) -> tuple[nn.Module, Callable[[], Any], Any]:
    """The denoiser of a pipe of the zoo, or a full-size one, a call for one image, and its layers with their times."""
    teacher = denoiser_of(zoo.load(name)) if name in zoo.NAMES else random_unet(name)
    (call := caller(teacher))()
    return teacher, call, with_times(costed(teacher), teacher, run=lambda: [call() for _ in range(TIMED_CALLS)])


def caller(denoiser: nn.Module) -> Callable[[], Any]:
    inputs = dummy_inputs(denoiser)
    return torch.inference_mode()(lambda: denoiser(**inputs))


def millisecond_row(known: Callable[[str], Any], name: str, *, keep: float, seed: int) -> Row:
    """What is kept of a call's time by the sum of layers' times, by the clock, and by MACs."""
    teacher, call, costs = known(name)
    losses = np.random.default_rng(seed).random((len(costs.layers), 1))
    plan = planned(replace(costs, losses=losses), keep=keep, cost="ms", method="greedy")
    student = drop_layers(teacher, plan)
    times = time_together({"teacher": call, "student": caller(student)}, repeats=REPEATS)
    median, high, low = (1 / x for x in speedup(times["teacher"], times["student"]))
    kept = {"keep_ms": plan.made["kept"], "keep_timed": median, "keep_timed_quartiles": [low, high]}
    kept["keep_macs"] = count(student).call() / count(teacher).call()
    return {"denoiser": name, **kept, "latency_s": times["teacher"].as_json(), "removed": len(plan.layers)}


HEAD = {"pipe": "random weights", "options": {"keep": KEEPS, "teacher": "bfloat16"}}
MS_OPTIONS = {"keep": MS_KEEPS, "sets": SETS, "calls": TIMED_CALLS, "repeats": REPEATS}
MS_HEAD = {"pipe": "emoji-sd, emoji-dit, sd15 with random weights", "options": MS_OPTIONS}
MS = "What is kept of a call's time: by the sum of layers' times, and timed"
STUDIES = (
    Study("fullsize-depth", "Pruning in depth at full size (random weights)", depth_jobs, head=HEAD),
    Study("milliseconds", MS, millisecond_jobs, head=MS_HEAD),
)
