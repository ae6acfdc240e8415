"""A schedule's sampler for other programs: a scheduler of diffusers, a table of numbers, or a list of sigmas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.pipeline.schedulers import DPM, PLAIN, scheduler_like
from secateur.pipeline.solvers import SHIFTED, place_timesteps
from secateur.pipeline.table import Table, probe
from secateur.schedule.fold import sampler_for

if TYPE_CHECKING:
    from secateur.pipeline.multistep import LinearMultistepScheduler
    from secateur.schedule.schedule import Schedule

SAME = 1e-3  # of the largest coefficient: how near a table is to a stock solver's; others are off by far more
EULER = "EulerDiscreteScheduler"
ENDS = tuple({"final_sigmas_type": end} for end in ("zero", "sigma_min"))
EVEN = {f"use_{spacing}_sigmas": False for spacing in ("karras", "exponential", "beta")}  # else no timesteps can be chosen
STOCK = [  # ComfyUI's names; class and options of diffusers
    *(("euler", EULER, EVEN | end) for end in ENDS),
    *(("dpmpp_2m", DPM, PLAIN[DPM] | end) for end in ENDS),
]


def sampler_numbers(sampler: LinearMultistepScheduler) -> dict[str, Any]:
    """A sampler as plain numbers: timesteps, rows, input_scales, signal_rates, noise_rates, init_noise_sigma.

    With x drawn from N(0, init_noise_sigma²), call the denoiser at input_scales[j] · x and timesteps[j] for y_j. The latents
    after it are rows[j][0] · x + rows[j][1] · y_j + rows[j][2] · y_{j−1} + …, and so on for every j.
    """
    table = Table.of(sampler.config)  # type: ignore[arg-type]
    kind = "flow_prediction" if is_flow(table) else sampler.config.prediction_type  # type: ignore[attr-defined]
    return {"prediction_type": kind, **table.numbers()}


def is_flow(table: Table) -> bool:
    """Whether a table is of flow matching: signal and noise of the denoiser's input add up to 1."""
    same = table.unscaled()
    return bool(same.signal) and bool(np.allclose(np.add(same.signal, same.noise), 1, atol=SAME))


def sigmas_for(schedule: Schedule, scheduler: Any) -> tuple[str, list[float]]:
    """ComfyUI's name of the sampler, and the sigmas at which it makes a schedule's calls, (K + 1,), the last one its end.

    Raises ValueError if the sampler is no stock one: fitted rows and lines through predictions take a table.
    """
    table = Table.of(sampler_for(schedule, scheduler).config)  # type: ignore[arg-type]
    for name, stock in stock_samplers(scheduler, table):
        if is_same(plain(table), plain(probe(stock))):
            return name, [float(sigma) for sigma in stock.sigmas]
    raise ValueError(
        "its sampler is no stock solver at its timesteps' sigmas, since its rows are fitted, follow a line or are of "
        "sigmas between: export it by --to diffusers or --to table"
    )


def stock_samplers(scheduler: Any, table: Table):
    """Stock samplers at the timesteps of a table: ComfyUI's name, and the scheduler of diffusers."""
    kinds = STOCK if "beta_schedule" in scheduler.config else [("euler", SHIFTED, {"use_dynamic_shifting": False})]
    for name, kind, options in kinds:
        stock = scheduler_like(scheduler, kind, options)
        place_timesteps(stock, stock.set_timesteps, table.timesteps, arguments={})
        if [float(t) for t in stock.timesteps] == [float(np.float32(t)) for t in table.timesteps]:
            yield name, stock


def plain(table: Table) -> np.ndarray:
    """The matrix of a table in the coordinates in which the denoiser gets the latents, which all schedulers share."""
    same = table.unscaled()
    return np.hstack([same.init_noise_sigma * same.matrix[:, :1], same.matrix[:, 1:]])


def is_same(matrix: np.ndarray, other: np.ndarray) -> bool:
    """Whether two samplers are one but for rounding and the scale of its end."""
    return bool(np.abs(matrix - other).max() < SAME * np.abs(matrix).max())
