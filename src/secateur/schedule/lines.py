"""The line through a block's last two outputs, and how far ahead each held call reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

Line = tuple[Any, Any, int]  # what was computed last, how much it grew by each call (None: not known yet), and at which call


def line(new: Any, before: Line | None, t: int) -> Line:
    """The line through two outputs, this one of call t; level if there was none before."""
    if before is None:
        return new, None, t
    old, _, s = before
    slopes: dict[int, Tensor] = {}  # one for each tensor, also if a U-Net's block gives it twice

    def slope(y: Any, x: Any) -> Any:
        return slopes.setdefault(id(y), (y - x) / (t - s)) if torch.is_tensor(y) else y

    return new, tree_map(slope, new, old), t


def leads(held: Sequence[bool], hold: str) -> tuple[float, ...]:
    """How many calls ahead of itself each held call reads the line, (T,); 0 for any hold but "adams_bashforth".

    A call's own step takes its own prediction, at the beginning of the line. The n − 1 held calls after it make up for that
    by n / 2(n − 1), so that all n steps go by the line's mean: one step of the two-step Adams–Bashforth method (ours, exact if
    the scheduler's steps are even). A call without held calls after it steps by the sampler's own first order.
    """
    if hold != "adams_bashforth":
        return (0.0,) * len(held)
    runs = [t for t, passed in enumerate(held) if not passed]
    steps = [end - start for start, end in zip(runs, (*runs[1:], len(held)), strict=True)]
    return tuple(lead(k, n) for n in steps for k in range(n))


def lead(k: int, n: int) -> float:
    """How many calls ahead the k-th of n steps reads the line."""
    return n / (2 * (n - 1)) if k else 0.0


def along(line: Line, t: float) -> Any:
    """What the line gives at call t, or between two."""
    value, slope, s = line
    return value if slope is None else tree_map(lambda y, d: y + d * (t - s) if torch.is_tensor(y) else y, value, slope)
