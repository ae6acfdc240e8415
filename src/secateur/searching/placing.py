"""Which calls to make, solved exactly from one trajectory, without gradients and without another denoiser call.

A sampler of few calls takes the latents at a call, its prediction, and the prediction of the call before, to the latents at
the next call. How near it can come is a least-squares problem of the trajectory's own vectors, so that their inner products
tell the error of every such update (ours). The calls whose updates have the least error in sum are a shortest path, as in
GITS (arXiv 2405.11326) and OSS (arXiv 2503.21774), which place the calls of a given solver; here the solver is fitted too.
LAPTOP-Diff (arXiv 2404.11098) adds up the losses of removed layers in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.searching.paths import State, Updates, states

RIDGE, NOTHING = 1e-9, 1e-30  # of the diagonal; the squared length of a vector that is zero


def weightings(latents: np.ndarray) -> dict[str, np.ndarray]:
    """How much a squared error at each level counts, (G + 1,), by name. latents: their mean squares, (G + 1,).

    Noisy latents are larger than data for some samplers, so that an error in them counts less (ours). The search measures all.
    """
    larger = 1 / latents.clip(min=1.0)
    return {"even": np.ones_like(larger), "latents": larger, "squared": larger**2}


def updates(products: np.ndarray, *, levels: int, reach: int = 0, weights: np.ndarray) -> Updates:
    """The error of every update between G levels and the end, from a whole or from a partial call.

    products: inner products of the latents at all levels and at the end, then of the predictions at each level, one for each
    gap from 0 to `reach` since the last whole call. weights: (G + 1,).
    """
    G, before = levels, tuple(states(s, reach=reach) for s in range(levels))

    def call(s: int, gap: int) -> int:
        return G + 1 + s * (reach + 1) + gap

    def errors(s: int, gap: int, arrivals: Sequence[State]) -> np.ndarray:
        basis = [[s, call(s, gap), call(u, u - a)] for u, a in arrivals] if arrivals else [[s, call(s, gap)]]
        later = np.arange(s + 1, G + 1)
        return residuals(products, np.array(basis), later) * weights[later]

    whole, partial = [np.zeros((0, G))], [np.zeros((0, G))]
    for s in range(1, G):
        whole.append(errors(s, 0, before[s]))
        partial.append(np.full_like(whole[s], np.inf))
        for gap in range(1, min(reach, s) + 1):
            here = [k for k, (_, a) in enumerate(before[s]) if a == s - gap]
            partial[s][here] = errors(s, gap, [before[s][k] for k in here])
    return Updates(errors(0, 0, ())[0], before, tuple(whole), tuple(partial), reach)


def residuals(products: np.ndarray, basis: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Squared distances of goals, (t,), to the nearest sums of some vectors, (n, m): (n, t). All are places in `products`."""
    inner = products[basis[:, :, None], basis[:, None, :]]
    outer = products[basis[:, :, None], goals]
    ridge = RIDGE * np.einsum("nii->ni", inner).clip(min=NOTHING)
    sums = np.linalg.solve(inner + ridge[:, :, None] * np.eye(basis.shape[1]), outer)
    return (products[goals, goals] - (sums * (outer + ridge[:, :, None] * sums)).sum(1)).clip(min=0.0)
