"""Blocks and grids made by hand."""

from __future__ import annotations

from functools import cache

from reference import random_rows
from secateur.denoiser.blocks import Blocks, find_blocks
from secateur.denoiser.macs import Macs
from secateur.schedule import baselines
from secateur.schedule.schedule import Schedule
from tiny import tiny
from tiny_pipes import STEPS

REST = 3
KNOWN: dict[tuple[str, ...], Blocks] = {}  # by names: tracing once is enough


def chain(length: int, reuse: str = "output") -> Blocks:
    """Each block reads the one before."""
    names = tuple(f"blocks.{i}" for i in range(length))
    producers = tuple((i - 1,) if i else () for i in range(length))
    return Blocks("Chain", "layer", names, (reuse,) * length, producers, (length - 1,))


def counted(blocks: Blocks) -> Macs:
    """Costs 2, 3, 4, … and twice that with attention."""
    costs = tuple(range(2, 2 + len(blocks)))
    return Macs(blocks, costs, costs, REST, REST)


@cache
def blocks_of(name: str, granularity: str | None = None) -> Blocks:
    return find_blocks(tiny(name), granularity)


def scattered(blocks: Blocks, calls: int = STEPS, *, seed: int = 0) -> Schedule:
    """A grid at random, closed, with a call held whole."""
    KNOWN[blocks.names] = blocks
    return baselines.closed(blocks, random_rows(len(blocks), calls, seed=seed), made={})
