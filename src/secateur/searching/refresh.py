"""What each call refreshes: everything, or some of the blocks in partial calls; from one dense trajectory (ours).

It extends `placing`. The prediction of a partial call depends on when the denoiser last ran whole. So it is measured for
every pair of calls that are near enough to each other. The shortest path then goes over both kinds of calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
from secateur.searching.cells import cell_scores, reuse_losses
from secateur.searching.memo import NOTHING, Memo, content_of
from secateur.searching.paths import Path

TIE = 1e-6
SHARES = (1 / 3, 2 / 3)  # of a dense call's MACs: the budgets of partial calls (ours)


def partial_rows(pipe, trajectory: Trajectory, macs: Macs, *, batch_size: int = 8, memo: Memo = NOTHING) -> tuple[Row, ...]:
    """The best blocks for partial calls to run, for each of SHARES, if these are some blocks and not all.

    They are the exact allocation of a single row, by the loss of reusing each block for one call, averaged over the calls.
    Takes two replays of the trajectory a block.
    """
    losses = reuse_losses(pipe, trajectory, macs.blocks, batch_size=batch_size, memo=memo)
    scores = cell_scores(pipe, trajectory, macs, losses=losses)
    cells = np.array(macs.cells()) / macs.call()
    mean = scores.values[1:].mean(axis=0)
    mean = mean - TIE * mean.max() * cells  # a block that gains nothing is not run only because there is room
    single = replace(scores, values=np.stack((mean, mean)))
    rows = (allocate(single, keep=(1 + share) / 2).runs(1) for share in SHARES)
    return tuple(dict.fromkeys(row for row in rows if any(row) and not all(row)))


def partial_outputs(
    pipe, trajectory: Trajectory, blocks: Blocks, row: Row, *, reach: int, batch_size: int = 8, memo: Memo = NOTHING
) -> Tensor:
    """Predictions at call s, g calls after the last whole call, if only `row` runs since then: (T, reach + 1, B, C, H, W).

    At g = 0 these are the trajectory's own; if s < g, they are NaN. Every call gets the dense latents. Takes reach + 1
    replays, mostly of partial calls.
    """
    T, dense = len(trajectory.timesteps), trajectory.outputs
    outputs = dense.new_full((T, reach + 1, *dense.shape[1:]), torch.nan)
    outputs[:, 0] = dense
    for first in range(reach + 1):
        whole = {0, *range(first, T, reach + 1)}
        schedule = closed(blocks, [None if t in whole else row for t in range(T)], made={"method": "refresh"})

        def replayed(schedule: Schedule = schedule) -> dict[str, Tensor]:
            with apply(pipe, schedule, blocks=blocks, fold=False):
                return {"predictions": replay(pipe, trajectory, batch_size=batch_size)}

        predictions = memo("replay", [content_of(schedule), trajectory.seeds], replayed)["predictions"]
        gaps = [s - max(k for k in whole if k <= s) for s in range(T)]
        for s, gap in enumerate(gaps):
            if gap:
                outputs[s, gap] = predictions[s]
    return outputs


def path_schedule(path: Path, timesteps: Sequence[float], blocks: Blocks, row: Row = (), **made: Any) -> Schedule:
    """The Schedule of a path: calls at the timesteps of its levels, the partial ones running `row`."""
    rows = [None if whole else row for whole in path.whole]
    method = {"method": "refresh" if row else "additive", "predicted_error": path.error}
    times = tuple(timesteps[level] for level in path.levels)
    return replace(closed(blocks, rows, made={**method, **made}), timesteps=times)
