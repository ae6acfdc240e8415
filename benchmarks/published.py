"""Published samplers of few calls as tables, to compare with: stock solvers, iPNDM, Align Your Steps and GITS.

GITS reads a recorded trajectory, the others need nothing but a pipe's scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from secateur.denoiser.blocks import Blocks
from secateur.pipeline.schedulers import DPM, LINSPACE, SOLVERS, UNIPC, scheduler_like, steps_within
from secateur.pipeline.solvers import sigmas_at
from secateur.pipeline.table import Table, probe
from secateur.pipeline.trajectory import Trajectory
from secateur.schedule.baselines import closed
from secateur.schedule.fold import with_table
from secateur.schedule.schedule import Schedule

DEIS, LMS = "DEISMultistepScheduler", "LMSDiscreteScheduler"
EVERY_SOLVER = SOLVERS | {  # with those that are seldom the best
    "DEIS": (DEIS, LINSPACE),  # arXiv 2204.13902
    "DEIS Karras": (DEIS, LINSPACE | {"use_karras_sigmas": True}),
    "DPM-Solver++ 3M": (DPM, LINSPACE | {"solver_order": 3}),  # arXiv 2211.01095
    "DPM-Solver++ 3M Karras": (DPM, LINSPACE | {"solver_order": 3, "use_karras_sigmas": True}),
    "DPM-Solver++ exponential": (DPM, LINSPACE | {"use_exponential_sigmas": True}),  # evenly in log σ, as k-diffusion has it
    "DPM-Solver++ beta": (DPM, LINSPACE | {"use_beta_sigmas": True}),  # arXiv 2407.12173
    "UniPC exponential": (UNIPC, LINSPACE | {"use_exponential_sigmas": True}),
    "UniPC beta": (UNIPC, LINSPACE | {"use_beta_sigmas": True}),
    "LMS": (LMS, LINSPACE),  # Adams–Bashforth for uneven steps in σ, as k-diffusion has it
    "LMS Karras": (LMS, LINSPACE | {"use_karras_sigmas": True}),
    "Euler": ("EulerDiscreteScheduler", LINSPACE),  # arXiv 2206.00364, as is Heun
    "Heun": ("HeunDiscreteScheduler", LINSPACE),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),  # arXiv 2202.09778
}
DPM2 = SOLVERS["DPM-Solver++"]
EULER, KARRAS = ((DPM, LINSPACE | {"solver_order": 1, "use_karras_sigmas": even}) for even in (False, True))  # these are DDIM
COEFFICIENTS = (1.0, 1.05, 1.1, 1.15, 1.2, 1.25)  # of GITS, whose authors take 1.15 and, for Stable Diffusion, 1.2
WEIGHTS = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))  # Adams–Bashforth's


def stepped(scheduler: Any, solver: tuple[str, Mapping[str, Any]], *, order: int = 0, **timesteps: Any) -> Table:
    """The Table of a solver, class and options, configured like a pipe's scheduler, at these arguments of `set_timesteps`.

    order: of iPNDM's sums of its predictions; 0 for none.
    """
    fresh = scheduler_like(scheduler, *solver)
    fresh.set_timesteps(**timesteps)
    return ipndm(probe(fresh), order=order) if order else probe(fresh)


def stock(solver: tuple[str, Mapping[str, Any]], scheduler: Any, calls: int, *, order: int = 0) -> Table:
    """The Table of as many steps of a solver as make at most this many calls."""
    steps = steps_within(scheduler_like(scheduler, *solver), calls)
    return stepped(scheduler, solver, order=order, num_inference_steps=steps)


def ipndm(table: Table, *, order: int = 4) -> Table:
    """iPNDM (arXiv 2202.09778, 2204.13902): Adams–Bashforth's weights for even steps, of as many predictions as there are yet.

    table: of a sampler of first order whose denoiser predicts noise. diffusers' IPNDMScheduler has noise levels and timesteps
    of its own, which fit no pipe that was trained with betas.
    """
    taken = np.zeros((len(table), len(table)))
    for j in range(len(table)):
        weights = WEIGHTS[min(j, order - 1)]
        taken[j, j - len(weights) + 1 : j + 1] = weights[::-1]
    return table.holding(taken, range(len(table)))


def align_your_steps(scheduler: Any, calls: int) -> tuple[float, ...]:
    """The timesteps of Align Your Steps (arXiv 2404.14507) for SD-1.5.

    Other numbers than ten are read off the logarithm of σ between the ten and the end, as its authors do.
    """
    from diffusers.schedulers import AysSchedules

    ten, every = AysSchedules["StableDiffusionTimesteps"], range(scheduler.config.num_train_timesteps)
    levels = sigmas_at(scheduler, every).log().numpy()
    wanted = np.interp(np.linspace(0, len(ten), calls + 1)[:-1], range(len(ten) + 1), levels[[*ten, 0]])
    return tuple(np.interp(wanted, levels, every).round().tolist())


SAMPLERS: dict[str, Callable[[Any, int], Table]] = {  # of a pipe's scheduler, and a number of calls
    **{name: partial(stock, solver) for name, solver in EVERY_SOLVER.items() if name not in SOLVERS},
    "iPNDM": partial(stock, SOLVERS["DDIM"], order=4),
    "iPNDM, order 2": partial(stock, SOLVERS["DDIM"], order=2),
    "iPNDM, order 2, Karras": partial(stock, KARRAS, order=2),
    "iPNDM, order 3, Karras": partial(stock, KARRAS, order=3),
    "Align Your Steps": lambda scheduler, calls: stepped(scheduler, DPM2, timesteps=align_your_steps(scheduler, calls)),
}


def gits_settings(trajectory: Trajectory, scheduler: Any, calls: int) -> Iterator[tuple[str, Table]]:
    """Names and tables of GITS by every coefficient, with DPM-Solver++ 2M and with iPNDM of order 2."""
    for coefficient in COEFFICIENTS:
        times = gits(trajectory, scheduler, calls, coefficient=coefficient)
        yield f"DPM-Solver++, {coefficient:g}", stepped(scheduler, DPM2, timesteps=times)
        yield f"iPNDM, {coefficient:g}", stepped(scheduler, EULER, order=2, timesteps=times)


def gits(trajectory: Trajectory, scheduler: Any, calls: int, *, coefficient: float = 1.15) -> tuple[float, ...]:
    """The timesteps by GITS (arXiv 2405.11326), chosen among those of a recorded trajectory.

    They have the cheapest way from noise to the end, if a call's cost is how far Euler's step from the trajectory deviates from
    it. coefficient: what each cost weighs more than the one before it.
    """
    levels = cheapest(deviations(trajectory, scheduler), calls=calls, coefficient=coefficient)
    return tuple(trajectory.timesteps[k] for k in levels)


def deviations(trajectory: Trajectory, scheduler: Any) -> np.ndarray:
    """The distance between Euler's step in σ from level i and the trajectory at level j, mean over samples, (T, T + 1)."""
    sigma = torch.cat((sigmas_at(scheduler, trajectory.timesteps), torch.zeros(1, dtype=torch.float64)))[:, None, None]
    x = trajectory.latents.double().flatten(2) * (1 + sigma**2).sqrt()  # as data plus σ times noise
    starts = zip(x, sigma, trajectory.outputs.double().flatten(2), strict=False)
    return torch.stack([(start + (sigma - at) * y - x).norm(dim=-1).mean(-1) for start, at, y in starts]).numpy()


def cheapest(costs: np.ndarray, *, calls: int, coefficient: float) -> list[int]:
    """The levels of calls, 0 first, whose costs c₁ + γ·(c₂ + γ·(c₃ + …)) are least; exact.

    costs: (T, T + 1), of the step from each level to each later one. Raises ValueError if there are fewer levels than calls.
    """
    if calls > len(costs):
        raise ValueError(f"found {len(costs)} levels for {calls} calls: record more steps, or make fewer calls")
    onward = np.where(np.tri(*costs.shape, dtype=bool), np.inf, costs)
    left, choices = onward[:, -1], list[np.ndarray]()  # the least cost from each level on; where the next call then is
    for _ in range(calls - 1):
        ways = onward[:, :-1] + coefficient * left
        left = ways.min(axis=1)
        choices.append(ways.argmin(axis=1))
    levels = [0]
    for choice in reversed(choices):
        levels.append(int(choice[levels[-1]]))
    return levels


def as_schedule(blocks: Blocks, table: Table) -> Schedule:
    """The Schedule of whole calls that follows a table, in latents that no pipe has to scale."""
    return with_table(closed(blocks, [None] * len(table), made={}), table.unscaled())
