"""Stage `gradient-steps`: a sampler's rows and timesteps, moved by the gradient of the images.

Rows are fitted one call at a time, each to the teacher's latents. With few calls these are not what the images need most. So
here all rows and timesteps move together, by gradients through the pipeline's own loop, as in BNS (arXiv 2403.01329), S4S
(2502.17423) and DyWeight (2603.11607); DiP-GO (2410.16942) has the same idea for its gates. They start at the fitted ones,
and a few dozen updates are enough (ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from secateur.denoiser.families import bare
from secateur.denoiser.of_pipe import denoisers_of
from secateur.denoiser.patch import intercept
from secateur.schedule.fold import sampler_for
from secateur.schedule.schedule import Schedule
from secateur.searching.dip_go.unrolled import decoded, frozen
from secateur.searching.memo import content_of
from secateur.searching.objective import Objective

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from secateur.pipeline.multistep import LinearMultistepScheduler

LEAST = 1e-10  # error of an image
UPDATES, EVERY = 40, 10  # and after how many of them the sampler is measured (ours)
RATES = (
    3e-3,
    1.5,
)  # of Adam at the first update: for rows, relative to their numbers, and for timesteps; a cosine takes them to 0


def moved(pipe: DiffusionPipeline, schedule: Schedule, objective: Objective, *, batch_size: int) -> Iterator[Schedule]:
    """The schedule with rows and timesteps after every EVERY updates.

    schedule: with a table, all of its calls whole. objective: its conditions, seeds and target images are learnt from. An
    update takes about four times what drawing a batch takes; activations are kept for one call at a time.
    """
    sampler = sampler_for(schedule, pipe.scheduler)
    rows = [torch.tensor(row, dtype=torch.float64) for row in sampler.config["rows"]]
    shifts = [torch.zeros_like(row, requires_grad=True) for row in rows]  # relative, so that numbers of any size move alike
    times = sampler.timesteps.double().requires_grad_()
    leaves = {"times": times, **{str(k): shift for k, shift in enumerate(shifts)}}
    adam = torch.optim.Adam([{"params": shifts, "lr": RATES[0]}, {"params": [times], "lr": RATES[1]}])
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, UPDATES)
    parts = [slice(k, k + batch_size) for k in range(0, len(objective.seeds), batch_size)]
    for update in range(UPDATES):
        learnt = [row * (1 + shift) for row, shift in zip(rows, shifts, strict=True)]
        moving = following(sampler_for(schedule, pipe.scheduler), learnt, times)
        learning = partial(gradients_of, leaves, pipe, moving, objective, parts[update % len(parts)])
        for name, gradient in objective.memo("steps", [content_of(schedule), update], learning).items():
            leaves[name].grad = gradient.to(leaves[name])
        adam.step()
        adam.zero_grad()
        times.data = times.data.sort(descending=True).values  # a rate as large as a gap would swap two
        cosine.step()
        if (update + 1) % EVERY == 0:
            numbers = [tuple((row * (1 + shift)).tolist()) for row, shift in zip(rows, shifts, strict=True)]
            made = {**schedule.made, "method": "gradient-steps", "updates": update + 1}
            table = {**(schedule.table or {}), "rows": numbers}
            yield replace(schedule, timesteps=tuple(times.tolist()), table=table, made=made)


def following(sampler: LinearMultistepScheduler, rows: list[Tensor], timesteps: Tensor) -> LinearMultistepScheduler:
    """The sampler, from now on with these rows and timesteps, through which gradients flow; it takes any number of steps."""
    sampler.also = range(1, len(sampler) + 1)
    sampler._rows = rows  # type: ignore[assignment]
    setting = sampler.set_timesteps

    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        setting(*args, **kwargs)
        sampler.timesteps = timesteps.to(sampler.timesteps.device, torch.float32)
        sampler.set_begin_index()  # the timesteps are none of its own

    sampler.set_timesteps = set_timesteps  # type: ignore[method-assign]
    return sampler


def gradients_of(
    leaves: Mapping[str, Tensor], pipe: DiffusionPipeline, sampler: LinearMultistepScheduler, objective: Objective, part: slice
) -> dict[str, Tensor]:
    """The gradient for a sampler's tensors of the mean dB of a batch of images to their targets."""
    own, target = pipe.scheduler, torch.from_numpy(objective.target[part]).permute(0, 3, 1, 2)
    with ExitStack() as stack:
        stack.enter_context(frozen(pipe))
        stack.callback(setattr, pipe, "scheduler", own)
        for net in denoisers_of(pipe):
            stack.callback(intercept(bare(net), "forward", partial(checkpoint, use_reentrant=False)).remove)
        pipe.scheduler = sampler
        images = decoded(pipe, objective.conditions[part], seeds=objective.seeds[part], fresh=False, **objective.options)
        errors = (images / 2 + 0.5 - target.to(images)).square().flatten(1).mean(1)
        loss = (10 * errors.clamp(min=LEAST).log10()).mean()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
