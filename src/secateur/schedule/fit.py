"""Whether a schedule fits a denoiser and a scheduler; what does not is refused with both values named."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from secateur.denoiser.families import class_name
from secateur.denoiser.patch import find_modules
from secateur.pipeline.schedulers import DPM, FIRST_ORDER, begun, scheduler_like, scheduler_signature
from secateur.pipeline.solvers import shifts, takes_timesteps
from secateur.schedule.schedule import Schedule


def check_fit(denoiser: nn.Module, schedule: Schedule) -> None:
    """Nothing; ValueError where a schedule is for another class of denoiser, or for blocks that this one lacks."""
    check_denoiser(denoiser, schedule)
    find_modules(denoiser, schedule.blocks)


def check_denoiser(denoiser: nn.Module | Mapping[str, Any], schedule: Schedule) -> None:
    """Nothing; ValueError where a schedule is for another class than that of a denoiser, or of its configuration."""
    if (found := class_name(denoiser)) != schedule.denoiser:
        raise ValueError(f"the schedule is for a {schedule.denoiser} and the pipe has a {found}: make one for it")


def check_offload(denoiser: nn.Module) -> None:
    """Nothing; ValueError where weights are moved layer by layer, by hooks that expect every layer to run."""
    for module in denoiser.modules():
        hook = getattr(module, "_hf_hook", None)
        grouped = "group_offloading" in getattr(getattr(module, "_diffusers_hook", None), "hooks", ())
        if grouped or any(getattr(h, "offload", False) for h in getattr(hook, "hooks", (hook,))):
            kind = "group" if grouped else "sequential CPU"
            raise ValueError(
                f"{kind} offload expects every layer to run, and a schedule skips some: use enable_model_cpu_offload()"
            )


def check_scheduler(scheduler: Any, schedule: Schedule, *, strict: bool) -> None:
    """Nothing; ValueError (a warning where not strict) for a scheduler other than the schedule's, or of other configuration."""
    if schedule.timesteps and not takes_timesteps(scheduler):
        raise ValueError(f"the schedule chooses its timesteps and {type(scheduler).__name__} takes none: use another scheduler")
    if schedule.timesteps and shifts(scheduler):
        raise ValueError(
            f"the schedule chooses its timesteps and this {type(scheduler).__name__} shifts what it is given: use shift 1"
        )
    found, wanted = scheduler_signature(scheduler), (schedule.scheduler, schedule.scheduler_hash)
    fits = all(w in (None, f) for f, w in zip(found, wanted, strict=True))
    if not fits:
        says = f"the schedule is for {' '.join(filter(None, wanted))} and the pipe has {' '.join(found)}"
        if strict:
            raise ValueError(f"{says} (class and hash of the configuration): change the scheduler, or pass strict=False")
        warnings.warn(says, stacklevel=3)


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
    """Class and options that `scheduled` makes a schedule's scheduler of, also a folded one's; None for the one at hand."""
    if schedule is None or (schedule.scheduler, schedule.scheduler_hash) == scheduler_signature(scheduler):
        return None, {}
    name, wanted = schedule.scheduler, schedule.scheduler_hash
    known = FIRST_ORDER.values() if name == DPM else ()
    fits = (options for options in known if scheduler_signature(scheduler_like(scheduler, name, options))[1] == wanted)
    return name, next(fits, {})
