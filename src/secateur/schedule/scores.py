"""Scores: how much each cell matters, the artifact between a search and the Schedules of any budget made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secateur import artifact
from secateur.artifact import TEXT, TEXT_OR_NONE, Form, are_whole, document_of, frozen
from secateur.denoiser.blocks import Blocks
from secateur.denoiser.macs import Macs

ARRAY = "scores"  # in a file
BLOCKS = ("denoiser", "granularity", "producers", "sinks")
COUNTS = ("linear", "attention", "rest_linear", "rest_attention", "unit")
FORM = Form(
    noun="scores",
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
    arrays=(ARRAY,),
    arrays_field="values_sha256",
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

    def document(self) -> dict[str, Any]:
        """Its JSON document, format 1: everything but the values, of which it has the checksum."""
        blocks = self.macs.blocks
        content = {
            **{key: getattr(blocks, key) for key in BLOCKS},
            **{key: getattr(self.macs, key) for key in COUNTS},
            **{key: getattr(self, key) for key in ("scheduler", "scheduler_hash", "made")},
            "blocks": dict(zip(blocks.names, blocks.reuse, strict=True)),
        }
        return document_of(content, FORM, {ARRAY: self.values})

    def save(self, path: str | Path) -> None:
        """Write them to a safetensors file; a reader sees the old file or the new one, never half of it."""
        artifact.save(self.document(), path, arrays={ARRAY: self.values})

    @staticmethod
    def load(path: str | Path) -> Scores:
        """The scores in a file. Raises FileNotFoundError or ValueError, one sentence with the file's name."""
        return artifact.load(path, FORM, scores_from)


def check_values(values: np.ndarray, blocks: Blocks) -> None:
    """Raises ValueError if the values are not T ≥ 1 rows of one finite number a block."""
    if values.ndim != 2 or not len(values) or values.shape[1] != len(blocks):
        raise ValueError(f"found scores of shape {values.shape} for {len(blocks)} blocks: give (T, {len(blocks)})")
    if wrong := np.argwhere(~np.isfinite(values)).tolist():
        (t, i), name = wrong[0], blocks.names[wrong[0][1]]
        raise ValueError(f"the score of {name} at call {t} is {values[t, i]}: give finite numbers")


def check_graph(blocks: Blocks) -> None:
    """Raises ValueError if names are not all different, or an edge leads to no earlier block."""
    size = len(blocks)
    if not size or len(set(blocks.names)) < size:
        raise ValueError(f"found {size} block names, {len(set(blocks.names))} of them different: name one or more, each once")
    for name, producers, end in zip(blocks.names, blocks.producers, range(size), strict=True):
        if not are_whole(producers, below=end):
            raise ValueError(f"{name} reads blocks {list(producers)}: give numbers of blocks that run before it, 0 … {end - 1}")
    if not blocks.sinks or not are_whole(blocks.sinks, below=size):
        raise ValueError(f"found sinks {list(blocks.sinks)}: give one or more of the blocks 0 … {size - 1}")


def check_counts(macs: Macs) -> None:
    """Raises ValueError if the MACs are not whole numbers, 0 or more and not all 0, one of each kind a block."""
    size, lengths = len(macs.blocks), {len(macs.linear), len(macs.attention)}
    if lengths != {size}:
        raise ValueError(f"found MACs of {max(lengths ^ {size})} blocks and {size} blocks: count them for these blocks")
    counts = (*macs.linear, *macs.attention, macs.rest_linear, macs.rest_attention)
    if not are_whole(counts) or not sum((*macs.linear, macs.rest_linear)):
        raise ValueError(f"found MACs {list(counts[:3])} and so on: give whole numbers, 0 or more, not all of them 0")


def scores_from(document: Mapping[str, Any], *, scores: np.ndarray) -> Scores:
    """The scores of a JSON document and its array. Raises ValueError if they do not fit."""
    if not all(isinstance(producers, list) for producers in document["producers"]):
        raise ValueError("its field 'producers' holds something that is no list: take the original file")
    blocks = Blocks(
        document["denoiser"],
        document["granularity"],
        tuple(document["blocks"]),
        tuple(document["blocks"].values()),
        tuple(tuple(producers) for producers in document["producers"]),
        tuple(document["sinks"]),
    )
    rests, unit = (document["rest_linear"], document["rest_attention"]), document.get("unit", FORM.defaults["unit"])
    macs = Macs(blocks, tuple(document["linear"]), tuple(document["attention"]), *rests, unit=unit)
    return Scores(scores, macs, document["scheduler"], document["scheduler_hash"], document["made"])
