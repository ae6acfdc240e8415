"""fold(schedule, scheduler): held calls turned into fewer calls of the same solver."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from secateur.denoiser.families import FAMILIES
from secateur.pipeline.schedulers import DPM, FIRST_ORDER, PLAIN, scheduler_signature
from secateur.pipeline.solvers import nonlinear, place_timesteps, remembers, shifts
from secateur.schedule.fit import check_scheduler
from secateur.schedule.holds import LINES
from secateur.schedule.long_steps import LongSteps, linear_steps
from secateur.schedule.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

ROUNDING = 1e-3  # of a step's weights: those of steps that do not add up are off by far more
INSTEAD = "apply the schedule as it is"


def fold(schedule: Schedule, scheduler: Any) -> tuple[Schedule, SchedulerMixin]:
    """The Schedule without its held rows, and a scheduler for it that takes the timesteps which are left.

    scheduler: the one that the schedule is for; it is not changed. Holding the prediction of DDIM (η = 0), Euler or flow
    matching for k calls is one step over them, so that the images stay the same; along a line y + d·k it is one step by the
    line's mean, which the call then answers with (`Schedule.ahead`). Held predictions that a multistep solver
    (DPM-Solver++) took for new ones are left out, which makes the images better. DDIM of diffusers takes no timesteps;
    DPM-Solver++ of first order, which is the same update (arXiv 2211.01095, section 4), takes its place.
    Raises ValueError if there is nothing like it, or if the images would be others.
    """
    check_foldable(schedule, scheduler)
    steps, taking = copy.deepcopy(scheduler), taker(scheduler)
    steps.set_timesteps(schedule.calls)
    if len(steps.timesteps) != schedule.calls:
        raise ValueError(
            f"{type(scheduler).__name__} makes {len(steps.timesteps)} calls in {schedule.calls} steps, and only a scheduler "
            f"with one call a step can be folded: {INSTEAD}"
        )
    running = [t for t in range(schedule.calls) if not schedule.held(t)]
    timesteps = tuple(float(steps.timesteps[t]) for t in running)
    ahead = read_ahead(schedule, steps, taking, running, timesteps)
    name, digest = scheduler_signature(taking)
    folded = replace(
        schedule,
        grid=tuple(schedule.grid[t] for t in running),
        timesteps=timesteps,
        ahead=ahead,
        scheduler=name,
        scheduler_hash=digest,
        made={**schedule.made, "folded_from": {"calls": schedule.calls, "run": running}},
    )
    return folded, taking


def check_foldable(schedule: Schedule, scheduler: Any) -> None:
    """Raises ValueError if a schedule's held rows cannot be left out, or if it is for another scheduler."""
    if schedule.timesteps is not None:
        raise ValueError(f"the schedule chooses {len(schedule.timesteps)} timesteps already: fold one that holds calls")
    check_scheduler(scheduler, schedule)
    if schedule.denoiser in FAMILIES and FAMILIES[schedule.denoiser].own_grid:
        raise ValueError(f"the pipelines of {schedule.denoiser} choose their timesteps themselves, so none is known: {INSTEAD}")
    partial = any(not schedule.held(t) and "." in schedule.grid[t] for t in range(schedule.calls))
    if partial and "extrapolate" in schedule.reuse:
        raise ValueError(f"the schedule's blocks extrapolate over its calls, and fewer would give another line: {INSTEAD}")


def read_ahead(
    schedule: Schedule, steps: Any, taking: Any, running: Sequence[int], timesteps: Sequence[float]
) -> tuple[float, ...] | None:
    """How far ahead each call that is left reads its line, in calls that are left; None if predictions are repeated.

    steps: the scheduler of all calls. Raises ValueError if a long step is not the steps that it replaces.
    """
    if remembers(steps) and schedule.hold not in LINES:
        return None
    if why := nonlinear(steps):
        raise ValueError(f"{why}: {INSTEAD}")
    long, ends = LongSteps.of(steps, hold=schedule.hold), [*running[1:], schedule.calls]
    folded = copy.deepcopy(taking)
    place_timesteps(folded, folded.set_timesteps, timesteps, arguments={})
    wanted = torch.stack([long.carry[running, ends], long.gain[running, ends]])
    if not torch.allclose(torch.tensor(linear_steps(folded)).to(wanted), wanted, rtol=ROUNDING, atol=ROUNDING):
        raise ValueError(f"{type(steps).__name__}'s steps {why_not(steps)}, so longer ones give other images: {INSTEAD}")
    if schedule.hold not in LINES:
        return None
    gain, slope = long.gain[running, ends], long.slope[running, ends]
    means = torch.where(slope == 0, 0.0, slope / gain)  # a last step may go nowhere
    return (0.0, *(float(means[j]) / (running[j] - running[j - 1]) for j in range(1, len(running))))


def why_not(scheduler: Any) -> str:
    """What keeps several steps, in each of which one prediction is held, from being one longer step."""
    if scheduler.config.get("prediction_type") == "v_prediction":
        return "hold velocities, which do not add up"
    spacing = scheduler.config.get("timestep_spacing", "its own")
    return f"end elsewhere than the next ones begin ({len(scheduler.timesteps)} of them, {spacing} spacing)"


def taker(scheduler: Any) -> Any:
    """A scheduler of the same solver that takes timesteps: a copy, or DPM-Solver++ of first order for DDIM."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    name = type(scheduler).__name__
    if scheduler.config.get("use_dynamic_shifting"):
        raise ValueError(f"this {name} shifts its timesteps by the size of the picture, so none can be named: {INSTEAD}")
    if shifts(scheduler) or scheduler.config.get("use_flow_sigmas"):
        raise ValueError(f"this {name} shifts the timesteps that it is given: {INSTEAD}")
    if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
        return copy.deepcopy(scheduler)
    if not isinstance(scheduler, DDIMScheduler):
        raise ValueError(f"{name} takes no timesteps, and no scheduler like it does: {INSTEAD}")
    if clipping := [option for option in ("clip_sample", "thresholding") if scheduler.config[option]]:
        raise ValueError(f"this DDIMScheduler has {clipping[0]}=True, which DPM-Solver++ does not: {INSTEAD}")
    order = FIRST_ORDER["zero" if scheduler.config["set_alpha_to_one"] else "sigma_min"]
    return DPMSolverMultistepScheduler.from_config(scheduler.config, **{**PLAIN[DPM], **order})
