"""What each call refreshes: whole calls, calls that run some blocks, and held ones, from one dense trajectory (ours).

On top of `additive`: what a partial call says depends on when the denoiser last ran whole, so that is measured for every pair
of calls near enough to one another, and the shortest path goes over both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.denoiser.blocks import Blocks
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

Row = tuple[bool, ...]  # (L,) which blocks run

TIE = 1e-6
SHARES = (1 / 3, 2 / 3)  # ours: of a dense call's MACs, what a partial call may take


def partial_rows(pipe, trajectory: Trajectory, macs: Macs, *, batch_size: int = 8) -> tuple[Row, ...]:
    """The blocks that partial calls had best run, for each of SHARES where that is some and not all.

    By what reusing each block for one call costs, averaged over the calls, and the exact allocation of a single row. Takes
    two replays of the trajectory a block.
    """
    losses = list(reuse_losses(pipe, trajectory, macs.blocks, batch_size=batch_size))
    scores = cell_scores(pipe, trajectory, macs, losses=losses)
    cells = np.array(macs.cells()) / macs.call()
    mean = scores.values[1:].mean(axis=0)
    mean = mean - TIE * mean.max() * cells  # where room is left, what gives nothing still costs
    single = replace(scores, values=np.stack((mean, mean)))
    found = (allocate(single, keep=(1 + share) / 2).runs(1) for share in SHARES)
    return tuple(dict.fromkeys(row for row in found if any(row) and not all(row)))


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
    """What is said at call s where only `row` runs and the last whole call was g calls before, (T, reach + 1, B, C, H, W).

    The trajectory's own outputs at g = 0; NaN where s < g. Every call gets the dense latents. timesteps: the trajectory's,
    where they are not the scheduler's own. Takes reach + 1 replays, mostly of partial calls.
    """
    T, known = len(trajectory.timesteps), trajectory.outputs
    found = known.new_full((T, reach + 1, *known.shape[1:]), torch.nan)
    found[:, 0] = known
    for first in range(reach + 1):
        whole = {0, *range(first, T, reach + 1)}
        schedule = replace(mixed(blocks, T, whole=whole, partial=range(T), row=row), timesteps=timesteps)
        with apply(pipe, schedule, blocks=blocks):
            said = replay(pipe, trajectory, batch_size=batch_size)
        gaps = [s - max(k for k in whole if k <= s) for s in range(T)]
        for s, gap in enumerate(gaps):
            if gap:
                found[s, gap] = said[s]
    return found


def mixed(blocks: Blocks, calls: int, *, whole: Collection[int], partial: Collection[int], row: Row) -> Schedule:
    """The Schedule of these whole calls, of partial ones that run `row`, and of held ones."""
    held = (False,) * len(blocks)
    rows = [None if t in whole else row if t in partial else held for t in range(calls)]
    return closed(blocks, rows, made={"method": "refresh"})


def updates(ladder: Ladder, said: Tensor, *, weights: np.ndarray) -> Updates:
    """The local errors of every update that starts at a whole or at a partial call; see `additive.local_errors`.

    said: (G, reach + 1, N), `partial_outputs` as the ladder reads them. weights: (G + 1,).
    """
    G, reach = len(ladder), said.shape[1] - 1
    scale = torch.as_tensor(weights) / said.shape[-1]
    found = [states(s, reach=reach) for s in range(G)]
    whole, partial = [np.zeros((0, G))], [np.zeros((0, G))]
    for s in range(1, G):
        turned = torch.stack([said[u, u - a] for u, a in found[s]])  # (n, N) what the call before said
        bend = ladder.bend[[u for u, _ in found[s]], s, s + 1 :]
        after = torch.full((len(found[s]), G - s), torch.inf, dtype=torch.float64)
        for gap in range(1, min(reach, s) + 1):
            chosen = [k for k, (_, a) in enumerate(found[s]) if a == s - gap]
            after[chosen] = squares(missed(ladder, s, said[s, gap]), said[s, gap] - turned[chosen], bend[chosen])
        own = said[s, 0]
        whole.append((squares(missed(ladder, s, own), own - turned, bend) * scale[s + 1 :]).numpy())
        partial.append((after * scale[s + 1 :]).numpy())
    first = (missed(ladder, 0, said[0, 0]).pow(2).sum(1) * scale[1:]).numpy()
    return Updates(first, tuple(found), tuple(whole), tuple(partial), reach)


def missed(ladder: Ladder, s: int, said: Tensor) -> Tensor:
    """By how much updates from level s miss every later one, (G − s, N), where the denoiser said (N,), without the bend."""
    return ladder.carry[s, s + 1 :, None] * ladder.x[s] + ladder.gain[s, s + 1 :, None] * said - ladder.x[s + 1 :]


def polished(ladder: Ladder, path: Path, *, weights: np.ndarray, said: Tensor | None = None) -> Path:
    """The path moved to where its errors cancel best; `error` is then the mean square of their weighted sum.

    The shortest path adds up squares, as if errors were independent; but those of neighbouring updates point the same way or
    the opposite one. Here they are added up as vectors, each grown by the root of its level's weight, as if what lies between
    it and the image only scaled it (ours). said: as in `updates`; by default every call of the path is whole.
    """
    said = ladder.y[:, None] if said is None else said
    roots = torch.as_tensor(weights).sqrt()

    @cache
    def error(u: int, back: int, s: int, gap: int, t: int) -> Tensor:
        miss = ladder.carry[s, t] * ladder.x[s] + ladder.gain[s, t] * said[s, gap] - ladder.x[t]
        return roots[t] * (miss + ladder.bend[u, s, t] * (said[s, gap] - said[u, back]))

    def total(path: Path) -> float:
        found = list(steps(path, end=len(ladder)))
        if any(gap >= said.shape[1] for _, _, _, gap, _ in found):
            return np.inf
        return float(torch.stack([error(*step) for step in found]).sum(0).pow(2).mean())

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
    """The Schedule of a path: at the timesteps of its calls alone where the ladder is free, holding the others elsewhere."""
    whole = {s for s, full in zip(path.levels, path.whole, strict=True) if full}
    found = mixed(blocks, len(ladder), whole=whole, partial=path.levels, row=row)
    made = {"method": "refresh" if row else "additive", "predicted_error": path.error, **made}
    if not ladder.chosen:
        return replace(found, hold=hold, made=made)
    timesteps = tuple(ladder.timesteps[s] for s in path.levels)
    return replace(found, grid=tuple(found.grid[s] for s in path.levels), timesteps=timesteps, made=made)


def row_macs(macs: Macs, row: Row) -> int:
    """MACs (conv + linear) of a call that runs this closed row."""
    return macs.rest() + sum(cell for cell, runs in zip(macs.cells(), row, strict=True) if runs)
