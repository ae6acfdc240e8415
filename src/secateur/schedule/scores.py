"""Scores: how much each cell matters, the artifact between a search and the Schedules of any budget made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from secateur.artifact import TEXT, TEXT_OR_NONE, Form, are_whole, check, digest, frozen, signed, write_bytes
from secateur.denoiser.blocks import Blocks
from secateur.denoiser.macs import Macs

TENSOR, ENTRY = "scores", "secateur"  # the tensor in a file, and its metadata entry: one JSON document
BLOCKS = ("denoiser", "granularity", "producers", "sinks")
COUNTS = ("linear", "attention", "rest_linear", "rest_attention", "unit")
FORM = Form(
    noun="scores document",
    number=1,
    fields={
        "denoiser": TEXT,
        "granularity": TEXT,
        "scheduler": TEXT_OR_NONE,
        "scheduler_hash": TEXT_OR_NONE,
        "made": (dict,),
        "blocks": (dict,),
        "producers": (list,),
        "sinks": (list,),
        "linear": (list,),
        "attention": (list,),
        "rest_linear": (int,),
        "rest_attention": (int,),
        "unit": TEXT,
        "values_sha256": TEXT,
    },
    ordered="blocks",
    texts=("blocks",),
    defaults={"unit": "macs"},
)


@dataclass(frozen=True, eq=False)
class Scores:
    """A value for each cell, what it is for and how it was made; `allocate` turns it into a Schedule of any budget.

    values: (T, L) float32, finite, higher matters more; row 0, which always runs, is never read. macs: of the denoiser,
    with its Blocks, so that no model is needed later. scheduler: class name; scheduler_hash: of its configuration. made:
    how it was made, any JSON.
    """

    values: np.ndarray
    macs: Macs
    scheduler: str | None = None
    scheduler_hash: str | None = None
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
            values = np.array(self.values, dtype=np.float32)
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "made", frozen(self.made))
        check_graph(self.macs.blocks)
        check_counts(self.macs)
        check_values(values, self.macs.blocks)

    @property
    def calls(self) -> int:
        """T, the denoiser calls of one image."""
        return len(self.values)

    def save(self, path: str | Path) -> None:
        """Write it to a file, see `save`."""
        save(self, path)

    @staticmethod
    def load(path: str | Path) -> Scores:
        """The scores in a file, see `load`."""
        return load(path)


def check_values(values: np.ndarray, blocks: Blocks) -> None:
    """Nothing; ValueError where the values are not T ≥ 1 rows of one finite number a block."""
    if values.ndim != 2 or not len(values) or values.shape[1] != len(blocks):
        raise ValueError(f"found scores of shape {values.shape} for {len(blocks)} blocks: give (T, {len(blocks)})")
    if wrong := np.argwhere(~np.isfinite(values)).tolist():
        (t, i), name = wrong[0], blocks.names[wrong[0][1]]
        raise ValueError(f"the score of {name} at call {t} is {values[t, i]}: give finite numbers")


def check_graph(blocks: Blocks) -> None:
    """Nothing; ValueError where names are not all different, or an edge leads to no earlier block."""
    size = len(blocks)
    if not size or len(set(blocks.names)) < size:
        raise ValueError(f"found {size} block names, {len(set(blocks.names))} of them different: name one or more, each once")
    for name, producers, end in zip(blocks.names, blocks.producers, range(size), strict=True):
        if not are_whole(producers, below=end):
            raise ValueError(f"{name} reads blocks {list(producers)}: give numbers of blocks that run before it, 0 … {end - 1}")
    if not blocks.sinks or not are_whole(blocks.sinks, below=size):
        raise ValueError(f"found sinks {list(blocks.sinks)}: give one or more of the blocks 0 … {size - 1}")


def check_counts(macs: Macs) -> None:
    """Nothing; ValueError where the MACs are not whole numbers, 0 or more and not all 0, one of each kind a block."""
    size, lengths = len(macs.blocks), {len(macs.linear), len(macs.attention)}
    if lengths != {size}:
        raise ValueError(f"found MACs of {max(lengths ^ {size})} blocks and {size} blocks: count them for these blocks")
    found = (*macs.linear, *macs.attention, macs.rest_linear, macs.rest_attention)
    if not are_whole(found) or not sum((*macs.linear, macs.rest_linear)):
        raise ValueError(f"found MACs {list(found[:3])} and so on: give whole numbers, 0 or more, not all of them 0")


def document(scores: Scores) -> dict[str, Any]:
    """The JSON document of scores: everything but the values, of which it has the SHA-256."""
    macs, blocks = scores.macs, scores.macs.blocks
    return signed(
        {key: getattr(blocks, key) for key in BLOCKS}
        | {key: getattr(macs, key) for key in COUNTS}
        | {key: getattr(scores, key) for key in ("scheduler", "scheduler_hash", "made")}
        | {"blocks": dict(zip(blocks.names, blocks.reuse, strict=True)), "values_sha256": digest(scores.values)},
        FORM,
    )


def from_document(found: Any, values: np.ndarray) -> Scores:
    """The scores of a JSON document and its values; ValueError says what is wrong with them."""
    check(found, FORM, edited=False)
    if found["values_sha256"] != digest(values):
        raise ValueError("its values are not those that it was signed with: take the original file")
    if not all(isinstance(producers, list) for producers in found["producers"]):
        raise ValueError("its field 'producers' holds something that is no list: take the original file")
    blocks = Blocks(
        found["denoiser"],
        found["granularity"],
        tuple(found["blocks"]),
        tuple(found["blocks"].values()),
        tuple(tuple(producers) for producers in found["producers"]),
        tuple(found["sinks"]),
    )
    rests, unit = (found["rest_linear"], found["rest_attention"]), found.get("unit", FORM.defaults["unit"])
    macs = Macs(blocks, tuple(found["linear"]), tuple(found["attention"]), *rests, unit=unit)
    return Scores(values, macs, found["scheduler"], found["scheduler_hash"], found["made"])


def save(scores: Scores, path: str | Path) -> None:
    """Write scores as format 1 in safetensors; a reader sees the old file or the new one, never half of it."""
    entry = json.dumps(document(scores), ensure_ascii=False)
    write_bytes(safetensors_bytes({TENSOR: scores.values}, metadata={ENTRY: entry}), path)


def load(path: str | Path) -> Scores:
    """The scores in a file. ValueError, FileNotFoundError: one sentence each, with the file's name."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no scores file {path}: check the path")
    try:
        return from_document(*parts(path))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no whole file of scores ({error}): take the original file") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parts(path: Path) -> tuple[Any, np.ndarray]:
    """The JSON document and the values (float32) in a safetensors file; ValueError where it holds other things."""
    with safe_open(path, framework="np") as file:
        names, entries = list(file.keys()), file.metadata() or {}
        if names != [TENSOR] or ENTRY not in entries:
            raise ValueError(
                f"it holds the tensors {names} and the entries {sorted(entries)}, and scores are {TENSOR!r} with {ENTRY!r}: "
                "pass a file that a search saved"
            )
        if (kind := file.get_slice(TENSOR).get_dtype()) != "F32":
            raise ValueError(f"its scores are {kind} and F32 is wanted: take the original file")
        return json.loads(entries[ENTRY]), file.get_tensor(TENSOR)
