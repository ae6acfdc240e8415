"""Search: what a search for a schedule works on, and what its stages measure once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

from secateur.denoiser.macs import Macs
from secateur.pipeline.schedulers import begun
from secateur.pipeline.table import probe
from secateur.pipeline.trajectory import Trajectory, first
from secateur.schedule.baselines import check_keep
from secateur.schedule.fold import has_lines
from secateur.searching.dip_go.unrolled import check_pipe
from secateur.searching.memo import NOTHING, Memo
from secateur.searching.paired_gain import PairedGain
from secateur.searching.rows import with_fitted_rows
from secateur.searching.settings import DEFAULT, SearchSettings, stages_for
from secateur.searching.teacher import Teacher, converged_teacher

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import DiffusionPipeline

    from secateur.schedule.schedule import Schedule

GRID_STAGES = {"refresh", "cells", "gradient"}  # which change single calls of the dense trajectory


@dataclass(frozen=True, eq=False)
class Search:
    """What a search works on: it looks for a schedule whose cost is at most `keep` of the trajectory's calls.

    trajectory: dense, recorded with the pipe's scheduler as it is. macs: of the schedule's blocks, or their time.
    objective: what the search raises. seed: of the local search and of the gradient stage. accelerator: for the gradient stage;
    every process does the other stages by itself, with the same result. target: what the objective compares images with.
    memo: of what was measured before.
    Raises ValueError, before anything is measured, if keep is outside (0, 1] or below one call, or if the scheduler draws noise
    or clips. It does so, too, if a stage needs gradients and none flow through the pipe.
    """

    pipe: DiffusionPipeline
    trajectory: Trajectory
    macs: Macs
    keep: float
    objective: PairedGain
    settings: SearchSettings = DEFAULT
    seed: int = 0
    batch_size: int = 8
    accelerator: Accelerator | None = None
    target: str = "dense"
    memo: Memo = NOTHING

    def __post_init__(self):
        check_keep(self.keep)
        check_calls(self.calls, keep=self.keep)
        probe(begun(self.pipe.scheduler, self.calls))  # refuses what draws noise or clips
        if (on_grid := GRID_STAGES & set(self.stages)) and not self.replayed:
            name = type(self.pipe.scheduler).__name__
            raise ValueError(f"{name} calls twice at a timestep, which stage {min(on_grid)} cannot use: leave it out")
        if {"gradient", "gradient-steps"} & set(self.stages):
            check_pipe(self.pipe)

    @property
    def calls(self) -> int:
        """T, the calls of the dense trajectory."""
        return len(self.trajectory.timesteps)

    @property
    def whole_calls(self) -> int:
        """How many dense calls the budget pays for."""
        return affordable_calls(self.calls, keep=self.keep)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this search, in order."""
        partly = self.replayed and self.target == "dense"
        return self.settings.stages or stages_for(self.calls, whole_calls=self.whole_calls, replayed=partly)

    @property
    def replayed(self) -> bool:
        """Whether each dense call is at a noise level of its own, so that stages may change single calls on this grid."""
        return len(set(self.trajectory.timesteps)) == self.calls

    def ready(self, schedule: Schedule) -> Schedule:
        """The schedule to be measured: a sampler of its calls that run, with rows fitted to the teacher.

        On the scheduler's own grid, lines of single blocks go over its held calls, so that a schedule with any stays as it is.
        """
        if schedule.timesteps is None and has_lines(schedule):
            return schedule.bound_to(self.pipe.scheduler)
        placed = self.teacher.placed(schedule, schedule.timesteps or self.trajectory.timesteps)
        return with_fitted_rows(self.pipe, placed, self.teacher, blocks=self.macs.blocks, memo=self.memo)

    @cached_property
    def teacher(self) -> Teacher:
        """What rows are fitted to, on the first batch of samples: their dense latents, or converged ones."""
        some = first(self.trajectory, self.batch_size)
        if self.target == "converged":
            return converged_teacher(self.pipe, some, batch_size=self.batch_size, memo=self.memo)
        return Teacher.of(some, self.pipe.scheduler)


def affordable_calls(calls: int, *, keep: float) -> int:
    """How many of these dense calls a budget pays for; keep is taken as it is written (0.2 of 50 is 10)."""
    return math.floor(Fraction(str(keep)) * calls)


def check_calls(calls: int, *, keep: float) -> None:
    """Raises ValueError if this many dense calls and the budget leave nothing to choose."""
    if calls < 2:
        raise ValueError("one step leaves nothing to choose: ask for 2 or more")
    if affordable_calls(calls, keep=keep) < 1:
        raise ValueError(f"the first of {calls} calls always runs, so keep={keep} is out of reach: ask for {1 / calls:.3g}")
