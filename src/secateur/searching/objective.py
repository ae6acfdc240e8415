"""Objective: how near a pipe's images come to target images under a schedule, in dB. A search raises it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateur.artifact import check_word
from secateur.denoiser import fingerprint
from secateur.denoiser.blocks import Blocks
from secateur.measuring import quality
from secateur.measuring.quality import check_finite
from secateur.pipeline import schedulers
from secateur.pipeline.generate import generate
from secateur.pipeline.trajectory import Trajectory
from secateur.schedule.apply import apply
from secateur.schedule.schedule import Schedule
from secateur.searching.memo import NOTHING, Memo, content_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FEW = 8  # images in a part at least: fewer do not tell a gain's spread (ours)
CAP_DB = 100.0  # an image equal to its target is infinitely near, and no mean survives that (ours)
STEPS = ("num_inference_steps", "timesteps", "sigmas")  # the arguments that set a pipe's steps


@dataclass(frozen=True, eq=False)
class Objective:
    """`objective(schedule)` is the mean PSNR in dB of a pipe's images to `target`, each at most 100; higher is better.

    conditions, seeds: B prompts or class labels, and a seed for each. target: (B, H, W, 3) float32 in [0, 1]. options: the
    pipe's other arguments. blocks: the denoiser's; traced anew for every schedule if not given. memo: of what was
    measured before. The scheduler is the one that the pipe has when the objective is called.
    """

    pipe: DiffusionPipeline
    conditions: tuple[Any, ...]
    seeds: tuple[int, ...]
    target: np.ndarray
    options: Mapping[str, Any]
    batch_size: int = 8
    blocks: Blocks | None = None
    memo: Memo = NOTHING

    def __post_init__(self):
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        counts = len(self.conditions), len(self.seeds), len(self.target)
        if len(set(counts)) > 1 or not counts[0]:
            raise ValueError("found {} conditions, {} seeds and {} target images: give equally many".format(*counts))
        check_finite(self.target, "the target images")

    def __call__(self, schedule: Schedule) -> float:
        """Mean dB under a schedule, see `each`."""
        return float(self.each(schedule).mean())

    def each(self, schedule: Schedule) -> np.ndarray:
        """dB of each image under a schedule, (B,).

        Raises ValueError if the schedule does not fit the pipe, NotFiniteError if the images are not finite.
        """

        def measure() -> dict[str, torch.Tensor]:
            with apply(self.pipe, schedule, blocks=self.blocks):
                images = generate(self.pipe, self.conditions, seeds=self.seeds, batch_size=self.batch_size, **self.options)
            check_finite(images, "the images under the schedule")
            return {"db": torch.from_numpy(np.minimum(quality.psnr(images, self.target), CAP_DB))}

        return self.memo("schedule", [content_of(schedule), self.seeds, self.target_hash], measure)["db"].numpy()

    @cached_property
    def target_hash(self) -> str:
        """A hash of the target images."""
        return fingerprint.of_values(torch.from_numpy(self.target))

    def parts(self) -> tuple[Objective, ...]:
        """The same objective on some of the images each: a batch of them, but FEW at least."""
        size = max(self.batch_size, FEW)
        cuts = [slice(start, start + size) for start in range(0, len(self.seeds), size)]
        return tuple(
            replace(self, conditions=self.conditions[cut], seeds=self.seeds[cut], target=self.target[cut]) for cut in cuts
        )


def objective_for(pipe: DiffusionPipeline, trajectory: Trajectory, *, target: str, **options: Any) -> Objective:
    """Nearness to the "dense" images of a trajectory, whose own discretisation error counts as right, or to "converged" ones.

    Compare only samplers that start at the same noise with those: linspace spacing starts at the last training timestep, 999
    of 1000; leading spacing, which many pipes come with, does not. options: batch_size, blocks and memo, see `Objective`.
    Raises ValueError if there is no such target.
    """
    check_target(target)
    t = trajectory
    dense = Objective(pipe, t.conditions, t.seeds, t.images, t.options, **options)
    return dense if target == "dense" else more_for(dense, t.conditions, t.seeds, target=target)[0]()


def more_for(
    objective: Objective, conditions: Sequence[Any], seeds: Sequence[int], *, target: str
) -> list[Callable[[], Objective]]:
    """Functions that make the same objective on these images, in sets as large as its own; an incomplete set is left out."""
    size = len(objective.seeds)

    def make(start: int) -> Objective:
        some, part = conditions[start : start + size], seeds[start : start + size]
        draw = partial(TARGETS[target], objective.pipe, some, seeds=part, batch_size=objective.batch_size, **objective.options)
        images = objective.memo("target", [target, tuple(part)], lambda: {"images": torch.from_numpy(draw())})["images"]
        return replace(objective, conditions=tuple(some), seeds=tuple(part), target=images.numpy())

    return [partial(make, start) for start in range(0, len(seeds) - size + 1, size)]


def check_target(target: str) -> None:
    """Raises ValueError if there is no target of this name."""
    check_word("target", target, TARGETS)


def converged(
    pipe: DiffusionPipeline, conditions: Sequence[Any], *, seeds: Sequence[int], steps: int = 100, **call: Any
) -> np.ndarray:
    """The images of `generate` with `steps` steps of the `converging` scheduler; steps in `call` are ignored."""
    options = {k: v for k, v in call.items() if k not in STEPS} | {"num_inference_steps": steps}
    with schedulers.scheduled(pipe, *converging(pipe)):
        return generate(pipe, conditions, seeds=seeds, **options)


def converging(pipe: DiffusionPipeline) -> tuple[str | None, Mapping[str, Any]]:
    """Class and options of the scheduler that many steps converge with, for `schedulers.scheduled`; None: the pipe's class.

    DPM-Solver++ 2M from the noisiest training timestep on; for flow matching the pipe's own scheduler.
    """
    return schedulers.SOLVERS["DPM-Solver++"] if "beta_schedule" in pipe.scheduler.config else (None, {})


TARGETS: dict[str, Callable[..., np.ndarray]] = {"dense": generate, "converged": converged}  # name: draws the images
