"""find(pipe, trajectory, ...): settings for a pipe, stage by stage, each starting from the best that the ones before found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from secateur import additive, baselines, paths, refresh
from secateur.ablation import ablations, cell_scores
from secateur.allocate import allocate
from secateur.blocks import Blocks
from secateur.calibration import Trajectory, record
from secateur.loops import check_pipe
from secateur.macs import Macs
from secateur.objective import Objective, Surely, budget_macs, to_converged, to_dense
from secateur.response import first, response
from secateur.schedule import Schedule
from secateur.scores import Scores
from secateur.search import search
from secateur.solvers import check_solver, is_free
from secateur.subnet import apply
from secateur.trials import local_search
from secateur.updates import Settings

if TYPE_CHECKING:
    import numpy as np
    from diffusers import DiffusionPipeline

HOLDS = ("output", "extrapolate")
LEVELS = 40  # of each of two spacings: linspace is dense early, Karras late
TARGETS = {"dense": to_dense, "converged": to_converged}
STAGES = ("stock", "additive", "refresh", "local")
FEW, MOST_REACH = 4, 20  # samples for partial calls, and the most levels since the last whole call (ours: they take replays)


@dataclass(frozen=True)
class Found:
    """The best schedule so far, and how its stage stands: schedules measured in it, of how many at most, and its seconds.

    value_db: of the best, on the calibration images. improved: whether what was measured last is the best. scores: that it
    was made from, where it was, for `allocate` at other budgets.
    """

    stage: str
    schedule: Schedule
    value_db: float
    measured: int
    most: int
    seconds: float
    improved: bool
    scores: Scores | None = None


class Model(NamedTuple):
    """Of one way of holding: the ladder, and how much errors at each of its levels count, by the name of that weighting."""

    hold: str
    name: str
    ladder: additive.Ladder
    weights: np.ndarray


class Candidate(NamedTuple):
    """A schedule that was measured, and the scores that it was made from."""

    schedule: Schedule
    value_db: float
    scores: Scores | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """What is looked for: a schedule for a pipe and its scheduler whose MACs are at most `keep` of the trajectory's calls."""

    pipe: DiffusionPipeline
    trajectory: Trajectory
    macs: Macs
    keep: float
    objective: Objective
    trials: int
    updates: int
    seed: int
    batch_size: int

    def __post_init__(self):
        if self.whole_calls < 1:
            least = 1 / self.calls
            raise ValueError(
                f"the first of {self.calls} calls always runs, so keep={self.keep} is out of reach: ask for {least:.3g}"
            )

    @property
    def calls(self) -> int:
        """T, the calls of the dense trajectory."""
        return len(self.trajectory.timesteps)

    @property
    def whole_calls(self) -> int:
        """How many dense calls the budget pays for."""
        return math.floor(Fraction(str(self.keep)) * self.calls)

    def most(self, stage: str) -> int:
        """How many schedules a stage measures at most."""
        few = {
            "cells": 2,
            "gradient": self.updates,
            "stock": len(additive.SPACINGS) if self.free else len(HOLDS),
            "additive": 3 if self.free else 3 * len(HOLDS),
            "refresh": len(refresh.SHARES),
        }
        return few.get(stage, self.trials)

    @cached_property
    def fine(self) -> Trajectory:
        """The dense trajectory over the levels that calls are chosen among."""
        return fine(self)

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """What calls cost, every way of holding with every weighting; measured once."""
        return tuple(models(self))

    def model_of(self, best: Found | None) -> Model:
        """The model that a schedule is the solution of; the first one where it is of none."""
        wanted = (best.schedule.hold, best.schedule.made.get("weights")) if best else None
        return next((model for model in self.models if (model.hold, model.name) == wanted), self.models[0])

    @property
    def free(self) -> bool:
        """Whether the scheduler is DPM-Solver++ 2M, whose timesteps are chosen; others hold calls on their own grid."""
        return is_free(self.pipe.scheduler)


def find(
    pipe: DiffusionPipeline,
    trajectory: Trajectory,
    *,
    macs: Macs,
    keep: float,
    objective: Objective,
    stages: Sequence[str] = STAGES,
    trials: int = 80,
    updates: int = 100,
    seed: int = 0,
    batch_size: int = 8,
) -> Iterator[Found]:
    """The best schedule after every one that was measured; what a stage finds is kept only where `objective` says better.

    trajectory: dense, recorded with the pipe's scheduler as it is. macs: at the granularity that the schedule shall have.
    stages: in this order, of METHODS. trials: schedules that the local search measures. updates: of the gradient stage.
    Raises ValueError for an unknown stage, for keep outside (0, 1] or below one call, and for a scheduler whose calls can
    neither be placed nor held, before anything is measured.
    """
    task = Task(pipe, trajectory, macs, baselines.check_keep(keep), objective, trials, updates, seed, batch_size)
    check_solver(pipe.scheduler)
    if "gradient" in check_stages(stages):
        check_pipe(pipe)
    best: Found | None = None
    for stage in stages:
        for found in settled(task, stage, best):
            best = found
            yield found


def check_stages(stages: Sequence[str]) -> tuple[str, ...]:
    """The stages, if each is one; ValueError otherwise."""
    if not stages or (wrong := [stage for stage in stages if stage not in METHODS]):
        raise ValueError(f"there is no stage {wrong[0] if stages else ''!r}: choose among {', '.join(METHODS)}")
    return tuple(stages)


def objective_for(pipe: DiffusionPipeline, trajectory: Trajectory, *, target: str, **how: Any) -> Objective:
    """What the search raises: nearness to the "dense" images of the trajectory, or to the "converged" ones of many steps."""
    return TARGETS[check_target(target)](pipe, trajectory, **how)


def check_target(target: str) -> str:
    """The target, if it is one; ValueError otherwise."""
    if target not in TARGETS:
        raise ValueError(f"there is no target {target!r}: choose {' or '.join(TARGETS)}")
    return target


def settled(task: Task, stage: str, best: Found | None) -> Iterator[Found]:
    """What is best after each schedule that one stage measures."""
    start = time.perf_counter()
    for number, (schedule, value, scores) in enumerate(METHODS[stage](task, best), start=1):
        kept = (best.schedule, best.value_db) if best and best.value_db >= value else (schedule, value)
        progress = number, task.most(stage), time.perf_counter() - start
        best = Found(stage, *kept, *progress, improved=kept[0] is schedule, scores=scores)
        yield best


Candidates = Iterator[Candidate]


def measured(task: Task, schedules: Iterable[Schedule], scores: Scores | None = None) -> Candidates:
    """Each schedule, bound to the pipe's scheduler, and its value."""
    for schedule in schedules:
        bound = schedule.bound_to(task.pipe.scheduler)
        yield Candidate(bound, task.objective(bound), scores)


def stock(task: Task, best: Found | None) -> Candidates:
    """What needs no search: evenly held calls, or DPM-Solver++ at its stock spacings."""
    yield from measured(task, stock_schedules(task))


def stock_schedules(task: Task) -> Iterator[Schedule]:
    blocks, count = task.macs.blocks, task.whole_calls
    if not task.free:
        even = [k * task.calls // count for k in range(count)]
        held = baselines.chosen(blocks, task.calls, run=even)
        yield from (replace(held, hold=hold, made={"method": "stock", "hold": hold}) for hold in HOLDS)
        return
    for name, options in additive.SPACINGS.items():
        steps = additive.spaced(task.pipe.scheduler, count, options)
        made = {"method": "stock", "spacing": name}
        yield replace(baselines.dense(blocks, len(steps)), timesteps=steps, made=made)


def solved(task: Task, best: Found | None) -> Candidates:
    """The exact solution of the additive model, for every way of holding."""
    yield from measured(task, solved_schedules(task))


def solved_schedules(task: Task) -> Iterator[Schedule]:
    """The exact solutions with errors weighted by the latents they are in, by how much they show in the images, and between."""
    blocks = task.macs.blocks
    for model in task.models:
        solution = additive.solve(additive.local_errors(model.ladder, weights=model.weights), calls=task.whole_calls)[-1]
        made = {"weights": model.name}
        if task.free:
            yield additive.free_schedule(solution, model.ladder, blocks, made=made)
        else:
            yield additive.held_schedule(solution, blocks, calls=task.calls, hold=model.hold, made=made)


def models(task: Task) -> Iterator[Model]:
    """Every way of holding, with every weighting."""
    pipe, trajectory, blocks = task.pipe, task.fine, task.macs.blocks
    ladders = (
        {"output": additive.free(trajectory, pipe.scheduler)}
        if task.free
        else {hold: additive.held(trajectory, pipe.scheduler, hold=hold) for hold in HOLDS}
    )
    any_ladder = ladders["output"]
    gap = max(2, len(any_ladder) // task.whole_calls)
    shown = response(pipe, trajectory, any_ladder, blocks=blocks, gap=gap, batch_size=task.batch_size)
    plain = additive.in_latents(any_ladder)
    weightings = {"latents": plain, "images": shown, "between": (plain * shown) ** 0.5}
    for (hold, ladder), (name, weights) in product(ladders.items(), weightings.items()):
        yield Model(hold, name, ladder, weights)


def fine(task: Task) -> Trajectory:
    """A dense trajectory over the levels that calls are chosen among; it leaves the pipe's scheduler on them."""
    if not task.free:
        return task.trajectory
    made, pipe = task.trajectory, task.pipe
    steps = additive.levels(pipe.scheduler, LEVELS)
    dense = replace(baselines.dense(task.macs.blocks, len(steps)), timesteps=steps)
    with apply(pipe, dense, blocks=task.macs.blocks):
        return record(pipe, made.conditions, seeds=made.seeds, batch_size=task.batch_size, **made.options)


def refreshed(task: Task, best: Found | None) -> Candidates:
    """The exact solution with partial calls, of the model that the best so far is from."""
    yield from measured(task, refreshed_schedules(task, best))


def refreshed_schedules(task: Task, best: Found | None) -> Iterator[Schedule]:
    """For each row that partial calls may run, the best schedule that makes any; none where whole calls alone are better."""
    pipe, macs, model = task.pipe, task.macs, task.model_of(best)
    some = first(task.fine, FEW)
    ladder = additive.few(model.ladder, some.latents[0].numel())
    reach = min(2 * max(2, len(ladder) // task.whole_calls), MOST_REACH, len(ladder) - 1)
    steps = ladder.timesteps if task.free else None
    limit = budget_macs(macs, task.calls, keep=task.keep)
    for row in refresh.partial_rows(pipe, first(task.trajectory, FEW // 2), macs, batch_size=task.batch_size):
        said = refresh.partial_outputs(pipe, some, macs.blocks, row, reach=reach, timesteps=steps, batch_size=task.batch_size)
        steps_between = refresh.updates(ladder, refresh.read(ladder, said), weights=model.weights)
        path = paths.best(steps_between, costs=(macs.call(), refresh.row_macs(macs, row)), limit=limit)
        if not all(path.whole):
            made = {"weights": model.name}
            yield refresh.schedule_of(path, ladder, macs.blocks, row, hold=model.hold, made=made)


def local(task: Task, best: Found | None) -> Candidates:
    """A local search on measured error from the best so far."""
    start = best.schedule if best else next(stock_schedules(task))
    found = local_search(start.bound_to(task.pipe.scheduler), macs=task.macs, calls=task.calls, keep=task.keep,
                         objective=Surely(task.objective), trials=task.trials, seed=task.seed)  # fmt: skip
    for trial in found:
        yield Candidate(trial.schedule, trial.value)


def cells(task: Task, best: Found | None) -> Candidates:
    """Single cells reused where that costs least, by `ablation` and the exact allocation; on the scheduler's own grid."""
    blocks = task.macs.blocks
    for kind in dict.fromkeys((blocks.reuse, ("extrapolate",) * len(blocks))):
        scores = ablated(task, replace(blocks, reuse=kind))
        yield from measured(task, [allocate(scores, keep=task.keep)], scores)


def ablated(task: Task, blocks: Blocks) -> Scores:
    """What reusing each cell alone costs."""
    losses = list(ablations(task.pipe, task.trajectory, blocks, batch_size=task.batch_size))
    scores = cell_scores(task.pipe, task.trajectory, replace(task.macs, blocks=blocks), losses=losses)
    return with_hold(scores, "extrapolate" if "extrapolate" in blocks.reuse else "output")


def gradient(task: Task, best: Found | None) -> Candidates:
    """DiP-GO's few updates from the best so far."""
    start = best.schedule if best and best.schedule.timesteps is None else None
    settings = Settings(steps=task.updates, seed=task.seed)
    hold = start.hold if start else "output"
    known: dict[tuple[str, ...], float] = {}
    for step in search(task.pipe, task.trajectory, keep=task.keep, macs=task.macs, settings=settings, start=start):
        schedule = replace(step.schedule, hold=hold).bound_to(task.pipe.scheduler)
        if schedule.grid not in known:
            known[schedule.grid] = task.objective(schedule)
        yield Candidate(schedule, known[schedule.grid], with_hold(step.scores, hold))


def with_hold(scores: Scores, hold: str) -> Scores:
    """The scores, saying what the denoiser gives at a held call of the schedules made of them."""
    return replace(scores, made={**scores.made, "hold": hold})


METHODS: dict[str, Callable[[Task, Found | None], Candidates]] = {
    "stock": stock,
    "additive": solved,
    "refresh": refreshed,
    "cells": cells,
    "local": local,
    "gradient": gradient,
}
