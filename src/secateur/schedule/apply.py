"""apply(pipe, schedule) and remove(pipe): a stock pipeline that follows a Schedule, by its sampler or by a patch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from secateur.denoiser.blocks import Blocks, find_blocks, matching
from secateur.denoiser.families import bare
from secateur.denoiser.of_pipe import DENOISERS, TWIN, denoisers_of
from secateur.denoiser.patch import patch_of
from secateur.pipeline.schedulers import HOLDABLE, is_flow, scheduler_like
from secateur.pipeline.solvers import unholdable
from secateur.schedule.baselines import check_keep, hold_for, uniform
from secateur.schedule.fit import check_fit, check_offload, check_scheduler, fitting_scheduler
from secateur.schedule.fold import table_of
from secateur.schedule.following import following
from secateur.schedule.sampled import Sampled, give_back, own_scheduler, sampler_in
from secateur.schedule.schedule import Schedule
from secateur.schedule.subnet import SubNet

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def apply(
    pipe: DiffusionPipeline,
    schedule: Schedule | str | Path | None = None,
    *,
    keep: float | None = None,
    strict: bool = False,
    fold: bool = True,
    copy_outputs: bool = False,
    denoiser: str | None = None,
    blocks: Blocks | None = None,
) -> SubNet | Sampled:
    """A handle with `remove()`; until then the pipe draws nearly the same images for a fraction of the compute, by a schedule.

        with secateur.apply(pipe, "schedule.json"):
            image = pipe("an owl at night", num_inference_steps=50).images[0]

    At the end of the `with`, or at the handle's `remove()`, the pipe is as it was. Its weights never change. A schedule that
    was applied before is removed first.

    Arguments that matter:
        pipe: a diffusers pipeline; call it with the number of steps that the schedule is for.
        schedule: a Schedule, or the path of its file. `secateur.search` finds one for a pipe.
        keep: instead of a schedule, the fraction of the calls that run, evenly spread over any number of steps. The others
            follow the line through the last two predictions. Needs no search.

    If the schedule runs whole calls alone, the pipe has the schedule's sampler meanwhile, see `Schedule.sampler`, and nothing
    else changes: the handle is a Sampled. Otherwise it is a SubNet, and the denoiser is patched.

    If the schedule is for another scheduler than the pipe's, the pipe has that one meanwhile, configured like its own. With
    `keep`, a scheduler whose calls cannot be held, such as PNDM, gives way to DDIM.

    Arguments to tinker with:
        strict: refuse a schedule that is for another scheduler.
        fold: leave out the steps of held calls if no image changes. Without it a callback sees each of them.
        copy_outputs: keep and give copies of what blocks give, for those who write into it (T2I-Adapter, FreeU).
        denoiser: name of the component, if there are several. Two of one architecture (Wan 2.2) follow a schedule together.
        blocks: what `find_blocks` returns; traced if not given.

    Raises TypeError or ValueError if pipe and schedule do not fit, FileNotFoundError if there is no such file.
    """
    nets, own = tuple(map(bare, denoisers_of(pipe, denoiser))), own_scheduler(pipe)
    if schedule is not None and keep is not None:
        raise ValueError(f"found a schedule and keep={keep}: give one of the two")
    if keep is not None:
        check_offload(*nets)
        blocks = find_blocks(nets[0]) if blocks is None else blocks
        evenly, scheduler = partial(uniform, blocks, keep=keep, hold=hold_for(check_keep(keep))), holdable(own, strict=strict)
        return patched(pipe, evenly(1), scheduler, denoisers=nets, blocks=blocks, copy_outputs=copy_outputs, evenly=evenly)
    schedule = schedule_at(schedule)
    check_fit(nets[0], schedule)
    if strict:
        check_scheduler(own, schedule)
    scheduler = fitting_scheduler(own, schedule)
    if sampler := sampler_in(pipe, schedule, scheduler, fold=fold):
        remove(pipe)
        return Sampled(pipe, schedule, sampler)
    check_offload(*nets)
    scheduler = followed(scheduler, schedule)
    return patched(pipe, schedule, scheduler, denoisers=nets, blocks=blocks, copy_outputs=copy_outputs)


def patched(
    pipe: DiffusionPipeline,
    schedule: Schedule,
    scheduler: Any,
    *,
    denoisers: Sequence[nn.Module],
    blocks: Blocks | None,
    copy_outputs: bool,
    evenly: Callable[[int], Schedule] | None = None,
) -> SubNet:
    """A pipe whose denoisers follow a schedule, call by call of a scheduler. evenly: another schedule for any other steps."""
    blocks = blocks_for(denoisers[0], schedule, blocks)
    remove(pipe)
    subnet = SubNet(denoisers, schedule, blocks, copy_outputs=copy_outputs, stepped=True)
    follower = following(scheduler, subnet, evenly, own=pipe.scheduler)
    pipe.scheduler = follower
    subnet.on_remove(partial(give_back, pipe, follower))
    return subnet


def schedule_at(schedule: Any) -> Schedule:
    """A Schedule, or the one at a path. Raises TypeError if it is neither."""
    if isinstance(schedule, (str, Path)):
        return Schedule.load(schedule)
    if not isinstance(schedule, Schedule):
        raise TypeError(f"found {schedule!r:.60} for a schedule: give a Schedule, the path of a schedule's file, or keep=0.33")
    return schedule


def followed(scheduler: Any, schedule: Schedule) -> Any:
    """The scheduler whose steps a schedule's calls make: the one it is for, or the one that follows its table."""
    if schedule.table is None:
        return scheduler
    from secateur.pipeline.multistep import LinearMultistepScheduler

    return LinearMultistepScheduler.of(table_of(schedule), scheduler)


SAMPLER = "LinearMultistepScheduler"  # by name, so that no pipe imports it for nothing


def holdable(scheduler: Any, *, strict: bool) -> Any:
    """A scheduler whose calls can be held: the given one if possible, otherwise DDIM configured like it, as `search` takes it.

    Raises ValueError if neither can, or if it may be no other one (strict).
    """
    if type(scheduler).__name__ == SAMPLER:
        raise ValueError(
            "the pipe already has a schedule's sampler: give it its own scheduler first, or draw without secateur.apply"
        )
    why = unholdable(scheduler)
    if why is None:
        return scheduler
    if strict or is_flow(scheduler):
        name = "FlowMatchEulerDiscreteScheduler" if is_flow(scheduler) else "DDIMScheduler"
        raise ValueError(f"{why}: set pipe.scheduler = {name}.from_config(pipe.scheduler.config) first")
    return scheduler_like(scheduler, *HOLDABLE)


def follow(denoiser: nn.Module, schedule: Schedule, *, blocks: Blocks | None = None, copy_outputs: bool = False) -> SubNet:
    """A SubNet for a loop of your own: every denoiser call is the schedule's next; `restart()` it before each image."""
    denoiser = bare(denoiser)
    check_fit(denoiser, schedule)
    return SubNet([denoiser], schedule, blocks_for(denoiser, schedule, blocks), copy_outputs=copy_outputs)


def subnets(pipe: DiffusionPipeline) -> Iterator[SubNet]:
    """What patches a pipe and nobody removed yet: one or none."""
    for name in (*DENOISERS, TWIN):
        module = pipe.components.get(name)
        patch = patch_of(bare(module)) if module is not None else None
        if patch is not None and isinstance(patch.owner, SubNet):
            yield patch.owner


def remove(pipe: DiffusionPipeline) -> None:
    """Leave a pipe as it was before `apply`. Nothing happens if nothing was applied."""
    for subnet in subnets(pipe):
        subnet.remove()
    give_back(pipe, pipe.scheduler)


def blocks_for(denoiser: nn.Module, schedule: Schedule, blocks: Blocks | None = None) -> Blocks:
    """The denoiser's blocks at the schedule's granularity, reusing what the schedule says; traced if not given."""
    blocks = matching(denoiser, schedule.blocks) if blocks is None else blocks
    if blocks.names != schedule.blocks:
        raise ValueError(
            f"the schedule has {len(schedule.blocks)} blocks, not these {len(blocks)} in this order: make one for them"
        )
    return replace(blocks, reuse=schedule.reuse)
