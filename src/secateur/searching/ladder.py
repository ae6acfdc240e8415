"""The ladder: noise levels of a dense trajectory, and the latents that one update from any level to any other gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.pipeline.solvers import SEARCHED, sigmas_at
from secateur.pipeline.trajectory import Trajectory
from secateur.schedule.long_steps import LongSteps

ONE_STEP_ERROR = 1e-3  # relative; the error of a step that is not a·x + b·y is far larger
SPACINGS = {  # stock spacings of solvers whose timesteps can be chosen
    "linspace": {"timestep_spacing": "linspace"},
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "Karras": {"timestep_spacing": "linspace", "use_karras_sigmas": True},
}


@dataclass(frozen=True, eq=False)
class Ladder:
    """G noise levels of a dense trajectory, and the solver's update from any of them to any later one.

    From level s to level t, the call before at u:  x̂ = carry[s, t]·x[s] + gain[s, t]·y[s] + bend[u, s, t]·(y[s] − y[u]).
    x: latents (G + 1, N), the last of them the end. y: predictions (G, N). N: elements of all samples. carry, gain: (G, G + 1).
    bend: (G, G, G + 1), zero if u = s, which stands for no call before. timesteps: (G,). chosen: whether a schedule may choose
    among them; otherwise it holds calls on the scheduler's own grid. read: what the denoiser returns (G, N), at latents
    (G + 1, N) → predictions (G, N).
    """

    x: Tensor
    y: Tensor
    carry: Tensor
    gain: Tensor
    bend: Tensor
    timesteps: tuple[float, ...]
    chosen: bool = False
    read: Callable[[Tensor, Tensor], Tensor] = lambda outputs, x: outputs

    def __len__(self) -> int:
        return len(self.y)


def held(trajectory: Trajectory, scheduler: Any, *, hold: str = "output") -> Ladder:
    """The Ladder of holding calls on the scheduler's own grid, whose steps are x' = a·x + b·y: DDIM, Euler, flow matching.

    scheduler: as it was when the trajectory was recorded. hold: of HOLDS, as in Schedule. Raises ValueError if a step needs
    more than the last prediction (DPM-Solver++, UniPC, PNDM).
    """
    x, y = flat(trajectory.latents), flat(trajectory.outputs)
    spans = LongSteps.of(scheduler, hold=hold)
    check_linear_steps(scheduler, spans, x, y, rounding=torch.finfo(trajectory.latents.dtype).eps)
    ago = torch.arange(len(y))[None, :] - torch.arange(len(y))[:, None]  # of u, seen from s
    inverse = torch.where(ago > 0, 1 / ago.clamp(min=1), 0.0)
    return Ladder(x, y, spans.carry, spans.gain, inverse[:, :, None] * spans.slope[None], trajectory.timesteps)


def check_linear_steps(scheduler: Any, spans: LongSteps, x: Tensor, y: Tensor, *, rounding: float) -> None:
    """Raises ValueError if a step of the trajectory is another one than its scheduler's `spans` give, but for rounding."""
    limit = max(ONE_STEP_ERROR, 4 * rounding)
    for k in range(len(y)):
        error = (spans.carry[k, k + 1] * x[k] + spans.gain[k, k + 1] * y[k] - x[k + 1]).norm() / x[k + 1].norm()
        if not error < limit:
            raise ValueError(
                f"step {k} of {type(scheduler).__name__} is not made of the last prediction alone (misses by {error:.1e}): "
                f"{SEARCHED}"
            )


def free(trajectory: Trajectory, scheduler: Any) -> Ladder:
    """The Ladder of DPM-Solver++ 2M (arXiv 2211.01095, Algorithm 2) between any of the levels of a trajectory.

    scheduler: the one with the trajectory's noise levels. UniPC's predictor is the same update. Its corrector is left out,
    because it uses predictions at latents that were not recorded.
    """
    sigma = torch.cat((sigmas_at(scheduler, trajectory.timesteps), torch.zeros(1, dtype=torch.float64)))
    alpha, noise = signal_and_noise(sigma, flow=bool(scheduler.config.get("use_flow_sigmas")))
    x = flat(trajectory.latents)
    read = partial(data_predictions, alpha=alpha, noise=noise, kind=scheduler.config.prediction_type)
    carry = noise[None, :] / noise[:-1, None]
    gain = alpha[None, :] - noise[None, :] * (alpha / noise)[:-1, None]
    lam = (alpha / noise).log()  # half the log of the signal-to-noise ratio; the end may have no noise
    ahead, behind = lam[None, :] - lam[:-1, None], lam[None, :-1] - lam[:-1, None]  # [s, t], [u, s]
    ratio = torch.where(behind[:, :, None] > 0, ahead[None] / (2 * behind[:, :, None]), 0.0)
    bend = torch.where(torch.isfinite(ratio), gain[None] * ratio, 0.0)
    bend[:, :, -1] = 0.0  # the solver's last update is of first order
    y = read(flat(trajectory.outputs), x)
    return Ladder(x, y, carry, gain, bend, trajectory.timesteps, chosen=True, read=read)


def spaced(scheduler: Any, steps: int, options: Mapping[str, Any]) -> tuple[float, ...]:
    """The timesteps of a scheduler of this class for a number of steps, each once, noisiest first."""
    other = type(scheduler).from_config(scheduler.config, **options)
    other.set_timesteps(steps)
    return tuple(sorted({float(t) for t in other.timesteps}, reverse=True))


def levels(scheduler: Any, count: int) -> tuple[float, ...]:
    """The timesteps of `count` steps of linspace and of Karras spacing, together."""
    spacings = (spaced(scheduler, count, SPACINGS[name]) for name in ("linspace", "Karras"))
    return tuple(sorted({t for steps in spacings for t in steps}, reverse=True))


def signal_and_noise(sigma: Tensor, *, flow: bool) -> tuple[Tensor, Tensor]:
    """(α, σ) of x = α·data + σ·noise from a scheduler's `sigmas`."""
    if flow:
        return 1 - sigma, sigma
    alpha = (1 + sigma**2).rsqrt()
    return alpha, sigma * alpha


def data_predictions(outputs: Tensor, x: Tensor, alpha: Tensor, noise: Tensor, *, kind: str) -> Tensor:
    """Predictions of the data, (G, N), from what the denoiser returns, (G, N), by its prediction type."""
    a, s, x = alpha[:-1, None], noise[:-1, None], x[:-1]
    rules = {
        "epsilon": lambda: (x - s * outputs) / a,
        "sample": lambda: outputs,
        "v_prediction": lambda: a * x - s * outputs,
        "flow_prediction": lambda: x - s * outputs,
    }
    if kind not in rules:
        raise ValueError(f"found prediction type {kind!r}: the search knows {', '.join(rules)}")
    return rules[kind]()


def flat(x: Tensor) -> Tensor:
    """(T, B, ...) as (T, N), float64."""
    return x.double().flatten(1)


def few(ladder: Ladder, elements: int) -> Ladder:
    """The ladder of the first samples, which have this many elements."""
    return replace(ladder, x=ladder.x[:, :elements], y=ladder.y[:, :elements])


def in_latents(ladder: Ladder) -> np.ndarray:
    """Weights (G + 1,) that make errors relative to the latents if these are larger than data."""
    return (1 / ladder.x.pow(2).mean(dim=1).clamp(min=1.0)).numpy()
