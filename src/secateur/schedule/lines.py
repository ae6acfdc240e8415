"""The line through a block's last two outputs."""

from __future__ import annotations

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


def along(line: Line, t: float) -> Any:
    """What the line gives at call t, or between two."""
    value, slope, s = line
    return value if slope is None else tree_map(lambda y, d: y + d * (t - s) if torch.is_tensor(y) else y, value, slope)
