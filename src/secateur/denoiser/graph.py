"""The graph between named modules of a denoiser, read off one evaluation on the meta device."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from secateur.denoiser.on_meta import OnMeta
from secateur.denoiser.patch import Inputs, Patch, find_modules

Streams = tuple[str | None, ...]  # for each of a module's outputs the argument that it continues
Origin = tuple[Any, int]  # where autograd has a tensor from: a node, and which of its outputs
MOVES = re.compile(  # what leaves a summand a summand
    "(Add|Sub|Clone|Alias|View|UnsafeView|ReshapeAlias|ToCopy|Cat|Split|SplitWithSizes|Slice|Select|Transpose|T|Permute|"
    r"Unsqueeze|Squeeze|Expand|Unbind|Addcmul)Backward\w*"
)


@dataclass(frozen=True)
class Trace:
    """Modules in execution order as indices into the names traced, once for each time they ran.

    producers, sinks: as indices into that order. streams: the arguments that a module's outputs continue; empty if not all
    of them continue one.
    """

    order: tuple[int, ...]
    producers: tuple[tuple[int, ...], ...]
    sinks: tuple[int, ...]
    streams: tuple[Streams, ...] = field(default=())

    def repeated(self) -> set[int]:
        """Indices of the names that ran several times."""
        return {i for i, n in Counter(self.order).items() if n > 1}


def trace(twin: nn.Module, names: Sequence[str], inputs: Mapping[str, Any]) -> Trace:
    """The graph between the named modules. Wants a denoiser on the meta device, with gradients for its weights.

    Each module's output is cut off from its past and given a fresh leaf: the leaves that a later input still depends on
    are exactly its direct producers.
    """
    order: list[int] = []
    leaves: list[Tensor] = []
    producers: list[tuple[int, ...]] = []
    streams: list[Streams] = []
    modules = find_modules(twin, names)

    def call(t, i, run, inputs):
        producers.append(sources(inputs, leaves))
        order.append(i)
        arguments = named(modules[i], inputs)
        origins = {name: (origin(x), x.shape) for name, x in arguments.items() if isinstance(x, Tensor)}
        out, leaf = run(), torch.zeros((), device="meta", requires_grad=True)
        streams.append(continued_by(out, origins))
        leaves.append(leaf)
        return tree_map_only(Tensor, lambda x: x.detach() + leaf, out)

    twin.requires_grad_(True)
    # A caller's no_grad or inference_mode must not blind autograd here.
    with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"), OnMeta() as mode, Patch(twin, names, call):
        out = twin(**mode.hollowed(inputs))
        return Trace(tuple(order), tuple(producers), sources(out, leaves), tuple(streams))


def sources(nest: Any, leaves: Sequence[Tensor]) -> tuple[int, ...]:
    """Which of the leaves the tensors of a nest depend on, as autograd sees it."""
    total = sum(x.abs().sum() for x in tree_leaves(nest) if torch.is_tensor(x) and x.requires_grad)
    if not torch.is_tensor(total) or not leaves:
        return ()
    grads = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
    return tuple(k for k, g in enumerate(grads) if g is not None)


def named(module: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """A module's inputs by the names of its forward's arguments."""
    args, kwargs = inputs
    return dict(zip(list(inspect.signature(type(module).forward).parameters)[1:], args, strict=False)) | kwargs


def origin(x: Tensor) -> Origin:
    return x.grad_fn, x.output_nr


def continued_by(out: Any, arguments: Mapping[str, tuple[Origin, torch.Size]]) -> Streams:
    """For each output the argument of its shape that it is a sum with, None if the output is None; empty if one is no sum."""
    names = tuple(None if y is None else continues(y, arguments) for y in (out if isinstance(out, tuple) else (out,)))
    return () if "" in names else names


def continues(y: Any, arguments: Mapping[str, tuple[Origin, torch.Size]]) -> str:
    """The first argument that a tensor is a sum with; the empty string if there is none."""
    if not isinstance(y, Tensor):
        return ""
    summands, stack = set(), [origin(y)]
    ends = {at for at, _ in arguments.values()}
    while stack:
        at = stack.pop()
        if at in ends:
            summands.add(at)
        elif at[0] is not None and MOVES.fullmatch(at[0].name()):
            stack.extend(at[0].next_functions[:1] if "Addcmul" in at[0].name() else at[0].next_functions)
    return next((name for name, (at, shape) in arguments.items() if at in summands and shape == y.shape), "")
