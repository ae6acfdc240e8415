"""The knapsack: law 5, what it promises of budgets, and what it refuses."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from secateur.knapsack import achieved, knapsack


def brute_force(scores, costs, keep: str, rest: int) -> float:
    """The highest sum of scores over all 2^L sets within the budget."""
    room = Fraction(keep) * (sum(costs) + rest) - rest
    sums = np.array(list(product((0, 1), repeat=len(costs)))) @ np.array([costs, scores], dtype=float).T
    return sums[sums[:, 0] <= math.floor(room), 1].max()


def problems(n: int, seed: int):
    """Scores and costs: unlike each other, full of ties, of a U-Net's sizes, tiny scores, as many as costs, partly negative."""
    rng = np.random.default_rng([n, seed])
    small, large = rng.integers(1, 5, n), rng.integers(10**5, 10**8, n) * 4
    yield rng.random(n), rng.integers(n == 1, 100, n)
    yield rng.integers(0, 3, n).astype(float), small
    yield np.ones(n), small
    yield rng.random(n) * 1e-9, large
    yield large.astype(float), large
    yield rng.normal(size=n), large


@pytest.mark.parametrize("n", range(1, 13))
def test_law_5_the_knapsack_equals_brute_force(n):
    for seed, keep in enumerate(("0.1", "0.5", "0.7", "1.0")):
        for scores, costs in problems(n, seed):
            costs = [int(cost) for cost in costs]
            rest = sum(costs) // 20
            kept = knapsack(scores.tolist(), costs, keep=float(keep), rest=rest)
            assert achieved(kept, costs, rest=rest) <= float(keep)
            best = brute_force(scores, costs, keep, rest)
            assert float(scores @ np.array(kept)) == pytest.approx(best, rel=1e-12, abs=0)


def test_the_budget_is_met_to_the_last_unit():
    costs = [859_520_963, 1]
    assert knapsack([2.0, 1.0], costs, keep=1.0) == (True, True)
    assert knapsack([2.0, 1.0], costs, keep=0.9999999999) == (True, False)
    assert knapsack([2.0, 1.0], [859_520_963, 2], keep=859_520_962 / 859_520_965) == (False, True)


@pytest.mark.parametrize("size", [10**9, 5 * 10**11])
def test_large_costs_are_exact_to_the_last_unit(size):
    """Scores that are the costs: the sets' sums lie as close together as whole numbers do."""
    rng = np.random.default_rng(size)
    for _ in range(5):
        costs = rng.integers(size, 2 * size, 10).tolist()
        kept = knapsack([float(cost) for cost in costs], costs, keep=0.5)
        assert sum(cost for cost, k in zip(costs, kept, strict=True) if k) == brute_force(costs, costs, "0.5", 0)


def test_a_keep_means_what_is_written():
    assert sum(knapsack([1.0] * 10, [1] * 10, keep=0.7)) == 7  # the float 0.7 is below seven tenths
    assert sum(knapsack([1.0] * 10, [1] * 10, keep=np.float64(0.3))) == 3


def test_what_does_nothing_goes_first():
    assert knapsack([0.3, 0.0, 0.2, 0.5], [1, 1, 1, 1], keep=0.75) == (True, False, True, True)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([1.0], [1, 2], 0.5, 0), ValueError, "1 scores and 2 costs"),
        (([], [], 0.5, 0), ValueError, "0 scores"),
        (([math.nan], [1], 0.5, 0), ValueError, "a score of nan"),
        (([1.0], [1.5], 0.5, 0), TypeError, "a cost of 1.5.*whole numbers"),
        (([1.0], [-1], 0.5, 0), ValueError, "from -1 to 0"),
        (([1.0], [0], 0.5, 0), ValueError, "not all of them 0"),
        (([1.0, 1.0], [10**14, 1], 0.5, 0), ValueError, "coarser unit"),
        (([1.0], [1], 0.0, 0), ValueError, "above 0 and at most 1; got 0.0"),
        (([1.0], [1], 1.1, 0), ValueError, "got 1.1"),
        (([1.0], [1], 0.5, 3), ValueError, "0.75 stays whatever is removed, so keep=0.5 is out of reach"),
    ],
)
def test_what_is_no_knapsack_is_refused_in_a_sentence(arguments, error, says):
    scores, costs, keep, rest = arguments
    with pytest.raises(error, match=says) as caught:
        knapsack(scores, costs, keep=keep, rest=rest)
    assert "\n" not in str(caught.value)
