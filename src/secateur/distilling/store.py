"""Examples on disk: written part by part, gone on with after a stop, and joined without all of them in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from shutil import disk_usage, rmtree
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from secateur import checkpoint
from secateur.pipeline.examples import Examples, concatenate

NOUN = "set of examples"
PART = 128  # examples: few enough to lose when killed, and a million of them in fewer files than may be mapped


def making(parts: Callable[[int], Iterator[Examples]], path: Path, *, made: Mapping[str, Any]) -> Iterator[int]:
    """How many examples there are, as they are made; when it ends, all are in the file `path`.

    parts: gives the examples from a number on, some at a time. made: how they are made, any JSON. They lie in files of PART or
    more beside `path` until the end, and those made alike before a stop are taken from there.
    """
    folder, pending = path.with_name(f".{path.stem}.parts"), list[Examples]()
    files, number = parts_there(folder, made=made)
    if files:
        yield number

    def keep() -> None:
        files.append(part_file(folder, number - sum(map(len, pending))))
        save(concatenate(pending), files[-1], made=made)
        pending.clear()

    try:
        for part in parts(number):
            pending.append(part)
            number += len(part)
            if sum(map(len, pending)) >= PART:
                keep()
            yield number
    finally:
        if pending:
            keep()
    join(files, path, made=made)
    rmtree(folder)


def parts_there(folder: Path, *, made: Mapping[str, Any]) -> tuple[list[Path], int]:
    """The files of parts made alike before, from the first on without a gap, and how many examples they hold."""
    files, number = [], 0
    while (file := part_file(folder, number)).exists():
        try:
            number += len(load(file, made=made))
        except ValueError:  # damaged, or of other data
            break
        files.append(file)
    if not files:
        rmtree(folder, ignore_errors=True)
    return files, number


def part_file(folder: Path, number: int) -> Path:
    """The file of the part whose first example has this number."""
    return folder / f"{number:09}.safetensors"


def join(files: Sequence[Path], path: Path, *, made: Mapping[str, Any]) -> None:
    """Write the examples of all files into one, tensor by tensor through files that are mapped into memory.

    Raises OSError if the disk has no room for both: a mapped file without room would end the process without a word.
    """
    needed, free = 2 * sum(file.stat().st_size for file in files), disk_usage(path.parent).free
    if free < needed:
        raise OSError(
            f"joining the examples into {path} takes {needed / 1e9:.1f} GB and {free / 1e9:.1f} are free: make room, and the "
            "same command goes on"
        )
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        save(concatenate(map(load, files), cat=mapped(Path(folder))), path, made=made)


def mapped(folder: Path) -> Callable[[list[Tensor]], Tensor]:
    """torch.cat whose results lie in files of a folder, so that the kernel may write them out and forget them."""
    numbers = count()

    def cat(parts: list[Tensor]) -> Tensor:
        shape = sum(map(len, parts)), *parts[0].shape[1:]
        file = str(folder / str(next(numbers)))
        room = torch.from_file(file, shared=True, size=math.prod(shape), dtype=parts[0].dtype).view(shape)
        return torch.cat(parts, out=room)

    return cat


def save(examples: Examples, path: str | Path, *, made: Mapping[str, Any]) -> None:
    """Write examples as safetensors. made: how they were made, any JSON."""
    flat: dict[str, Tensor] = {"latents": examples.latents}
    kinds = {kind: leaves(getattr(examples, kind), kind, flat) for kind in ("conditions", "shared")}
    stated = {**kinds, "stream": examples.stream, "timestep_scale": examples.timestep_scale}
    checkpoint.write(flat, Path(path), stated=stated, arguments=made)


def load(path: str | Path, *, made: Mapping[str, Any] | None = None) -> Examples:
    """The examples in a file, whose pages are read when they are used. made: how they must have been made, if given.

    Raises ValueError if it is damaged, or was made otherwise.
    """
    stated, flat = checkpoint.read(Path(path), noun=NOUN, arguments=made)
    conditions, shared = (rebuilt(stated[kind], kind, flat) for kind in ("conditions", "shared"))
    return Examples(flat["latents"], conditions, shared, stated["stream"], stated["timestep_scale"])


def leaves(value: Any, name: str, flat: dict[str, Tensor]) -> Any:
    """The JSON of nested values, whose tensors go into `flat` under dotted names and leave their name's dtype here."""
    if isinstance(value, Mapping):
        return {key: leaves(x, f"{name}.{key}", flat) for key, x in value.items()}
    if torch.is_tensor(value):
        flat[name] = value
        return {"$": name}
    return value


def rebuilt(value: Any, name: str, flat: Mapping[str, Tensor]) -> Any:
    """What `leaves` took apart."""
    if isinstance(value, Mapping):
        return flat[name] if "$" in value else {key: rebuilt(x, f"{name}.{key}", flat) for key, x in value.items()}
    return value
