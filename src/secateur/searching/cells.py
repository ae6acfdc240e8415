"""cell_scores(pipe, trajectory, macs): the loss of reusing each cell alone, measured on a dense trajectory without gradients.

This is LAPTOP-Diff's output loss of a single removal (arXiv 2404.11098, Eq. 3), for a cell instead of a layer (ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateur.denoiser.blocks import Blocks, kinds, needed, without
from secateur.denoiser.macs import Macs
from secateur.pipeline.schedulers import scheduler_signature
from secateur.pipeline.trajectory import Trajectory, replay
from secateur.schedule.allocate import allocate
from secateur.schedule.apply import apply
from secateur.schedule.baselines import closed
from secateur.schedule.schedule import Schedule
from secateur.schedule.scores import Scores
from secateur.searching.memo import NOTHING, Memo, content_of


class Choice(NamedTuple):
    """A schedule, the scores that it was allocated from, and the loss that these predict: the sum over its reused cells."""

    scores: Scores
    schedule: Schedule
    loss: float


def reuse_losses(pipe, trajectory: Trajectory, blocks: Blocks, *, batch_size: int = 8, memo: Memo = NOTHING) -> np.ndarray:
    """The loss of reusing each block alone at each call, (T, L): mean square by which the prediction changes.

    From two replays a block: in one it is reused at odd calls, in the other at even ones. Every call gets the dense latents,
    and what it reuses ran dense one call before (for a line, three calls before too). So no cell depends on another.
    """
    T = len(trajectory.timesteps)
    whole, losses = cache(lambda: replay(pipe, trajectory, batch_size=batch_size)), np.zeros((T, len(blocks)))

    def changes(schedule: Schedule) -> dict[str, Tensor]:
        dense = whole()
        with apply(pipe, schedule, blocks=blocks, fold=False):
            return {"losses": torch.from_numpy(mean_square(replay(pipe, trajectory, batch_size=batch_size) - dense))}

    for i in range(len(blocks)):
        for first in (1, 2):
            cells = range(first, T, 2)
            schedule = reusing(blocks, i, calls=T, cells=cells)
            found = memo("cells", [content_of(schedule), trajectory.seeds], partial(changes, schedule))["losses"]
            losses[cells, i] = found.numpy()[list(cells)]
    return losses


def reusing(blocks: Blocks, i: int, *, calls: int, cells: range) -> Schedule:
    """The Schedule in which block i and its closure are reused at these calls, and everything else runs."""
    others = [k != i for k in range(len(blocks))]
    schedule = closed(blocks, [others if t in cells else None for t in range(calls)], made={"method": "ablation"})
    return replace(schedule, hold="extrapolate" if blocks.reuse[i] == "extrapolate" else "output")


def mean_square(x: Tensor) -> np.ndarray:
    """Mean square of each call, (T,)."""
    return x.double().flatten(1).pow(2).mean(1).numpy()


def cell_scores(pipe, trajectory: Trajectory, macs: Macs, *, losses: np.ndarray) -> Scores:
    """Scores (T, L) from `reuse_losses`. They are marginal: over a block and its closure they sum to the loss of reusing it.

    A reused block takes its closure with it (DiP-GO's cascade), and the loss of both was measured together.
    """
    whole, values = (True,) * len(macs.blocks), np.zeros_like(losses)
    for i in range(len(whole)):  # the closure of a block runs before it
        closure = ~np.array(without(whole, i, macs.blocks))
        values[:, i] = losses[:, i] - values[:, closure].sum(axis=1)
    name, digest = scheduler_signature(pipe.scheduler)
    hold = "extrapolate" if all(macs.blocks.reuse[i] == "extrapolate" for i in macs.blocks.sinks) else "output"
    made = {"method": "ablation", "samples": len(trajectory.seeds), "seeds": list(trajectory.seeds), "hold": hold}
    return Scores(values, macs, name, digest, made)


def kind_losses(
    pipe, trajectory: Trajectory, blocks: Blocks, *, batch_size: int = 8, memo: Memo = NOTHING
) -> dict[str, np.ndarray]:
    """The `reuse_losses` with every block reusing by the same kind, for each kind that they can have."""
    alike = {kind: replace(blocks, reuse=(kind,) * len(blocks)) for kind in kinds(blocks)}
    return {kind: reuse_losses(pipe, trajectory, some, batch_size=batch_size, memo=memo) for kind, some in alike.items()}


def choices(pipe, trajectory: Trajectory, macs: Macs, *, losses: Mapping[str, np.ndarray], keep: float) -> Iterator[Choice]:
    """The best schedule for each kind of reuse; then, if its loss is lower, one in which each block has its own kind.

    losses: from `kind_losses`. Kinds and cells are chosen in turns while the loss falls (ours): first the best cells for given
    kinds, exactly; then the kinds with the least loss in the cells that are reused.
    """

    def choice(reuse: tuple[str, ...]) -> Choice:
        mixed = replace(macs, blocks=replace(macs.blocks, reuse=reuse))
        columns = np.stack([losses[kind][:, i] for i, kind in enumerate(reuse)], axis=1)
        scores = cell_scores(pipe, trajectory, mixed, losses=columns)
        schedule = allocate(scores, keep=keep)
        reused = [[not runs for runs in schedule.runs(t)] for t in range(schedule.calls)]
        return Choice(scores, schedule, float(scores.values[np.array(reused)].sum(dtype=float)))

    alike = [choice((kind,) * len(macs.blocks)) for kind in losses]
    yield from alike
    improved = []
    for best in alike:
        while (new := choice(least(losses, best))).loss < best.loss:
            best = new
        improved.append(best)
    best = min((*alike, *improved), key=lambda one: one.loss)
    if best not in alike:
        yield best


def least(losses: Mapping[str, np.ndarray], choice: Choice) -> tuple[str, ...]:
    """For each block the kind with the least loss at the calls in which it is reused and read, (L,); if none, its own kind."""
    blocks, schedule = choice.scores.macs.blocks, choice.schedule
    rows = [schedule.runs(t) for t in range(schedule.calls)]
    reused = np.array([needed(row, blocks) for row in rows]) & ~np.array(rows)
    lost = {kind: part.sum(axis=0, where=reused) for kind, part in losses.items()}
    return tuple(min((own, *losses), key=lambda kind, i=i: lost[kind][i]) for i, own in enumerate(blocks.reuse))
