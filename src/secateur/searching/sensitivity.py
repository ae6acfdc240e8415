"""sensitivity(pipe, trajectory, ladder, ...): how much an error at each noise level shows in the final images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from secateur.denoiser.blocks import Blocks
from secateur.pipeline.trajectory import Step, Trajectory, first, stepping
from secateur.schedule.apply import apply
from secateur.schedule.baselines import chosen
from secateur.searching.ladder import Ladder

PROBES = 8


def sensitivity(
    pipe, trajectory: Trajectory, ladder: Ladder, *, blocks: Blocks, gap: int, samples: int = 4, batch_size: int = 8
) -> np.ndarray:
    """Mean square change of the final images, divided by the latents' own, (G + 1,): the weights of `additive.local_errors`.

    At PROBES levels the latents of a few samples are moved by the error of an update over `gap` levels, as a search will move
    them. The rest of the trajectory then runs again. Between these levels the logarithm is interpolated. The first update is
    the solver's own and has rounding errors only, so probing begins at the second. ladder: of the trajectory. Takes about
    PROBES / 2 dense images a sample.
    """
    G, few = len(ladder), first(trajectory, samples)
    probed = sorted({max(1, round(2 + k * (G - 2) / (PROBES - 1))) for k in range(PROBES)})
    logs = [np.log(probe(pipe, few, ladder, k, blocks=blocks, gap=gap, batch_size=batch_size)) for k in probed]
    return np.exp(np.interp(np.arange(G + 1), probed, logs))


def probe(pipe, trajectory: Trajectory, ladder: Ladder, k: int, *, blocks: Blocks, gap: int, batch_size: int) -> float:
    """The sensitivity at level k, from 1 to G."""
    s = max(0, k - gap)
    error = ladder.carry[s, k] * ladder.x[s] + ladder.gain[s, k] * ladder.y[s] - ladder.x[k]
    shift = error.view(-1, *trajectory.latents.shape[2:])[: len(trajectory.seeds)]
    timesteps = ladder.timesteps if ladder.chosen else None
    images = rerun(pipe, trajectory, k, shift, timesteps=timesteps, blocks=blocks, batch_size=batch_size)
    return float(((images - trajectory.images) ** 2).mean()) / float(shift.pow(2).mean())


def rerun(
    pipe,
    trajectory: Trajectory,
    k: int,
    shift: Tensor,
    *,
    blocks: Blocks,
    timesteps: tuple[float, ...] | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """The images if the latents at level k are moved by `shift` (B, C, H, W); all calls after that are dense.

    Before level k the denoiser does not run: the scheduler gets the trajectory's predictions. timesteps: the trajectory's, if
    they are not the scheduler's own.
    """

    def on_step(step: Step, advance: Callable[[Tensor], Tensor]) -> Tensor:
        after = advance(trajectory.outputs[step.t, step.samples] if step.t < k else step.prediction)
        return after + shift[step.samples].to(after) if step.t == k - 1 else after

    T = len(trajectory.timesteps)
    schedule = replace(chosen(blocks, T, run=[0, *range(max(k, 1), T)]), timesteps=timesteps)
    call = {"seeds": trajectory.seeds, "batch_size": batch_size, **trajectory.options}
    with apply(pipe, schedule, blocks=blocks, fold=False):  # held calls are steps, too
        return np.concatenate(list(stepping(pipe, trajectory.conditions, on_step, **call)))
