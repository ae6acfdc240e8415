"""retime(schedule, old, new, calls=…): a schedule carried over to another number of calls, or another scheduler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from secateur.pipeline.schedulers import begun, noise_levels, scheduler_signature
from secateur.pipeline.solvers import draws_noise, remembers
from secateur.schedule.fit import difference
from secateur.schedule.schedule import REUSE, Schedule


def retime(schedule: Schedule, old_scheduler: Any, new_scheduler: Any, *, calls: int) -> Schedule:
    """The Schedule for `calls` calls of the new scheduler whose running rows are nearest in noise to those under the old one.

    Every row that runs something goes to a call of its own, in the same order, so that the timesteps move least in the sum
    of squares; the others are held. It is not searched again: measure it. old_scheduler: the one that the schedule is for.
    Raises ValueError if the two schedulers add noise differently, if the new one's steps remember several predictions or draw
    new noise, or if `calls` are too few. Raises it, too, if the schedule chooses its timesteps, which need no retiming.
    """
    old, new = old_scheduler, new_scheduler
    check_retimable(schedule, old, new)
    before, after = timesteps_of(old, schedule.calls), timesteps_of(new, calls)
    if draws_noise(new):
        name = type(new).__name__
        raise ValueError(f"{name} draws new noise at its steps, which held calls do not follow: use one that draws none")
    running = [t for t in range(schedule.calls) if not schedule.held(t)]
    if len(running) > calls:
        raise ValueError(f"{len(running)} calls of the schedule run and there are {calls}: ask for {len(running)} or more")
    places = [0, *nearest(before[running[1:]], after[1:])]
    rows = [REUSE * len(schedule.blocks)] * calls
    for t, place in zip(running, places, strict=True):
        rows[place] = schedule.grid[t]
    name, digest = scheduler_signature(new)
    made = {**schedule.made, "retimed_from": {"calls": schedule.calls, "scheduler": type(old).__name__}}
    return replace(schedule, grid=tuple(rows), scheduler=name, scheduler_hash=digest, made=made)


def nearest(wanted: np.ndarray, grid: np.ndarray) -> list[int]:
    """Which call of the grid, from 1 on, each wanted timestep gets: each its own, the squared distances least in all."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment((wanted[:, None] - grid[None, :]) ** 2)  # of sorted points, which keeps their order
    return [int(column) + 1 for column in columns]


def timesteps_of(scheduler: Any, calls: int) -> np.ndarray:
    """The timesteps of these calls, (T,); dynamic shifting takes mu = 1. Raises ValueError if a step is not a call."""
    grid = begun(scheduler, calls)
    if len(grid.timesteps) != calls:
        raise ValueError(
            f"{type(scheduler).__name__} makes {len(grid.timesteps)} calls in {calls} steps: use one with a call a step"
        )
    return np.array([float(t) for t in grid.timesteps])


def check_retimable(schedule: Schedule, old: Any, new: Any) -> None:
    """Raises ValueError if a schedule cannot be carried over."""
    if schedule.timesteps is not None:
        raise ValueError(f"the schedule chooses its {len(schedule.timesteps)} timesteps, whatever the steps: use it as it is")
    if schedule.scheduler_hash not in (None, scheduler_signature(old)[1]):
        raise ValueError(f"{difference(old, schedule)}, or pass the scheduler that the schedule is for")
    if not np.array_equal(noise_levels(old), noise_levels(new)):
        pair = type(old).__name__, type(new).__name__
        both = f"the two {pair[0]}s" if pair[0] == pair[1] else " and ".join(pair)
        raise ValueError(f"{both} add noise differently, so calls of one are none of the other's: search for the new one")
    if memory := remembers(new):
        raise ValueError(
            f"{type(new).__name__} makes its steps of {memory} predictions and would take held ones for new: fold()"
        )
