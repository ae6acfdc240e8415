"""Held calls left out: a schedule of whole calls as a sampler of fewer calls, with the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secateur.pipeline.schedulers import begun
from secateur.pipeline.solvers import place_timesteps
from secateur.pipeline.table import Table, probe
from secateur.schedule.fit import check_scheduler, fitting_scheduler
from secateur.schedule.holds import FOLDED, taken

if TYPE_CHECKING:
    from secateur.pipeline.multistep import LinearMultistepScheduler
    from secateur.schedule.schedule import Schedule


def sampler_for(schedule: Schedule, scheduler: Any) -> LinearMultistepScheduler:
    """What `Schedule.sampler` returns."""
    from secateur.pipeline.multistep import LinearMultistepScheduler

    if partial := sum("#" in row and "." in row for row in schedule.grid):
        raise ValueError(f"{partial} calls of the schedule reuse blocks, which no scheduler can do: use secateur.apply")
    scheduler = fitting_scheduler(scheduler, schedule)
    return LinearMultistepScheduler.of(table_of(schedule if schedule.table else fold(schedule, scheduler)), scheduler)


def fold(schedule: Schedule, scheduler: Any, **timesteps: Any) -> Schedule:
    """The Schedule without its held rows, with the table of the sampler whose images are those of the held calls.

    A deterministic sampler is a matrix, and so is holding, by whatever line: the sampler of the calls that are left is their
    product (see `Table.holding`). scheduler: the one that the schedule is for, of any kind; it is not changed. timesteps:
    more arguments for its `set_timesteps`, as Flux passes sigmas= and mu=; or timesteps=, of all calls, held ones too.
    A schedule without held rows gets its table, too.
    Raises ValueError if the schedule has a table or is for another scheduler, if that clips or draws noise, or if the images
    would be others.
    """
    if schedule.table is not None:
        raise ValueError("it is folded already: the schedule has a table, and so no held calls; use it as it is")
    check_scheduler(scheduler, schedule)
    if has_lines(schedule):
        raise ValueError(
            "the schedule's blocks extrapolate over its calls, and fewer would give another line: apply the schedule as it is"
        )
    held = list(map(schedule.held, range(schedule.calls)))
    run = [t for t, passed in enumerate(held) if not passed]
    table = stock_table(schedule, scheduler, **timesteps).holding(taken(held, schedule.hold), run)
    bound, before = schedule.bound_to(scheduler), {"calls": schedule.calls, "run": run, "hold": schedule.hold}
    kept = replace(bound, grid=tuple(schedule.grid[t] for t in run), timesteps=None, made={**bound.made, FOLDED: before})
    return with_table(kept, table)


def with_table(schedule: Schedule, table: Table) -> Schedule:
    """A schedule none of whose calls is held, with the table of its sampler."""
    numbers = table.numbers()
    return replace(schedule, timesteps=numbers.pop("timesteps"), table=numbers, hold="output")


def has_lines(schedule: Schedule) -> bool:
    """Whether single blocks extrapolate over the calls of a schedule, so that fewer calls would give another line."""
    return "extrapolate" in schedule.reuse and not schedule.whole


def stock_table(schedule: Schedule, scheduler: Any, **timesteps: Any) -> Table:
    """The table of all calls of a schedule, held ones too, under a stock scheduler."""
    chosen, shifts = schedule.timesteps or timesteps.pop("timesteps", None), scheduler.config.get("use_dynamic_shifting")
    if chosen is not None:
        return table_at(scheduler, chosen, **timesteps)
    if shifts and "mu" not in timesteps:
        name = type(scheduler).__name__
        raise ValueError(f"this {name} shifts its timesteps by the size of the picture: give fold() the mu= of yours")
    steps = schedule.calls if "sigmas" in timesteps else steps_for(scheduler, schedule.calls, **timesteps)
    return probe(begun(scheduler, steps, **timesteps))


def table_at(scheduler: Any, timesteps: Sequence[float], **arguments: Any) -> Table:
    """The table of a stock scheduler whose calls are at these timesteps, be they its own or chosen.

    arguments: more of them for its `set_timesteps`.
    """
    own = begun(scheduler, steps_for(scheduler, len(timesteps), **arguments), **arguments)
    if tuple(map(float, own.timesteps)) != tuple(map(float, timesteps)):
        shift = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}  # which the timesteps make up for
        place_timesteps(own, own.set_timesteps, timesteps, arguments=shift | arguments)
    return probe(own)


def steps_for(scheduler: Any, calls: int, **timesteps: Any) -> int:
    """How many steps of a scheduler make this many calls: PNDM makes one more, Heun about twice as many."""
    for steps in range(calls, calls // 2, -1):
        if len(begun(scheduler, steps, **timesteps).timesteps) == calls:
            return steps
    raise ValueError(f"no number of steps of {type(scheduler).__name__} makes {calls} calls: use another scheduler or schedule")


def table_of(schedule: Schedule) -> Table:
    """The table of a folded schedule."""
    return Table.of({"timesteps": schedule.timesteps, **(schedule.table or {})})
