"""Random and genetic search over rows within a budget, which DiP-GO's ablation compares with (arXiv 2410.16942)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from secateur.denoiser.blocks import Row, live
from secateur.denoiser.macs import Macs
from secateur.schedule.baselines import dense
from secateur.schedule.schedule import Schedule
from secateur.searching.budget import Space, rows_of, shuffled, with_rows
from secateur.searching.local import Trial, Value, run_trials

TOURNAMENT = 3  # schedules in it (ours)


def random_search(
    macs: Macs, calls: int, *, keep: float, objective: Value, trials: int, seed: int, attention: bool = False
) -> Iterator[Trial]:
    """Trials of random grids: whole and partial calls in any mixture, until nothing more fits the budget."""
    space, rng = Space.of(macs, calls, keep=keep, attention=attention), Random(seed)
    made = {"method": "random", "keep": keep, "attention": attention, "seed": seed}
    blank = replace(dense(space.blocks, calls), made=made)
    yield from run_trials(lambda last: with_rows(blank, random_rows(space, calls, rng)), objective, trials=trials)


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
    """Trials of a population that starts at random; each child then replaces the worst schedule if its value is higher.

    The paper says only "genetic"; parents by tournament, crossover, mutation and repair are ours.
    """
    if population < 2:
        raise ValueError(f"found a population of {population}, wanted two parents for each child: give 2 or more")
    space, rng = Space.of(macs, calls, keep=keep, attention=attention), Random(seed)
    made = {"method": "genetic", "keep": keep, "attention": attention, "seed": seed, "population": population}
    blank = replace(dense(space.blocks, calls), made=made)
    alive: list[Trial] = []

    def propose(last: Trial | None) -> Schedule:
        grown = len(alive) >= population
        return with_rows(blank, child(alive, space, rng) if grown else random_rows(space, calls, rng))

    for trial in run_trials(propose, objective, trials=trials):
        yield trial
        alive = sorted([*alive, trial], key=lambda trial: trial.value, reverse=True)[:population]


def child(alive: Sequence[Trial], space: Space, rng: Random) -> list[Row]:
    """Rows of this space from two parents, each the winner of a tournament."""
    mother, father = (max(rng.choices(alive, k=TOURNAMENT), key=lambda trial: trial.value) for _ in range(2))
    return space.fitted(mutated(crossed(rows_of(mother.schedule), rows_of(father.schedule), rng), rng), rng)


def crossed(mother: Sequence[Row], father: Sequence[Row], rng: Random) -> list[Row]:
    """Each row from either parent or, in half of the cases, each cell."""
    pairs = list(zip(mother, father, strict=True))
    if rng.random() < 0.5:
        return [rng.choice(pair) for pair in pairs]
    return [tuple(rng.choice(cells) for cells in zip(*pair, strict=True)) for pair in pairs]


def mutated(rows: Sequence[Row], rng: Random) -> list[Row]:
    """The rows with about one of them held or whole instead, and about one cell flipped."""
    T, L = len(rows), len(rows[0])
    changed = [(rng.random() < 0.5,) * L if rng.random() < 1 / T else row for row in rows]
    return [tuple(cell ^ (rng.random() < 1 / (T * L)) for cell in row) for row in changed]


def random_rows(space: Space, calls: int, rng: Random) -> list[Row]:
    """Random rows that fill the budget; the share of whole calls and the density of the others are drawn first."""
    wholes, density = rng.random(), rng.random()
    rows, free = [space.whole, *[space.held] * (calls - 1)], range(1, calls)
    room = space.room(rows)
    for t in shuffled(free, rng):
        some = tuple(rng.random() < density for _ in space.cells)
        row = space.whole if rng.random() < wholes else live(some, space.blocks)
        if space.macs(row) <= room:
            rows[t], room = row, room - space.macs(row)
    return space.filled(rows, free, rng)
