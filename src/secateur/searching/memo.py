"""Memo: what a search has measured, kept in a folder, so that the same search, begun again, measures none of it twice.

A search is deterministic given what it measures. So no stage saves a state: a search that was stopped runs from its start
again, and gets at once whatever is known already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur import checkpoint
from secateur.artifact import write_text
from secateur.denoiser import fingerprint
from secateur.files import read_json
from secateur.pipeline.schedulers import scheduler_signature
from secateur.pipeline.trajectory import Trajectory, record
from secateur.schedule.schedule import Schedule

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import DiffusionPipeline

NOUN, ARGUMENTS, VALUES = "search", "search.json", ".safetensors"


@dataclass(frozen=True)
class Memo:
    """`memo(name, key, make)` gives the tensors that `make()` makes, or made in an earlier run for the same name and key.

    folder: where they are, made with the first; None keeps nothing. arguments: of the search. known: the files that earlier
    runs left. writes: whether this process saves.
    """

    folder: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    writes: bool = True

    def __call__(self, name: str, key: Sequence[Any], make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """key: whatever the values depend on, beside the arguments of the search."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.{fingerprint.of_values(key)}{VALUES}"
        if path.name not in self.known or not path.exists():
            made = make()
            if not self.writes:
                return made
            if not (list_of := self.folder / ARGUMENTS).exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                write_text(json.dumps({"format": checkpoint.FORMAT, "arguments": dict(self.arguments)}, indent=1), list_of)
            checkpoint.write(made, path, stated={}, arguments={})
        return checkpoint.read(path, noun=NOUN, arguments=None)[1]

    def end(self) -> None:
        """Take away what was kept: the search is over. The last file to go says whose folder it is."""
        if self.folder is None or not self.writes or not self.folder.exists():
            return
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == ARGUMENTS):
            if path.suffix in (VALUES, ".part") or path.name == ARGUMENTS:
                with suppress(OSError):  # Windows keeps a file that is mapped to memory
                    path.unlink()
        with suppress(OSError):  # somebody else's files are there
            self.folder.rmdir()


NOTHING = Memo()


def memo_in(
    folder: str | Path | None, arguments: Mapping[str, Any], *, afresh: bool = False, accelerator: Accelerator | None = None
) -> Memo:
    """The Memo of a search in its folder; one that keeps nothing if folder is None.

    afresh: what another search left there goes. Otherwise raises ValueError, with the folder's name and the first argument that
    differs. Raises FileExistsError if something else is there. Among the processes of an accelerator one writes; all of them
    know what was there before.
    """
    if folder is None:
        return NOTHING
    folder, writes = Path(folder), accelerator is None or accelerator.is_main_process
    names = frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset[str]()
    if ARGUMENTS in names:
        entry = read_json(folder / ARGUMENTS, NOUN)
        try:
            checkpoint.check_arguments(entry, folder, noun=NOUN, arguments=arguments)
        except ValueError:
            if not afresh:
                raise
            Memo(folder, writes=writes).end()
            names = frozenset()
    elif others := sorted(name for name in names if not name.startswith(".")):
        raise FileExistsError(f"{folder} holds {others[0]} and no search to go on with: give another folder, or an empty one")
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return Memo(folder, arguments, names, writes)


def content_of(schedule: Schedule) -> str:
    """A checksum of what a schedule does, however it was made."""
    return replace(schedule, made={}).document()["sha256"]


def recorded(
    memo: Memo, pipe: DiffusionPipeline, conditions: Sequence[Any], *, seeds: Sequence[int], batch_size: int, **call: Any
) -> Trajectory:
    """The Trajectory that `record` gives."""
    given = [fingerprint.of_values(conditions), tuple(seeds), batch_size, sorted(call.items())]

    def make() -> dict[str, Tensor]:
        return tensors_of(record(pipe, conditions, seeds=seeds, batch_size=batch_size, **call))

    return trajectory_of(memo("trajectory", [*given, *scheduler_signature(pipe.scheduler)], make), conditions, seeds, call)


def tensors_of(trajectory: Trajectory) -> dict[str, Tensor]:
    """What a trajectory holds beside its arguments."""
    times, images = torch.tensor(trajectory.timesteps, dtype=torch.float64), torch.from_numpy(trajectory.images)
    return {"timesteps": times, "latents": trajectory.latents, "outputs": trajectory.outputs, "images": images}


def trajectory_of(
    tensors: Mapping[str, Tensor], conditions: Sequence[Any], seeds: Sequence[int], call: Mapping[str, Any]
) -> Trajectory:
    """The Trajectory of these tensors and arguments."""
    times, parts = tuple(tensors["timesteps"].tolist()), (tensors["latents"], tensors["outputs"], tensors["images"].numpy())
    return Trajectory(tuple(conditions), tuple(seeds), times, *parts, MappingProxyType(dict(call)))
