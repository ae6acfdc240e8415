"""How many plain steps come as near: the question that every schedule has to answer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import exp, log

Curve = Mapping[int, float]  # PSNR to the target, in dB, by number of plain steps of one solver


def steps_as_near(psnr_db: float, plain: Curve) -> float | None:
    """The number of plain steps that come as near to the target as `psnr_db`; None if none in `plain` does.

    Between two measured numbers of steps, PSNR is linear in their logarithm (ours): an error that falls with a power of the
    step has such a PSNR. If even the fewest steps come nearer, the answer is these fewest.

    Raises ValueError if `plain` is empty.
    """
    if not plain:
        raise ValueError("there are no plain steps to compare with: measure at least one number of steps")
    curve = sorted(plain.items())
    if psnr_db <= curve[0][1]:
        return float(curve[0][0])
    for (fewer, low), (more, high) in pairwise(curve):
        if high >= psnr_db:  # the first crossing, from `low` below it
            return exp(log(fewer) + (psnr_db - low) / (high - low) * log(more / fewer))
    return None


def in_words(psnr_db: float, plain: Curve) -> str:
    """The same for a table: "17", "< 5" if even the fewest measured steps come nearer, or "never"."""
    steps = steps_as_near(psnr_db, plain)
    if steps is None:
        return "never"
    fewest = min(plain)
    return f"< {fewest}" if psnr_db < plain[fewest] else f"{steps:.0f}"


def best_solver(curves: Mapping[str, Curve], steps: int) -> str:
    """The solver whose images are nearest to the target at this number of steps.

    Raises ValueError if none was measured there.
    """
    values = {name: curve[steps] for name, curve in curves.items() if steps in curve}
    if not values:
        raise ValueError(f"no solver was measured at {steps} steps: measure one there, or choose another number")
    return max(values, key=lambda name: values[name])
