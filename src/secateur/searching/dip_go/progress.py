"""Progress: how far a search has come, and the file it can go on from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.checkpoint import read, write
from secateur.searching.dip_go.pruner import Pruner

FILE = "search.safetensors"
STATED = ("number", "pressing", "losses")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


@dataclass
class Progress:
    """A search after `number` updates: its Pruner, the optimizer of that, and whether the sparsity loss is pressing now.

    There is nothing else: the learning rate follows from the number, and every draw from the seed and its own number.
    """

    pruner: Pruner
    optimizer: torch.optim.Optimizer
    pressing: bool = True
    number: int = 0
    losses: dict[str, float] = field(default_factory=dict)


def save(progress: Progress, folder: Path, *, arguments: Mapping[str, Any]) -> None:
    """Write a progress into its folder; whoever is killed on the way leaves the file that was there before."""
    write(tensors(progress), folder / FILE, stated={key: getattr(progress, key) for key in STATED}, arguments=arguments)


def load(progress: Progress, folder: Path, *, arguments: Mapping[str, Any]) -> Progress:
    """The progress saved in a folder, in this one's pruner and optimizer; this one as it is where nothing was saved.

    ValueError, with the folder's name: made by other arguments, or damaged.
    """
    if not (folder / FILE).exists():
        return progress
    stated, found = read(folder / FILE, noun="search", arguments=arguments)
    restore(progress, found)
    for key in STATED:
        setattr(progress, key, stated[key])
    return progress


def tensors(progress: Progress) -> dict[str, Tensor]:
    """Every tensor of a progress by name."""
    state = progress.optimizer.state_dict()["state"]
    optimizer = {f"optimizer.{i}.{name}": x for i, parts in state.items() for name, x in parts.items() if torch.is_tensor(x)}
    return {f"pruner.{name}": x for name, x in progress.pruner.state_dict().items()} | optimizer


def restore(progress: Progress, found: Mapping[str, Tensor]) -> None:
    """Put tensors back where `tensors` took them from."""
    pruner, state = {}, defaultdict(dict)
    for name, x in found.items():
        part, rest = name.split(".", 1)
        if part == "pruner":
            pruner[rest] = x
        else:
            i, key = rest.split(".", 1)
            state[int(i)][key] = x
    progress.pruner.load_state_dict(pruner)
    groups = progress.optimizer.state_dict()["param_groups"]
    progress.optimizer.load_state_dict({"state": dict(state), "param_groups": groups})
