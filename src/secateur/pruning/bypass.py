"""A teacher whose planned layers are bypassed: it computes what its student would, and nothing is cut or copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from secateur.denoiser.blocks import streams_by_name
from secateur.denoiser.families import bare, family
from secateur.denoiser.patch import Patch, find_modules
from secateur.denoiser.streams import Stream, continued, streams_of
from secateur.pruning.plan import Plan
from secateur.pruning.student import replacement
from secateur.pruning.surgery import check_fits


def bypassed(denoiser: nn.Module, plan: Plan, *, removable: Mapping[str, str] | None = None) -> Patch:
    """A Patch; until its `remove()` or the end of a `with` the denoiser computes what `drop_layers(denoiser, plan)` does.

    removable: the layers of `surgery.cuttable`, for a caller who bypasses often. Raises ValueError as `drop_layers` does, but
    checks neither samplers nor what stock diffusers can build.
    """
    denoiser = bare(denoiser)
    check_fits(denoiser, plan, removable=removable)
    instead = stand_ins(denoiser, plan)

    def call(t, i, run, inputs):
        args, kwargs = inputs
        return instead[i](*args, **kwargs)

    return Patch(denoiser, plan.layers, call)


def stand_ins(denoiser: nn.Module, plan: Plan) -> list[Callable[..., Any]]:
    """For each layer of a plan, a function of its inputs that gives what is left without the layer."""
    modules = find_modules(denoiser, plan.layers)
    if family(denoiser).depths:
        names = streams_by_name(denoiser)
        pairs = zip(modules, plan.layers, strict=True)
        return [partial(passed, streams_of(module, names[layer])) for module, layer in pairs]
    return [replacement(module, how) for module, how in zip(modules, plan.removals, strict=True)]


def passed(streams: tuple[Stream, ...], *args: Any, **kwargs: Any) -> Any:
    """The inputs that a transformer block would have updated, in the order of its outputs."""
    parts = tuple(continued(streams, (args, kwargs)))
    return parts[0] if len(parts) == 1 else parts
