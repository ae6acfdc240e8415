"""Errors of updates against numpy's least squares, and the calls that they place against what was planted."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from secateur.searching import paths, placing
from secateur.searching.teacher import inner_products
from tiny_pipes import noise

G, REACH, SAMPLES = 5, 2, 3


def vectors(reach: int = 0) -> list[torch.Tensor]:
    """Random latents at each level and at the end, then predictions for each level and gap."""
    return list(noise(3, G + 1 + G * (reach + 1), SAMPLES, 4, 5))


def missed(found: list[torch.Tensor], basis: list[int], goal: int) -> float:
    """The squared distance of a vector to the nearest sum of others, by numpy."""
    flat = torch.stack(found).double().flatten(1).numpy()
    _, rest, *_ = np.linalg.lstsq(flat[basis].T, flat[goal], rcond=None)
    return float(rest[0])


def test_inner_products_are_summed_over_samples():
    found = vectors()
    flat = torch.stack(found).double().flatten(1)
    np.testing.assert_allclose(inner_products(found), flat @ flat.T, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("reach", [0, REACH])
def test_errors_are_those_of_least_squares(reach):
    drawn, weights = vectors(reach), np.linspace(1, 2, G + 1)
    found = placing.updates(inner_products(drawn), levels=G, reach=reach, weights=weights)
    call = lambda s, gap: G + 1 + s * (reach + 1) + gap  # noqa: E731
    for t in range(1, G + 1):
        assert found.first[t - 1] == pytest.approx(weights[t] * missed(drawn, [0, call(0, 0)], t), rel=1e-6)
    for s in range(1, G):
        for k, (u, a) in enumerate(found.states[s]):
            for t in range(s + 1, G + 1):
                wanted = weights[t] * missed(drawn, [s, call(s, 0), call(u, u - a)], t)
                assert found.whole[s][k, t - s - 1] == pytest.approx(wanted, rel=1e-6)
                wanted = weights[t] * missed(drawn, [s, call(s, s - a), call(u, u - a)], t) if s - a <= reach else np.inf
                assert found.partial[s][k, t - s - 1] == pytest.approx(wanted, rel=1e-6)


def test_the_path_is_the_best_of_all():
    drawn, weights = vectors(), np.ones(G + 1)
    errors = placing.updates(inner_products(drawn), levels=G, weights=weights)
    for calls in range(1, G + 1):
        every = [(0, *rest) for n in range(calls) for rest in combinations(range(1, G), n)]
        wanted = min(every, key=lambda levels: total(drawn, levels))
        path = paths.best(errors, costs=(1, G + 1), limit=calls)
        assert (path.levels, all(path.whole)) == (wanted, True)
        assert path.error == pytest.approx(total(drawn, wanted), rel=1e-6)


def total(drawn, levels) -> float:
    """The sum of what the updates of a path of whole calls miss."""
    error, before = 0.0, None
    for s, t in zip(levels, (*levels[1:], G), strict=True):
        basis = [s, G + 1 + s] + ([] if before is None else [G + 1 + before])
        error, before = error + missed(drawn, basis, t), s
    return error


def test_calls_are_made_where_predictions_turn():
    """Along a line of predictions nothing is missed by a longer step, so all calls but those around the bend can go."""
    levels, bend = 12, 5
    start, slope, other = noise(7, 3, SAMPLES, 40)
    y = [start + slope * min(t, bend) + other * max(0, t - bend) for t in range(levels)]
    x = [noise(9, 1, SAMPLES, 40)[0]]
    for prediction in y:
        x.append(0.9 * x[-1] + 0.3 * prediction)
    errors = placing.updates(inner_products([*x, *y]), levels=levels, weights=np.ones(levels + 1))
    found = {calls: paths.best(errors, costs=(1, 9), limit=calls) for calls in (3, 4, 5)}
    size = float(x[-1].pow(2).sum())
    assert found[5].error < 1e-6 * size < found[3].error
    assert {bend, bend + 1} & set(found[4].levels)


def test_a_prediction_of_nothing_breaks_nothing():
    drawn = vectors()
    drawn[G + 2] = torch.zeros_like(drawn[0])
    errors = placing.updates(inner_products(drawn), levels=G, weights=np.ones(G + 1))
    assert np.isfinite(np.concatenate([part.ravel() for part in (errors.first, *errors.whole)])).all()


def test_large_latents_count_less():
    found = placing.weightings(np.array([4.0, 1.0, 0.25]))
    assert {name: weights.tolist() for name, weights in found.items()} == {
        "even": [1, 1, 1],
        "latents": [0.25, 1, 1],
        "squared": [0.0625, 1, 1],
    }
