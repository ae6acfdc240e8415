"""What each cell of a schedule does with the cache. All of it is known before the first call, so nothing is kept too long."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from secateur.denoiser.blocks import Blocks, needed
from secateur.schedule.holds import LINES
from secateur.schedule.schedule import Schedule


class Act(Enum):
    """What a cell does: computes, computes for later, gives what was kept, does so for the last time, or is never looked at."""

    RUN = "run"
    KEEP = "run and keep"
    REUSE = "reuse"
    LAST = "reuse and drop"
    DEAD = "dead"


def acts(schedule: Schedule, blocks: Blocks, *, start: int = 0) -> tuple[tuple[Act, ...], ...]:
    """T − start rows of L + 1 acts, the last one the denoiser's own; call `start`, the first of an image, runs everything."""
    first = (Act.RUN,) * (len(blocks) + 1)
    rows = [first, *(row_acts(schedule.runs(t), blocks) for t in range(start + 1, schedule.calls))]
    kinds = (*blocks.reuse, schedule.hold)
    columns = [with_cache(column, pairs=kind in LINES) for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    return tuple(zip(*columns, strict=True))


def row_acts(run: Sequence[bool], blocks: Blocks) -> tuple[Act, ...]:
    """RUN, REUSE or DEAD for each block and for the denoiser, (L + 1,), at one call."""
    if not any(run):
        return (*[Act.DEAD] * len(blocks), Act.REUSE)
    read = needed(run, blocks)
    cells = (Act.DEAD if not n else Act.RUN if r else Act.REUSE for r, n in zip(run, read, strict=True))
    return (*cells, Act.RUN)


def with_cache(column: Sequence[Act], *, pairs: bool = False) -> list[Act]:
    """One block's acts over the calls, with the calls that fill the cache (its output is reused before it runs again) and the
    calls that empty it.

    pairs: whether a reuse reads the last two runs, so that each run is read until the run after the next.
    """
    later = next_later = False  # reused before it runs again, and after that before it runs once more
    acts = []
    for act in reversed(column):
        reads = later or (pairs and next_later)
        if act is Act.RUN:
            acts.append(Act.KEEP if reads else Act.RUN)
            later, next_later = False, later
        elif act is Act.REUSE:
            acts.append(Act.REUSE if reads else Act.LAST)
            later = True
        else:
            acts.append(act)
    return acts[::-1]
