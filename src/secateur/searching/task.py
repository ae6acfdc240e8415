"""What a search for settings looks for, and what it knows of the calls, measured once for all of its stages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from secateur.denoiser.macs import Macs
from secateur.pipeline import schedulers
from secateur.pipeline.solvers import corrects, is_free
from secateur.pipeline.trajectory import Trajectory, record
from secateur.schedule import baselines
from secateur.schedule.apply import apply
from secateur.schedule.schedule import HOLDS
from secateur.searching import ladder as ladders
from secateur.searching.objective import PairedGain
from secateur.searching.sensitivity import sensitivity

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from accelerate import Accelerator
    from diffusers import DiffusionPipeline

    from secateur.schedule.schedule import Schedule

LEVELS = 40  # of each of two spacings: linspace is dense early, Karras late


class Model(NamedTuple):
    """Of one way of holding: the ladder, and how much errors at each of its levels count, by the name of that weighting."""

    hold: str
    name: str
    ladder: ladders.Ladder
    weights: np.ndarray


class Learning(NamedTuple):
    """How the gradient stage learns: updates, where and how often it is saved, and the processes that share its batches."""

    updates: int
    folder: str | Path | None = None
    save_every: int = 50
    accelerator: Accelerator | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """What is looked for: a schedule for a pipe and its scheduler whose MACs are at most `keep` of the trajectory's calls."""

    pipe: DiffusionPipeline
    trajectory: Trajectory
    macs: Macs
    keep: float
    objective: PairedGain
    trials: int
    learning: Learning
    seed: int
    batch_size: int
    patience: int | None = None

    def __post_init__(self):
        check_calls(self.calls, keep=self.keep)

    @property
    def calls(self) -> int:
        """T, the calls of the dense trajectory."""
        return len(self.trajectory.timesteps)

    @property
    def whole_calls(self) -> int:
        """How many dense calls the budget pays for."""
        return paid(self.calls, keep=self.keep)

    @cached_property
    def fine(self) -> Trajectory:
        """The dense trajectory over the levels that calls are chosen among."""
        return fine(self)

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """What calls cost, every way of holding with every weighting; measured once."""
        return tuple(models(self))

    def model_of(self, schedule: Schedule | None) -> Model:
        """The model that a schedule is the solution of; the first one where it is of none."""
        wanted = (schedule.hold, schedule.made.get("weights")) if schedule else None
        return next((model for model in self.models if (model.hold, model.name) == wanted), self.models[0])

    @property
    def free(self) -> bool:
        """Whether timesteps are chosen, as of DPM-Solver++ 2M and UniPC; others hold calls on their own grid."""
        return is_free(self.pipe.scheduler)


def paid(calls: int, *, keep: float) -> int:
    """How many of so many dense calls a budget pays for."""
    return math.floor(Fraction(str(keep)) * calls)


def check_calls(calls: int, *, keep: float) -> None:
    """Nothing; ValueError where so many dense calls and a budget leave nothing to choose."""
    if calls < 2:
        raise ValueError("one step leaves nothing to choose: ask for 2 or more")
    if paid(calls, keep=keep) < 1:
        raise ValueError(f"the first of {calls} calls always runs, so keep={keep} is out of reach: ask for {1 / calls:.3g}")


def models(task: Task) -> Iterator[Model]:
    """Every way of holding, with every weighting."""
    pipe, trajectory, blocks = task.pipe, task.fine, task.macs.blocks
    by_hold = (
        {"output": ladders.free(trajectory, pipe.scheduler)}
        if task.free
        else {hold: ladders.held(trajectory, pipe.scheduler, hold=hold) for hold in HOLDS}
    )
    any_ladder = by_hold["output"]
    gap = max(2, len(any_ladder) // task.whole_calls)
    with predicting(pipe):
        shown = sensitivity(pipe, trajectory, any_ladder, blocks=blocks, gap=gap, batch_size=task.batch_size)
    plain = ladders.in_latents(any_ladder)
    weightings = {"latents": plain, "images": shown, "between": (plain * shown) ** 0.5}
    for (hold, ladder), (name, weights) in product(by_hold.items(), weightings.items()):
        yield Model(hold, name, ladder, weights)


def fine(task: Task) -> Trajectory:
    """A dense trajectory over the levels that calls are chosen among."""
    if not task.free:
        return task.trajectory
    made, pipe = task.trajectory, task.pipe
    steps = ladders.levels(pipe.scheduler, LEVELS)
    dense = replace(baselines.dense(task.macs.blocks, len(steps)), timesteps=steps)
    with predicting(pipe), apply(pipe, dense, blocks=task.macs.blocks):
        return record(pipe, made.conditions, seeds=made.seeds, batch_size=task.batch_size, **made.options)


def predicting(pipe: DiffusionPipeline) -> AbstractContextManager[None]:
    """The pipe with DPM-Solver++ for UniPC, whose predictor it is: no later call mends its latents."""
    return schedulers.scheduled(pipe, schedulers.DPM, {}) if corrects(pipe.scheduler) else nullcontext()
