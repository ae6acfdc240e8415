"""Progress: how far a search has come, and the file it can go on from."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.artifact import replacing
from secateur.searching.dip_go.pruner import Pruner

FORMAT, FILE, ENTRY = 1, "search.safetensors", "secateur"
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


def write(found: Mapping[str, Tensor], path: Path, *, stated: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Write tensors with what is stated about them and the arguments they were made by, the old file whole until the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = json.dumps({"format": FORMAT, **stated, "arguments": dict(arguments)})
    ready = {name: x.detach().cpu().contiguous() for name, x in found.items()}
    with replacing(path) as part:
        try:
            save_file(ready, part, metadata={ENTRY: entry})
        except SafetensorError as error:  # a full disk comes as one
            raise OSError(str(error)) from error


def read(path: Path, *, noun: str, arguments: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file states, and its tensors. ValueError, with its name: damaged, or made by other arguments than those given."""
    try:
        with safe_open(path, framework="pt") as file:
            entry = json.loads((file.metadata() or {})[ENTRY])
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    except (SafetensorError, json.JSONDecodeError, KeyError, OSError) as error:
        raise ValueError(f"{path} is no whole {noun} to go on from ({error}): take it away to start afresh") from error
    check(entry, path.parent, noun=noun, arguments=arguments)
    return entry, found


def check(entry: Mapping[str, Any], folder: Path, *, noun: str, arguments: Mapping[str, Any] | None) -> None:
    """Nothing; ValueError where what is in a folder is of another format, or was made by other arguments."""
    if entry.get("format") != FORMAT:
        raise ValueError(f"{folder} holds a {noun} of format {entry.get('format')} and {FORMAT} is read: use another folder")
    found = entry["arguments"]
    wanted = found if arguments is None else json.loads(json.dumps(arguments))
    if wrong := [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]:
        key = wrong[0]
        raise ValueError(
            f"{folder} holds a {noun} whose {key} is {found.get(key)!r} and this one's is {wanted.get(key)!r}: give the same "
            "again to go on with it, or another folder"
        )


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
