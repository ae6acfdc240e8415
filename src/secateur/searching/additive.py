"""Which calls to make, solved exactly from one dense trajectory, without gradients and without another denoiser call.

LAPTOP-Diff (arXiv 2404.11098) found that the loss of removing many layers is close to the sum of the losses of removing each.
Here the same holds for denoiser calls (ours). The error of a single update between two noise levels is measured on the dense
trajectory, which knows both ends. The calls whose updates have the least error in sum are a shortest path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur.searching.ladder import Ladder, in_latents

Path = tuple[int, ...]


@dataclass(frozen=True)
class Solution:
    """The best `levels` for this number of calls, and the sum of their local errors (mean square, latents)."""

    levels: Path
    error: float


def local_errors(ladder: Ladder, *, weights: np.ndarray | None = None) -> np.ndarray:
    """C[u, s, t], (G, G, G + 1): mean square error of the update from s to t in the latents; inf for an impossible one.

    The call before s is at u. weights: (G + 1,), of a squared error at each level; by default `in_latents`.
    """
    G, N = ladder.y.shape
    errors = np.full((G, G, G + 1), np.inf)
    scale = torch.as_tensor(in_latents(ladder) if weights is None else weights)
    for s in range(G):
        error = ladder.carry[s, s + 1 :, None] * ladder.x[s] + ladder.gain[s, s + 1 :, None] * ladder.y[s] - ladder.x[s + 1 :]
        turn = ladder.y[s] - ladder.y[: s + 1]  # (u, N); u = s: none
        square = squares(error, turn, ladder.bend[: s + 1, s, s + 1 :])
        errors[: s + 1, s, s + 1 :] = (square * scale[s + 1 :] / N).numpy()
    return errors


def squares(error: Tensor, turn: Tensor, bend: Tensor) -> Tensor:
    """Sums of (error[t] + bend[u, t]·turn[u])² over the elements, (n, t), from (t, N), (n, N) and (n, t)."""
    return error.pow(2).sum(1)[None] + 2 * bend * (turn @ error.T) + bend**2 * turn.pow(2).sum(1)[:, None]


def solve(errors: np.ndarray, *, calls: int) -> tuple[Solution, ...]:
    """The Solution for every number of calls from 1 to `calls`: shortest paths over (call before, call), exact."""
    G = len(errors)
    reach = np.full((G, G), np.inf)
    reach[0, 0] = 0.0
    came: list[np.ndarray] = []
    solutions = []
    for _ in range(min(calls, G)):
        solutions.append(Solution(walk(came, reach + errors[:, :, G]), float((reach + errors[:, :, G]).min())))
        total = reach[:, :, None] + errors[:, :, :G]  # (u, s, t); a first call has no call before it: u = s = 0
        came.append(total.argmin(axis=0))
        reach = total.min(axis=0)
    return tuple(solutions)


def walk(came: Sequence[np.ndarray], last: np.ndarray) -> Path:
    """The levels of the best path whose last call is the best of `last`, (u, s)."""
    u, s = np.unravel_index(int(last.argmin()), last.shape)
    levels = [int(s)]
    for before in reversed(came):
        levels.append(int(u))
        u, s = before[u, s], u
    return tuple(reversed(levels))
