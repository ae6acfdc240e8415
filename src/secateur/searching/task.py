"""Search: what a search for a schedule works on, and what its stages measure once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

from secateur.denoiser.macs import Macs
from secateur.pipeline.schedulers import scheduled
from secateur.pipeline.solvers import check_solver, is_free
from secateur.pipeline.trajectory import Trajectory, first, record
from secateur.schedule.baselines import check_keep
from secateur.schedule.fold import has_lines
from secateur.searching.dip_go.unrolled import check_pipe
from secateur.searching.error_model import ErrorModel, error_models, record_levels
from secateur.searching.objective import converging
from secateur.searching.paired_gain import PairedGain
from secateur.searching.rows import with_fitted_rows
from secateur.searching.settings import DEFAULT, SearchSettings, stages_for

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import DiffusionPipeline

    from secateur.schedule.schedule import Schedule

FINE = 200  # steps of a teacher whose latents are as good as converged (ours)


@dataclass(frozen=True, eq=False)
class Search:
    """What a search works on: it looks for a schedule whose cost is at most `keep` of the trajectory's calls.

    trajectory: dense, recorded with the pipe's scheduler as it is. macs: of the schedule's blocks, or their time.
    objective: what the search raises. seed: of the local search and of the gradient stage. accelerator: for the gradient stage;
    every process does the other stages by itself, with the same result. target: what the objective compares images with.
    Raises ValueError, before anything is measured, if keep is outside (0, 1] or below one call, or if the scheduler's calls can
    be neither placed nor held. It does so, too, if a stage needs gradients and none flow through the pipe.
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

    def __post_init__(self):
        check_keep(self.keep)
        check_calls(self.calls, keep=self.keep)
        check_solver(self.pipe.scheduler)
        if "gradient" in self.stages:
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
    def free(self) -> bool:
        """Whether a schedule chooses its timesteps, as with DPM-Solver++ 2M and UniPC; others hold calls on their own grid."""
        return is_free(self.pipe.scheduler)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of this search, in order."""
        return self.settings.stages or stages_for(self.calls, free=self.free)

    def ready(self, schedule: Schedule) -> Schedule:
        """The schedule to be measured: folded, with rows fitted on the first batch of samples, if it can have them.

        On the scheduler's own grid they are fitted to the dense latents, if these are the target. Where timesteps are chosen,
        converged latents serve both targets. Lines of single blocks do not fold.
        """
        bound = schedule.bound_to(self.pipe.scheduler)
        if has_lines(bound) or not (self.free or self.target == "dense"):
            return bound
        return with_fitted_rows(self.pipe, bound, self._teacher, blocks=self.macs.blocks)

    def record_levels(self) -> Trajectory:
        """The dense trajectory over the levels that calls are chosen among; drawn once."""
        return self._levels

    def measure_models(self) -> tuple[ErrorModel, ...]:
        """What calls cost, for every way of holding with every weighting; measured once, which can take minutes."""
        return self._models

    def model_of(self, schedule: Schedule | None) -> ErrorModel:
        """The model that a schedule is the solution of; the first one if it comes from none."""
        pair = (schedule.hold, schedule.made.get("weights")) if schedule else None
        models = self.measure_models()
        return next((model for model in models if (model.hold, model.name) == pair), models[0])

    @cached_property
    def _levels(self) -> Trajectory:
        return record_levels(self.pipe, self.trajectory, blocks=self.macs.blocks, batch_size=self.batch_size)

    @cached_property
    def _teacher(self) -> Trajectory:
        """What rows are fitted to: the trajectory of the first batch, or a converged one if timesteps are chosen."""
        some = first(self.trajectory, self.batch_size)
        if not self.free:
            return some
        call = {**some.options, "num_inference_steps": FINE, "batch_size": self.batch_size}
        with scheduled(self.pipe, *converging(self.pipe)):
            return record(self.pipe, some.conditions, seeds=some.seeds, **call)

    @cached_property
    def _models(self) -> tuple[ErrorModel, ...]:
        blocks, count = self.macs.blocks, self.whole_calls
        return tuple(
            error_models(self.pipe, self.record_levels(), blocks=blocks, whole_calls=count, batch_size=self.batch_size)
        )


def affordable_calls(calls: int, *, keep: float) -> int:
    """How many of these dense calls a budget pays for; keep is taken as it is written (0.2 of 50 is 10)."""
    return math.floor(Fraction(str(keep)) * calls)


def check_calls(calls: int, *, keep: float) -> None:
    """Raises ValueError if this many dense calls and the budget leave nothing to choose."""
    if calls < 2:
        raise ValueError("one step leaves nothing to choose: ask for 2 or more")
    if affordable_calls(calls, keep=keep) < 1:
        raise ValueError(f"the first of {calls} calls always runs, so keep={keep} is out of reach: ask for {1 / calls:.3g}")
