"""Space: the grids that a search may try, closed and within a budget of MACs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from secateur.denoiser.blocks import Blocks, Row, live, without
from secateur.denoiser.macs import Macs, row_macs
from secateur.knapsack import budget
from secateur.schedule.schedule import REUSE, RUN, Schedule

END = 1000  # number of timesteps in training


@dataclass(frozen=True)
class Space:
    """Lists of rows that cost at most `limit_macs`: the first row is whole, the others are closed.

    blocks: with what they reuse. cells: MACs of each block, (L,). rest: MACs outside of the blocks, in every call that is not
    held. kinds: the kinds of reuse that a block may change to. levels: the timesteps that calls may be made at, noisiest first;
    none: any whole number below END.
    """

    blocks: Blocks
    cells: tuple[int, ...]
    rest: int
    limit_macs: int
    kinds: tuple[str, ...] = ()
    levels: tuple[float, ...] = ()

    def __post_init__(self):
        if (first := self.macs(self.whole)) > self.limit_macs:
            raise ValueError(f"the first call always runs and takes {first} MACs of {self.limit_macs}: ask for a higher keep")

    @staticmethod
    def of(macs: Macs, calls: int, *, keep: float, attention: bool = False, levels: Sequence[float] = ()) -> Space:
        """The Space of a fraction `keep` of this many dense calls."""
        limit = budget_macs(macs, calls, keep=keep, attention=attention)
        cells, rest = macs.cells(attention=attention), macs.rest(attention=attention)
        return Space(macs.blocks, cells, rest, limit, levels=tuple(levels))

    def reusing(self, reuse: tuple[str, ...]) -> Space:
        """The same space with these kinds of reuse, (L,)."""
        return self if reuse == self.blocks.reuse else replace(self, blocks=replace(self.blocks, reuse=reuse))

    def nearest(self, timesteps: Sequence[float], *, first: bool = True) -> tuple[float, ...]:
        """The levels nearest to these timesteps; if the first of them begins an image, it is the first level."""
        if not self.levels:
            return tuple(float(round(t)) for t in timesteps)
        near = [min(self.levels, key=lambda level: abs(level - t)) for t in timesteps]
        return (self.levels[0], *near[1:]) if first else tuple(near)

    @property
    def end(self) -> float:
        """What all timesteps stay below."""
        return self.levels[0] + 1 if self.levels else END

    @property
    def whole(self) -> Row:
        """The row of a dense call."""
        return (True,) * len(self.blocks)

    @property
    def held(self) -> Row:
        """The row of a held call."""
        return (False,) * len(self.blocks)

    def macs(self, row: Row) -> int:
        """MACs of a closed row."""
        return row_macs(row, self.cells, self.rest)

    def room(self, rows: Sequence[Row]) -> int:
        """MACs of the budget that closed rows leave; negative if they take too much."""
        return self.limit_macs - sum(map(self.macs, rows))

    def closed(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with the first one whole, and the others without cells that nobody reads."""
        return [self.whole, *(live(row, self.blocks) for row in rows[1:])]

    def switched(self, row: Row, i: int, *, run: bool) -> Row:
        """A row with block i run or reused, closed again."""
        return live((*row[:i], True, *row[i + 1 :]), self.blocks) if run else without(row, i, self.blocks)

    def fitted(self, rows: Sequence[Row], rng: Random, *, fixed: Collection[int] = ()) -> list[Row]:
        """Rows of this space near the given ones: thinned at random if they cost too much, then filled at random.

        fixed: calls that stay as they are; if these alone cost too much, so do the rows that are returned.
        """
        free = [t for t in range(1, len(rows)) if t not in fixed]
        return self.filled(self.thinned(self.closed(rows), free, rng), free, rng)

    def thinned(self, rows: Sequence[Row], free: Sequence[int], rng: Random) -> list[Row]:
        """Rows within the budget: one free call after the other is held, or reuses one block, until they fit."""
        rows, room = list(rows), self.room(rows)
        while room < 0 and (running := [t for t in free if any(rows[t])]):
            i = rng.choice((None, rng.randrange(len(self.blocks))))
            for t in shuffled(running, rng):
                row = self.held if i is None else self.switched(rows[t], i, run=False)
                room += self.macs(rows[t]) - self.macs(row)
                rows[t] = row
                if room >= 0:
                    break
        return rows

    def filled(self, rows: Sequence[Row], free: Sequence[int], rng: Random) -> list[Row]:
        """Rows that run more at the free calls: blocks and whole calls are added in random order until nothing more fits."""
        growths = [(t, i) for t in free for i in (*range(len(self.blocks)), None)]
        rows, room, growing = list(rows), self.room(rows), True
        while growing:  # a block that nobody read before may be read now
            growing = False
            for t, i in shuffled(growths, rng):
                row = self.grown(rows[t], i, room)
                more = self.macs(row) - self.macs(rows[t])
                if row != rows[t] and more <= room:
                    rows[t], room, growing = row, room - more, True
        return rows

    def grown(self, row: Row, i: int | None, room: int) -> Row:
        """A row with block i, or with every block if i is None; the same row if that block cannot fit."""
        if i is None:
            return self.whole
        return row if row[i] or self.cells[i] > room else self.switched(row, i, run=True)


def shuffled(items: Sequence, rng: Random) -> list:
    """The items in random order."""
    return rng.sample(items, len(items))


def rows_of(schedule: Schedule) -> list[Row]:
    """A schedule's rows, T of L."""
    return [schedule.runs(t) for t in range(schedule.calls)]


def with_rows(schedule: Schedule, rows: Sequence[Row], **changes: Any) -> Schedule:
    """A schedule with other rows, and with these changes of its other fields."""
    return replace(schedule, grid=tuple("".join(RUN if cell else REUSE for cell in row) for row in rows), **changes)


def budget_macs(macs: Macs, calls: int, *, keep: float, attention: bool = False) -> int:
    """MACs that a schedule may take: the fraction `keep` of `calls` dense calls; keep is taken as written (0.2 of 50 is 10).

    Compare it with `Macs.of(schedule)`: a schedule that chooses its timesteps may have more or fewer calls.
    """
    return budget([macs.call(attention=attention)] * calls, keep=keep, rest=0)
