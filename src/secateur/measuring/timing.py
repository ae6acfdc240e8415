"""How long, how much memory, and on what: measured side by side, synchronised, with the spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.denoiser.times import synchronize


@dataclass(frozen=True)
class Timing:
    """Wall times of one thing done several times, in the order in which they were measured."""

    name: str
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError(f"the timing of {self.name!r} is empty: repeat at least once")

    @property
    def median_s(self) -> float:
        return float(np.median(self.seconds))

    @property
    def quartiles_s(self) -> tuple[float, float]:
        low, high = np.percentile(self.seconds, (25, 75))
        return float(low), float(high)

    def as_json(self) -> dict[str, float]:
        """Median and quartiles in seconds, and the number of repeats, as a record has them."""
        low, high = self.quartiles_s
        return {"median": self.median_s, "low": low, "high": high, "repeats": len(self.seconds)}


def time_together(
    runs: Mapping[str, Callable[[], Any]], *, repeats: int = 5, warmup: int = 1, clock: Callable[[], float] | None = None
) -> dict[str, Timing]:
    """A Timing for each of `runs`, measured in turns (A B A B), so that a machine that slows down slows all of them.

    `warmup` rounds go before and are not counted. The clock is read when the GPU's work is done.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats is at least 1 and warmup at least 0; got {repeats} and {warmup}")
    now = clock or time.perf_counter
    rounds = [{name: _seconds(run, now) for name, run in runs.items()} for _ in range(warmup + repeats)]
    return {name: Timing(name, tuple(seconds[name] for seconds in rounds[warmup:])) for name in runs}


def _seconds(run: Callable[[], Any], now: Callable[[], float]) -> float:
    synchronize()
    start = now()
    run()
    synchronize()
    return now() - start


def speedup(slow: Timing, fast: Timing) -> tuple[float, float, float]:
    """How many times faster `fast` is: median and quartiles of the ratios taken round by round.

    Both must come from one `time_together`: neighbours in time share what the machine was doing.
    """
    if len(slow.seconds) != len(fast.seconds):
        rounds = f"{len(slow.seconds)} of {slow.name!r} and {len(fast.seconds)} of {fast.name!r}"
        raise ValueError(f"a speed-up pairs the rounds of one measurement, but there are {rounds}: time them together")
    low, median, high = np.percentile(np.divide(slow.seconds, fast.seconds), (25, 50, 75))
    return float(median), float(low), float(high)
