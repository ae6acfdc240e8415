"""sensitivity(pipe, trajectory, ladder, ...): how much an error made at each noise level shows in the final images."""

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
    """Mean square change of the final images by that of the latents, (G + 1,): the weights of `additive.local_errors`.

    At PROBES levels the latents of a few samples are put off by the error of an update over `gap` levels, which is what a
    search will do to them, and the rest of the trajectory is run again; in between, the logarithm is interpolated. The first
    update is the solver's own and misses by rounding alone, so that probing begins at the second. ladder: of the
    trajectory. Costs about PROBES / 2 dense images a sample.
    """
    G, some = len(ladder), first(trajectory, samples)
    probed = sorted({max(1, round(2 + k * (G - 2) / (PROBES - 1))) for k in range(PROBES)})
    logs = [np.log(probe(pipe, some, ladder, k, blocks=blocks, gap=gap, batch_size=batch_size)) for k in probed]
    return np.exp(np.interp(np.arange(G + 1), probed, logs))


def probe(pipe, trajectory: Trajectory, ladder: Ladder, k: int, *, blocks: Blocks, gap: int, batch_size: int) -> float:
    """The response at level k, from 1 to G."""
    s = max(0, k - gap)
    missed = ladder.carry[s, k] * ladder.x[s] + ladder.gain[s, k] * ladder.y[s] - ladder.x[k]
    shift = missed.view(-1, *trajectory.latents.shape[2:])[: len(trajectory.seeds)]
    steps = ladder.timesteps if ladder.chosen else None
    images = rerun(pipe, trajectory, k, shift, timesteps=steps, blocks=blocks, batch_size=batch_size)
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
    """The images when the latents at level k are moved by `shift` (B, C, H, W), and what comes after is dense.

    Before it the denoiser is not entered: the scheduler is told what was said on the trajectory. timesteps: the trajectory's,
    where they are not the scheduler's own.
    """

    def on_step(step: Step, advance: Callable[[Tensor], Tensor]) -> Tensor:
        after = advance(trajectory.outputs[step.t, step.samples] if step.t < k else step.prediction)
        return after + shift[step.samples].to(after) if step.t == k - 1 else after

    T = len(trajectory.timesteps)
    schedule = replace(chosen(blocks, T, run=[0, *range(max(k, 1), T)]), timesteps=timesteps)
    told = {"seeds": trajectory.seeds, "batch_size": batch_size, **trajectory.options}
    with apply(pipe, schedule, blocks=blocks):
        return np.concatenate(list(stepping(pipe, trajectory.conditions, on_step, **told)))
