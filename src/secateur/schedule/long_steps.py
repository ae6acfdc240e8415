"""Long steps: any number of a sampler's steps x' = a·x + b·y taken as one, while a prediction is held over them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from secateur.pipeline.solvers import check_linear
from secateur.schedule.holds import LINES, lead

GRID = {"timesteps", "sigmas", "num_inference_steps"}  # what set_timesteps leaves in a scheduler


class LongSteps(NamedTuple):
    """From before call s to before call t:  x[t] = carry[s, t]·x[s] + gain[s, t]·y + slope[s, t]·d, (T, T + 1) each, float64.

    y: the prediction of call s. d: how much the line that the held calls follow grows by each call, 0 if y is repeated.
    """

    carry: Tensor
    gain: Tensor
    slope: Tensor

    @staticmethod
    def of(scheduler: Any, *, hold: str) -> LongSteps:
        """The long steps of a scheduler whose timesteps are set, by one of HOLDS. Raises ValueError if steps are not linear."""
        a, b = linear_steps(scheduler)
        T = len(a)
        carry, gain, slope = torch.zeros(3, T, T + 1, dtype=torch.float64)
        for s in range(T):
            m, p, q, r = 1.0, 0.0, 0.0, 0.0  # r: gain of the held calls alone; q: Σ of what each gains, times how far it is
            for k in range(s, T):
                m, p, q, r = a[k] * m, a[k] * p + b[k], a[k] * q + b[k] * (k - s), a[k] * r + b[k] * (k > s)
                ahead = lead(k - s, k + 1 - s, hold)
                carry[s, k + 1], gain[s, k + 1], slope[s, k + 1] = m, p, (q + ahead * r) * (hold in LINES)
        return LongSteps(carry, gain, slope)


def linear_steps(scheduler: Any) -> tuple[list[float], list[float]]:
    """(a, b) of each step x' = a·x + b·y of a scheduler whose timesteps are set. Raises ValueError as `check_linear` does."""
    check_linear(scheduler)
    probe, a, b = type(scheduler).from_config(scheduler.config), [], []
    for name in GRID & vars(scheduler).keys():  # the same levels, and no memory of a trajectory
        setattr(probe, name, getattr(scheduler, name))
    probe.is_scale_input_called = True  # Euler warns if its input was not scaled, which it does not read
    for t in scheduler.timesteps:
        prediction, sample = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0]])
        out = probe.step(prediction, t, sample, return_dict=False)[0].double()
        a.append(float(out[0, 0]))
        b.append(float(out[1, 0]))
    return a, b
