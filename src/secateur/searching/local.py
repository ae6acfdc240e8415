"""Searches that only try: random and genetic search, the rivals in DiP-GO's ablation (arXiv 2410.16942), and local search.

Each is a generator of Trials, whose objective is anything that gives a schedule a value, higher for better. What they try
is closed and within the budget; nothing is tried twice; one seed gives one sequence of trials. A search ends early where it
finds nothing new to try.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from secateur.denoiser.macs import Macs
from secateur.schedule.schedule import RUN, Schedule
from secateur.searching.budget import Space, rows_of, with_rows
from secateur.searching.moves import MOVES, Move, another_kind

DRAWS = 1000  # with nothing new among so many, a search ends

Value = Callable[[Schedule], float]
Propose = Callable[["Trial | None"], Schedule | None]


@dataclass(frozen=True)
class Trial:
    """One evaluation: what was tried, what it was worth, and the best so far. number: evaluations made, from 1."""

    number: int
    schedule: Schedule
    value: float
    best: Schedule
    best_value: float

    def __post_init__(self):
        if not math.isfinite(self.value):
            raise ValueError(f"trial {self.number} was worth {self.value}: give an objective whose values are finite")

    @property
    def improved(self) -> bool:
        """Whether this trial is the best so far."""
        return self.best is self.schedule


def local_search(
    start: Schedule,
    *,
    macs: Macs,
    calls: int,
    keep: float,
    objective: Value,
    trials: int,
    seed: int,
    moves: Sequence[Move] = MOVES,
    kinds: Sequence[str] = (),
    patience: int | None = None,
    attention: bool = False,
    timesteps: int = 1000,
) -> Iterator[Trial]:
    """Trials of small changes of the best schedule so far, `start` being the first: each improvement is taken at once.

    calls: of the dense sampler, whose cost `keep` is a fraction of; a start that chooses its timesteps may have fewer or
    more. timesteps: that the denoiser was trained on. kinds: of reuse among which each block may change; none: all stay as they
    are. patience: trials in a row without anything better after which the search ends; None: never. A kind of move is drawn as
    often as it has been of use. ValueError where the start is over the budget.
    """
    if patience is not None and patience < 1:
        raise ValueError(f"found patience={patience}, wanted trials without anything better: give 1 or more, or None")
    check_start(start)
    macs.check(start)
    reused = replace(macs, blocks=replace(macs.blocks, reuse=start.reuse))
    space = Space.of(reused, calls, keep=keep, attention=attention, timesteps=timesteps)
    space, start = replace(space, kinds=tuple(kinds)), affordable(start, space)
    moves = (*moves, another_kind) if kinds else moves
    rng, asked = Random(seed), list[Move]()
    used: dict[Move, tuple[int, int]] = dict.fromkeys(moves, (1, 2))  # improvements and trials, as if one of two had been good
    made = {"method": "local", "keep": keep, "attention": attention, "seed": seed, "start": start.made}

    def propose(last: Trial | None) -> Schedule | None:
        if last is None:
            return start
        [move] = rng.choices(moves, [wins / times for wins, times in used.values()])
        asked.append(move)
        new = move(last.best, space.reusing(last.best.reuse), rng, 1 - last.number / trials)
        if new is None or within(new, last.best) or space.room(rows_of(new)) < 0:
            return None
        return replace(new, made=made)

    for trial in patient(tried(propose, objective, trials=trials), patience):
        yield trial
        if asked:
            wins, times = used[asked[-1]]
            used[asked[-1]] = (wins + trial.improved, times + 1)


def affordable(start: Schedule, space: Space) -> Schedule:
    """The schedule without the cells that nobody reads; ValueError where it is over the budget."""
    rows = space.closed(rows_of(start))
    if (over := -space.room(rows)) > 0:
        raise ValueError(f"the start takes {over} MACs more than the {space.limit_macs} allowed: ask for a higher keep")
    return with_rows(start, rows)


def patient(trials: Iterator[Trial], patience: int | None) -> Iterator[Trial]:
    """The trials up to the one that is the last of so many in a row which brought nothing better."""
    waited = 0
    for trial in trials:
        yield trial
        waited = 0 if trial.improved else waited + 1
        if waited == patience:
            return


def tried(propose: Propose, objective: Value, *, trials: int) -> Iterator[Trial]:
    """Trials of what `propose(last trial)` gives, as far as it is new."""
    last, seen = None, set()
    for number in range(1, trials + 1):
        drawn = (propose(last) for _ in range(DRAWS))
        schedule = next((new for new in drawn if new and (new.grid, new.timesteps, new.reuse) not in seen), None)
        if schedule is None:
            return
        seen.add((schedule.grid, schedule.timesteps, schedule.reuse))
        value = float(objective(schedule))
        ahead = last is None or value > last.best_value
        last = Trial(number, schedule, value, *((schedule, value) if ahead else (last.best, last.best_value)))
        yield last


def within(schedule: Schedule, other: Schedule) -> bool:
    """Whether a schedule runs nothing that the other does not, all else being equal: it is hardly better then."""
    if (schedule.calls, schedule.timesteps, schedule.reuse) != (other.calls, other.timesteps, other.reuse):
        return False
    pairs = zip("".join(schedule.grid), "".join(other.grid), strict=True)
    return all(theirs == RUN or ours != RUN for ours, theirs in pairs)


def check_start(schedule: Schedule) -> None:
    """Nothing; ValueError where no search can begin at a schedule: what its calls read ahead fits no other calls."""
    if schedule.ahead is not None:
        raise ValueError("the schedule was folded, and no search can begin there: begin at the one that it was folded from")
