"""The coefficients of a sampler of few calls, fitted to the latents of a teacher.

A sampler of K calls is a Table. Each of its rows is a linear least-squares problem: which sum of the latents before a call and
of the newest predictions comes nearest to the teacher's latents before the next call (compare DC-Solver, arXiv 2409.03755, PAS,
arXiv 2411.06503, and S4S, arXiv 2502.17423, which learn such corrections by gradients or searches)? Each row is fitted at the
latents that the rows before it lead to, so that it makes up for their drift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateur.pipeline.table import Step
from secateur.pipeline.trajectory import Step as StepOf
from secateur.pipeline.trajectory import Trajectory, stepping
from secateur.schedule.apply import apply
from secateur.schedule.fold import with_table
from secateur.schedule.schedule import Schedule
from secateur.searching.memo import NOTHING as NO_MEMO
from secateur.searching.memo import Memo, content_of
from secateur.searching.placing import NOTHING, RIDGE
from secateur.searching.teacher import Teacher

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from secateur.denoiser.blocks import Blocks

WINDOWS = (1, 2, 3, 4, 5)  # how many of the newest predictions a row may use
RIDGES = (1e-8, 1e-6, 1e-4, 1e-2)  # of the Gram matrix's diagonal: how strongly a row stays near the local one
FOLDS = 4
LEAST = 0.05  # of the median distance: samples that are missed by less count as if it were so much


class Choice(NamedTuple):
    """How a row is fitted: from how many predictions, how near to the local row, and whether it scales the latents."""

    window: int
    ridge: float
    scales: bool


def with_fitted_rows(
    pipe: DiffusionPipeline, schedule: Schedule, teacher: Teacher, *, blocks: Blocks, memo: Memo = NO_MEMO
) -> Schedule:
    """The schedule with the table of a sampler that leads to a teacher's latents.

    schedule: its calls are at levels of the teacher, and all of them run. teacher: B samples that fit one batch: 4 to 8 are
    enough. The pipe draws them once by the schedule, and each step is replaced by the one that is fitted.
    """
    path, places = teacher.trajectory, [teacher.timesteps.index(t) for t in schedule.timesteps or ()]
    goals = [*places[1:], len(teacher.timesteps)]
    own = [local_row(path, k, places, goals[k]) for k in range(len(places))]
    start = with_table(schedule.bound_to(pipe.scheduler), teacher.table.at(places, own))
    x, newest, rows = path.latents[0].double().flatten(1), list[Tensor](), list[Step]()

    def on_step(step: StepOf, advance: Callable[[Tensor], Tensor]) -> Tensor:
        nonlocal x
        advance(step.prediction)
        newest.insert(0, step.prediction.cpu().double().flatten(1))
        basis = torch.stack([x, *newest[: WINDOWS[-1]]])
        rows.append(fitted_row(own[step.t], basis, path.latents[goals[step.t]].double().flatten(1)))
        x = torch.tensordot(torch.tensor(rows[-1], dtype=x.dtype), basis[: len(rows[-1])], dims=1)
        return x.view_as(step.latents)

    def fit() -> dict[str, Tensor]:
        with apply(pipe, start, blocks=blocks):
            options = {"seeds": path.seeds, "batch_size": len(path.seeds), **path.options}
            for _ in stepping(pipe, path.conditions, on_step, **options):
                pass
        return {str(k): torch.tensor(row, dtype=torch.float64) for k, row in enumerate(rows)}

    fitted = memo("rows", [content_of(start)], fit)
    return replace(start, table={**(start.table or {}), "rows": [tuple(fitted[str(k)].tolist()) for k in range(len(goals))]})


def local_row(path: Trajectory, k: int, places: Sequence[int], goal: int) -> Step:
    """The row of call k that misses a later level of a trajectory least, from the trajectory's own vectors.

    It combines the latents at the call, its prediction and the one before: what a fitted row stays near.
    """
    basis = [path.latents[places[k]], *(path.outputs[place] for place in places[max(0, k - 1) : k + 1][::-1])]
    vectors = torch.stack([*basis, path.latents[goal]]).double().flatten(2)
    return tuple(solved((0.0,) * len(basis), grams_of(vectors).sum(0), Choice(len(basis) - 1, RIDGE, scales=True)).tolist())


def fitted_row(row: Step, basis: Tensor, goal: Tensor) -> Step:
    """The Step whose sum of the basis, (m, B, N), comes nearest to a goal, (B, N), chosen by cross-validation over samples.

    row: the local one.
    """
    grams = evened(row, grams_of(torch.cat([basis, goal[None]])))
    folds = np.array_split(np.arange(len(grams)), min(FOLDS, len(grams)))
    windows = [window for window in WINDOWS if window < len(basis)]
    choices = [Choice(window, ridge, scales) for window in windows for ridge in RIDGES for scales in (False, True)]
    best = min(choices, key=lambda choice: validated(row, grams, folds, choice))
    return tuple(solved(row, grams.sum(0), best).tolist())


def grams_of(vectors: Tensor) -> np.ndarray:
    """The inner products of m vectors, (m, B, N), within each sample: (B, m, m)."""
    return torch.einsum("ibn,jbn->bij", vectors, vectors).numpy()


def evened(row: Step, grams: np.ndarray) -> np.ndarray:
    """Gram matrices, (B, m, m), each divided by the distance at which a row misses that sample's goal.

    Then least squares minimise a sum of distances (a step of Weiszfeld's). A sum of squares would belong to the few samples
    that are missed most, while images are compared by the mean of their decibels.
    """
    distances = np.sqrt([error_of(np.array(row), gram) for gram in grams])
    return grams / distances.clip(min=max(LEAST * np.median(distances), NOTHING))[:, None, None]


def validated(row: Step, grams: np.ndarray, folds: Sequence[np.ndarray], choice: Choice) -> float:
    """The squared error on samples that a row was not fitted on, summed over the folds."""
    if len(folds) == 1:
        return error_of(solved(row, grams.sum(0), choice), grams.sum(0))
    every = grams.sum(0)
    parts = [grams[fold].sum(0) for fold in folds]
    return sum(error_of(solved(row, every - part, choice), part) for part in parts)


def solved(row: Step, gram: np.ndarray, choice: Choice) -> np.ndarray:
    """The weights of the least-squares problem with this Gram matrix, (m + 1, m + 1), whose last vector is the goal."""
    prior = shortened(row, choice.window)
    free = np.arange(0 if choice.scales else 1, len(prior))
    inner, outer = gram[np.ix_(free, free)], gram[free, -1] - gram[free, : len(prior)] @ prior
    ridge = choice.ridge * np.maximum(np.diag(inner), NOTHING)
    prior[free] += np.linalg.solve(inner + np.diag(ridge), outer)
    return prior


def shortened(row: Step, window: int) -> np.ndarray:
    """A row with this many predictions, (window + 1,): the oldest stands for those before it."""
    weights = np.zeros(window + 1)
    for k, value in enumerate(row):
        weights[min(k, window)] += value
    return weights


def error_of(weights: np.ndarray, gram: np.ndarray) -> float:
    """The squared distance of a sum to the goal."""
    full = np.append(np.pad(weights, (0, len(gram) - 1 - len(weights))), -1.0)
    return float(full @ gram @ full)
