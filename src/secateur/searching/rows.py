"""The coefficients of a sampler of few calls, fitted to the latents of the dense one.

A sampler of K calls is a Table. Each of its rows is a linear least-squares problem: which sum of the latents before a call and
of the newest predictions comes nearest to the dense latents after it (compare DC-Solver, arXiv 2409.03755, PAS, arXiv
2411.06503, and S4S, arXiv 2502.17423, which learn such corrections by gradients or searches)? Each row is fitted at the
latents that the rows before it lead to, so that it makes up for their drift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateur.pipeline.schedulers import begun
from secateur.pipeline.table import Step
from secateur.pipeline.trajectory import Step as StepOf
from secateur.pipeline.trajectory import Trajectory, stepping
from secateur.schedule.apply import apply
from secateur.schedule.fold import fold, steps_for, table_of
from secateur.schedule.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from secateur.denoiser.blocks import Blocks

WINDOWS = (1, 2, 3, 4, 5)  # how many of the newest predictions a row may use
RIDGES = (1e-8, 1e-6, 1e-4, 1e-2)  # of the Gram matrix's diagonal: how strongly a row stays near the sampler's own
FOLDS = 4
NOTHING = 1e-30  # squared length of a vector that is zero, such as the prediction of a blank denoiser


class Choice(NamedTuple):
    """How a row is fitted: from how many predictions, how near to the sampler's own, and whether it scales the latents."""

    window: int
    ridge: float
    scales: bool


def with_fitted_rows(pipe: DiffusionPipeline, schedule: Schedule, target: Trajectory, *, blocks: Blocks) -> Schedule:
    """The schedule folded, with rows fitted to a trajectory's latents at its timesteps.

    target: B samples that fit one batch: 4 to 8 are enough. The pipe draws them once by the schedule, and each step is replaced
    by the one that is fitted. Raises ValueError if the schedule does not fold.
    """
    folded = fold(schedule, pipe.scheduler, **chosen_timesteps(pipe.scheduler, schedule, target))
    own, goals, rows = table_of(folded).steps, goals_of(target, folded.timesteps or ()), list[Step]()
    x, newest = target.latents[0].double().flatten(1), list[Tensor]()

    def on_step(step: StepOf, advance: Callable[[Tensor], Tensor]) -> Tensor:
        nonlocal x
        advance(step.prediction)
        newest.insert(0, step.prediction.cpu().double().flatten(1))
        basis = torch.stack([x, *newest[: WINDOWS[-1]]])
        rows.append(fitted_row(own[step.t], basis, goals[step.t].double().flatten(1)))
        x = torch.tensordot(torch.tensor(rows[-1], dtype=x.dtype), basis[: len(rows[-1])], dims=1)
        return x.view_as(step.latents)

    with apply(pipe, folded, blocks=blocks):
        options = {"seeds": target.seeds, "batch_size": len(target.seeds), **target.options}
        for _ in stepping(pipe, target.conditions, on_step, **options):
            pass
    return replace(folded, table={**(folded.table or {}), "rows": rows})


def fitted_row(row: Step, basis: Tensor, goal: Tensor) -> Step:
    """The Step whose sum of the basis, (m, B, N), comes nearest to a goal, (B, N), chosen by cross-validation over samples."""
    grams = grams_of(torch.cat([basis, goal[None]]))
    folds = np.array_split(np.arange(len(grams)), min(FOLDS, len(grams)))
    windows = [window for window in WINDOWS if window < len(basis)]
    choices = [Choice(window, ridge, scales) for window in windows for ridge in RIDGES for scales in (False, True)]
    best = min(choices, key=lambda choice: validated(row, grams, folds, choice))
    return tuple(solved(row, grams.sum(0), best).tolist())


def grams_of(vectors: Tensor) -> np.ndarray:
    """The inner products of m vectors, (m, B, N), within each sample: (B, m, m)."""
    return torch.einsum("ibn,jbn->bij", vectors, vectors).numpy()


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
    """A sampler's row with this many predictions, (window + 1,): the oldest stands for those before it."""
    weights = np.zeros(window + 1)
    for k, value in enumerate(row):
        weights[min(k, window)] += value
    return weights


def error_of(weights: np.ndarray, gram: np.ndarray) -> float:
    """The squared distance of a sum to the goal."""
    full = np.append(np.pad(weights, (0, len(gram) - 1 - len(weights))), -1.0)
    return float(full @ gram @ full)


def goals_of(trajectory: Trajectory, timesteps: Sequence[float]) -> Tensor:
    """The latents of a trajectory after each call at some timesteps, (K, B, ...): before the next one, and the last.

    Between the trajectory's own timesteps they are read off cubic splines.
    """
    times, latents, later = trajectory.timesteps, trajectory.latents, timesteps[1:]
    if set(map(float, later)) <= set(times):
        return latents[[*(times.index(float(t)) for t in later), len(times)]]
    from scipy.interpolate import CubicSpline

    between = CubicSpline(times[::-1], latents[:-1].double().numpy()[::-1])(later)
    return torch.cat([torch.from_numpy(between).to(latents), latents[-1:]])


def chosen_timesteps(scheduler: Any, schedule: Schedule, target: Trajectory) -> dict[str, Any]:
    """The timesteps of all calls, for `fold`, if the pipeline sets others than its scheduler would, as Flux does."""
    calls = steps_for(scheduler, schedule.calls)
    if schedule.timesteps or tuple(map(float, begun(scheduler, calls).timesteps)) == target.timesteps:
        return {}
    return {"timesteps": target.timesteps}
