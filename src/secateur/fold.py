"""fold(schedule, scheduler): held calls turned into fewer calls of the same solver."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secateur.fit import shifts
from secateur.schedule import LINES, Schedule, scheduler_signature

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


def fold(schedule: Schedule, scheduler: Any) -> tuple[Schedule, SchedulerMixin]:
    """The Schedule without its held rows, and a scheduler for it that takes the timesteps which are left.

    scheduler: the one that the schedule is for; it is not changed. Holding the prediction of DDIM (η = 0) or Euler for k
    calls is one step over them, so that the images stay the same. Of a multistep solver (DPM-Solver++) they become better:
    it took held predictions for new ones. DDIM of diffusers takes no timesteps; DPM-Solver++ of first order, which is the
    same update (arXiv 2211.01095, section 4), takes its place. ValueError where there is nothing like it.
    """
    check(schedule)
    steps, taking = copy.deepcopy(scheduler), taker(scheduler)
    steps.set_timesteps(schedule.calls)
    if len(steps.timesteps) != schedule.calls:
        raise ValueError(
            f"{type(scheduler).__name__} makes {len(steps.timesteps)} calls in {schedule.calls} steps, and only a scheduler "
            "with one call a step can be folded: hold the calls instead"
        )
    running = [t for t in range(schedule.calls) if not schedule.held(t)]
    name, digest = scheduler_signature(taking)
    grid, timesteps = tuple(schedule.grid[t] for t in running), tuple(float(steps.timesteps[t]) for t in running)
    made = {**schedule.made, "folded_from": {"calls": schedule.calls, "run": running}}
    return replace(schedule, grid=grid, timesteps=timesteps, scheduler=name, scheduler_hash=digest, made=made), taking


def check(schedule: Schedule) -> None:
    """Nothing; ValueError where a schedule's held rows cannot be left out."""
    if schedule.timesteps is not None:
        raise ValueError(f"the schedule chooses {len(schedule.timesteps)} timesteps already: fold one that holds calls")
    partial = any(not schedule.held(t) and "." in schedule.grid[t] for t in range(schedule.calls))
    if schedule.hold in LINES or (partial and "extrapolate" in schedule.reuse):
        raise ValueError("the schedule extrapolates over its calls, and fewer of them would give another line: do not fold it")


def taker(scheduler: Any) -> Any:
    """A scheduler of the same solver that takes timesteps: a copy, or DPM-Solver++ of first order for DDIM."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    if shifts(scheduler):
        raise ValueError(f"this {type(scheduler).__name__} shifts the timesteps that it is given: hold the calls instead")
    if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
        return copy.deepcopy(scheduler)
    if not isinstance(scheduler, DDIMScheduler):
        raise ValueError(
            f"{type(scheduler).__name__} takes no timesteps, and no scheduler like it does: hold the calls instead"
        )
    if clipping := [option for option in ("clip_sample", "thresholding") if scheduler.config[option]]:
        raise ValueError(f"this DDIMScheduler has {clipping[0]}=True, which DPM-Solver++ does not: hold the calls instead")
    final = "zero" if scheduler.config["set_alpha_to_one"] else "sigma_min"
    return DPMSolverMultistepScheduler.from_config(
        scheduler.config, algorithm_type="dpmsolver++", solver_order=1, final_sigmas_type=final
    )
