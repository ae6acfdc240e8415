"""cell_scores(pipe, trajectory, macs): what reusing each cell alone costs, measured on a dense trajectory, without gradients.

LAPTOP-Diff's single-removal output loss (arXiv 2404.11098, Eq. 3), of a cell of the schedule instead of a layer (ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from secateur.denoiser.blocks import Blocks, kinds, live, needed
from secateur.denoiser.macs import Macs
from secateur.pipeline.schedulers import scheduler_signature
from secateur.pipeline.trajectory import Trajectory, replay
from secateur.schedule.allocate import allocate
from secateur.schedule.apply import apply
from secateur.schedule.baselines import closed
from secateur.schedule.schedule import Schedule
from secateur.schedule.scores import Scores


@dataclass(frozen=True)
class ReuseLoss:
    """One block, and what reusing it alone costs at each call: mean square of how far the prediction moves, (T,)."""

    block: str
    loss: tuple[float, ...]


class Choice(NamedTuple):
    """A schedule, the scores that it is the best of, and the loss that these predict for it: the sum over what it reuses."""

    scores: Scores
    schedule: Schedule
    loss: float


def reuse_losses(pipe, trajectory: Trajectory, blocks: Blocks, *, batch_size: int = 8) -> Iterator[ReuseLoss]:
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
        yield ReuseLoss(name, tuple(loss))


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


def cell_scores(pipe, trajectory: Trajectory, macs: Macs, *, losses: Sequence[ReuseLoss]) -> Scores:
    """Scores (T, L) from `reuse_losses`: marginal, so that the cells of a closure sum to what reusing its head costs.

    A reused block takes its closure with it (DiP-GO's cascade), and the loss of both was measured at once.
    """
    measured, values = np.stack([part.loss for part in losses], axis=1), np.zeros((len(trajectory.timesteps), len(losses)))
    for i in range(len(losses)):  # what a block takes with it runs before it
        values[:, i] = measured[:, i] - values[:, closure(macs.blocks, i)].sum(axis=1)
    name, digest = scheduler_signature(pipe.scheduler)
    hold = "extrapolate" if all(macs.blocks.reuse[i] == "extrapolate" for i in macs.blocks.sinks) else "output"
    made = {"method": "ablation", "samples": len(trajectory.seeds), "seeds": list(trajectory.seeds), "hold": hold}
    return Scores(values, macs, name, digest, made)


def kind_losses(pipe, trajectory: Trajectory, blocks: Blocks, *, batch_size: int = 8) -> dict[str, tuple[ReuseLoss, ...]]:
    """What `reuse_losses` yields where all blocks reuse by one kind, for each kind that they can have."""
    alike = {kind: replace(blocks, reuse=(kind,) * len(blocks)) for kind in kinds(blocks)}
    return {kind: tuple(reuse_losses(pipe, trajectory, some, batch_size=batch_size)) for kind, some in alike.items()}


def choices(
    pipe, trajectory: Trajectory, macs: Macs, *, losses: Mapping[str, Sequence[ReuseLoss]], keep: float
) -> Iterator[Choice]:
    """The best schedules in which all blocks reuse alike, one a kind; then, if it loses less, one of a kind for each block.

    losses: of `kind_losses`. Kinds and cells are chosen in turns (ours): for given kinds the cells exactly, and for those that
    are reused then the kinds that lose least in them, as long as the loss falls.
    """

    def choice(reuse: tuple[str, ...]) -> Choice:
        mixed, parts = replace(macs.blocks, reuse=reuse), [losses[kind][i] for i, kind in enumerate(reuse)]
        scores = cell_scores(pipe, trajectory, replace(macs, blocks=mixed), losses=parts)
        schedule = allocate(scores, keep=keep)
        reused = [[not runs for runs in schedule.runs(t)] for t in range(schedule.calls)]
        return Choice(scores, schedule, float(scores.values[np.array(reused)].sum(dtype=float)))

    alike = [choice((kind,) * len(macs.blocks)) for kind in losses]
    yield from alike
    found = []
    for best in alike:
        while (new := choice(least(losses, best))).loss < best.loss:
            best = new
        found.append(best)
    best = min((*alike, *found), key=lambda one: one.loss)
    if best not in alike:
        yield best


def least(losses: Mapping[str, Sequence[ReuseLoss]], choice: Choice) -> tuple[str, ...]:
    """The kind of each block that loses least at the calls where it is reused and read, (L,); nowhere: its own."""
    blocks, schedule = choice.scores.macs.blocks, choice.schedule
    rows = [schedule.runs(t) for t in range(schedule.calls)]
    reused = np.array([needed(row, blocks) for row in rows]) & ~np.array(rows)
    lost = {kind: np.sum([part.loss for part in parts], axis=1, where=reused.T) for kind, parts in losses.items()}
    return tuple(min((own, *losses), key=lambda kind, i=i: lost[kind][i]) for i, own in enumerate(blocks.reuse))
