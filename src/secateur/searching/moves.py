"""Moves: small changes of a schedule that stay within a budget, for local search.

`move(schedule, space, rng, reach)` returns another schedule, or None if there is nothing to change at the place drawn.
reach: how far a move may go, in (0, 1]; it shrinks during a search.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np

from secateur.schedule.schedule import Schedule
from secateur.searching.budget import Row, Space, rows_of, with_rows

Move = Callable[[Schedule, Space, Random, float], Schedule | None]
FARTHEST = 3  # calls that `slide` may move a call by


def exchange(schedule: Schedule, space: Space, rng: Random, reach: float) -> Schedule | None:
    """Two calls change places; usually a held one begins to run, and one that ran is held."""
    if schedule.calls < 3:
        return None
    first, second = rng.sample(range(1, schedule.calls), 2)
    return swapped(schedule, space, rng, first, second)


def slide(schedule: Schedule, space: Space, rng: Random, reach: float) -> Schedule | None:
    """A call changes places with one shortly after it, so that it runs a little earlier or later."""
    far = rng.randint(1, max(1, round(FARTHEST * reach)))
    if schedule.calls < 2 + far:
        return None
    t = rng.randrange(1, schedule.calls - far)
    return swapped(schedule, space, rng, t, t + far)


def swap_cells(schedule: Schedule, space: Space, rng: Random, reach: float) -> Schedule | None:
    """A block runs at one call instead of another; neither call is held."""
    rows, i = rows_of(schedule), rng.randrange(len(space.blocks))
    entered = [t for t, row in enumerate(rows) if t and any(row)]
    running, reusing = [t for t in entered if rows[t][i]], [t for t in entered if not rows[t][i]]
    if not running or not reusing:
        return None
    off, on = rng.choice(running), rng.choice(reusing)
    new = {off: space.switched(rows[off], i, run=False), on: space.switched(rows[on], i, run=True)}
    return changed(schedule, space, rng, new)


def rerun_block(schedule: Schedule, space: Space, rng: Random, reach: float) -> Schedule | None:
    """A block stops running, or runs again, at some of the calls; the other calls use the MACs freed, or pay for them."""
    rows, i, run = rows_of(schedule), rng.randrange(len(space.blocks)), rng.random() < 0.5
    calls = [t for t, row in enumerate(rows) if t and any(row) and row[i] is not run]
    if not calls:
        return None
    some = rng.sample(calls, rng.randint(1, len(calls)))
    return changed(schedule, space, rng, {t: space.switched(rows[t], i, run=run) for t in some})


def another_kind(schedule: Schedule, space: Space, rng: Random, reach: float) -> Schedule | None:
    """A block changes its kind of reuse; the calls use the MACs of the blocks that nobody reads any more."""
    i = rng.randrange(len(space.blocks))
    others = [kind for kind in space.kinds if kind != schedule.reuse[i]]
    if not others or not any(any(row) and not row[i] for row in rows_of(schedule)):
        return None
    reuse = (*schedule.reuse[:i], rng.choice(others), *schedule.reuse[i + 1 :])
    rows = space.reusing(reuse).fitted(rows_of(schedule), rng)
    return with_rows(schedule, rows, reuse=reuse)


def shift(schedule: Schedule, space: Space, rng: Random, reach: float) -> Schedule | None:
    """One timestep moves towards the one before or after it."""
    if schedule.timesteps is None:
        return None
    times, k = list(schedule.timesteps), rng.randrange(schedule.calls)
    times[k] = nearer(times, k, space, rng, reach)
    return retimed(schedule, space, times)


def stretch(schedule: Schedule, space: Space, rng: Random, reach: float) -> Schedule | None:
    """One timestep moves towards the one before or after it, and all others follow in proportion; the first one stays."""
    if schedule.timesteps is None or schedule.calls < 2:
        return None
    times, k = schedule.timesteps, rng.randrange(1, schedule.calls)
    new = nearer(times, k, space, rng, reach)
    return retimed(schedule, space, np.interp(times, (-1, times[k], times[0]), (-1, new, times[0])).tolist())


def insert(schedule: Schedule, space: Space, rng: Random, reach: float) -> Schedule | None:
    """A new call half-way between two timesteps; other calls pay for it, and those held for that are left out."""
    if schedule.timesteps is None:
        return None
    k = rng.randint(1, schedule.calls)
    before, after = (*schedule.timesteps, -1)[k - 1 : k + 1]
    [new] = space.nearest([(before + after) // 2], first=False)
    if not before > new > after:
        return None
    rows, times = rows_of(schedule), list(schedule.timesteps)
    rows.insert(k, rows[k - 1] if any(rows[k - 1]) else space.whole)
    times.insert(k, new)
    paid = space.fitted(rows, rng, fixed={k})
    stay = [t for t, row in enumerate(paid) if any(row) or not any(rows[t])]
    return with_rows(schedule, [paid[t] for t in stay], timesteps=tuple(times[t] for t in stay))


MOVES: tuple[Move, ...] = (exchange, slide, swap_cells, rerun_block, shift, stretch, insert)


def nearer(times: Sequence[float], k: int, space: Space, rng: Random, reach: float) -> float:
    """Timestep k, moved towards the one before or after it by at most the fraction `reach` of the gap."""
    bounds = (space.end, *times, -1)
    gap = bounds[k + rng.choice((0, 2))] - times[k]
    return times[k] + math.copysign(max(1, rng.random() * reach * abs(gap)), gap)


def retimed(schedule: Schedule, space: Space, times: Sequence[float]) -> Schedule | None:
    """The schedule at the levels nearest to these timesteps; None if two are the same, or outside of the training range.

    A space without levels has all whole numbers. With levels, the first call stays at the first of them.
    """
    new = space.nearest(times)
    apart = all(a > b for a, b in itertools.pairwise((space.end, *new, -1)))
    return replace(schedule, timesteps=new) if apart else None


def swapped(schedule: Schedule, space: Space, rng: Random, first: int, second: int) -> Schedule | None:
    """The schedule with the rows of two calls swapped; None if they are equal."""
    a, b = schedule.runs(first), schedule.runs(second)
    return None if a == b else changed(schedule, space, rng, {first: b, second: a})


def changed(schedule: Schedule, space: Space, rng: Random, new: Mapping[int, Row]) -> Schedule:
    """The schedule with these rows; the others are thinned to pay for them, or filled up."""
    rows = space.fitted([new.get(t, row) for t, row in enumerate(rows_of(schedule))], rng, fixed=new.keys())
    return with_rows(schedule, rows)
