"""What each call refreshes: whole calls, partial calls that run some blocks, and held ones, from one dense trajectory (ours).

It extends `additive`. The prediction of a partial call depends on when the denoiser last ran whole. So it is measured for
every pair of calls that are near enough to each other. The shortest path then goes over both kinds of calls.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.denoiser.blocks import Blocks, Row
from secateur.denoiser.macs import Macs
from secateur.pipeline.trajectory import Trajectory, replay
from secateur.schedule.allocate import allocate
from secateur.schedule.apply import apply
from secateur.schedule.baselines import closed
from secateur.schedule.schedule import Schedule
from secateur.searching.additive import squares
from secateur.searching.cells import cell_scores, reuse_losses
from secateur.searching.ladder import Ladder
from secateur.searching.paths import Path, Updates, climbed, states

TIE = 1e-6
SHARES = (1 / 3, 2 / 3)  # of a dense call's MACs: the budgets of partial calls (ours)


def partial_rows(pipe, trajectory: Trajectory, macs: Macs, *, batch_size: int = 8) -> tuple[Row, ...]:
    """The best blocks for partial calls to run, for each of SHARES, if these are some blocks and not all.

    They are the exact allocation of a single row, by the loss of reusing each block for one call, averaged over the calls.
    Takes two replays of the trajectory a block.
    """
    losses = list(reuse_losses(pipe, trajectory, macs.blocks, batch_size=batch_size))
    scores = cell_scores(pipe, trajectory, macs, losses=losses)
    cells = np.array(macs.cells()) / macs.call()
    mean = scores.values[1:].mean(axis=0)
    mean = mean - TIE * mean.max() * cells  # a block that gains nothing is not run only because there is room
    single = replace(scores, values=np.stack((mean, mean)))
    rows = (allocate(single, keep=(1 + share) / 2).runs(1) for share in SHARES)
    return tuple(dict.fromkeys(row for row in rows if any(row) and not all(row)))


def partial_outputs(
    pipe,
    trajectory: Trajectory,
    blocks: Blocks,
    row: Row,
    *,
    reach: int,
    timesteps: tuple[float, ...] | None = None,
    batch_size: int = 8,
) -> Tensor:
    """Predictions at call s, g calls after the last whole call, if only `row` runs since then: (T, reach + 1, B, C, H, W).

    At g = 0 these are the trajectory's own; if s < g, they are NaN. Every call gets the dense latents. timesteps: the
    trajectory's, if they are not the scheduler's own. Takes reach + 1 replays, mostly of partial calls.
    """
    T, dense = len(trajectory.timesteps), trajectory.outputs
    outputs = dense.new_full((T, reach + 1, *dense.shape[1:]), torch.nan)
    outputs[:, 0] = dense
    for first in range(reach + 1):
        whole = {0, *range(first, T, reach + 1)}
        schedule = replace(mixed(blocks, T, whole=whole, partial=range(T), row=row), timesteps=timesteps)
        with apply(pipe, schedule, blocks=blocks, fold=False):
            predictions = replay(pipe, trajectory, batch_size=batch_size)
        gaps = [s - max(k for k in whole if k <= s) for s in range(T)]
        for s, gap in enumerate(gaps):
            if gap:
                outputs[s, gap] = predictions[s]
    return outputs


def mixed(blocks: Blocks, calls: int, *, whole: Collection[int], partial: Collection[int], row: Row) -> Schedule:
    """The Schedule with these whole calls, these partial calls, which run `row`, and all others held."""
    nothing = (False,) * len(blocks)
    rows = [None if t in whole else row if t in partial else nothing for t in range(calls)]
    return closed(blocks, rows, made={"method": "refresh"})


def updates(ladder: Ladder, predictions: Tensor, *, weights: np.ndarray) -> Updates:
    """The local errors of every update that starts at a whole or at a partial call; see `additive.local_errors`.

    predictions: (G, reach + 1, N), from `read`. weights: (G + 1,).
    """
    G, reach = len(ladder), predictions.shape[1] - 1
    scale = torch.as_tensor(weights) / predictions.shape[-1]
    before = [states(s, reach=reach) for s in range(G)]
    whole, partial = [np.zeros((0, G))], [np.zeros((0, G))]
    for s in range(1, G):
        last = torch.stack([predictions[u, u - a] for u, a in before[s]])  # (n, N) of the call before
        bend = ladder.bend[[u for u, _ in before[s]], s, s + 1 :]
        after = torch.full((len(before[s]), G - s), torch.inf, dtype=torch.float64)
        for gap in range(1, min(reach, s) + 1):
            after_whole, new = [k for k, (_, a) in enumerate(before[s]) if a == s - gap], predictions[s, gap]
            after[after_whole] = squares(errors(ladder, s, new), new - last[after_whole], bend[after_whole])
        own = predictions[s, 0]
        whole.append((squares(errors(ladder, s, own), own - last, bend) * scale[s + 1 :]).numpy())
        partial.append((after * scale[s + 1 :]).numpy())
    first = (errors(ladder, 0, predictions[0, 0]).pow(2).sum(1) * scale[1:]).numpy()
    return Updates(first, tuple(before), tuple(whole), tuple(partial), reach)


def errors(ladder: Ladder, s: int, prediction: Tensor) -> Tensor:
    """Errors of the updates from level s to every later one by this prediction (N,), without the bend: (G − s, N)."""
    return ladder.carry[s, s + 1 :, None] * ladder.x[s] + ladder.gain[s, s + 1 :, None] * prediction - ladder.x[s + 1 :]


def polished(ladder: Ladder, path: Path, *, weights: np.ndarray, predictions: Tensor | None = None) -> Path:
    """The path moved to where its errors cancel best; its `error` is then the mean square of their weighted sum.

    The shortest path adds up squares, as if errors were independent. Those of neighbouring updates are not: they point the same
    way or opposite ways. Here they are added up as vectors, each scaled by the root of its level's weight, as if the calls
    after it only scaled it (ours). predictions: as in `updates`; by default every call of the path is whole.
    """
    outputs = ladder.y[:, None] if predictions is None else predictions
    roots = torch.as_tensor(weights).sqrt()

    @cache
    def error(u: int, back: int, s: int, gap: int, t: int) -> Tensor:
        miss = ladder.carry[s, t] * ladder.x[s] + ladder.gain[s, t] * outputs[s, gap] - ladder.x[t]
        return roots[t] * (miss + ladder.bend[u, s, t] * (outputs[s, gap] - outputs[u, back]))

    def total(path: Path) -> float:
        updates = list(steps(path, end=len(ladder)))
        if any(gap >= outputs.shape[1] for _, _, _, gap, _ in updates):
            return np.inf
        return float(torch.stack([error(*update) for update in updates]).sum(0).pow(2).mean())

    return climbed(path, total, levels=len(ladder))


def steps(path: Path, *, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(call before, its gap, call, its gap, next level) of every update; a gap counts levels since the last whole call."""
    u = back = last = 0
    for s, whole, t in zip(path.levels, path.whole, (*path.levels[1:], end), strict=True):
        last = s if whole else last
        yield u, back, s, s - last, t
        u, back = s, s - last


def read(ladder: Ladder, outputs: Tensor) -> Tensor:
    """`partial_outputs` (G, reach + 1, B, …) as the ladder reads predictions, (G, reach + 1, N), float64."""
    flat = outputs.double().flatten(2)
    return torch.stack([ladder.read(column, ladder.x) for column in flat.unbind(1)], dim=1)


def schedule_of(path: Path, ladder: Ladder, blocks: Blocks, row: Row = (), *, hold: str, made: Mapping[str, Any]) -> Schedule:
    """The Schedule of a path: at the timesteps of its calls if the ladder is free; otherwise with the other calls held."""
    whole = {s for s, full in zip(path.levels, path.whole, strict=True) if full}
    schedule = mixed(blocks, len(ladder), whole=whole, partial=path.levels, row=row)
    made = {"method": "refresh" if row else "additive", "predicted_error": path.error, **made}
    if not ladder.chosen:
        return replace(schedule, hold=hold, made=made)
    timesteps = tuple(ladder.timesteps[s] for s in path.levels)
    return replace(schedule, grid=tuple(schedule.grid[s] for s in path.levels), timesteps=timesteps, made=made)
