"""Progress: the state of a gradient search, and the file that it resumes from."""

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
    """A search after `number` updates: its Pruner, the Pruner's optimizer, and whether the sparsity loss counts now.

    This is the whole state: the learning rate follows from the number, and each random draw from the seed and its own number.
    """

    pruner: Pruner
    optimizer: torch.optim.Optimizer
    pressing: bool = True
    number: int = 0
    losses: dict[str, float] = field(default_factory=dict)


def save(progress: Progress, folder: Path, *, arguments: Mapping[str, Any]) -> None:
    """Write a progress into its folder; if the process is killed meanwhile, the older file stays."""
    write(tensors(progress), folder / FILE, stated={key: getattr(progress, key) for key in STATED}, arguments=arguments)


def load(progress: Progress, folder: Path, *, arguments: Mapping[str, Any]) -> Progress:
    """The progress saved in a folder, put into this one's pruner and optimizer; this one itself if nothing was saved.

    Raises ValueError, with the folder's name, if it was saved with other arguments or is damaged.
    """
    if not (folder / FILE).exists():
        return progress
    stated, saved = read(folder / FILE, noun="search", arguments=arguments)
    restore(progress, saved)
    for key in STATED:
        setattr(progress, key, stated[key])
    return progress


def tensors(progress: Progress) -> dict[str, Tensor]:
    """Every tensor of a progress by name."""
    state = progress.optimizer.state_dict()["state"]
    optimizer = {f"optimizer.{i}.{name}": x for i, parts in state.items() for name, x in parts.items() if torch.is_tensor(x)}
    return {f"pruner.{name}": x for name, x in progress.pruner.state_dict().items()} | optimizer


def restore(progress: Progress, saved: Mapping[str, Tensor]) -> None:
    """Put tensors back where `tensors` took them from."""
    pruner, state = {}, defaultdict(dict)
    for name, x in saved.items():
        part, rest = name.split(".", 1)
        if part == "pruner":
            pruner[rest] = x
        else:
            i, key = rest.split(".", 1)
            state[int(i)][key] = x
    progress.pruner.load_state_dict(pruner)
    groups = progress.optimizer.state_dict()["param_groups"]
    progress.optimizer.load_state_dict({"state": dict(state), "param_groups": groups})
