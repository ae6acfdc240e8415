"""Multiply-accumulates of each block in both conventions, counted on the meta device. 1 MAC = 2 FLOPs.

Papers mix two conventions, so both are counted: convolutions and linear layers alone, or with the two products of
attention (queries × keys, weights × values).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Protocol, TypedDict

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.denoiser.blocks import Blocks, Row, find_blocks, live
from secateur.denoiser.families import Size, dummy_inputs, meta_twin
from secateur.denoiser.on_meta import OnMeta
from secateur.denoiser.patch import Patch

UNITS = ("macs", "ns")
# A weight times activations; every other product (bmm, baddbmm, scaled_dot_product_*) is of activations: attention.
LINEAR_OPS = {torch.ops.aten.convolution, torch.ops.aten.mm, torch.ops.aten.addmm}


class Grid(Protocol):
    """What is counted: which blocks run at which call, as a Schedule says it."""

    @property
    def denoiser(self) -> str: ...
    @property
    def blocks(self) -> tuple[str, ...]: ...
    @property
    def reuse(self) -> tuple[str, ...]: ...
    @property
    def calls(self) -> int: ...
    def runs(self, t: int) -> tuple[bool, ...]: ...
    def held(self, t: int) -> bool: ...


class Spent(TypedDict):
    """What an image takes: MACs of all its calls, and as fractions of the dense ones; without and with attention products."""

    macs_linear: int
    macs_attention: int
    keep_linear: float
    keep_attention: float


@dataclass(frozen=True)
class Macs:
    """What the blocks of a denoiser cost in one call, whole numbers for the batch counted: MACs, or time for budgets in time.

    linear, attention: of each block (L,), convolutions and linear layers, and the attention products alone.
    rest_linear, rest_attention: outside the blocks, paid by every call that is not held whole. unit: "macs", or "ns" if
    all of them are nanoseconds on one device, as `times.block_times` measures them; then attention is 0.
    """

    blocks: Blocks
    linear: tuple[int, ...]
    attention: tuple[int, ...]
    rest_linear: int
    rest_attention: int
    unit: str = "macs"

    def __post_init__(self):
        if self.unit not in UNITS:
            raise ValueError(f"found the unit {self.unit!r}: use {' or '.join(map(repr, UNITS))}")

    @property
    def noun(self) -> str:
        """What these are amounts of, in a sentence."""
        return {"macs": "MACs", "ns": "time, as it was measured on one device"}[self.unit]

    def cells(self, *, attention: bool = False) -> tuple[int, ...]:
        """MACs of each block, (L,), with or without the attention products."""
        return tuple(a + b * attention for a, b in zip(self.linear, self.attention, strict=True))

    def rest(self, *, attention: bool = False) -> int:
        """MACs outside the blocks."""
        return self.rest_linear + self.rest_attention * attention

    def call(self, *, attention: bool = False) -> int:
        """MACs of one dense call."""
        return sum(self.cells(attention=attention)) + self.rest(attention=attention)

    def check_convention(self, *, attention: bool) -> None:
        """Raises ValueError if the attention products are to be counted and these are no MACs."""
        if attention and self.unit != "macs":
            raise ValueError(f"these costs are of {self.noun}, in which attention has its part: leave attention out")

    def of(self, schedule: Grid, *, attention: bool = False) -> int:
        """MACs of a whole schedule: its live cells, and the rest for every call that is not held whole."""
        self.check_schedule(schedule)
        blocks, cells = replace(self.blocks, reuse=schedule.reuse), self.cells(attention=attention)
        entered = [live(schedule.runs(t), blocks) for t in range(schedule.calls) if not schedule.held(t)]
        running = sum(macs for row in entered for macs, runs in zip(cells, row, strict=True) if runs)
        return running + len(entered) * self.rest(attention=attention)

    def keep(self, schedule: Grid, *, calls: int | None = None, attention: bool = False) -> float:
        """Fraction that a schedule keeps of the MACs of `calls` dense calls, by default one for each of its own."""
        return self.of(schedule, attention=attention) / ((calls or schedule.calls) * self.call(attention=attention))

    def spent(self, schedule: Grid | None, calls: int, *, samples: int = 1, whole: tuple[Macs, int] | None = None) -> Spent:
        """What an image takes, in both conventions: the four fields of a record's row.

        schedule: None for `calls` dense calls. samples: that one call makes for an image, 2 with guidance. whole: Macs and
        number of the dense calls that `keep_…` are fractions of; these Macs and `calls` if not given.
        """
        dense, dense_calls = whole or (self, calls)
        amounts = {a: self.of(schedule, attention=a) if schedule else calls * self.call(attention=a) for a in (False, True)}
        keeps = {a: amount / (dense_calls * dense.call(attention=a)) for a, amount in amounts.items()}
        return Spent(
            macs_linear=samples * amounts[False],
            macs_attention=samples * amounts[True],
            keep_linear=keeps[False],
            keep_attention=keeps[True],
        )

    def check_schedule(self, schedule: Grid) -> None:
        """Raises ValueError if a schedule is for another denoiser or other blocks than were counted."""
        if (schedule.denoiser, schedule.blocks) != (self.blocks.denoiser, self.blocks.names):
            raise ValueError(
                f"the schedule is for {len(schedule.blocks)} blocks of {schedule.denoiser} from {schedule.blocks[0]} on and "
                f"the MACs are of {len(self.blocks)} blocks of {self.blocks.denoiser} from {self.blocks.names[0]} on, "
                "so count them for the schedule's denoiser and granularity"
            )


def row_macs(row: Row, cells: Sequence[int], rest: int) -> int:
    """MACs of a call that runs a closed row: of its cells, and of the rest; nothing if no block runs, since it is held."""
    return any(row) * rest + sum(macs for macs, runs in zip(cells, row, strict=True) if runs)


def tally(counter: FlopCounterMode) -> tuple[int, int]:
    """Linear and attention MACs that a counter has seen so far."""
    flops = counter.get_flop_counts().get("Global", {})
    linear = sum(n for op, n in flops.items() if op in LINEAR_OPS)
    return linear // 2, (sum(flops.values()) - linear) // 2


def count(
    denoiser: nn.Module | Mapping,
    blocks: Blocks | str | None = None,
    *,
    size: Size | None = None,
    tokens: int | None = None,
    batch: int = 1,
) -> Macs:
    """MACs of a denoiser (or of its configuration) by block, from class and configuration alone.

    blocks: Blocks, or a granularity. size: the latent's side or sides; tokens: of text; both as the denoiser was made for
    unless given. Guidance doubles the batch; that is the caller's to say.
    """
    if not isinstance(blocks, Blocks):
        blocks = find_blocks(denoiser, blocks)
    products: dict[int, tuple[int, int]] = {}
    counter = FlopCounterMode(display=False)

    def call(t, i, run, inputs):
        before, out, after = tally(counter), run(), tally(counter)
        products[i] = (after[0] - before[0], after[1] - before[1])
        return out

    twin = meta_twin(denoiser)
    inputs = dummy_inputs(denoiser, batch=batch, size=size, tokens=tokens)
    with torch.device("meta"), torch.no_grad(), OnMeta() as mode, Patch(twin, blocks.names, call), counter:
        twin(**mode.hollowed(inputs))
    linear, attention = zip(*(products[i] for i in range(len(blocks))), strict=True)
    whole = tally(counter)
    return Macs(blocks, linear, attention, whole[0] - sum(linear), whole[1] - sum(attention))


def denoiser_config(name: str) -> dict[str, Any]:
    """Configuration of a published denoiser at full size, by short name such as "sd15". Raises ValueError with all names."""
    if name not in (names := denoiser_names()):
        raise ValueError(f"no full-size configuration is called {name!r}, so choose one of {', '.join(names)}")
    return json.loads((files("secateur.denoiser") / "configs" / f"{name}.json").read_text())


def denoiser_names() -> list[str]:
    """Short names of the full-size configurations that come with the package."""
    configs = (files("secateur.denoiser") / "configs").iterdir()
    return sorted(path.name.removesuffix(".json") for path in configs if path.name.endswith(".json"))


def meta_denoiser(name: str) -> nn.Module:
    """A published denoiser at full size on the meta device, by short name: shapes without weights."""
    return meta_twin(denoiser_config(name))
