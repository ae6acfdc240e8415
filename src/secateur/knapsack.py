"""What to keep under a budget: the 0–1 knapsack, solved exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from operator import index

SCALE = 1e6  # HiGHS takes solutions that differ by less than 1e-6 for equally good, which small scores do
LARGEST = 10**13  # with ten times that it no longer finds the best set to the last unit
Whole = tuple[int, Sequence[int]]  # a cost, and the layers of which any one that is kept makes it due


def knapsack(
    scores: Sequence[float],
    costs: Sequence[int],
    *,
    keep: float,
    rest: int = 0,
    groups: Sequence[Sequence[int]] = (),
    wholes: Sequence[Whole] = (),
) -> tuple[bool, ...]:
    """Which layers to keep, (L,): the highest sum of scores whose cost is at most a fraction `keep` of the whole.

    scores: (L,), higher matters more; among sets of one sum, any. costs: (L,) whole numbers 0 or more (parameters, MACs,
    nanoseconds). rest: cost of what is kept whatever is chosen. wholes: (cost, places of layers) of what is kept as long as
    any of these layers is. Fractions are of the sum of all costs, and exact: the one achieved is never above `keep`. groups: of
    each, places of layers, at least one is kept; no layer is in two, of groups or of wholes. Raises ValueError
    if `rest`, with the cheapest of each group, is above `keep`. LAPTOP-Diff's knapsack (arXiv 2404.11098), seen from the rest.
    """
    check_items(scores, costs, rest)
    free = [*costs, *(cost for cost, _ in wholes)]
    room = budget(free, keep=keep, rest=rest)
    if (least := least_of(costs, groups, wholes)) > room:
        total = sum(free) + rest
        raise ValueError(
            f"one of each group takes {least / total:.4g} beside what stays, {rest / total:.4g}: raise keep={keep}"
        )
    stays = optimum(scores, costs, room=room, groups=groups, wholes=wholes)
    due = sum(cost for cost, inner in wholes if any(stays[i] for i in inner))
    if (cost := due + sum(cost for cost, k in zip(costs, stays, strict=True) if k)) > room:
        raise RuntimeError(f"HiGHS chose layers of cost {cost} and {room} were left: report this with scores and costs")
    return stays


def least_of(costs: Sequence[int], groups: Sequence[Sequence[int]], wholes: Sequence[Whole]) -> int:
    """What one layer of each group costs at least, with the whole that it is in."""
    around = {i: cost for cost, inner in wholes for i in inner}
    return sum(min(costs[i] + around.get(i, 0) for i in group) for group in groups)


def achieved(stays: Sequence[bool], costs: Sequence[int], *, rest: int = 0) -> float:
    """Fraction of the cost that is kept, of sum(costs) + rest."""
    return (rest + sum(cost for cost, k in zip(costs, stays, strict=True) if k)) / (rest + sum(costs))


def check_items(scores: Sequence[float], costs: Sequence[int], rest: int) -> None:
    """Raises ValueError or TypeError if scores and costs make no knapsack."""
    if not costs or len(scores) != len(costs):
        raise ValueError(f"found {len(scores)} scores and {len(costs)} costs: give one of each for every layer")
    if wrong := [score for score in scores if not math.isfinite(score)]:
        raise ValueError(f"found a score of {wrong[0]}: give finite numbers, higher for what matters more")
    if wrong := [cost for cost in (*costs, rest) if not hasattr(cost, "__index__")]:
        raise TypeError(f"found a cost of {wrong[0]!r}: give whole numbers (parameters, MACs, nanoseconds), which stay exact")
    if min(*costs, rest) < 0 or sum(costs) + rest == 0:
        raise ValueError(f"found costs from {min(*costs, rest)} to {max(*costs, rest)}: give 0 or more, not all of them 0")


def budget(costs: Sequence[int], *, keep: float, rest: int) -> int:
    """The cost that may be chosen beside `rest`. Raises ValueError if there is none."""
    if not 0 < keep <= 1:
        raise ValueError(f"keep is the fraction that stays, above 0 and at most 1; got {keep}")
    total = sum(map(index, costs)) + index(rest)
    room = math.floor(Fraction(str(keep)) * total) - index(rest)  # as it is written: 0.7 of 10 is 7, though the float is less
    if room < 0:
        raise ValueError(f"{rest / total:.4g} stays whatever is removed, so keep={keep} is out of reach: ask for more")
    return room


def optimum(
    scores: Sequence[float],
    costs: Sequence[int],
    *,
    room: int,
    groups: Sequence[Sequence[int]] = (),
    wholes: Sequence[Whole] = (),
) -> tuple[bool, ...]:
    """The set with the highest sum of scores that costs at most `room`, with its wholes, and has one of each group, (L,).

    Raises ValueError if costs are past what floats hold.
    """
    import numpy as np
    from scipy.optimize import LinearConstraint, milp

    free, L = [*map(index, costs), *(cost for cost, _ in wholes)], len(costs)  # a variable for each whole after the layers'
    unit = math.gcd(*free, room) or 1
    if sum(free) // unit > LARGEST:
        raise ValueError(f"found costs of {sum(free)} in all: give them in a coarser unit, at most {LARGEST:.0e} of it")
    weights = np.array([cost // unit for cost in free], dtype=float)
    values = np.array([*scores, *[0.0] * len(wholes)])
    values *= SCALE / (np.abs(values).max() or 1.0)
    places = np.arange(len(free))
    limits = [LinearConstraint(weights, ub=room // unit + 0.5)]  # whole numbers: the half loses no set to a rounding
    limits += [LinearConstraint(np.isin(places, group), lb=0.5) for group in groups]
    limits += [
        LinearConstraint(len(inner) * (places == L + w) - 1.0 * np.isin(places, inner), lb=-0.5)
        for w, (_, inner) in enumerate(wholes)
    ]
    result = milp(-values, integrality=np.ones(len(free)), bounds=(0, 1), constraints=limits, options={"mip_rel_gap": 0})
    if result.x is None:
        raise RuntimeError(f"HiGHS gave no solution for {L} layers: {result.message}")
    return tuple(bool(x > 0.5) for x in result.x[:L])
