"""Table: a deterministic sampler as one lower-triangular matrix, read off any diffusers scheduler by `probe`.

DDIM, Euler, flow matching, DPM-Solver++, UniPC, DEIS, PNDM, LMS and Heun all add up the noise they began with and the
predictions made so far, with coefficients that do not depend on either. So a scheduler's own steps, taken with coordinates
for tensors, leave those coefficients.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

LINEAR = 1e-4  # relative; schedulers work in float32, and what clips or draws noise is off by far more
ROUNDING = 1e-6  # of the largest coefficient of a step: what is less is rounding

PER_CALL = ("timesteps", "scales", "signal", "noise")
Step = tuple[float, ...]  # (a, w₀, w₁, …): the latents after a call are a·x + w₀·y₀ + w₁·y₁ + …, the newest prediction first


@dataclass(frozen=True, eq=False)
class Table:
    """A sampler of T calls: what the latents after each call are made of.

    matrix: (T, T + 1) float64. Row j gives the latents after call j: matrix[j, 0] of the initial latents, and matrix[j, 1 + i]
    of the prediction of call i ≤ j. timesteps: (T,), of the calls. scales: (T,), what latents are multiplied by before each
    call. signal, noise: (T,), how latents at each call are made of data and unit noise; empty if the scheduler cannot say.
    init_noise_sigma: the standard deviation of the initial latents.
    """

    matrix: np.ndarray
    timesteps: tuple[float, ...]
    scales: tuple[float, ...]
    signal: tuple[float, ...]
    noise: tuple[float, ...]
    init_noise_sigma: float = 1.0

    def __post_init__(self) -> None:
        calls = len(self.timesteps)
        if self.matrix.shape != (calls, calls + 1):
            raise ValueError(f"a table of {calls} calls is a matrix of {calls} × {calls + 1}, found {self.matrix.shape}")
        if np.triu(self.matrix, 2).any():
            raise ValueError("the latents after a call use predictions of later calls: give a lower-triangular matrix")
        for name in PER_CALL[1:]:
            count = len(getattr(self, name))
            if count != calls and (count or name == "scales"):
                raise ValueError(f"found {count} values of {name} for {calls} calls: give one for each call")
        self.matrix.setflags(write=False)

    def __len__(self) -> int:
        return len(self.timesteps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.numbers() == other.numbers()

    def numbers(self) -> dict[str, Any]:
        """The table as plain numbers: what a LinearMultistepScheduler is configured with, and what a schedule's file holds."""
        return {
            "timesteps": self.timesteps,
            "rows": self.steps,
            "input_scales": self.scales,
            "signal_rates": self.signal,
            "noise_rates": self.noise,
            "init_noise_sigma": self.init_noise_sigma,
        }

    @staticmethod
    def of(numbers: Mapping[str, Any]) -> Table:
        """The table of such numbers."""
        return Table(
            matrix=matrix_of(numbers["rows"]),
            timesteps=tuple(numbers["timesteps"]),
            scales=tuple(numbers["input_scales"]),
            signal=tuple(numbers["signal_rates"]),
            noise=tuple(numbers["noise_rates"]),
            init_noise_sigma=numbers["init_noise_sigma"],
        )

    def holding(self, taken: np.ndarray, run: Sequence[int]) -> Table:
        """The table of the calls that run, (K,), where each call's step takes a sum of predictions instead of its own.

        taken: (T, T), a row of weights for each call; those of calls that do not run are zero. The latents are the same.
        """
        matrix = np.hstack([self.matrix[:, :1], self.matrix[:, 1:] @ taken[:, run]])
        ends = [*(t - 1 for t in run[1:]), len(self) - 1]
        return replace(self.at(run), matrix=matrix[ends])

    def at(self, calls: Sequence[int], steps: Sequence[Step] = ()) -> Table:
        """The table of some of the calls, (K,), with these steps; without any, each of the K steps does nothing."""
        parts = {name: tuple(values[t] for t in calls) for name in PER_CALL if (values := getattr(self, name))}
        return replace(self, matrix=matrix_of(steps or [(1.0, 0.0)] * len(calls)), **parts)

    def unscaled(self) -> Table:
        """The same sampler of latents as the denoiser gets them, for pipes that do not scale their noise, as DiTPipeline."""
        scales = np.array(self.scales)
        matrix = self.matrix * np.append(scales[1:], 1.0)[:, None]
        matrix[:, 0] /= scales[0]
        rates = {name: tuple(scales * values) for name in ("signal", "noise") if (values := getattr(self, name))}
        more = {"init_noise_sigma": self.init_noise_sigma * scales[0], "scales": (1.0,) * len(self)}
        return replace(self, matrix=matrix, **rates, **more)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The same sampler call by call, (T,): each Step leads from the latents before a call to those after it."""
        before = np.vstack([np.eye(1, len(self) + 1), self.matrix[:-1]])
        carry = np.divide(self.matrix[:, 0], before[:, 0], out=np.zeros(len(self)), where=before[:, 0] != 0)
        weights = self.matrix - carry[:, None] * before
        return tuple(step_of(a, w[1 : j + 2]) for j, (a, w) in enumerate(zip(carry, weights, strict=True)))


def step_of(carry: float, weights: np.ndarray) -> Step:
    """The Step of a row of weights, (j + 1,), without those of old predictions that are rounding alone."""
    least = ROUNDING * max(abs(carry), *np.abs(weights))
    kept = [float(w) if abs(w) > least else 0.0 for w in weights[::-1]]
    while len(kept) > 1 and kept[-1] == 0.0:
        kept.pop()
    return (float(carry), *kept)


def matrix_of(steps: Sequence[Step]) -> np.ndarray:
    """The matrix (T, T + 1) of a sampler that is given call by call; a missing old prediction is that of the first call."""
    matrix = np.zeros((len(steps), len(steps) + 1))
    before = np.eye(1, len(steps) + 1)[0]
    for j, (carry, *weights) in enumerate(steps):
        matrix[j] = carry * before
        np.add.at(matrix[j], [1 + max(j - k, 0) for k in range(len(weights))], weights)
        before = matrix[j]
    return matrix


def probe(scheduler: Any) -> Table:
    """The Table of a diffusers scheduler whose timesteps are set. The scheduler is not changed.

    Raises ValueError, with its name and the reason, if its steps are no fixed sum of the predictions.
    """
    name, calls = type(scheduler).__name__, len(scheduler.timesteps)
    units = torch.eye(calls + 1, dtype=torch.float64)[:, None, :, None, None]  # coordinates as channels
    try:
        states = rolled(scheduler, units[0], lambda j: units[1 + j])
    except Exception as error:  # whatever a scheduler does with tensors of another shape than it expects
        raise ValueError(f"{name} takes no step from latents and a prediction alone: {error}") from error
    matrix = states.double().flatten(1)
    check_linear(scheduler, matrix)
    return Table(
        matrix=np.tril(matrix.numpy(), 1),
        timesteps=tuple(scheduler.timesteps.tolist()),
        scales=input_scales(scheduler),
        **dict(zip(("signal", "noise"), levels_of(scheduler), strict=True)),
        init_noise_sigma=float(getattr(scheduler, "init_noise_sigma", 1.0)),
    )


def rolled(scheduler: Any, x: Tensor, prediction: Callable[[int], Tensor], *, seed: int = 0) -> Tensor:
    """The latents after every call of a scheduler, (T, ...), from latents x and the prediction of each call."""
    scheduler, states = copy.deepcopy(scheduler), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for j, t in enumerate(scheduler.timesteps):
            scaled(scheduler, x, t)  # some schedulers find their place here
            x = scheduler.step(prediction(j), t, x, return_dict=False)[0]
            states.append(x)
    return torch.stack(states)


def check_linear(scheduler: Any, matrix: Tensor) -> None:
    """Raises ValueError if a scheduler's latents are others than a matrix (T, T + 1) gives."""
    name, seeded = type(scheduler).__name__, torch.Generator().manual_seed(0)
    values = torch.randn(len(matrix) + 1, 2, 4, 8, 8, dtype=torch.float64, generator=seeded)
    first, again = (rolled(scheduler, values[0], lambda j: values[1 + j], seed=seed).double() for seed in (0, 1))
    if not torch.equal(first, again):
        raise ValueError(f"{name} draws new noise at its steps: use a scheduler that draws none")
    if not (torch.tensordot(matrix, values, dims=1) - first).norm() < LINEAR * first.norm():
        raise ValueError(f"{name} is no fixed sum of its predictions, it clips or thresholds them: switch that off")


def scaled(scheduler: Any, x: Tensor, t: Any) -> Tensor:
    """Latents as the denoiser gets them."""
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x


def input_scales(scheduler: Any) -> tuple[float, ...]:
    """What a scheduler multiplies latents by before each call, (T,)."""
    fresh, one = copy.deepcopy(scheduler), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    scales = []
    for t in fresh.timesteps:
        scales.append(float(scaled(fresh, one, t)))
        fresh.step(one, t, one, return_dict=False)
    return tuple(scales)


def levels_of(scheduler: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """How much data and how much noise there is in the latents at each call, (T,) each, by the scheduler's own adding."""
    if not hasattr(scheduler, "scale_noise") and not hasattr(scheduler, "add_noise"):
        return (), ()
    fresh, data, noise = copy.deepcopy(scheduler), *torch.eye(2, dtype=torch.float64)[:, None, :, None, None]
    times = fresh.timesteps[:, None]
    if hasattr(fresh, "scale_noise"):
        mixed = [fresh.scale_noise(data, t, noise) for t in times]
    else:
        mixed = [fresh.add_noise(data, noise, t) for t in times]
    signal, noises = torch.stack(mixed).double().flatten(1).T.tolist()
    return tuple(signal), tuple(noises)
