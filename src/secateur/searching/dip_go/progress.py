"""Progress: the state of a gradient search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from secateur.searching.dip_go.pruner import Pruner

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


@dataclass
class Progress:
    """A search after `number` updates: its Pruner, the Pruner's optimizer, and whether the sparsity loss counts now.

    This is the whole state: the learning rate follows from the number, and each random draw from the seed and its own number.
    """

    pruner: Pruner
    optimizer: torch.optim.Optimizer
    pressing: bool = True
    number: int = 0
    losses: dict[str, float] = field(default_factory=dict)
