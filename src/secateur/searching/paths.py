"""The best path through noise levels with two kinds of calls, whole and partial, for every number of either; exact (ours).

The update of a call depends on the prediction of the call before it, and a partial call's prediction depends on when the
denoiser last ran whole. So a state is a call and the last whole call up to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

State = tuple[int, int]  # a call, and the last whole call up to it


@dataclass(frozen=True, eq=False)
class Updates:
    """Errors of single updates between G levels and the end, (…, G − s) for the next level s + 1 … G.

    first: of the first call, (G,). states[s]: the n states that a call before s may leave. whole[s], partial[s]: of a call at
    s after each of them, (n, G − s); inf if it is impossible, as for a partial call more than `reach` after the whole one.
    """

    first: np.ndarray
    states: tuple[tuple[State, ...], ...]
    whole: tuple[np.ndarray, ...]
    partial: tuple[np.ndarray, ...]
    reach: int

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Path:
    """The levels of the calls, whether each is whole, and the sum of the errors of their updates."""

    levels: tuple[int, ...]
    whole: tuple[bool, ...]
    error: float


def states(level: int, *, reach: int) -> tuple[State, ...]:
    """The states that a call before this level may leave, a whole call being at most `reach` levels back."""
    return tuple((u, a) for u in range(level) for a in range(max(0, u - reach), u + 1))


def best(updates: Updates, *, costs: tuple[float, float], limit: float) -> Path:
    """The Path with the least error whose calls take at most `limit`. costs: of a whole and of a partial call.

    Raises ValueError if not even the first call fits.
    """
    G, (dear, cheap) = len(updates), costs
    if dear > limit:
        raise ValueError(f"the first call always runs whole and costs {dear} of {limit}: ask for a higher keep")
    wholes = min(G, int(limit // dear))
    partials = min(G - 1, int((limit - dear) // cheap))
    errors = forward(updates, wholes, partials)
    ends = np.stack([errors[u][u - a, -1] for u, a in states(G, reach=updates.reach)])
    w, p = np.ogrid[: wholes + 1, : partials + 1]
    ends = np.where(w * dear + p * cheap <= limit, ends, np.inf)
    place, wholes, partials = map(int, np.unravel_index(int(ends.argmin()), ends.shape))
    last = states(G, reach=updates.reach)[place]
    calls = tuple(backward(updates, errors, last, wholes=wholes, partials=partials))[::-1]
    return Path(tuple(s for s, _ in calls), tuple(s == a for s, a in calls), float(ends.min()))


def forward(updates: Updates, wholes: int, partials: int) -> list[np.ndarray]:
    """Least errors R[s][s − a, t − s − 1, w, p] up to level t: last call s, last whole call a, w whole and p partial calls."""
    G = len(updates)
    errors = [np.full((min(updates.reach, s) + 1, G - s, wholes + 1, partials + 1), np.inf) for s in range(G)]
    errors[0][0, :, 1, 0] = updates.first
    for s in range(1, G):
        before = arrivals(errors, updates.states[s], s)
        errors[s][0, :, 1:] = least(before[:, :-1], updates.whole[s])
        for gap in range(1, len(errors[s])):
            here = [k for k, (_, a) in enumerate(updates.states[s]) if a == s - gap]
            errors[s][gap, ..., 1:] = least(before[here, ..., :-1], updates.partial[s][here])
    return errors


def arrivals(errors: Sequence[np.ndarray], before: Sequence[State], s: int) -> np.ndarray:
    """Least errors up to level s from each of these states, (n, wholes + 1, partials + 1)."""
    return np.stack([errors[u][u - a, s - u - 1] for u, a in before])


def least(before: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """min over n of before (n, w, p) plus errors (n, levels): (levels, w, p)."""
    return np.stack([(before + column[:, None, None]).min(axis=0) for column in errors.T])


def backward(updates: Updates, errors: Sequence[np.ndarray], state: State, *, wholes: int, partials: int) -> Iterator[State]:
    """The calls of the best path to a state, the last one first."""
    t = len(updates)
    while True:
        yield state
        s, a = state
        if s == 0:
            return
        step_errors = (updates.whole if s == a else updates.partial)[s][:, t - s - 1]
        wholes, partials = wholes - (s == a), partials - (s != a)
        sums = arrivals(errors, updates.states[s], s)[:, wholes, partials] + step_errors
        if s != a:
            sums = np.where([back == a for _, back in updates.states[s]], sums, np.inf)
        state, t = updates.states[s][int(sums.argmin())], s
