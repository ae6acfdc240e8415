"""Space: the grids that may be tried, closed and within a budget of MACs, and ways into it at random."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from secateur.denoiser.blocks import Blocks, live
from secateur.denoiser.macs import Macs
from secateur.knapsack import budget
from secateur.schedule.schedule import REUSE, RUN, Schedule

Row = tuple[bool, ...]  # (L,) which blocks run


@dataclass(frozen=True)
class Space:
    """Rows whose first is whole, whose others are closed, and which cost at most `limit_macs`.

    blocks: with what they reuse. cells: MACs of each block, (L,). rest: MACs outside of them, of every call not held.
    timesteps: that the denoiser was trained on; a schedule that chooses its own stays below that. kinds: of reuse that a
    block may change to.
    """

    blocks: Blocks
    cells: tuple[int, ...]
    rest: int
    limit_macs: int
    timesteps: int = 1000
    kinds: tuple[str, ...] = ()

    def __post_init__(self):
        if (first := self.macs(self.whole)) > self.limit_macs:
            raise ValueError(f"the first call always runs and takes {first} MACs of {self.limit_macs}: ask for a higher keep")

    @staticmethod
    def of(macs: Macs, calls: int, *, keep: float, attention: bool = False, timesteps: int = 1000) -> Space:
        """The space of a fraction `keep` of this many dense calls."""
        limit = budget_macs(macs, calls, keep=keep, attention=attention)
        return Space(macs.blocks, macs.cells(attention=attention), macs.rest(attention=attention), limit, timesteps)

    def reusing(self, reuse: tuple[str, ...]) -> Space:
        """The same space where blocks reuse by these kinds, (L,)."""
        return self if reuse == self.blocks.reuse else replace(self, blocks=replace(self.blocks, reuse=reuse))

    @property
    def whole(self) -> Row:
        """The row of a dense call."""
        return (True,) * len(self.blocks)

    @property
    def held(self) -> Row:
        """The row of a call held whole."""
        return (False,) * len(self.blocks)

    def macs(self, row: Row) -> int:
        """MACs of a closed row."""
        return any(row) * self.rest + sum(macs for macs, runs in zip(self.cells, row, strict=True) if runs)

    def room(self, rows: Sequence[Row]) -> int:
        """MACs that closed rows leave of the budget; negative where they take too much."""
        return self.limit_macs - sum(map(self.macs, rows))

    def closed(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with the first one whole, and no cell in the others that nobody reads."""
        return [self.whole, *(live(row, self.blocks) for row in rows[1:])]

    def switched(self, row: Row, i: int, *, run: bool) -> Row:
        """A row with block i run or reused, closed again."""
        return live((*row[:i], run, *row[i + 1 :]), self.blocks)

    def fitted(self, rows: Sequence[Row], rng: Random, *, fixed: Collection[int] = ()) -> list[Row]:
        """Rows of this space near the given ones: thinned at random where they cost too much, then filled at random.

        fixed: calls that are left alone; where those cost too much by themselves, so do all of them.
        """
        free = [t for t in range(1, len(rows)) if t not in fixed]
        return self.filled(self.thinned(self.closed(rows), free, rng), free, rng)

    def thinned(self, rows: Sequence[Row], free: Sequence[int], rng: Random) -> list[Row]:
        """Rows within the budget: free calls are held, or one block reused in them, one after the other until it is kept."""
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
        """Rows that run more at the free calls, by blocks and by whole calls in random order, until nothing more fits."""
        growths = [(t, i) for t in free for i in (*range(len(self.blocks)), None)]
        rows, room, growing = list(rows), self.room(rows), True
        while growing:  # what nobody read before may be read now
            growing = False
            for t, i in shuffled(growths, rng):
                row = self.grown(rows[t], i, room)
                more = self.macs(row) - self.macs(rows[t])
                if row != rows[t] and more <= room:
                    rows[t], room, growing = row, room - more, True
        return rows

    def grown(self, row: Row, i: int | None, room: int) -> Row:
        """A row with block i, or with every block where i is None; the same where that block cannot fit anyway."""
        if i is None:
            return self.whole
        return row if row[i] or self.cells[i] > room else self.switched(row, i, run=True)

    def drawn(self, calls: int, rng: Random) -> list[Row]:
        """Rows at random that fill the budget: how many calls run whole, and how dense the others are, is drawn first."""
        wholes, density = rng.random(), rng.random()
        rows, free = [self.whole, *[self.held] * (calls - 1)], range(1, calls)
        room = self.room(rows)
        for t in shuffled(free, rng):
            some = tuple(rng.random() < density for _ in self.cells)
            row = self.whole if rng.random() < wholes else live(some, self.blocks)
            if self.macs(row) <= room:
                rows[t], room = row, room - self.macs(row)
        return self.filled(rows, free, rng)


def shuffled(items: Sequence, rng: Random) -> list:
    """The items in random order."""
    return rng.sample(items, len(items))


def rows_of(schedule: Schedule) -> list[Row]:
    """A schedule's rows, T of L."""
    return [schedule.runs(t) for t in range(schedule.calls)]


def with_rows(schedule: Schedule, rows: Sequence[Row], **changes: Any) -> Schedule:
    """A schedule with other rows, and with these changes of what else it says."""
    return replace(schedule, grid=tuple("".join(RUN if cell else REUSE for cell in row) for row in rows), **changes)


def budget_macs(macs: Macs, calls: int, *, keep: float, attention: bool = False) -> int:
    """MACs that a schedule may take: the fraction `keep` of `calls` dense calls, as it is written (0.2 of 50 is 10).

    Compare with `Macs.of(schedule)`: a schedule that chooses its timesteps has as many calls as it likes.
    """
    return budget([macs.call(attention=attention)] * calls, keep=keep, rest=0)
