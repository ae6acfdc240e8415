"""The ways of holding calls, by name, and how far ahead each held call reads the line. Needs no torch.

output           the last prediction again
extrapolate      the line through the last two predictions
adams_bashforth  that line, read so far ahead that a call and the held ones after it step by the line's mean
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LINES = ("extrapolate", "adams_bashforth")  # what is made of the last two outputs
HOLDS = ("output", *LINES)
FOLDED = "folded_from"  # in the `made` of a folded schedule: its calls before, those that ran, and how the others were held


def leads(held: Sequence[bool], hold: str) -> tuple[float, ...]:
    """How many calls ahead of itself each held call reads the line, (T,); see `lead`."""
    runs = [t for t, passed in enumerate(held) if not passed]
    steps = [end - start for start, end in zip(runs, (*runs[1:], len(held)), strict=True)]
    return tuple(lead(k, n, hold) for n in steps for k in range(n))


def lead(k: int, n: int, hold: str) -> float:
    """How many calls ahead of itself the k-th of n steps reads the line; 0 for any hold but "adams_bashforth".

    A call's own step takes its own prediction, at the beginning of the line. The n − 1 held calls after it make up for that
    by n / 2(n − 1), so that all n steps go by the line's mean: one step of the two-step Adams–Bashforth method (ours, exact if
    the scheduler's steps are even). A call without held calls after it steps by the sampler's own first order.
    """
    return n / (2 * (n - 1)) if k and hold == "adams_bashforth" else 0.0


def taken(held: Sequence[bool], hold: str) -> np.ndarray:
    """What the sampler's step takes at each call, as weights of the predictions of all calls, (T, T).

    held: (T,), whether a call is held. A call that runs takes its own prediction, and nothing takes those of held calls.
    """
    weights, runs = np.zeros((len(held), len(held))), list[int]()
    for t, (passed, ahead) in enumerate(zip(held, leads(held, hold), strict=True)):
        runs += [] if passed else [t]
        weights[t, runs[-1]] = 1.0
        if passed and hold in LINES and len(runs) > 1:
            before, last = runs[-2:]
            share = (t + ahead - last) / (last - before)
            weights[t, last] += share
            weights[t, before] -= share
    return weights
