"""Teacher: the latents that a sampler of few calls should lead to, at every noise level at which it may make a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from secateur.pipeline.schedulers import scheduled
from secateur.pipeline.table import Table
from secateur.pipeline.trajectory import Trajectory
from secateur.schedule.fold import table_at
from secateur.schedule.schedule import Schedule
from secateur.searching.memo import NOTHING, Memo, recorded
from secateur.searching.objective import converging

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FINE = 200  # steps of a teacher whose latents are as good as converged (ours)


@dataclass(frozen=True, eq=False)
class Teacher:
    """What a deterministic sampler, whichever it is, went through at G noise levels.

    trajectory: of B samples, each timestep once. table: of the calls at these levels; its rows mean nothing.
    """

    trajectory: Trajectory
    table: Table

    @staticmethod
    def of(trajectory: Trajectory, scheduler: Any) -> Teacher:
        """The teacher that a trajectory of this scheduler makes.

        If a sampler calls twice at a timestep, as Heun and PNDM do, the last visit counts: there it has arrived.
        """
        times = trajectory.timesteps
        last = [t for t, time in enumerate(times) if time not in times[t + 1 :]]
        once = replace(
            trajectory,
            timesteps=tuple(times[t] for t in last),
            latents=trajectory.latents[[0, *last[1:], len(times)]],
            outputs=trajectory.outputs[last],
        )
        return Teacher(once, table_at(scheduler, times).at(last))

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The levels, (G,), noisiest first."""
        return self.trajectory.timesteps

    @cached_property
    def products(self) -> np.ndarray:
        """Inner products of all latents, then all predictions, summed over the samples: (2G + 1, 2G + 1)."""
        return inner_products([*self.trajectory.latents, *self.trajectory.outputs])

    def placed(self, schedule: Schedule, timesteps: Sequence[float]) -> Schedule:
        """A schedule of the calls that run, each at the level nearest to its own. timesteps: of all calls, held ones too."""
        runs = [t for t in range(schedule.calls) if not schedule.held(t)]
        levels, wanted = np.array(self.timesteps), np.array([timesteps[t] for t in runs])
        places = [0, *nearest(wanted[1:], levels[1:])]
        times = tuple(self.timesteps[place] for place in places)
        return replace(schedule, grid=tuple(schedule.grid[t] for t in runs), timesteps=times, hold="output", table=None)


def converged_teacher(pipe: DiffusionPipeline, trajectory: Trajectory, *, batch_size: int, memo: Memo = NOTHING) -> Teacher:
    """The teacher of FINE steps from the noise of a trajectory, whatever its own sampler was; see `converging`."""
    call = {**trajectory.options, "num_inference_steps": FINE, "batch_size": batch_size}
    with scheduled(pipe, *converging(pipe)):
        return Teacher.of(recorded(memo, pipe, trajectory.conditions, seeds=trajectory.seeds, **call), pipe.scheduler)


def nearest(wanted: np.ndarray, grid: np.ndarray) -> list[int]:
    """Which of the levels, from 1 on, each wanted timestep gets, in order: each its own, the squared distances least in all."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment((wanted[:, None] - grid[None, :]) ** 2)
    return sorted(int(column) + 1 for column in columns)  # two calls of one level may have been given others crosswise


def inner_products(vectors: Sequence[Tensor]) -> np.ndarray:
    """The inner products of m vectors (B, ...), summed over the samples, in float64: (m, m)."""
    samples = zip(*(vector.flatten(1) for vector in vectors), strict=True)
    stacked = (torch.stack(sample).double() for sample in samples)
    return sum(rows @ rows.T for rows in stacked).numpy()  # type: ignore[union-attr]
