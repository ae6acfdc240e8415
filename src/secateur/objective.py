"""Objective: how near a pipe's images come to target images under a schedule, in dB: what searches that try schedules raise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur import pipes, quality
from secateur.blocks import Blocks
from secateur.calibration import Trajectory, generate
from secateur.macs import Macs
from secateur.schedule import Schedule
from secateur.solve import budget
from secateur.subnet import apply

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

DOUBT = 2.0  # ours
CAP_DB = 100.0  # ours: an image equal to its target is infinitely near, and no mean survives that
STEPS = ("num_inference_steps", "timesteps", "sigmas")  # how a pipe is told them


@dataclass(frozen=True, eq=False)
class Objective:
    """`objective(schedule)` is the mean PSNR in dB of a pipe's images to `target`, each at most 100; higher is better.

    conditions, seeds: B prompts or class labels, and a seed for each. target: (B, H, W, 3) float32 in [0, 1]. options: the
    pipe's other arguments. blocks: the denoiser's, traced anew for every schedule where not given. The scheduler is the
    one that the pipe has when it is asked.
    """

    pipe: DiffusionPipeline
    conditions: tuple[Any, ...]
    seeds: tuple[int, ...]
    target: np.ndarray
    options: Mapping[str, Any]
    batch_size: int = 8
    blocks: Blocks | None = None

    def __post_init__(self):
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        counts = len(self.conditions), len(self.seeds), len(self.target)
        if len(set(counts)) > 1 or not counts[0]:
            raise ValueError("found {} conditions, {} seeds and {} target images: give as many of each".format(*counts))
        check_finite(self.target, "the target images")

    def __call__(self, schedule: Schedule) -> float:
        """Mean dB under a schedule, see `each`."""
        return float(self.each(schedule).mean())

    def each(self, schedule: Schedule) -> np.ndarray:
        """dB of each image under a schedule, (B,); ValueError where it does not fit, or where what comes out is not finite."""
        with apply(self.pipe, schedule, blocks=self.blocks):
            images = generate(self.pipe, self.conditions, seeds=self.seeds, batch_size=self.batch_size, **self.options)
        check_finite(images, "the images under the schedule")
        return np.minimum(quality.psnr(images, self.target), CAP_DB)


@dataclass(eq=False)
class Surely:
    """An objective that rises only where the images get nearer beyond doubt, for searches that try many schedules on few.

    The first schedule is worth its mean dB. A later one is worth more than the best only where its gain, image by image, is
    above DOUBT standard errors; among many trials on few images, some look better by chance (ours).
    """

    objective: Objective
    best: np.ndarray | None = None

    def __call__(self, schedule: Schedule) -> float:
        found = self.objective.each(schedule)
        if self.best is None or surely_more(found - self.best):
            self.best = found
        return float(min(found.mean(), self.best.mean()))


def surely_more(gains: np.ndarray) -> bool:
    """Whether the mean of paired gains, (B,), is above 0 by DOUBT standard errors; of one image, whether it is above 0."""
    error = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return bool(gains.mean() > DOUBT * error)


def to_dense(
    pipe: DiffusionPipeline, trajectory: Trajectory, *, batch_size: int = 8, blocks: Blocks | None = None
) -> Objective:
    """Nearness to the images of a dense trajectory: the discretisation error that it has itself counts as right."""
    made = trajectory
    return Objective(pipe, made.conditions, made.seeds, made.images, made.options, batch_size=batch_size, blocks=blocks)


def to_converged(
    pipe: DiffusionPipeline,
    trajectory: Trajectory,
    *,
    steps: int = 100,
    batch_size: int = 8,
    blocks: Blocks | None = None,
) -> Objective:
    """Nearness to the images of `steps` steps of DPM-Solver++ 2M from a trajectory's seeds, whatever its own sampler was.

    Of the pipe's own scheduler for flow matching. Compare samplers that start at the same noise: linspace spacing starts at
    the last training timestep, 999 of 1000, and leading spacing, which many pipes come with, does not.
    """
    near = to_dense(pipe, trajectory, batch_size=batch_size, blocks=blocks)
    call = {k: v for k, v in near.options.items() if k not in STEPS} | {"num_inference_steps": steps}
    with pipes.scheduled(pipe, *converging(pipe)):
        target = generate(pipe, near.conditions, seeds=near.seeds, batch_size=batch_size, **call)
    return replace(near, target=target)


def converging(pipe: DiffusionPipeline) -> tuple[str | None, Mapping[str, Any]]:
    """Class and options of the scheduler that many steps of converge, for `pipes.scheduled`; None for the pipe's own class.

    DPM-Solver++ 2M from the noisiest training timestep on, where the denoiser predicts noise.
    """
    return pipes.SOLVERS["DPM-Solver++"] if "beta_schedule" in pipe.scheduler.config else (None, {})


def check_finite(images: np.ndarray, what: str) -> None:
    """Nothing; ValueError where a pixel is NaN or infinite."""
    wrong = sum(not np.isfinite(image).all() for image in images)
    if wrong:
        raise ValueError(f"{wrong} of {len(images)} of {what} are not finite, so use a wider dtype or another schedule")


def budget_macs(macs: Macs, calls: int, *, keep: float, attention: bool = False) -> int:
    """MACs that a schedule may take: the fraction `keep` of `calls` dense calls, as it is written (0.2 of 50 is 10).

    Compare with `Macs.of(schedule)`: a schedule that chooses its timesteps has as many calls as it likes.
    """
    return budget([macs.call(attention=attention)] * calls, keep=keep, rest=0)
