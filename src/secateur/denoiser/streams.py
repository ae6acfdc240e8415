"""What a block gives when it does not run: its last output, its input plus what it last added to it, or a line through its
last two outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.denoiser.blocks import Blocks
from secateur.denoiser.families import family
from secateur.denoiser.patch import Inputs, find_modules

Stream = tuple[str, int]  # name and position of a forward's argument


def streams(denoiser: nn.Module, blocks: Blocks) -> Iterator[tuple[Stream, ...]]:
    """For each block the arguments that its outputs continue, if it reuses a residual; else none."""
    for module, reuse in zip(find_modules(denoiser, blocks.names), blocks.reuse, strict=True):
        yield streams_of(module, family(denoiser).streams if reuse == "residual" else ())


def streams_of(module: nn.Module, names: Sequence[str]) -> tuple[Stream, ...]:
    """The arguments of these names of a block's forward, with their places."""
    order = list(inspect.signature(type(module).forward).parameters)[1:]
    return tuple((name, order.index(name)) for name in names)


def continued(found: tuple[Stream, ...], inputs: Inputs) -> list[Tensor]:
    """The input tensors that a block's outputs continue."""
    args, kwargs = inputs
    return [kwargs[name] if name in kwargs else args[position] for name, position in found]


def minus(out: Any, found: tuple[Stream, ...], inputs: Inputs) -> Any:
    """What a block added to its inputs; all of what it gives where it continues none. None stays None."""
    if not found:
        return out
    parts = out if isinstance(out, tuple) else (out,)
    pairs = zip(parts, continued(found, inputs), strict=True)
    return tuple(None if y is None else y - x for y, x in pairs)


def plus(kept: Any, found: tuple[Stream, ...], inputs: Inputs) -> Any:
    """The inverse of `minus`, on inputs of now."""
    if not found:
        return kept
    parts = tuple(None if d is None else x + d for d, x in zip(kept, continued(found, inputs), strict=True))
    return parts[0] if len(found) == 1 else parts


Line = tuple[Any, Any, int]  # what was computed last, how much it grew by each call (None: not known yet), and at which call


def line(new: Any, before: Line | None, t: int) -> Line:
    """The line through two outputs, this one of call t; level where there was none before."""
    if before is None:
        return new, None, t
    old, _, s = before
    slopes: dict[int, Tensor] = {}  # one for each tensor, also where a U-Net's block gives it twice

    def slope(y: Any, x: Any) -> Any:
        return slopes.setdefault(id(y), (y - x) / (t - s)) if torch.is_tensor(y) else y

    return new, tree_map(slope, new, old), t


def leads(held: Sequence[bool], hold: str) -> tuple[float, ...]:
    """How many calls ahead of itself each held call reads the line, (T,); 0 for any hold but "adams_bashforth".

    A call's own step takes what it says, which is where the line begins; of n steps the n − 1 held ones make up for that by
    n / 2(n − 1), so that all n go by the line's mean: one step of the two-step Adams-Bashforth method (ours, where the
    scheduler's steps are even). A call with none held after it steps as the sampler does, by its first order.
    """
    if hold != "adams_bashforth":
        return (0.0,) * len(held)
    made = [t for t, passed in enumerate(held) if not passed]
    steps = [end - start for start, end in zip(made, (*made[1:], len(held)), strict=True)]
    return tuple(lead(k, n) for n in steps for k in range(n))


def lead(k: int, n: int) -> float:
    """That of the k-th of n steps."""
    return n / (2 * (n - 1)) if k else 0.0


def along(kept: Line, t: float) -> Any:
    """What the line gives at call t, or between two."""
    value, slope, s = kept
    return value if slope is None else tree_map(lambda y, d: y + d * (t - s) if torch.is_tensor(y) else y, value, slope)
