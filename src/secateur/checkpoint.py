"""Tensors in a file with the arguments they were made by; other arguments are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.artifact import replacing

FORMAT, ENTRY = 1, "secateur"


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
