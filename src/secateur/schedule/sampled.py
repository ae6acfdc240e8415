"""Sampled: a pipe that draws by a schedule's sampler, so that its denoiser needs no patch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from secateur.denoiser.patch import Handle
from secateur.pipeline.schedulers import is_flow
from secateur.schedule.fold import sampler_for, steps_for
from secateur.schedule.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from secateur.pipeline.multistep import LinearMultistepScheduler

OWN = "own_scheduler"  # attribute of a scheduler that a pipe has while a schedule is applied: the one that it has otherwise


class Sampled(Handle):
    """A pipe that draws by a schedule's sampler, until `remove()` or the end of a `with`; its denoiser is not touched.

    scheduler: the sampler, which the pipe has instead of its own.
    """

    cached_bytes = peak_bytes = 0  # as a SubNet's: no block is kept

    def __init__(self, pipe: DiffusionPipeline, schedule: Schedule, scheduler: LinearMultistepScheduler):
        super().__init__()
        self.pipe, self.schedule, self.scheduler = pipe, schedule, scheduler
        give(pipe, scheduler)
        self.on_remove(partial(give_back, pipe, scheduler))

    def __repr__(self) -> str:
        return f"Sampled: {len(self.scheduler.timesteps)} calls, until remove()"


def sampler_in(pipe: DiffusionPipeline, schedule: Schedule, scheduler: Any, *, fold: bool) -> LinearMultistepScheduler | None:
    """The scheduler by which a pipe draws a schedule's images without a patch; None if only a patch draws them.

    A schedule that has no table yet gets one if it says the pipe's own calls: pipelines of flow matching may pass sigmas of
    theirs, and images that begin in the middle begin at another call.
    """
    dense = schedule.share == 1 and not schedule.timesteps
    if not schedule.whole or (schedule.table is None and (not fold or dense or slices(pipe) or is_flow(scheduler))):
        return None
    try:
        sampler = sampler_for(schedule, scheduler)
    except ValueError:  # the scheduler is no table
        return None
    sampler.also = range(1, len(sampler) + 1) if schedule.timesteps else [steps_for(scheduler, schedule.calls)]
    return sampler


def slices(pipe: DiffusionPipeline) -> bool:
    """Whether a pipe is image-to-image or inpainting, and leaves out the first of the timesteps that it asked for."""
    return hasattr(pipe, "get_timesteps")


def give(pipe: DiffusionPipeline, scheduler: Any) -> None:
    """Give a pipe a scheduler that knows which one it has otherwise."""
    setattr(scheduler, OWN, pipe.scheduler)
    pipe.scheduler = scheduler


def give_back(pipe: DiffusionPipeline, scheduler: Any) -> None:
    """Give a pipe its own scheduler again, unless its user gave it another one meanwhile."""
    if pipe.scheduler is scheduler and hasattr(scheduler, OWN):
        pipe.scheduler = getattr(scheduler, OWN)
        vars(scheduler).pop(OWN, None)


def own_scheduler(pipe: DiffusionPipeline) -> Any:
    """The scheduler that a pipe has when no schedule is applied."""
    return getattr(pipe.scheduler, OWN, pipe.scheduler)
