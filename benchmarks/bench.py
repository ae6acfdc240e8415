"""A pipe of the zoo, what it is searched with, and the images that it is measured on; `Bench.measured` makes rows."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from secateur import FAMILIES, Macs, Schedule, Trajectory, count, record, zoo
from secateur.measuring import compare, quality, timing
from secateur.measuring.memory import peak_memory
from secateur.pipeline import schedulers
from secateur.pruning.surgery import parameters
from secateur.searching.objective import Objective, objective_for
from study import Row

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 128 if DEVICE == "cuda" else 32  # images drawn at once
FIRST_SEED, SEARCH_SEED = 50_000, 40_000
torch.backends.cudnn.allow_tf32 = False  # its rounding is worth 60 dB
CONVERGED = 100, *schedulers.SOLVERS["DPM-Solver++"]
NONE: Mapping[str, Any] = MappingProxyType({})
DENOISERS = {"emoji-sd": "unet", "emoji-dit": "transformer"}


@cache
def counted(name: str, granularity: str | None = None) -> Macs:
    """MACs of a pipe's denoiser, from its configuration alone."""
    return count(json.loads((zoo.folder(name) / DENOISERS[name] / "config.json").read_text()), granularity)


def faster(slow: timing.Timing, fast: timing.Timing, **more: Any) -> Row:
    """A speed-up as a row has it."""
    return dict(zip(("median", "low", "high"), timing.speedup(slow, fast), strict=True)) | more


def kept(teacher: Any, student: Any) -> float:
    """The fraction of its parameters that a denoiser's student keeps."""
    return parameters(student) / parameters(teacher)


def costing(make: Callable[[], Any], *, device: str = DEVICE) -> tuple[Any, Row]:
    """What is made; and the seconds that passed, those of the CPU, and the peak memory beside what was there."""
    there = torch.cuda.memory_allocated(device) if device == "cuda" else 0
    made, start, cpu = [], time.perf_counter(), time.process_time()
    peak = peak_memory(lambda: made.append(make()), device=device)
    seconds = {"s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
    return made[0], seconds | {"peak_memory_bytes": peak.peak_bytes - there}


class Bench:
    """A pipe with so many dense steps. Weights, images and trajectories are loaded or made when they are first needed.

    images: that a row is measured on, of these seeds on. calibration: captions and noises that searches see, others than those.
    """

    def __init__(self, name: str, *, steps=50, images=128, calibration=16, seed=FIRST_SEED):
        self.name, self.steps, self.calibration = name, steps, calibration
        self.conditions, self.captions = zoo.conditions(name, images)
        self.seeds = range(seed, seed + images)
        self.call: dict[str, Any] = {"guidance_scale": zoo.GUIDANCE[name], "batch_size": BATCH}
        self.recorded, self.drawn = dict[int, Trajectory](), dict[Any, np.ndarray]()
        self.macs = counted(name)

    @cached_property
    def pipe(self) -> Any:
        """The pipe, loaded when it is first needed, on the GPU if there is one."""
        return zoo.load(self.name).to(DEVICE)

    @property
    def layers(self) -> Macs:
        """MACs at the finest granularity, at which caches choose."""
        return counted(self.name, list(FAMILIES[self.macs.blocks.denoiser].granularities)[-1])

    def counted(self, schedule: Schedule | None) -> Macs:
        """The MACs at the granularity of a schedule."""
        return self.macs if schedule is None or schedule.blocks == self.macs.blocks.names else self.layers

    def scheduled(self, scheduler: str | None, options: Mapping[str, Any]) -> AbstractContextManager[None]:
        return schedulers.scheduled(self.pipe, scheduler, options)

    @property
    def features(self) -> np.ndarray:
        """What the judge sees in true pictures."""
        return zoo.features(self.captions)

    def draw(self, schedule: Schedule | None = None, *, steps: int = 0, pipe: Any = None) -> np.ndarray:
        """(N, H, W, 3) images of the measured conditions."""
        call = {"seeds": self.seeds, "num_inference_steps": steps or self.steps, **self.call}
        return compare.draw(pipe or self.pipe, schedule, self.conditions, **call)

    def plain(self, steps: int, scheduler: str | None = None, options: Mapping[str, Any] = NONE) -> np.ndarray:
        """Images of plain steps, drawn once."""
        with self.scheduled(scheduler, options):
            if (key := (*schedulers.scheduler_signature(self.pipe.scheduler), steps)) not in self.drawn:
                self.drawn[key] = self.draw(steps=steps)
            return self.drawn[key]

    @property
    def dense(self) -> np.ndarray:
        return self.plain(self.steps)

    def trajectory(self, seed: int) -> Trajectory:
        """The dense calibration trajectory of one search; recorded once."""
        if seed not in self.recorded:
            call = {"seeds": range(seed, seed + self.calibration), "num_inference_steps": self.steps, **self.call}
            seen, _ = zoo.conditions(self.name, self.calibration, calibration=True)
            self.recorded[seed] = record(self.pipe, seen, **call)
        return self.recorded[seed]

    def objective(self, seed: int, target: str = "dense") -> Objective:
        """Nearness to the dense calibration images of one search, or to their converged ones."""
        how = {"target": target, "batch_size": BATCH, "blocks": self.macs.blocks}
        return objective_for(self.pipe, self.trajectory(seed), **how)

    def judged(self, pipe: Any) -> Row:
        """What the judge reads in the images that a pipe draws, and their Fréchet distance."""
        figures = quality.measured(self.draw(pipe=pipe), None, captions=self.captions, features=self.features)
        return {key: figures[key] for key in ("accuracy", "frechet")}

    def measured(
        self, images: np.ndarray, schedule: Schedule | None = None, *, calls=0, dense_calls=0, dense=None, fully=False
    ) -> Row:
        """The cost fields of a row, fractions of so many dense calls; how near images come, and what the judge reads.

        dense: the images of the dense calls, if they are others than the bench's. fully: how near the converged ones, and
        Fréchet, too.
        """
        macs, more = self.counted(schedule), {"converged": self.plain(*CONVERGED), "features": self.features} if fully else {}
        spent = macs.spent(schedule, calls or self.steps, samples=2, whole=(macs, dense_calls or self.steps))
        return {**spent, **quality.measured(images, self.dense if dense is None else dense, captions=self.captions, **more)}
