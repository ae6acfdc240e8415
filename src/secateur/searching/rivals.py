"""Random and genetic search over rows within a budget: rivals of the search, measured beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from secateur.denoiser.macs import Macs
from secateur.schedule.baselines import dense
from secateur.schedule.schedule import Schedule
from secateur.searching.budget import Row, Space, rows_of, with_rows
from secateur.searching.local import Trial, Value, tried

RIVALS = 3  # in a tournament


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
