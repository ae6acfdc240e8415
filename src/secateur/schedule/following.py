"""A scheduler by which a SubNet knows when an image begins and which call comes next; each thread has one of its own."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from copy import deepcopy
from functools import partial, wraps
from typing import Any

import torch
from torch import nn

from secateur.denoiser.patch import Inputs
from secateur.pipeline.solvers import place_timesteps
from secateur.schedule.fit import check_offload
from secateur.schedule.sampled import OWN
from secateur.schedule.schedule import Schedule
from secateur.schedule.subnet import SubNet

BEGIN, ASKED = "_begin_index", "_asked_steps"  # of a scheduler: the call at which an image begins, the steps asked for


def following(scheduler: Any, subnet: SubNet, evenly: Callable[[int], Schedule] | None, *, own: Any) -> Any:
    """A scheduler of the same class and state that steps a SubNet too. own: which the pipe has otherwise.

    Its state is each thread's own. A copy of it is a stock scheduler, and so is it itself once the SubNet is removed.
    """
    kind, state = type(scheduler), deepcopy(vars(scheduler))

    def begin(self: Any) -> None:
        vars(self).update(deepcopy(state))

    @wraps(kind.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        setting = partial(kind.set_timesteps, self)
        return begin_image(self, subnet, evenly, setting, *args, **kwargs) if subnet.applied else setting(*args, **kwargs)

    @wraps(kind.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = kind.step(self, *args, **kwargs)
        if subnet.applied:
            subnet.step()
        return out

    def set_begin_index(self: Any, begin_index: int = 0) -> None:
        setattr(self, BEGIN, begin_index)
        check_begun(self, subnet.schedule, begin_index)

    def stock(self: Any, _: int) -> tuple[Any, ...]:
        return kind.__new__, (kind,), vars(self)

    methods = {"__init__": begin, "set_timesteps": set_timesteps, "step": step, "set_begin_index": set_begin_index}
    others = {"__reduce_ex__": stock, "from_config": kind.from_config, OWN: own, "__module__": kind.__module__}
    return type(kind.__name__, (threading.local, kind), methods | others)()


def begin_image(
    scheduler: Any,
    subnet: SubNet,
    evenly: Callable[[int], Schedule] | None,
    original: Callable[..., None],
    *args: Any,
    **kwargs: Any,
) -> None:
    """A scheduler's own `set_timesteps`, at the schedule's timesteps if it chooses them; an image begins."""
    arguments = inspect.signature(original).bind(*args, **kwargs).arguments
    if subnet.schedule.timesteps:
        place_timesteps(scheduler, original, subnet.schedule.timesteps, arguments=arguments)
    else:
        original(*args, **kwargs)
    vars(scheduler).update({BEGIN: None, ASKED: arguments.get("num_inference_steps")})
    calls = len(scheduler.timesteps)
    subnet.restart(evenly(calls) if evenly else None, partial(first_call, scheduler, subnet))
    if not evenly and calls != subnet.schedule.calls:
        raise ValueError(
            f"the schedule is for {subnet.schedule.calls} calls and {type(scheduler).__name__} makes {calls}: "
            f"call the pipe with the num_inference_steps that make {subnet.schedule.calls}, or use another schedule"
        )


def first_call(scheduler: Any, subnet: SubNet, inputs: Inputs) -> int:
    """Index of an image's first call: above 0 if image-to-image or inpainting start part of the way down."""
    check_offload(*subnet.denoisers)
    check_processors(*subnet.denoisers)
    if (begin := vars(scheduler)[BEGIN]) is None:
        begin = position(timestep_of(inputs), scheduler.timesteps)
        check_begun(scheduler, subnet.schedule, begin)
    return begin


def check_begun(scheduler: Any, schedule: Schedule, begin: int) -> None:
    """Raises ValueError if an image begins in the middle of timesteps that are fewer or more than the steps asked for."""
    calls, steps = len(scheduler.timesteps), vars(scheduler)[ASKED]
    if begin and schedule.timesteps and steps not in (None, calls):
        raise ValueError(f"the schedule chooses {calls} timesteps and {steps} were asked for: ask for {calls}")


def check_processors(*denoisers: nn.Module) -> None:
    """Raises ValueError if a pipeline reads what attention computes at every call, by a processor of its own."""
    for module in (module for denoiser in denoisers for module in denoiser.modules()):
        kind = type(getattr(module, "processor", None))
        if kind.__module__.startswith("diffusers.pipelines."):
            raise ValueError(
                f"{kind.__name__} reads what attention computes at every call, and this schedule leaves some out: use one of "
                "whole calls that has its own sampler, or set_default_attn_processor() if nobody reads it any more"
            )


def timestep_of(inputs: Inputs) -> Any:
    """The timestep that a denoiser is given; None if it takes none."""
    args, kwargs = inputs
    return kwargs.get("timestep", args[1] if len(args) > 1 else None)


def position(timestep: Any, timesteps: torch.Tensor) -> int:
    """Which of a scheduler's timesteps a denoiser is given, 0 if it is none of them. Raises ValueError if it is several.

    Pipelines hand on views of them, so that their place in memory tells without waiting for the device.
    """
    if timestep is None:
        return 0
    given = torch.as_tensor(timestep)
    if given.untyped_storage()._cdata == timesteps.untyped_storage()._cdata:
        return int(given.storage_offset() - timesteps.storage_offset())
    values = given.reshape(-1, 1) if given.ndim < 2 else given.flatten(1)  # some give one for each token, 0 if it is clean
    noisiest, known = set(values.amax(1).tolist()), timesteps.tolist()
    if len(noisiest) > 1:
        raise ValueError("the denoiser is given several timesteps at once and a schedule follows one: draw without a schedule")
    return next((known.index(t) for t in noisiest if t in known), 0)
