"""The best path with whole and partial calls against brute force and against the path of whole calls alone."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from secateur.searching import additive, paths

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


def test_where_partial_calls_never_help_the_path_is_that_of_whole_calls():
    rng = np.random.default_rng(5)
    errors = np.full((G, G, G + 1), np.inf)
    for u in range(G):
        for s in range(u, G):
            errors[u, s, s + 1 :] = rng.random(G - s)
    found = tuple(paths.states(s, reach=REACH) for s in range(G))
    whole = tuple(np.array([errors[u, s, s + 1 :] for u, _ in found[s]]).reshape(len(found[s]), G - s) for s in range(G))
    never = tuple(np.full_like(table, np.inf) for table in whole)
    updates = paths.Updates(errors[0, 0, 1:], found, whole, never, REACH)
    for calls, solution in enumerate(additive.solve(errors, calls=G), start=1):
        path = paths.best(updates, costs=(1.0, 0.3), limit=calls)
        best = min(additive.solve(errors, calls=calls), key=lambda found: found.error)
        assert path.error == pytest.approx(best.error)
        assert all(path.whole)
        assert solution.error >= best.error


def test_a_budget_below_one_call_is_refused():
    with pytest.raises(ValueError, match="the first call always runs whole and costs 2 of 1: ask for a higher keep"):
        paths.best(drawn(0), costs=(2, 1), limit=1)


def test_neighbours_cost_the_same_and_are_paths():
    start = paths.Path((0, 2, 4, 7), (True, False, True, True), 0.0)
    found = list(paths.neighbours(start, levels=9))
    assert len(set(found)) == len(found)
    for path in found:
        assert path.levels[0] == 0
        assert path.whole[0]
        assert list(path.levels) == sorted(set(path.levels))
        assert path.levels[-1] < 9
        assert sum(path.whole) == 3
    assert {path.whole for path in found} == {start.whole, (True, True, False, True)}
    assert paths.Path((0, 1, 4, 7), start.whole, 0.0) in found


def test_climbing_ends_where_no_neighbour_is_better():
    start = paths.of_whole_calls((0, 1, 2, 3), 0.0)
    wanted = (0, 4, 6, 8)
    found = paths.climbed(start, lambda path: 1.0 + sum(abs(a - b) for a, b in zip(path.levels, wanted, strict=True)), levels=9)
    assert found.levels == wanted
    assert found.error == 1.0
