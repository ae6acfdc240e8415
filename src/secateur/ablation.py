"""cell_scores(pipe, trajectory, macs): what reusing each cell alone costs, measured on a dense trajectory, without gradients.

LAPTOP-Diff's single-removal output loss (arXiv 2404.11098, Eq. 3), of a cell of the schedule instead of a layer (ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from secateur.baselines import closed
from secateur.blocks import Blocks, live
from secateur.calibration import Trajectory, replay
from secateur.macs import Macs
from secateur.schedule import Schedule, scheduler_signature
from secateur.scores import Scores
from secateur.subnet import apply


@dataclass(frozen=True)
class Ablation:
    """One block, and what reusing it alone costs at each call: mean square of how far the prediction moves, (T,)."""

    block: str
    loss: tuple[float, ...]


def ablations(pipe, trajectory: Trajectory, blocks: Blocks, *, batch_size: int = 8) -> Iterator[Ablation]:
    """Block by block, two replays of the trajectory each: in one the block reuses at odd calls, in the other at even ones.

    Every call gets the dense latents and what it reuses was dense one call before (for a line, three calls before too), so that
    no cell hears of another.
    """
    T = len(trajectory.timesteps)
    whole = replay(pipe, trajectory, batch_size=batch_size)
    for i, name in enumerate(blocks.names):
        loss = np.zeros(T)
        for first in (1, 2):
            cells = range(first, T, 2)
            with apply(pipe, without(blocks, i, calls=T, cells=cells), blocks=blocks):
                said = replay(pipe, trajectory, batch_size=batch_size)
            loss[cells] = mean_square(said - whole)[list(cells)]
        yield Ablation(name, tuple(loss))


def without(blocks: Blocks, i: int, *, calls: int, cells: range) -> Schedule:
    """The dense Schedule but for block i at these calls, and whatever nobody reads there then."""
    others = [k != i for k in range(len(blocks))]
    found = closed(blocks, [others if t in cells else None for t in range(calls)], made={"method": "ablation"})
    return replace(found, hold="extrapolate" if blocks.reuse[i] == "extrapolate" else "output")


def mean_square(x: Tensor) -> np.ndarray:
    """Of each call, (T,)."""
    return x.double().flatten(1).pow(2).mean(1).numpy()


def closure(blocks: Blocks, i: int) -> tuple[bool, ...]:
    """Which blocks need not run where block i alone is reused, (L,): itself and what only it reads."""
    running = live([k != i for k in range(len(blocks))], blocks)
    return tuple(not runs for runs in running)


def cell_scores(pipe, trajectory: Trajectory, macs: Macs, *, losses: Sequence[Ablation]) -> Scores:
    """Scores of what `ablations` yielded, (T, L): marginal, so that the cells of a closure sum to what reusing its head costs.

    A reused block takes its closure with it (DiP-GO's cascade), and the loss of both was measured at once.
    """
    measured, values = np.stack([part.loss for part in losses], axis=1), np.zeros((len(trajectory.timesteps), len(losses)))
    for i in range(len(losses)):  # what a block takes with it runs before it
        values[:, i] = measured[:, i] - values[:, closure(macs.blocks, i)].sum(axis=1)
    name, digest = scheduler_signature(pipe.scheduler)
    made = {"method": "ablation", "samples": len(trajectory.seeds), "seeds": list(trajectory.seeds)}
    return Scores(values, macs, name, digest, made)
