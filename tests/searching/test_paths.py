"""The best path with whole and partial calls against brute force."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from secateur.searching import paths

G, REACH = 5, 3


def drawn(seed: int, *, reach: int = REACH) -> paths.Updates:
    """Random errors between G levels, partial calls being possible up to `reach` after a whole one."""
    rng = np.random.default_rng(seed)
    found = tuple(paths.states(s, reach=reach) for s in range(G))
    whole = tuple(rng.random((len(found[s]), G - s)) for s in range(G))
    partial = tuple(
        np.where(np.array([s - a <= reach for _, a in found[s]], bool)[:, None], rng.random((len(found[s]), G - s)), np.inf)
        for s in range(G)
    )
    return paths.Updates(rng.random(G), found, whole, partial, reach)


def error_of(updates: paths.Updates, levels: tuple[int, ...], whole: tuple[bool, ...]) -> float:
    """The sum of the errors along one path, by hand."""
    total, state = 0.0, (0, 0)
    for k, s in enumerate(levels):
        t = levels[k + 1] if k + 1 < len(levels) else len(updates)
        if s == 0:
            total += updates.first[t - 1]
            continue
        if state not in updates.states[s]:
            return np.inf
        table = updates.whole if whole[k] else updates.partial
        total += table[s][updates.states[s].index(state), t - s - 1]
        state = (s, s if whole[k] else state[1])
    return total


def every_path():
    for count in range(G):
        for rest in combinations(range(1, G), count):
            yield from (((0, *rest), (True, *kinds)) for kinds in product((True, False), repeat=count))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limit", [1.0, 1.9, 2.4, 3.0, 4.1])
def test_no_path_within_the_limit_is_better(seed, limit):
    updates, costs = drawn(seed), (1.0, 0.3)
    found = paths.best(updates, costs=costs, limit=limit)
    cost = sum(costs[0] if w else costs[1] for w in found.whole)
    assert cost <= limit
    assert error_of(updates, found.levels, found.whole) == pytest.approx(found.error)
    afford = [(p, w) for p, w in every_path() if sum(1.0 if x else 0.3 for x in w) <= limit]
    assert found.error == pytest.approx(min(error_of(updates, *path) for path in afford))


@pytest.mark.parametrize("calls", range(1, G + 1))
def test_partial_calls_that_cost_too_much_are_never_made(calls):
    updates = drawn(5)
    found = paths.best(updates, costs=(1.0, G + 1.0), limit=calls)
    whole = [path for path in every_path() if all(path[1]) and len(path[0]) <= calls]
    assert all(found.whole)
    assert found.error == pytest.approx(min(error_of(updates, *path) for path in whole))


def test_a_budget_below_one_call_is_refused():
    with pytest.raises(ValueError, match="the first call always runs whole and costs 2 of 1: ask for a higher keep"):
        paths.best(drawn(0), costs=(2, 1), limit=1)
