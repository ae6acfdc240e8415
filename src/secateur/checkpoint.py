"""Jobs that go on after a stop: tensors in a file with the arguments that made them, and steps saved on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.artifact import replacing
from secateur.files import UNREADABLE, fault

FORMAT, ENTRY = 1, "secateur"


class Numbered(Protocol):
    """A step of a job; the first one has number 1."""

    @property
    def number(self) -> int: ...


S = TypeVar("S", bound=Numbered)


def saved_steps(resumed: S | None, later: Iterator[S], *, last: int, every: int = 1, save: Callable[[S], None]) -> Iterator[S]:
    """The step that a job goes on from, if any, and the later ones; every `every`-th and the last are saved, then yielded."""
    if resumed is not None:
        yield resumed
    for step in later:
        if step.number % every == 0 or step.number == last:
            save(step)
        yield step


def check_save_every(save_every: int) -> None:
    """Raises ValueError if this is no number of updates from one saving to the next."""
    if save_every < 1:
        raise ValueError(f"found save_every={save_every}, wanted the updates from one saving to the next: give 1 or more")


def write(tensors: Mapping[str, Tensor], path: Path, *, stated: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Write tensors with what is stated about them and the arguments that made them; the old file is whole until the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = json.dumps({"format": FORMAT, **stated, "arguments": dict(arguments)})
    ready = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    with replacing(path) as part:
        try:
            save_file(ready, part, metadata={ENTRY: entry})
        except SafetensorError as error:  # a full disk comes as one
            raise OSError(str(error)) from error


def read(path: Path, *, noun: str, arguments: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file states, and its tensors. arguments: those that must have made it; None takes any.

    Raises ValueError with the file's name if it is damaged, or if other arguments made it.
    """
    with opened(path, noun=noun) as (file, entry):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    check_arguments(entry, path.parent, noun=noun, arguments=arguments)
    return entry, tensors


@contextmanager
def opened(path: Path, *, noun: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A file whose tensors are not read yet, and what it states. Raises ValueError, also for a tensor that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file, json.loads((file.metadata() or {})[ENTRY])
    except (*UNREADABLE, KeyError, OSError) as error:
        raise ValueError(
            f"{path} is no whole {noun} to go on from: {fault(path, error)}; take it away to start afresh"
        ) from error


def check_arguments(entry: Mapping[str, Any], folder: Path, *, noun: str, arguments: Mapping[str, Any] | None) -> None:
    """Raises ValueError if what is in a folder is of another format, or was made by other arguments."""
    form, theirs = (entry.get("format"), entry.get("arguments")) if isinstance(entry, Mapping) else (None, None)
    if form != FORMAT or not isinstance(theirs, Mapping):
        raise ValueError(f"{folder} holds a {noun} of format {form} and {FORMAT} is read: use another folder")
    ours = theirs if arguments is None else json.loads(json.dumps(arguments))
    if wrong := [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]:
        key = wrong[0]
        raise ValueError(
            f"{folder} holds a {noun} whose {key} is {theirs.get(key)!r} and this one's is {ours.get(key)!r}: give the same "
            "again to go on with it, or another folder"
        )
