"""A stock pipeline's own sampling loop, with gradients through it; the pipe stays as it is."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from secateur.denoiser.families import bare
from secateur.denoiser.of_pipe import denoiser_of
from secateur.denoiser.patch import intercept
from secateur.pipeline import generate as generating
from secateur.pipeline import schedulers
from secateur.schedule.fit import check_offload

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def decoded(
    pipe: DiffusionPipeline, conditions: Sequence[Any], *, seeds: Sequence[int], fresh: bool = True, **call: Any
) -> Tensor:
    """Images (B, 3, H, W) as the pipe's VAE decodes them, float32, about [−1, 1], with gradients if those are enabled.

    The loop is diffusers' own, `type(pipe).__call__` without its no_grad. conditions, seeds and call are as for `generate`. The
    global generator is seeded too and put back, since DiTPipeline gives its scheduler none (ours). fresh: with a new scheduler,
    since multistep ones keep their past predictions, with the graph. Raises ValueError if the
    pipe decodes nothing.
    """
    images: list[Tensor] = []

    def decode(original, *args, **kwargs):
        out = original(*args, **kwargs)
        images.append(out[0])
        return tree_map_only(Tensor, Tensor.detach, out)  # so that the pipe may turn it into numpy

    arguments = generating.call_arguments(conditions, seeds=seeds, call=call)
    with ExitStack() as stack:
        stack.enter_context(generating.quiet(pipe))
        if fresh:
            stack.enter_context(schedulers.scheduled(pipe, None, {}))
        stack.enter_context(torch.random.fork_rng([pipe.device] if pipe.device.type == "cuda" else []))
        stack.callback(intercept(pipe.vae, "decode", decode).remove)
        torch.manual_seed(int(seeds[0]))
        inspect.unwrap(type(pipe).__call__)(pipe, **arguments, output_type="pt")
    if not images:
        raise ValueError(
            f"{type(pipe).__name__} decoded nothing by its vae: a search needs a pipe that turns latents into images"
        )
    return images[-1].float()


def branches(pipe: DiffusionPipeline, conditions: Sequence[Any], *, seeds: Sequence[int], calls: int, **call: Any) -> int:
    """Denoiser calls in each of `calls` steps, counted in one dense image: 2 if guidance makes a call of its own.

    Raises ValueError if that is no whole number, or if the image has NaN in it.
    """
    entered = 0

    def count(original, *args, **kwargs):
        nonlocal entered
        entered += 1
        return original(*args, **kwargs)

    handle = intercept(bare(denoiser_of(pipe)), "forward", count)
    try:
        with torch.no_grad():
            images = decoded(pipe, conditions, seeds=seeds, **call)
    finally:
        handle.remove()
    if not images.isfinite().all():
        raise ValueError("the dense pipe draws images with NaN or infinity in them: check its weights and its dtype")
    if not entered or entered % calls:
        raise ValueError(f"found {entered} denoiser calls in {calls} steps, wanted equally many in each: use such a call")
    return entered // calls


@contextmanager
def frozen(pipe: DiffusionPipeline) -> Iterator[None]:
    """Meanwhile no parameter of the pipe takes a gradient; afterwards those that did take them again."""
    parts = (part for part in pipe.components.values() if isinstance(part, nn.Module))
    parameters = [p for part in parts for p in part.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def check_pipe(pipe: DiffusionPipeline) -> None:
    """Raises ValueError if no gradient can flow through a pipe: if it is offloaded, or in float16."""
    denoiser = denoiser_of(pipe)
    check_offload(bare(denoiser))
    if any(hasattr(getattr(part, "_hf_hook", None), "prev_module_hook") for part in pipe.components.values()):
        raise ValueError(
            "the pipe moves its parts on and off the device, and gradients need them all there: remove_all_hooks(), to(device)"
        )
    if next(denoiser.parameters()).dtype is torch.float16:
        raise ValueError("the pipe is in float16, where gradients underflow: load it in bfloat16 or float32")
