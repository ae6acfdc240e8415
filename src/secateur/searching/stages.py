"""The stages of a search, one after the other; each starts from the best schedule of those before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from secateur.denoiser.blocks import kinds
from secateur.denoiser.macs import row_macs
from secateur.pipeline.schedulers import scheduled, steps_within
from secateur.pipeline.trajectory import first
from secateur.schedule import baselines
from secateur.schedule.fold import table_at, with_table
from secateur.schedule.schedule import REUSE, Schedule
from secateur.schedule.scores import Scores
from secateur.searching import dip_go, gradient_steps, paths, placing, refresh
from secateur.searching.budget import budget_macs
from secateur.searching.cells import choices, kind_losses
from secateur.searching.local import local_search
from secateur.searching.memo import recorded
from secateur.searching.task import Search
from secateur.searching.teacher import Teacher, inner_products

SPACINGS = {  # of stock solvers, where their configuration knows them
    "its own": {},
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "Karras": {"timestep_spacing": "linspace", "use_karras_sigmas": True},
}
WEIGHTINGS = 3  # that `placing.weightings` gives
SAMPLES, MOST_REACH = 4, 20  # for partial calls: samples, and levels since the last whole one at most (ours: they take replays)
HIGHEST_LR = 2.0  # for fewer updates than the paper's: learning rates have the same sum, up to this one (ours)


@dataclass(frozen=True)
class BestSoFar:
    """The best schedule after one more was measured, and how its stage stands.

    schedule, value_db: the best, and its value on the calibration images. kept: the fraction of the dense cost that it keeps.
    improved: whether the schedule measured last is the best now. last_db: value of that schedule; at most value_db.
    stage, measured, most, seconds: the stage, schedules measured in it, of how many at most, and how long it has taken.
    scores: those that the last schedule was made from, if any, for `allocate` at other budgets. losses: of the last update, if
    the stage makes updates, and the share of the MACs that its gates keep.
    """

    stage: str
    schedule: Schedule
    value_db: float
    last_db: float
    measured: int
    most: int
    seconds: float
    improved: bool
    kept: float
    scores: Scores | None = None
    losses: Mapping[str, float] = field(default_factory=dict)


class Candidate(NamedTuple):
    """A schedule that was measured, the scores that it was made from, and the losses that led to them."""

    schedule: Schedule
    value_db: float
    scores: Scores | None = None
    losses: Mapping[str, float] = MappingProxyType({})


Candidates = Iterator[Candidate]


def run_stages(search: Search) -> Iterator[BestSoFar]:
    """The best schedule after each one that was measured; a later one replaces it only by a significant gain."""
    best: BestSoFar | None = None
    for stage in search.stages:
        for step in run_stage(search, stage, best):
            best = step
            yield step


def run_stage(search: Search, stage: str, best: BestSoFar | None) -> Iterator[BestSoFar]:
    """The best schedule after each one that a single stage measures."""
    start = time.perf_counter()
    for number, (schedule, value, scores, losses) in enumerate(METHODS[stage](search, best), start=1):
        improved = best is None or value > best.value_db
        schedule, best_db = (schedule, value) if best is None or improved else (best.schedule, best.value_db)
        progress = number, most_measured(search, stage), time.perf_counter() - start
        share = search.macs.keep(schedule, calls=search.calls)
        best = BestSoFar(stage, schedule, best_db, value, *progress, improved, share, scores=scores, losses=losses)
        yield best


def most_measured(search: Search, stage: str) -> int:
    """How many schedules a stage measures at most."""
    counts = {
        "cells": len(kinds(search.macs.blocks)) + 1,
        "gradient": search.settings.updates,
        "stock": 1 + len(SPACINGS),
        "additive": WEIGHTINGS,
        "refresh": len(refresh.SHARES),
        "gradient-steps": gradient_steps.UPDATES // gradient_steps.EVERY,
    }
    return counts.get(stage, search.settings.trials)


def measure_each(search: Search, schedules: Iterable[Schedule], scores: Scores | None = None) -> Candidates:
    """Each schedule, with fitted rows if it can have them, and its value; measured patiently beside stock solvers."""
    for schedule in schedules:
        ready, best = search.ready(schedule), search.objective.best
        patient = best is not None and best.schedule.made.get("method") == "stock"
        yield Candidate(ready, search.objective(ready, patient=patient), scores)


def stock_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """What needs no search: plain steps of the scheduler at its stock spacings; then the best of them, with fitted rows."""
    values = dict[Schedule, float]()
    for schedule in stock_schedules(search):
        values[schedule] = search.objective(schedule)
        yield Candidate(schedule, values[schedule])
    yield from measure_each(search, [max(values, key=values.__getitem__)])


def stock_schedules(search: Search) -> Iterator[Schedule]:
    """As many plain steps as the budget pays for: at the scheduler's own spacing, and at those that begin as the teacher."""
    pipe, blocks, start = search.pipe, search.macs.blocks, search.teacher.timesteps[0]
    condition, options = search.trajectory.conditions[0], dict(search.trajectory.options)
    for name, spacing in SPACINGS.items():
        if not spacing.keys() <= pipe.scheduler.config.keys():
            continue
        with scheduled(pipe, None, spacing):
            options["num_inference_steps"] = steps_within(pipe.scheduler, search.whole_calls)
            times = recorded(search.memo, pipe, [condition], seeds=[0], batch_size=1, **options).timesteps
            table = table_at(pipe.scheduler, times)
        if not spacing or times[0] == start:
            made = {"method": "stock", "spacing": name}
            yield with_table(replace(baselines.dense(blocks, len(times)), made=made).bound_to(pipe.scheduler), table)


def additive_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """The exact solution of the additive model, for every weighting of errors."""
    teacher, limit = search.teacher, limit_of(search)
    measured = set[Any]()
    for name, weights in weightings_of(teacher).items():
        errors = placing.updates(teacher.products, levels=len(teacher.timesteps), weights=weights)
        path = paths.best(errors, costs=(search.macs.call(), limit + 1), limit=limit)
        schedule = refresh.path_schedule(path, teacher.timesteps, search.macs.blocks, weights=name)
        if schedule.timesteps not in measured:
            measured.add(schedule.timesteps)
            yield from measure_each(search, [schedule])


def weightings_of(teacher: Teacher) -> dict[str, np.ndarray]:
    """The weightings of errors at a teacher's levels, by name."""
    return placing.weightings(teacher.trajectory.latents.double().flatten(1).pow(2).mean(1).numpy())


def limit_of(search: Search) -> int:
    """The MACs that a schedule may take."""
    return budget_macs(search.macs, search.calls, keep=search.keep)


def refresh_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """The exact solution with partial calls, weighted as the best so far was; on the scheduler's own grid.

    For each row that partial calls may run, the best schedule that makes any; none if whole calls alone are better.
    """
    pipe, macs, size, memo = search.pipe, search.macs, search.batch_size, search.memo
    trajectory, levels = first(search.trajectory, SAMPLES), search.calls
    reach, name = min(MOST_REACH, levels - 1), (best.schedule.made.get("weights") if best else None) or "even"
    weights = weightings_of(Teacher.of(trajectory, pipe.scheduler))[name]
    for row in refresh.partial_rows(pipe, first(trajectory, SAMPLES // 2), macs, batch_size=size, memo=memo):
        outputs = refresh.partial_outputs(pipe, trajectory, macs.blocks, row, reach=reach, batch_size=size, memo=memo)
        products = inner_products([*trajectory.latents, *outputs.nan_to_num().flatten(0, 1)])
        errors = placing.updates(products, levels=levels, reach=reach, weights=weights)
        costs = macs.call(), row_macs(row, macs.cells(), macs.rest())
        path = paths.best(errors, costs=costs, limit=limit_of(search))
        if not all(path.whole):
            yield from measure_each(search, [refresh.path_schedule(path, trajectory.timesteps, macs.blocks, row, weights=name)])


def local_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """A local search on measured error from the best so far; the rows of every trial are fitted."""
    start, settings = replace(best.schedule if best else next(stock_schedules(search)), table=None), search.settings
    ready = cache(search.ready)
    trials = local_search(start, macs=search.macs, calls=search.calls, keep=search.keep, levels=search.teacher.timesteps,
                          objective=lambda schedule: search.objective(ready(schedule)), trials=settings.trials,
                          seed=search.seed, patience=settings.patience, kinds=kinds(search.macs.blocks))  # fmt: skip
    for trial in trials:
        yield Candidate(ready(trial.schedule), trial.value)


def gradient_steps_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """The best so far with rows and timesteps moved by gradients; nothing if it makes partial calls."""
    start = best.schedule if best else search.ready(next(stock_schedules(search)))
    if start.table is None or not start.whole:
        return
    for new in gradient_steps.moved(search.pipe, start, search.objective.objective, batch_size=search.batch_size):
        yield Candidate(new, search.objective(new))


def cells_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """Single cells reused at the least loss, each by the kind of reuse that loses least; on the scheduler's own grid."""
    pipe, seen, macs = search.pipe, search.trajectory, search.macs
    losses = kind_losses(pipe, seen, macs.blocks, batch_size=search.batch_size, memo=search.memo)
    for choice in choices(pipe, seen, macs, losses=losses, keep=search.keep):
        yield from measure_each(search, [choice.schedule], choice.scores)


def gradient_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """DiP-GO with few updates, on the scheduler's own grid; it starts from the best so far if that is on this grid."""
    start, updates = on_grid(search, best.schedule) if best else None, search.settings.updates
    hold = start.hold if start else "output"
    values: dict[tuple[str, ...], float] = {}
    for step in dip_go.search(search.pipe, search.trajectory, keep=search.keep, macs=search.macs,
                              settings=gradient_settings(updates, seed=search.seed, device=search.pipe.device), start=start,
                              memo=search.memo, accelerator=search.accelerator):  # fmt: skip
        schedule = replace(step.schedule, hold=hold).bound_to(search.pipe.scheduler)
        if schedule.grid not in values:
            values[schedule.grid] = search.objective(schedule)
        losses = {**step.losses, "the gates keep": step.kept_linear}
        yield Candidate(schedule, values[schedule.grid], replace(step.scores, made={**step.scores.made, "hold": hold}), losses)


def on_grid(search: Search, schedule: Schedule) -> Schedule | None:
    """A schedule on the scheduler's own grid, whose other calls are held along a line; None if it makes calls elsewhere."""
    if schedule.timesteps is None:
        return schedule
    grid = search.trajectory.timesteps
    if not set(schedule.timesteps) <= set(grid):
        return None
    rows = dict(zip(schedule.timesteps, schedule.grid, strict=True))
    held = REUSE * len(schedule.blocks)
    return replace(schedule, grid=tuple(rows.get(t, held) for t in grid), timesteps=None, table=None, hold="extrapolate")


def gradient_settings(updates: int, *, seed: int, device: torch.device) -> dip_go.Settings:
    """The paper's settings with fewer updates, whose learning rates have the same sum."""
    paper = dip_go.Settings()
    lr = min(HIGHEST_LR, paper.lr * paper.steps / updates)
    return dip_go.Settings(steps=updates, lr=lr, seed=seed, bf16=has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether a device has bfloat16 in hardware, as far as torch knows."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


METHODS: dict[str, Callable[[Search, BestSoFar | None], Candidates]] = {
    "stock": stock_stage,
    "additive": additive_stage,
    "refresh": refresh_stage,
    "cells": cells_stage,
    "local": local_stage,
    "gradient-steps": gradient_steps_stage,
    "gradient": gradient_stage,
}
