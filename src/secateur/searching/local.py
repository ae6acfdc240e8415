"""Local search: it measures small changes of the best schedule so far, and takes every improvement at once.

A generator of Trials. The objective is any function of a schedule, higher for better. Every schedule tried is closed and within
the budget, and none is tried twice. A seed gives one sequence of trials. A search ends early if it finds nothing new to try.
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

DRAWS = 1000  # a search ends if none of them is new

Value = Callable[[Schedule], float]
Propose = Callable[["Trial | None"], Schedule | None]


@dataclass(frozen=True)
class Trial:
    """One measurement: a schedule, its value, and the best so far. number: of the measurement, from 1."""

    number: int
    schedule: Schedule
    value: float
    best: Schedule
    best_value: float

    def __post_init__(self):
        if not math.isfinite(self.value):
            raise ValueError(f"trial {self.number} has the value {self.value}: give an objective whose values are finite")

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
    levels: Sequence[float] = (),
) -> Iterator[Trial]:
    """Trials of small changes of the best schedule so far; `start` is the first trial, and each improvement is taken at once.

    calls: of the dense sampler, whose cost `keep` is a fraction of; a start that chooses its timesteps may have fewer or more.
    Moves are drawn in proportion to how often they have improved the best.
    levels: timesteps that calls may be made at; none: any whole number below 1000. kinds: of reuse that a block may change to;
    none: blocks keep theirs. patience: trials in a row without an improvement that end the search; None: it ends at the last.
    Raises ValueError if the start is over the budget or was folded, or if patience is below 1.
    """
    if patience is not None and patience < 1:
        raise ValueError(f"found patience={patience}, wanted a number of trials: give 1 or more, or None")
    check_start(start)
    macs.check_schedule(start)
    reused = replace(macs, blocks=replace(macs.blocks, reuse=start.reuse))
    space = Space.of(reused, calls, keep=keep, attention=attention, levels=levels)
    space, start = replace(space, kinds=tuple(kinds)), affordable(start, space)
    moves = (*moves, another_kind) if kinds else moves
    rng, proposed = Random(seed), list[Move]()
    used: dict[Move, tuple[int, int]] = dict.fromkeys(moves, (1, 2))  # improvements, trials
    made = {"method": "local", "keep": keep, "attention": attention, "seed": seed, "start": start.made}

    def propose(last: Trial | None) -> Schedule | None:
        if last is None:
            return start
        [move] = rng.choices(moves, [wins / times for wins, times in used.values()])
        proposed.append(move)
        new = move(last.best, space.reusing(last.best.reuse), rng, 1 - last.number / trials)
        if new is None or within(new, last.best) or space.room(rows_of(new)) < 0:
            return None
        return replace(new, made=made)

    for trial in patient(run_trials(propose, objective, trials=trials), patience):
        yield trial
        if proposed:
            wins, times = used[proposed[-1]]
            used[proposed[-1]] = (wins + trial.improved, times + 1)


def affordable(start: Schedule, space: Space) -> Schedule:
    """The schedule without the cells that nobody reads. Raises ValueError if it is over the budget."""
    rows = space.closed(rows_of(start))
    if (over := -space.room(rows)) > 0:
        raise ValueError(f"the start takes {over} MACs more than the {space.limit_macs} allowed: ask for a higher keep")
    return with_rows(start, rows)


def patient(trials: Iterator[Trial], patience: int | None) -> Iterator[Trial]:
    """The trials until `patience` in a row were no improvement; all of them if it is None."""
    waited = 0
    for trial in trials:
        yield trial
        waited = 0 if trial.improved else waited + 1
        if waited == patience:
            return


def run_trials(propose: Propose, objective: Value, *, trials: int) -> Iterator[Trial]:
    """Trials of the schedules that `propose(last trial)` returns, without those tried before."""
    last, seen = None, set()
    for number in range(1, trials + 1):
        proposals = (propose(last) for _ in range(DRAWS))
        schedule = next((new for new in proposals if new and (new.grid, new.timesteps, new.reuse) not in seen), None)
        if schedule is None:
            return
        seen.add((schedule.grid, schedule.timesteps, schedule.reuse))
        value = float(objective(schedule))
        ahead = last is None or value > last.best_value
        last = Trial(number, schedule, value, *((schedule, value) if ahead else (last.best, last.best_value)))
        yield last


def within(schedule: Schedule, other: Schedule) -> bool:
    """Whether a schedule runs only cells that the other runs too, all else being equal; then it is hardly better."""
    if (schedule.calls, schedule.timesteps, schedule.reuse) != (other.calls, other.timesteps, other.reuse):
        return False
    pairs = zip("".join(schedule.grid), "".join(other.grid), strict=True)
    return all(theirs == RUN or ours != RUN for ours, theirs in pairs)


def check_start(schedule: Schedule) -> None:
    """Raises ValueError if the schedule was folded: its table fits only its own calls."""
    if schedule.table is not None:
        raise ValueError("the schedule was folded, and no search can begin there: begin at the one that it was folded from")
