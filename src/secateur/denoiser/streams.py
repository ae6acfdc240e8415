"""What a block gives when it does not run: its last output, its input plus what it last added to it, or a line through its
last two outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from secateur.denoiser.blocks import Blocks, streams_by_name
from secateur.denoiser.graph import Streams
from secateur.denoiser.patch import Inputs, find_modules

Stream = tuple[str, int] | None  # name and position of a forward's argument; None for an output that is None


def streams(denoiser: nn.Module, blocks: Blocks) -> Iterator[tuple[Stream, ...]]:
    """For each block the arguments that its outputs continue, if it reuses a residual; else none."""
    names = streams_by_name(denoiser, blocks.granularity) if "residual" in blocks.reuse else {}
    for module, name, reuse in zip(find_modules(denoiser, blocks.names), blocks.names, blocks.reuse, strict=True):
        yield streams_of(module, names[name] if reuse == "residual" else ())


def streams_of(module: nn.Module, names: Streams) -> tuple[Stream, ...]:
    """The arguments of these names of a block's forward, with their places."""
    order = list(inspect.signature(type(module).forward).parameters)[1:]
    return tuple(name if name is None else (name, order.index(name)) for name in names)


def continued(block_streams: tuple[Stream, ...], inputs: Inputs) -> list[Any]:
    """The input tensors that a block's outputs continue; None where an output is None."""
    args, kwargs = inputs
    return [at and (kwargs[at[0]] if at[0] in kwargs else args[at[1]]) for at in block_streams]


def minus(out: Any, block_streams: tuple[Stream, ...], inputs: Inputs) -> Any:
    """What a block added to its inputs; all of its output if that continues none. None stays None."""
    if not block_streams:
        return out
    parts = out if isinstance(out, tuple) else (out,)
    pairs = zip(parts, continued(block_streams, inputs), strict=True)
    return tuple(None if y is None else y - x for y, x in pairs)


def plus(residual: Any, block_streams: tuple[Stream, ...], inputs: Inputs) -> Any:
    """The inverse of `minus`, on inputs of now."""
    if not block_streams:
        return residual
    parts = tuple(None if d is None else x + d for d, x in zip(residual, continued(block_streams, inputs), strict=True))
    return parts[0] if len(block_streams) == 1 else parts
