"""How far the time that `prune --cost ms` says is kept is the time that a student takes.

    python benchmarks/milliseconds.py [emoji-sd] [emoji-dit] [sd15]     writes results/milliseconds.json, on an idle machine

Which layers go is chosen at random, as each set is as good a question as another: what is kept by the sum of the layers' times
stands beside teacher and student timed in turns, a call of one image's denoiser each, and beside the MACs. sd15 is the
full-size U-Net with random weights, at 64² latents.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from torch import nn

from secateur import drop_layers, zoo
from secateur.denoiser import macs
from secateur.denoiser.families import dummy_inputs
from secateur.measuring import records, report, timing
from secateur.measuring.hardware import hardware
from secateur.pipeline.pipes import component
from secateur.pruning import planning
from secateur.pruning.scoring import costed

RESULTS = Path(__file__).parents[1] / "results"
NAMES, KEEPS, SETS, CALLS, REPEATS = ("emoji-sd", "emoji-dit", "sd15"), (0.7, 0.5), 3, 5, 9


def denoiser_of(name: str) -> nn.Module:
    """The denoiser of a pipe of the zoo, or the full-size one."""
    if name in zoo.NAMES:
        return component(zoo.load(name))
    torch.manual_seed(0)
    return UNet2DConditionModel.from_config(macs.denoiser_config(name)).eval()


def caller(denoiser: nn.Module) -> Callable[[], Any]:
    """A call for one image."""
    inputs = dummy_inputs(denoiser)
    return torch.inference_mode()(lambda: denoiser(**inputs))


def rows(name: str) -> Iterator[dict[str, Any]]:
    """A row for each budget and random set."""
    teacher = denoiser_of(name)
    call = caller(teacher)
    call()
    costs = planning.with_times(costed(teacher), teacher, run=lambda: [call() for _ in range(CALLS)])
    for keep in KEEPS:
        for seed in range(SETS):
            losses = np.random.default_rng(seed).random((len(costs.layers), 1))
            plan = planning.planned(replace(costs, losses=losses), keep=keep, cost="ms", method="greedy")
            student = drop_layers(teacher, plan)
            times = timing.time_together({"teacher": call, "student": caller(student)}, repeats=REPEATS)
            faster = timing.speedup(times["teacher"], times["student"])
            row = {"name": f"{name}, {keep:g} asked, set {seed}", "denoiser": name, "keep_ms": plan.made["kept"]}
            timed, high, low = (1 / x for x in faster)
            print(f"{row['name']}: {row['keep_ms']:.3f} by the layers' times, {timed:.3f} timed", flush=True)
            yield row | {
                "keep_timed": timed,
                "keep_timed_quartiles": [low, high],
                "keep_macs": macs.count(student).call() / macs.count(teacher).call(),
                "latency_s": times["teacher"].as_json(),
                "removed": len(plan.layers),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=" or ".join(NAMES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if wrong := sorted(set(args.names) - set(NAMES)):
        parser.error(f"there is no {wrong[0]} here: choose {', '.join(NAMES)}")
    path = args.results / "milliseconds.json"
    found = [row for row in records.load(path)["rows"] if row["denoiser"] not in args.names] if path.exists() else []
    record = {
        "format": 1,
        "title": "What is kept of a call's time: by the sum of layers' times, and timed",
        "command": "python benchmarks/milliseconds.py",
        "pipe": "emoji-sd, emoji-dit, sd15 with random weights",
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "options": {"keep": KEEPS, "sets": SETS, "calls": CALLS, "repeats": REPEATS},
        "rows": found,
    }
    for name in args.names:
        found.extend(rows(name))
        report.save(record, path)
    Console(width=120).print(report.table(record))


if __name__ == "__main__":
    main()
