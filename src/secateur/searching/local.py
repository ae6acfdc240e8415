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
from secateur.schedule.baselines import dense
from secateur.schedule.fit import check_start
from secateur.schedule.schedule import RUN, Schedule
from secateur.searching.budget import Row, Space, rows_of, with_rows
from secateur.searching.moves import MOVES, Move, another_kind

DRAWS = 1000  # with nothing new among so many, a search ends
RIVALS = 3  # in a tournament

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


def random_search(
    macs: Macs, calls: int, *, keep: float, objective: Value, trials: int, seed: int, attention: bool = False
) -> Iterator[Trial]:
    """Trials of grids drawn at random: whole calls and partial ones in any mixture, until nothing more fits the budget."""
    space, rng = Space.of(macs, calls, keep=keep, attention=attention), Random(seed)
    made = {"method": "random", "keep": keep, "attention": attention, "seed": seed}
    blank = replace(dense(space.blocks, calls), made=made)
    yield from tried(lambda last: with_rows(blank, space.drawn(calls, rng)), objective, trials=trials)


def genetic_search(
    macs: Macs,
    calls: int,
    *,
    keep: float,
    objective: Value,
    trials: int,
    seed: int,
    population: int = 16,
    attention: bool = False,
) -> Iterator[Trial]:
    """Trials of a population that starts at random; each child then takes the place of the worst if it is worth more.

    The paper says no more than "genetic": parents by tournament, crossover, mutation and repair here are ours.
    """
    if population < 2:
        raise ValueError(f"found a population of {population}: give 2 or more, parents of a child")
    space, rng = Space.of(macs, calls, keep=keep, attention=attention), Random(seed)
    made = {"method": "genetic", "keep": keep, "attention": attention, "seed": seed, "population": population}
    blank = replace(dense(space.blocks, calls), made=made)
    alive: list[Trial] = []

    def propose(last: Trial | None) -> Schedule:
        grown = len(alive) >= population
        return with_rows(blank, child(alive, space, rng) if grown else space.drawn(calls, rng))

    for trial in tried(propose, objective, trials=trials):
        yield trial
        alive = sorted([*alive, trial], key=lambda trial: trial.value, reverse=True)[:population]


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


def child(alive: Sequence[Trial], space: Space, rng: Random) -> list[Row]:
    """Rows of this space from two parents, each the best of a few."""
    mother, father = (max(rng.choices(alive, k=RIVALS), key=lambda trial: trial.value) for _ in range(2))
    return space.fitted(mutated(crossed(rows_of(mother.schedule), rows_of(father.schedule), rng), rng), rng)


def crossed(mother: Sequence[Row], father: Sequence[Row], rng: Random) -> list[Row]:
    """Every row from one of the two or, as often, every cell."""
    pairs = list(zip(mother, father, strict=True))
    if rng.random() < 0.5:
        return [rng.choice(pair) for pair in pairs]
    return [tuple(rng.choice(cells) for cells in zip(*pair, strict=True)) for pair in pairs]


def mutated(rows: Sequence[Row], rng: Random) -> list[Row]:
    """Rows of which about one is now held or whole, and about one cell flipped."""
    T, L = len(rows), len(rows[0])
    drawn = [(rng.random() < 0.5,) * L if rng.random() < 1 / T else row for row in rows]
    return [tuple(cell ^ (rng.random() < 1 / (T * L)) for cell in row) for row in drawn]


def within(schedule: Schedule, other: Schedule) -> bool:
    """Whether a schedule runs nothing that the other does not, all else being equal: it is hardly better then."""
    if (schedule.calls, schedule.timesteps, schedule.reuse) != (other.calls, other.timesteps, other.reuse):
        return False
    pairs = zip("".join(schedule.grid), "".join(other.grid), strict=True)
    return all(theirs == RUN or ours != RUN for ours, theirs in pairs)
