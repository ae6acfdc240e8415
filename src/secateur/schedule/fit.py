"""Whether a schedule fits a denoiser and a scheduler. What does not fit is refused with both values named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from secateur.artifact import thawed
from secateur.denoiser.families import class_name
from secateur.denoiser.patch import find_modules
from secateur.pipeline.schedulers import (
    HOLDABLE,
    SETTINGS,
    begun,
    is_known,
    noise_levels,
    scheduler_class,
    scheduler_like,
    scheduler_signature,
    settings_hash,
    settings_of,
)
from secateur.pipeline.solvers import shifts, takes_timesteps

if TYPE_CHECKING:
    from secateur.schedule.schedule import Schedule

MOST = 3  # settings that a message names


def check_fit(denoiser: nn.Module, schedule: Schedule) -> None:
    """Raises ValueError if a schedule is for another class of denoiser, or for blocks that this one lacks."""
    check_denoiser(denoiser, schedule)
    find_modules(denoiser, schedule.blocks)


def check_denoiser(denoiser: nn.Module | Mapping[str, Any], schedule: Schedule) -> None:
    """Raises ValueError if a schedule is for another class than a denoiser, or a configuration, has."""
    if (name := class_name(denoiser)) != schedule.denoiser:
        raise ValueError(f"the schedule is for a {schedule.denoiser} and the pipe has a {name}: make one for it")


def check_offload(*denoisers: nn.Module) -> None:
    """Raises ValueError if weights are moved layer by layer, by hooks that expect every layer to run."""
    for module in (module for denoiser in denoisers for module in denoiser.modules()):
        hook = getattr(module, "_hf_hook", None)
        grouped = "group_offloading" in getattr(getattr(module, "_diffusers_hook", None), "hooks", ())
        if grouped or any(getattr(h, "offload", False) for h in getattr(hook, "hooks", (hook,))):
            kind = "group" if grouped else "sequential CPU"
            raise ValueError(
                f"{kind} offload expects every layer to run, and a schedule skips some: use enable_model_cpu_offload()"
            )


def is_for(scheduler: Any, schedule: Schedule) -> bool:
    """Whether a schedule is for a scheduler of this class and configuration, or for any."""
    signature, made_for = scheduler_signature(scheduler), (schedule.scheduler, schedule.scheduler_hash)
    return all(w in (None, f) for f, w in zip(signature, made_for, strict=True))


def fitting_scheduler(scheduler: Any, schedule: Schedule) -> Any:
    """The scheduler that a schedule is for: this one, or one of the schedule's class made from this one's configuration.

    A schedule with a table needs no more than a pipe of its noise levels and prediction type.
    Raises ValueError with both values named if neither is what the schedule was made for.
    """
    says = schedule.table and SETTINGS in schedule.made and is_known(schedule.scheduler)
    if says and is_same_model(stock := stock_scheduler(schedule), scheduler):
        return stock
    if not is_for(scheduler, schedule) and is_known(schedule.scheduler):
        other = scheduler_like(scheduler, *scheduler_for(scheduler, schedule))
        if is_for(other, schedule) and np.array_equal(noise_levels(other), noise_levels(scheduler)):
            scheduler = other
    check_scheduler(scheduler, schedule)
    return scheduler


def stock_scheduler(schedule: Schedule) -> Any:
    """The stock scheduler that a schedule is for, by what its file says. Raises ValueError if it does not say."""
    if schedule.scheduler is None or SETTINGS not in schedule.made:
        raise ValueError("the schedule does not say its scheduler's settings: name a pipe that has it by --pipe")
    return scheduler_class(schedule.scheduler).from_config(thawed(schedule.made[SETTINGS]))


def is_same_model(scheduler: Any, other: Any) -> bool:
    """Whether two schedulers are of the same noise levels and kind of prediction, however they step."""
    kinds = [one.config.get("prediction_type") for one in (scheduler, other)]
    return kinds[0] == kinds[1] and np.array_equal(noise_levels(scheduler), noise_levels(other))


def check_scheduler(scheduler: Any, schedule: Schedule) -> None:
    """Raises ValueError if a scheduler cannot take a schedule's timesteps, or is another one than the schedule is for."""
    placed = schedule.timesteps and schedule.table is None
    if placed and not takes_timesteps(scheduler):
        raise ValueError(f"the schedule chooses its timesteps and {type(scheduler).__name__} takes none: use another scheduler")
    if placed and shifts(scheduler):
        raise ValueError(
            f"the schedule chooses its timesteps and this {type(scheduler).__name__} shifts what it is given: use shift 1"
        )
    if not is_for(scheduler, schedule):
        raise ValueError(f"{difference(scheduler, schedule)}, or use schedule.bound_to(pipe.scheduler)")


def difference(scheduler: Any, schedule: Schedule) -> str:
    """How a scheduler differs from the one that a schedule is for, and what to do; by its settings if the schedule says them.

    They are compared with those that a scheduler of the schedule's class takes over from this one.
    """
    name, settings = type(scheduler).__name__, thawed(schedule.made.get(SETTINGS, {}))
    if is_known(schedule.scheduler) and settings_hash(settings) == schedule.scheduler_hash:
        ours = settings_of(scheduler_like(scheduler, schedule.scheduler, {}))
        others = [key for key in settings if ours.get(key) != settings[key]] or [key for key in ours if key not in settings]
        told = [f"{key} {ours.get(key)!r:.40} ({settings.get(key)!r:.40} wanted)" for key in others[:MOST]]
        more = f" and {len(others) - MOST} more" if len(others) > MOST else ""
        if told:
            return (
                f"the schedule is for {schedule.scheduler} with other settings: this {name} has {', '.join(told)}{more}: set it"
            )
    wanted = " ".join(filter(None, (schedule.scheduler, schedule.scheduler_hash)))
    return (
        f"the schedule is for {wanted} and this is {' '.join(scheduler_signature(scheduler))}: compare their class and "
        "configuration"
    )


def check_steps(scheduler: Any, schedule: Schedule, steps: int) -> None:
    """Raises ValueError if these steps of a scheduler make another number of calls than the schedule has.

    A schedule that chooses its timesteps takes any number.
    """
    calls = len(begun(scheduler, steps).timesteps)
    if schedule.timesteps is None and calls != schedule.calls:
        raise ValueError(
            f"{type(scheduler).__name__} makes {calls} calls in {steps} steps and the schedule has {schedule.calls}: "
            f"ask for the steps that make {schedule.calls}, or use another schedule"
        )


def scheduler_for(scheduler: Any, schedule: Schedule | None) -> tuple[str | None, Mapping[str, Any]]:
    """Class and options by which `scheduled` makes a schedule's scheduler; None for the one at hand."""
    if schedule is None or (schedule.scheduler, schedule.scheduler_hash) == scheduler_signature(scheduler):
        return None, {}
    name, wanted = schedule.scheduler, schedule.scheduler_hash
    choices = ({}, HOLDABLE[1]) if name == HOLDABLE[0] else ()
    fits = (options for options in choices if scheduler_signature(scheduler_like(scheduler, name, options))[1] == wanted)
    return name, next(fits, {})
