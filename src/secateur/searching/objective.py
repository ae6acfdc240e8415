"""Objective: how near a pipe's images come to target images under a schedule, in dB: what searches that try schedules raise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.denoiser.blocks import Blocks
from secateur.measuring import quality
from secateur.measuring.quality import NotFiniteError, check_finite
from secateur.pipeline import schedulers
from secateur.pipeline.generate import generate
from secateur.pipeline.trajectory import Trajectory
from secateur.schedule.apply import apply
from secateur.schedule.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

DOUBT = 2.0  # ours
FEW = 8  # images at least from which a gain's spread is told (ours)
NOWHERE_DB = -100.0  # ours: of images that are not finite, where others are
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
        """dB of each image under a schedule, (B,); ValueError where it does not fit, NotFiniteError of what comes out."""
        with apply(self.pipe, schedule, blocks=self.blocks):
            images = generate(self.pipe, self.conditions, seeds=self.seeds, batch_size=self.batch_size, **self.options)
        check_finite(images, "the images under the schedule")
        return np.minimum(quality.psnr(images, self.target), CAP_DB)

    def parts(self) -> tuple[Objective, ...]:
        """The same on some of the images at a time, a batch or FEW of them."""
        size = max(self.batch_size, FEW)
        cuts = [slice(start, start + size) for start in range(0, len(self.seeds), size)]
        return tuple(
            replace(self, conditions=self.conditions[cut], seeds=self.seeds[cut], target=self.target[cut]) for cut in cuts
        )


@dataclass(eq=False)
class Measurement:
    """A schedule, and the dB of each image under it on the sets of images that it was measured on so far."""

    schedule: Schedule
    sets: list[np.ndarray] = field(default_factory=list)


@dataclass(eq=False)
class PairedGain:
    """An objective that rises only where the images get nearer beyond doubt, for searches that try many schedules on few.

    The first schedule is worth its mean dB, and must give finite images. A later one is worth more than the best only where its
    gain, image by image, is above DOUBT standard errors; among many trials on few images, some look better by chance. One that
    is surely worse on part of the images is not measured on the others. Where the gain is less sure, but as large as it takes
    to be sure with all images, both are measured on the next set of `more` (ours).
    more: makers of objectives on as many other images; each is asked once, when first needed. Values are of the first images.
    """

    objective: Objective
    more: Sequence[Callable[[], Objective]] = ()
    best: Measurement | None = None

    def __post_init__(self):
        self.drawn = list(self.objective.parts())
        self.parts = len(self.drawn)  # the others are sets of `more`

    def __call__(self, schedule: Schedule) -> float:
        found = Measurement(schedule)
        try:
            if self.best is None:
                self.on(self.parts - 1, found)
                self.best = found
            elif self.is_better(found, self.best):
                self.best = found
        except NotFiniteError:
            if self.best is None:
                raise
            return NOWHERE_DB
        lost = self.gains(found, self.best, min(len(found.sets), self.parts)).mean()
        return float(np.concatenate(self.best.sets[: self.parts]).mean() + min(0.0, lost))

    def is_better(self, found: Measurement, best: Measurement) -> bool:
        """Whether a schedule is better than the best beyond doubt, on as many images as it takes and there are."""
        for count in range(1, self.parts):
            if is_significant(-self.gains(found, best, count)):
                return False
        most = 1 + len(self.more)
        for sets in range(1, most + 1):
            known = self.gains(found, best, self.parts + sets - 1)
            if is_significant(known):
                return True
            if not is_significant(known, doubt=DOUBT * math.sqrt(sets / most)):
                return False
        return False

    def gains(self, found: Measurement, best: Measurement, count: int) -> np.ndarray:
        """By how many dB a schedule is better than the best, image by image, on so many parts and sets of the images."""
        return np.concatenate([self.on(number, found) - self.on(number, best) for number in range(count)])

    def on(self, number: int, seen: Measurement) -> np.ndarray:
        """dB of each image of one part or set, measured when first asked for."""
        while number >= len(seen.sets):
            place = len(seen.sets)
            if place == len(self.drawn):
                self.drawn.append(self.more[place - self.parts]())
            seen.sets.append(self.drawn[place].each(seen.schedule))
        return seen.sets[number]


def is_significant(gains: np.ndarray, *, doubt: float = DOUBT) -> bool:
    """Whether the mean of paired gains, (B,), is above 0 by `doubt` standard errors; of one image, whether it is above 0."""
    error = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return bool(gains.mean() > doubt * error)


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
    target = converged(pipe, near.conditions, seeds=near.seeds, batch_size=batch_size, steps=steps, **near.options)
    return replace(near, target=target)


def converged(
    pipe: DiffusionPipeline, conditions: Sequence[Any], *, seeds: Sequence[int], steps: int = 100, **call: Any
) -> np.ndarray:
    """`generate` with `steps` steps of the scheduler that many steps of converge, whatever `call` says of steps."""
    asked = {k: v for k, v in call.items() if k not in STEPS} | {"num_inference_steps": steps}
    with schedulers.scheduled(pipe, *converging(pipe)):
        return generate(pipe, conditions, seeds=seeds, **asked)


def elsewhere(
    objective: Objective, conditions: Sequence[Any], seeds: Sequence[int], *, draw: Callable[..., np.ndarray] = generate
) -> list[Callable[[], Objective]]:
    """Makers of the same objective on other images, in sets of as many as it has, for `PairedGain`; a rest is left out.

    draw: makes the target images, `generate` or `converged`.
    """
    size = len(objective.seeds)

    def made(start: int) -> Objective:
        asked, part = conditions[start : start + size], seeds[start : start + size]
        target = draw(objective.pipe, asked, seeds=part, batch_size=objective.batch_size, **objective.options)
        return replace(objective, conditions=tuple(asked), seeds=tuple(part), target=target)

    return [partial(made, start) for start in range(0, len(seeds) - size + 1, size)]


def converging(pipe: DiffusionPipeline) -> tuple[str | None, Mapping[str, Any]]:
    """Class and options of the scheduler that many steps of converge, for `pipes.scheduled`; None for the pipe's own class.

    DPM-Solver++ 2M from the noisiest training timestep on, where the denoiser predicts noise.
    """
    return schedulers.SOLVERS["DPM-Solver++"] if "beta_schedule" in pipe.scheduler.config else (None, {})
