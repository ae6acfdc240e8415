"""The arguments with which a pipeline first calls its denoiser, read off the pipeline itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from inspect import signature
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from secateur.denoiser.families import bare
from secateur.denoiser.of_pipe import denoiser_of
from secateur.denoiser.patch import intercept
from secateur.pipeline import generate as generating

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


NO_CONDITIONS = ("timestep", "return_dict")  # among the arguments of a denoiser, beside the latents


def sized(pipe: DiffusionPipeline, height: int, width: int) -> dict[str, Any]:
    """The arguments by which a pipe draws images of this size; none if it draws a single size."""
    size = {"height": height, "width": width, "use_resolution_binning": False}
    parameters = signature(type(pipe).__call__).parameters
    return {name: value for name, value in size.items() if name in parameters}


class Query(Exception):  # it carries an answer out of the pipe, and is no error
    """A denoiser's first call in a pipe: its arguments by name, the latents first, at this timestep of the scheduler."""

    def __init__(self, arguments: Mapping[str, Any], timestep: float):
        super().__init__()
        self.stream = next(iter(arguments))
        self.shape = arguments[self.stream].shape
        conditions = {name: value for name, value in arguments.items() if name not in (self.stream, *NO_CONDITIONS)}
        self.conditions = tree_map_only(Tensor, lambda x: x.detach().cpu(), conditions)
        # A power of ten, for half precision blurs the quotient.
        first = float(arguments["timestep"].flatten()[0])
        self.timestep_scale = 10.0 ** round(math.log10(first / timestep)) if timestep else 1.0


def queries_for(pipe: DiffusionPipeline, conditions: Sequence[Any], *, call: Mapping[str, Any]) -> list[Query]:
    """What the pipe asks its denoiser first for each condition, without guidance; equal prompts and labels are run once."""
    call = {**call, **unguided(pipe)}
    generating.check_call(pipe, conditions[:1], seeds=range(len(conditions[:1])), batch_size=1, call=call)
    keys = [c if isinstance(c, (str, Integral)) else id(c) for c in conditions]
    different = dict(zip(keys, conditions, strict=True))
    with generating.quiet(pipe):
        queries = {key: first_query(pipe, condition, call=call) for key, condition in different.items()}
    return [queries[key] for key in keys]


def unguided(pipe: Any) -> dict[str, Any]:
    """The argument that turns guidance off, for denoisers that do not take its scale themselves."""
    denoiser: Any = bare(denoiser_of(pipe))
    takes_scale = denoiser.config.get("guidance_embeds") or denoiser.config.get("time_cond_proj_dim")
    return {} if takes_scale or "guidance_scale" not in signature(type(pipe).__call__).parameters else {"guidance_scale": 1.0}


@torch.no_grad()
def first_query(pipe: Any, condition: Any, *, call: Mapping[str, Any]) -> Query:
    """What the pipe asks its denoiser first for one condition; it goes no further than that."""

    def forward(original, *args, **kwargs):
        raise Query(signature(original).bind(*args, **kwargs).arguments, float(pipe.scheduler.timesteps[0]))

    handle = intercept(bare(denoiser_of(pipe)), "forward", forward)
    try:
        pipe(**generating.call_arguments([condition], seeds=[0], call=call))
    except Query as query:
        if query.shape[0] != 1:
            raise ValueError(
                f"{type(pipe).__name__} asks for {query.shape[0]} at once though there is one condition: turn guidance off"
            ) from None
        return query
    finally:
        handle.remove()
        pipe.maybe_free_model_hooks()  # as its own __call__ ends: parts that are offloaded go back
    raise ValueError(f"{type(pipe).__name__} drew without asking its {type(denoiser_of(pipe)).__name__}: give another pipe")
