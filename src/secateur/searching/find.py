"""find(pipe, trajectory, ...): settings for a pipe, stage by stage, each starting from the best that the ones before found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from secateur.denoiser.blocks import kinds
from secateur.denoiser.macs import Macs
from secateur.pipeline.generate import generate
from secateur.pipeline.solvers import check_solver
from secateur.pipeline.trajectory import Trajectory, first
from secateur.schedule import baselines
from secateur.schedule.schedule import HOLDS, Schedule
from secateur.schedule.scores import Scores
from secateur.searching import additive, paths, refresh
from secateur.searching import ladder as ladders
from secateur.searching.budget import budget_macs
from secateur.searching.cells import choices, kind_losses
from secateur.searching.dip_go.gradient import search
from secateur.searching.dip_go.unrolled import check_pipe
from secateur.searching.dip_go.updates import Settings
from secateur.searching.local import local_search
from secateur.searching.objective import Objective, PairedGain, converged, elsewhere, to_converged, to_dense
from secateur.searching.task import Learning, Model, Task

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import DiffusionPipeline

TARGETS = {"dense": (to_dense, generate), "converged": (to_converged, converged)}
STAGES = ("stock", "additive", "local")
FEW, MOST_REACH = 4, 20  # samples for partial calls, and the most levels since the last whole call (ours: they take replays)
HIGHEST_LR = 2.0  # of fewer updates than the paper's, whose learning rates have the same sum (ours)
FEW_CALLS = 20  # up to which partial calls are looked for without being asked for: there they paid, at 50 calls they did not


@dataclass(frozen=True)
class Found:
    """The best schedule so far, and how its stage stands: schedules measured in it, of how many at most, and its seconds.

    value_db: of the best, on the calibration images. last_db: of what was measured last (where that is not surely better, at
    most value_db). improved: whether that is the best now. scores: that the last one was made from, if any, for `allocate` at
    other budgets. losses: of the last update, where a stage makes any, and the share of the MACs that its gates keep.
    """

    stage: str
    schedule: Schedule
    value_db: float
    last_db: float
    measured: int
    most: int
    seconds: float
    improved: bool
    scores: Scores | None = None
    losses: Mapping[str, float] = field(default_factory=dict)


class Candidate(NamedTuple):
    """A schedule that was measured, the scores that it was made from, and the losses that led to them."""

    schedule: Schedule
    value_db: float
    scores: Scores | None = None
    losses: Mapping[str, float] = MappingProxyType({})


def find(
    pipe: DiffusionPipeline,
    trajectory: Trajectory,
    *,
    macs: Macs,
    keep: float,
    objective: Objective,
    more: Sequence[Callable[[], Objective]] = (),
    stages: Sequence[str] | None = None,
    trials: int = 80,
    updates: int = 100,
    seed: int = 0,
    batch_size: int = 8,
    patience: int | None = 20,
    folder: str | Path | None = None,
    save_every: int = 50,
    accelerator: Accelerator | None = None,
) -> Iterator[Found]:
    """The best schedule after every one that was measured; a later one replaces it only if its `PairedGain` is significant.

    trajectory: dense, recorded with the pipe's scheduler as it is. macs: at the granularity that the schedule shall have.
    stages: in this order, of METHODS; by default `stages_for` the trajectory. trials: schedules that the local search
    measures at most; patience: those in a row without anything better that end it, None for none (ours: 20). updates: of the
    gradient stage; folder, save_every, accelerator: its own, see `search`. Each process makes the other stages by itself, to
    the same end.
    Raises ValueError for an unknown stage, for keep outside (0, 1] or below one call, and for a scheduler whose calls can
    neither be placed nor held, before anything is measured.
    """
    sure = PairedGain(objective, more)
    learning = Learning(updates, folder, save_every, accelerator)
    task = Task(pipe, trajectory, macs, baselines.check_keep(keep), sure, trials, learning, seed, batch_size, patience)
    check_solver(pipe.scheduler)
    stages = stages_for(task.calls, free=task.free) if stages is None else check_stages(stages)
    if "gradient" in stages:
        check_pipe(pipe)
    best: Found | None = None
    for stage in stages:
        for found in run_stage(task, stage, best):
            best = found
            yield found


def most(task: Task, stage: str) -> int:
    """How many schedules a stage measures at most."""
    few = {
        "cells": len(kinds(task.macs.blocks)) + 1,
        "gradient": task.learning.updates,
        "stock": len(ladders.SPACINGS) if task.free else len(HOLDS),
        "additive": 6 if task.free else 6 * len(HOLDS),
        "refresh": 2 * len(refresh.SHARES),
    }
    return few.get(stage, task.trials)


def stages_for(calls: int, *, free: bool) -> tuple[str, ...]:
    """The stages of a search over so many dense calls where nobody chose any: STAGES, with "refresh" where few are held.

    free: the scheduler's calls can be placed anywhere.
    """
    return ("stock", "additive", "refresh", "local") if calls <= FEW_CALLS and not free else STAGES


def check_stages(stages: Sequence[str]) -> tuple[str, ...]:
    """The stages, if each is one; ValueError otherwise."""
    if not stages or (wrong := [stage for stage in stages if stage not in METHODS]):
        raise ValueError(f"there is no stage {wrong[0] if stages else ''!r}: choose among {', '.join(METHODS)}")
    return tuple(stages)


def objective_for(pipe: DiffusionPipeline, trajectory: Trajectory, *, target: str, **how: Any) -> Objective:
    """What the search raises: nearness to the "dense" images of the trajectory, or to the "converged" ones of many steps."""
    return TARGETS[check_target(target)][0](pipe, trajectory, **how)


def more_for(
    objective: Objective, conditions: Sequence[Any], seeds: Sequence[int], *, target: str
) -> list[Callable[[], Objective]]:
    """What `find` may draw where a gain is in doubt: the objective on these, in sets of as many as it has."""
    return elsewhere(objective, conditions, seeds, draw=TARGETS[check_target(target)][1])


def check_target(target: str) -> str:
    """The target, if it is one; ValueError otherwise."""
    if target not in TARGETS:
        raise ValueError(f"there is no target {target!r}: choose {' or '.join(TARGETS)}")
    return target


def run_stage(task: Task, stage: str, best: Found | None) -> Iterator[Found]:
    """What is best after each schedule that one stage measures."""
    start = time.perf_counter()
    for number, (schedule, value, scores, losses) in enumerate(METHODS[stage](task, best), start=1):
        kept = (best.schedule, best.value_db) if best and best.value_db >= value else (schedule, value)
        progress = number, most(task, stage), time.perf_counter() - start
        best = Found(stage, *kept, value, *progress, improved=kept[0] is schedule, scores=scores, losses=losses)
        yield best


Candidates = Iterator[Candidate]


def measure_each(task: Task, schedules: Iterable[Schedule], scores: Scores | None = None) -> Candidates:
    """Each schedule, bound to the pipe's scheduler, and its value."""
    for schedule in schedules:
        bound = schedule.bound_to(task.pipe.scheduler)
        yield Candidate(bound, task.objective(bound), scores)


def stock_stage(task: Task, best: Found | None) -> Candidates:
    """What needs no search: evenly held calls, or stock spacings where timesteps are chosen."""
    yield from measure_each(task, stock_schedules(task))


def stock_schedules(task: Task) -> Iterator[Schedule]:
    blocks, count = task.macs.blocks, task.whole_calls
    if not task.free:
        held = (baselines.evenly(blocks, task.calls, count, hold=hold) for hold in HOLDS)
        yield from (replace(schedule, made={"method": "stock", "hold": schedule.hold}) for schedule in held)
        return
    for name, options in ladders.SPACINGS.items():
        steps = ladders.spaced(task.pipe.scheduler, count, options)
        made = {"method": "stock", "spacing": name}
        yield replace(baselines.dense(blocks, len(steps)), timesteps=steps, made=made)


def additive_stage(task: Task, best: Found | None) -> Candidates:
    """The exact solution of the additive model, for every way of holding."""
    yield from measure_each(task, additive_schedules(task))


def additive_schedules(task: Task) -> Iterator[Schedule]:
    """The exact solutions with errors weighted by the latents they are in, by how much they show in the images, and between."""
    for model in task.models:
        solution = additive.solve(additive.local_errors(model.ladder, weights=model.weights), calls=task.whole_calls)[-1]
        path = paths.of_whole_calls(solution.levels, solution.error)
        yield scheduled(task, model, path)
        better = refresh.polished(model.ladder, path, weights=model.weights)
        if better.levels != path.levels:
            yield scheduled(task, model, better, polished=True)


def scheduled(task: Task, model: Model, path: paths.Path, *, row: refresh.Row = (), **made: Any) -> Schedule:
    """The Schedule of a model's path."""
    blocks, made = task.macs.blocks, {"weights": model.name, **made}
    return refresh.schedule_of(path, model.ladder, blocks, row, hold=model.hold, made=made)


def refresh_stage(task: Task, best: Found | None) -> Candidates:
    """The exact solution with partial calls, of the model that the best so far is from."""
    yield from measure_each(task, refresh_schedules(task, best))


def refresh_schedules(task: Task, best: Found | None) -> Iterator[Schedule]:
    """For each row that partial calls may run, the best schedule that makes any; none where whole calls alone are better."""
    pipe, macs, model = task.pipe, task.macs, task.model_of(best.schedule if best else None)
    some = first(task.fine, FEW)
    ladder = ladders.few(model.ladder, some.latents[0].numel())
    reach = min(MOST_REACH, len(ladder) - 1)
    steps = ladder.timesteps if task.free else None
    limit = budget_macs(macs, task.calls, keep=task.keep)
    for row in refresh.partial_rows(pipe, first(task.trajectory, FEW // 2), macs, batch_size=task.batch_size):
        given = refresh.partial_outputs(pipe, some, macs.blocks, row, reach=reach, timesteps=steps, batch_size=task.batch_size)
        said = refresh.read(ladder, given)
        path = paths.best(
            refresh.updates(ladder, said, weights=model.weights), costs=(macs.call(), refresh.row_macs(macs, row)), limit=limit
        )
        if all(path.whole):
            continue
        yield scheduled(task, model, path, row=row)
        better = refresh.polished(ladder, path, weights=model.weights, said=said)
        if better != path:
            yield scheduled(task, model, better, row=row, polished=True)


def local_stage(task: Task, best: Found | None) -> Candidates:
    """A local search on measured error from the best so far."""
    start = best.schedule if best else next(stock_schedules(task))
    found = local_search(start.bound_to(task.pipe.scheduler), macs=task.macs, calls=task.calls, keep=task.keep,
                         objective=task.objective, trials=task.trials, seed=task.seed,
                         patience=task.patience, kinds=kinds(task.macs.blocks))  # fmt: skip
    for trial in found:
        yield Candidate(trial.schedule, trial.value)


def cells_stage(task: Task, best: Found | None) -> Candidates:
    """Single cells reused where, and by the kind with which, that costs least by `ablation`; on the scheduler's own grid."""
    losses = kind_losses(task.pipe, task.trajectory, task.macs.blocks, batch_size=task.batch_size)
    for choice in choices(task.pipe, task.trajectory, task.macs, losses=losses, keep=task.keep):
        yield from measure_each(task, [choice.schedule], choice.scores)


def gradient_stage(task: Task, best: Found | None) -> Candidates:
    """DiP-GO's few updates, on the sampler's own grid; from the best so far, where that is on it."""
    start = best.schedule if best and best.schedule.timesteps is None else None
    updates, folder, save_every, accelerator = task.learning
    lr = min(HIGHEST_LR, Settings.lr * Settings.steps / updates)
    settings = Settings(steps=updates, lr=lr, seed=task.seed, bf16=has_bf16(task.pipe.device))
    hold = start.hold if start else "output"
    known: dict[tuple[str, ...], float] = {}
    for step in search(task.pipe, task.trajectory, keep=task.keep, macs=task.macs, settings=settings, start=start,
                       folder=folder, save_every=save_every, accelerator=accelerator):  # fmt: skip
        schedule = replace(step.schedule, hold=hold).bound_to(task.pipe.scheduler)
        if schedule.grid not in known:
            known[schedule.grid] = task.objective(schedule)
        losses = {**step.losses, "the gates keep": step.kept_linear}
        yield Candidate(schedule, known[schedule.grid], with_hold(step.scores, hold), losses)


def has_bf16(device: torch.device) -> bool:
    """Whether a device has bfloat16 in hardware, as far as torch tells."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def with_hold(scores: Scores, hold: str) -> Scores:
    """The scores, saying what the denoiser gives at a held call of the schedules made of them."""
    return replace(scores, made={**scores.made, "hold": hold})


METHODS: dict[str, Callable[[Task, Found | None], Candidates]] = {
    "stock": stock_stage,
    "additive": additive_stage,
    "refresh": refresh_stage,
    "cells": cells_stage,
    "local": local_stage,
    "gradient": gradient_stage,
}
