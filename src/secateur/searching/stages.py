"""The stages of a search, one after the other; each starts from the best schedule of those before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import torch

from secateur.denoiser.blocks import Row, kinds
from secateur.denoiser.macs import row_macs
from secateur.pipeline.trajectory import first
from secateur.schedule import baselines
from secateur.schedule.fold import unfolded
from secateur.schedule.holds import HOLDS
from secateur.schedule.schedule import Schedule
from secateur.schedule.scores import Scores
from secateur.searching import additive, dip_go, paths, refresh
from secateur.searching import ladder as ladders
from secateur.searching.budget import budget_macs
from secateur.searching.cells import choices, kind_losses
from secateur.searching.error_model import ErrorModel
from secateur.searching.local import local_search
from secateur.searching.task import Search

SAMPLES, MOST_REACH = (
    4,
    20,
)  # for partial calls: samples, and levels since the last whole call at most (ours: they take replays)
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
        "stock": 1 + len(ladders.SPACINGS if search.free else HOLDS),
        "additive": 6 if search.free else 6 * len(HOLDS),
        "refresh": 2 * len(refresh.SHARES),
    }
    return counts.get(stage, search.settings.trials)


def measure_each(search: Search, schedules: Iterable[Schedule], scores: Scores | None = None) -> Candidates:
    """Each schedule, with fitted rows if it can have them, and its value."""
    for schedule in schedules:
        ready = search.ready(schedule)
        yield Candidate(ready, search.objective(ready), scores)


def stock_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """What needs no search: evenly held calls, or stock spacings if timesteps are chosen; then the best, with fitted rows."""
    values = dict[Schedule, float]()
    for schedule in stock_schedules(search):
        bound = schedule.bound_to(search.pipe.scheduler)
        values[bound] = search.objective(bound)
        yield Candidate(bound, values[bound])
    yield from measure_each(search, [max(values, key=values.__getitem__)])


def stock_schedules(search: Search) -> Iterator[Schedule]:
    """The schedules of stage `stock`, one a way of holding or a spacing."""
    blocks, count = search.macs.blocks, search.whole_calls
    if not search.free:
        schedules = (baselines.evenly(blocks, search.calls, count, hold=hold) for hold in HOLDS)
        yield from (replace(schedule, made={"method": "stock", "hold": schedule.hold}) for schedule in schedules)
        return
    for name, options in ladders.SPACINGS.items():
        timesteps = ladders.spaced(search.pipe.scheduler, count, options)
        provenance = {"method": "stock", "spacing": name}
        yield replace(baselines.dense(blocks, len(timesteps)), timesteps=timesteps, made=provenance)


def additive_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """The exact solution of the additive model, for every way of holding."""
    yield from measure_each(search, additive_schedules(search))


def additive_schedules(search: Search) -> Iterator[Schedule]:
    """The exact solutions with errors weighted by the latents they are in, by how much they show in the images, and between."""
    for model in search.measure_models():
        errors = additive.local_errors(model.ladder, weights=model.weights)
        solution = additive.solve(errors, calls=search.whole_calls)[-1]
        path = paths.of_whole_calls(solution.levels, solution.error)
        yield schedule_of(search, model, path)
        better = refresh.polished(model.ladder, path, weights=model.weights)
        if better.levels != path.levels:
            yield schedule_of(search, model, better, polished=True)


def refresh_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """The exact solution with partial calls, by the model that the best so far is from."""
    yield from measure_each(search, refresh_schedules(search, best))


def refresh_schedules(search: Search, best: BestSoFar | None) -> Iterator[Schedule]:
    """For each row that partial calls may run, the best schedule that makes any; none if whole calls alone are better."""
    pipe, macs, model = search.pipe, search.macs, search.model_of(unfolded(best.schedule) if best else None)
    trajectory = first(search.record_levels(), SAMPLES)
    ladder = ladders.few(model.ladder, trajectory.latents[0].numel())
    reach = min(MOST_REACH, len(ladder) - 1)
    timesteps = ladder.timesteps if search.free else None
    for row in refresh.partial_rows(pipe, first(search.trajectory, SAMPLES // 2), macs, batch_size=search.batch_size):
        outputs = refresh.partial_outputs(
            pipe, trajectory, macs.blocks, row, reach=reach, timesteps=timesteps, batch_size=search.batch_size
        )
        predictions = refresh.read(ladder, outputs)
        path = best_path(search, model, ladder, predictions, row)
        if all(path.whole):
            continue
        yield schedule_of(search, model, path, row=row)
        better = refresh.polished(ladder, path, weights=model.weights, predictions=predictions)
        if better != path:
            yield schedule_of(search, model, better, row=row, polished=True)


def best_path(search: Search, model: ErrorModel, ladder: ladders.Ladder, predictions: torch.Tensor, row: Row) -> paths.Path:
    """The path with the least error within the budget, over whole calls and partial ones that run `row`."""
    updates = refresh.updates(ladder, predictions, weights=model.weights)
    costs = search.macs.call(), row_macs(row, search.macs.cells(), search.macs.rest())
    return paths.best(updates, costs=costs, limit=budget_macs(search.macs, search.calls, keep=search.keep))


def schedule_of(search: Search, model: ErrorModel, path: paths.Path, *, row: Row = (), polished: bool = False) -> Schedule:
    """The Schedule of a model's path."""
    provenance = {"weights": model.name, **({"polished": True} if polished else {})}
    return refresh.schedule_of(path, model.ladder, search.macs.blocks, row, hold=model.hold, made=provenance)


def local_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """A local search on measured error from the best so far; the rows of every trial are fitted."""
    start, settings = unfolded(best.schedule) if best else next(stock_schedules(search)), search.settings
    ready = cache(search.ready)
    trials = local_search(start.bound_to(search.pipe.scheduler), macs=search.macs, calls=search.calls, keep=search.keep,
                          objective=lambda schedule: search.objective(ready(schedule)), trials=settings.trials,
                          seed=search.seed, patience=settings.patience, kinds=kinds(search.macs.blocks))  # fmt: skip
    for trial in trials:
        yield Candidate(ready(trial.schedule), trial.value)


def cells_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """Single cells reused at the least loss, each by the kind of reuse that loses least; on the scheduler's own grid."""
    losses = kind_losses(search.pipe, search.trajectory, search.macs.blocks, batch_size=search.batch_size)
    for choice in choices(search.pipe, search.trajectory, search.macs, losses=losses, keep=search.keep):
        yield from measure_each(search, [choice.schedule], choice.scores)


def gradient_stage(search: Search, best: BestSoFar | None) -> Candidates:
    """DiP-GO with few updates, on the scheduler's own grid; it starts from the best so far if that is on this grid."""
    start = unfolded(best.schedule) if best else None
    start = start if start and start.timesteps is None else None
    hold, updates = start.hold if start else "output", search.settings.updates
    values: dict[tuple[str, ...], float] = {}
    for step in dip_go.search(search.pipe, search.trajectory, keep=search.keep, macs=search.macs,
                              settings=gradient_settings(updates, seed=search.seed, device=search.pipe.device), start=start,
                              folder=search.settings.checkpoints, save_every=search.settings.save_every,
                              accelerator=search.accelerator):  # fmt: skip
        schedule = replace(step.schedule, hold=hold).bound_to(search.pipe.scheduler)
        if schedule.grid not in values:
            values[schedule.grid] = search.objective(schedule)
        losses = {**step.losses, "the gates keep": step.kept_linear}
        yield Candidate(schedule, values[schedule.grid], with_hold(step.scores, hold), losses)


def gradient_settings(updates: int, *, seed: int, device: torch.device) -> dip_go.Settings:
    """The paper's settings with fewer updates, whose learning rates have the same sum."""
    paper = dip_go.Settings()
    lr = min(HIGHEST_LR, paper.lr * paper.steps / updates)
    return dip_go.Settings(steps=updates, lr=lr, seed=seed, bf16=has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether a device has bfloat16 in hardware, as far as torch knows."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def with_hold(scores: Scores, hold: str) -> Scores:
    """The scores, with what held calls give in the schedules made of them."""
    return replace(scores, made={**scores.made, "hold": hold})


METHODS: dict[str, Callable[[Search, BestSoFar | None], Candidates]] = {
    "stock": stock_stage,
    "additive": additive_stage,
    "refresh": refresh_stage,
    "cells": cells_stage,
    "local": local_stage,
    "gradient": gradient_stage,
}
