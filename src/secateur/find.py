"""find(pipe, trajectory, ...): settings for a pipe, stage by stage, each starting from the best that the ones before found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from secateur import additive, baselines
from secateur.ablation import ablations, cell_scores
from secateur.allocate import allocate
from secateur.blocks import Blocks
from secateur.calibration import Trajectory, record
from secateur.macs import Macs
from secateur.objective import Objective, to_converged, to_dense
from secateur.response import response
from secateur.schedule import Schedule
from secateur.scores import Scores
from secateur.search import search
from secateur.subnet import apply
from secateur.trials import local_search
from secateur.updates import Settings

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

HOLDS = ("output", "extrapolate")
LEVELS = 40  # of each of two spacings: linspace is dense early, Karras late
STAGES = ("stock", "additive", "local")


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
            "stock": len(additive.SPACINGS) if self.free else len(HOLDS),
            "additive": 3 if self.free else 3 * len(HOLDS),
        }
        return few.get(stage, self.trials)

    @property
    def free(self) -> bool:
        """Whether the scheduler is DPM-Solver++ 2M, whose timesteps are chosen; others hold calls on their own grid."""
        return is_free(self.pipe.scheduler)


def is_free(scheduler: Any) -> bool:
    """Whether the search may place this scheduler's calls anywhere: DPM-Solver++ 2M of a given noise schedule."""
    return type(scheduler).__name__ == "DPMSolverMultistepScheduler" and scheduler.config.solver_order == 2


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
    ValueError: an unknown stage, keep outside (0, 1].
    """
    task = Task(pipe, trajectory, macs, baselines.check_keep(keep), objective, trials, updates, seed, batch_size)
    if "additive" in check_stages(stages) and not task.free:
        additive.held(trajectory, pipe.scheduler)  # before anything is measured
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
    targets = {"dense": to_dense, "converged": to_converged}
    if target not in targets:
        raise ValueError(f"there is no target {target!r}: choose {' or '.join(targets)}")
    return targets[target](pipe, trajectory, **how)


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
    """The exact solutions with errors weighted by the latents they are in, and by how much they show in the images."""
    blocks, gap = task.macs.blocks, max(2, task.calls // task.whole_calls)
    if task.free:
        trajectory, scheduler = fine(task)
        ladder = additive.free(trajectory, scheduler)
        gap = max(2, len(ladder) // task.whole_calls)
        for solution, made in solutions(task, trajectory, ladder, gap):
            yield additive.free_schedule(solution, ladder, blocks, made=made)
        return
    for hold in HOLDS:
        ladder = additive.held(task.trajectory, task.pipe.scheduler, hold=hold)
        for solution, made in solutions(task, task.trajectory, ladder, gap):
            yield additive.held_schedule(solution, blocks, calls=task.calls, hold=hold, made=made)


def solutions(
    task: Task, trajectory: Trajectory, ladder: additive.Ladder, gap: int
) -> Iterator[tuple[additive.Solution, dict[str, Any]]]:
    """The exact solution under each weighting of errors, and its name."""
    plain = additive.in_latents(ladder)
    shown = response(task.pipe, trajectory, ladder, blocks=task.macs.blocks, gap=gap, batch_size=task.batch_size)
    for name, weights in {"latents": plain, "images": shown, "between": (plain * shown) ** 0.5}.items():
        errors = additive.local_errors(ladder, weights=weights)
        yield additive.solve(errors, calls=task.whole_calls)[-1], {"weights": name}


def fine(task: Task) -> tuple[Trajectory, Any]:
    """A dense trajectory over a fine grid of levels, and the scheduler that made it."""
    made, pipe = task.trajectory, task.pipe
    steps = additive.levels(pipe.scheduler, LEVELS)
    dense = replace(baselines.dense(task.macs.blocks, len(steps)), timesteps=steps)
    with apply(pipe, dense, blocks=task.macs.blocks):
        found = record(pipe, made.conditions, seeds=made.seeds, batch_size=task.batch_size, **made.options)
    return found, pipe.scheduler


def local(task: Task, best: Found | None) -> Candidates:
    """A local search on measured error from the best so far."""
    start = best.schedule if best else next(stock_schedules(task))
    found = local_search(start.bound_to(task.pipe.scheduler), macs=task.macs, calls=task.calls, keep=task.keep,
                         objective=task.objective, trials=task.trials, seed=task.seed)  # fmt: skip
    for trial in found:
        yield Candidate(trial.schedule, trial.value)


def cells(task: Task, best: Found | None) -> Candidates:
    """Single cells reused where that costs least, by `ablation` and the exact allocation; on the scheduler's own grid."""
    blocks = task.macs.blocks
    for kind in dict.fromkeys((blocks.reuse, ("extrapolate",) * len(blocks))):
        scores = ablated(task, replace(blocks, reuse=kind))
        hold = "extrapolate" if "extrapolate" in kind else "output"
        yield from measured(task, [replace(allocate(scores, keep=task.keep), hold=hold)], scores)


def ablated(task: Task, blocks: Blocks) -> Scores:
    """What reusing each cell alone costs."""
    losses = list(ablations(task.pipe, task.trajectory, blocks, batch_size=task.batch_size))
    return cell_scores(task.pipe, task.trajectory, replace(task.macs, blocks=blocks), losses=losses)


def gradient(task: Task, best: Found | None) -> Candidates:
    """DiP-GO's few updates from the best so far."""
    start = best.schedule if best and best.schedule.timesteps is None else None
    settings = Settings(steps=task.updates, seed=task.seed)
    tried: set[tuple[str, ...]] = set()
    for step in search(task.pipe, task.trajectory, keep=task.keep, macs=task.macs, settings=settings, start=start):
        if step.schedule.grid not in tried:
            tried.add(step.schedule.grid)
            yield from measured(task, [replace(step.schedule, hold=start.hold if start else "output")], step.scores)


METHODS: dict[str, Callable[[Task, Found | None], Candidates]] = {
    "stock": stock,
    "additive": solved,
    "cells": cells,
    "local": local,
    "gradient": gradient,
}
