"""The error model: what a call's update from any noise level to any other costs, for each way of holding; measured once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from secateur.denoiser.blocks import Blocks
from secateur.pipeline import schedulers
from secateur.pipeline.solvers import corrects, is_free
from secateur.pipeline.trajectory import Trajectory, record
from secateur.schedule import baselines
from secateur.schedule.apply import apply
from secateur.schedule.holds import HOLDS
from secateur.searching import ladder as ladders
from secateur.searching.sensitivity import sensitivity

if TYPE_CHECKING:
    import numpy as np
    from diffusers import DiffusionPipeline

LEVELS = 40  # for each of two spacings: linspace is dense early, Karras late (ours)


class ErrorModel(NamedTuple):
    """One way of holding calls: its ladder, and how much an error at each level counts, (G + 1,). name: of that weighting."""

    hold: str
    name: str
    ladder: ladders.Ladder
    weights: np.ndarray


def error_models(
    pipe: DiffusionPipeline, trajectory: Trajectory, *, blocks: Blocks, whole_calls: int, batch_size: int
) -> Iterator[ErrorModel]:
    """An ErrorModel for every way of holding and every weighting; takes a few dense images a sample.

    trajectory: over the levels that calls are chosen among, see `record_levels`. whole_calls: dense calls in the budget.
    """
    if is_free(pipe.scheduler):
        by_hold = {"output": ladders.free(trajectory, pipe.scheduler)}
    else:
        by_hold = {hold: ladders.held(trajectory, pipe.scheduler, hold=hold) for hold in HOLDS}
    ladder = by_hold["output"]
    gap = max(2, len(ladder) // whole_calls)
    with predictor_alone(pipe):
        in_images = sensitivity(pipe, trajectory, ladder, blocks=blocks, gap=gap, batch_size=batch_size)
    in_latents = ladders.in_latents(ladder)
    weightings = {"latents": in_latents, "images": in_images, "between": (in_latents * in_images) ** 0.5}
    for (hold, ladder), (name, weights) in product(by_hold.items(), weightings.items()):
        yield ErrorModel(hold, name, ladder, weights)


def record_levels(pipe: DiffusionPipeline, trajectory: Trajectory, *, blocks: Blocks, batch_size: int) -> Trajectory:
    """A dense trajectory over the levels that calls are chosen among; the given one if calls stay on the sampler's grid."""
    if not is_free(pipe.scheduler):
        return trajectory
    timesteps = ladders.levels(pipe.scheduler, LEVELS)
    dense = replace(baselines.dense(blocks, len(timesteps)), timesteps=timesteps)
    with predictor_alone(pipe), apply(pipe, dense, blocks=blocks, fold=False):
        return record(pipe, trajectory.conditions, seeds=trajectory.seeds, batch_size=batch_size, **trajectory.options)


def predictor_alone(pipe: DiffusionPipeline) -> AbstractContextManager[None]:
    """The pipe with UniPC replaced by its predictor, DPM-Solver++: the corrector would hide the error being measured."""
    return schedulers.scheduled(pipe, schedulers.DPM, {}) if corrects(pipe.scheduler) else nullcontext()
