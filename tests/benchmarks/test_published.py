"""Published samplers of few calls, beside loops written out, brute force and their authors' numbers."""

from __future__ import annotations

from itertools import combinations, pairwise

import diffusers
import numpy as np
import pytest
import torch

from published import (
    EVERY_SOLVER,
    SAMPLERS,
    align_your_steps,
    as_schedule,
    cheapest,
    deviations,
    gits,
    gits_settings,
    ipndm,
)
from secateur.denoiser.blocks import find_blocks
from secateur.pipeline.schedulers import begun, scheduler_like
from secateur.pipeline.solvers import sigmas_at
from secateur.pipeline.table import probe
from secateur.pipeline.trajectory import record
from secateur.schedule.apply import apply
from tiny_pipes import draw, noise, stable_diffusion

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # DEIS of diffusers calls numpy on tensors


def sd15() -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(**LATENT, set_alpha_to_one=False, steps_offset=1)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_is_its_loop_written_out(order):
    """x / α moves along σ by the weighted noise; the weights are in arXiv 2202.09778, Eq. 9, and below it for fewer."""
    scheduler = begun(sd15(), 6)
    predictions, x = noise(1, 6, 1, 2, 4, 4).double(), noise(0, 1, 2, 4, 4).double()
    made = torch.tensordot(
        torch.from_numpy(ipndm(probe(scheduler), order=order).matrix.copy()), torch.stack([x, *predictions]), dims=1
    )
    alphas = scheduler.alphas_cumprod.double()
    levels = [*(alphas[t] for t in scheduler.timesteps), scheduler.final_alpha_cumprod.double()]
    for j, (now, after) in enumerate(pairwise(levels)):
        e = [predictions[k] for k in range(j, -1, -1)]
        known = min(j + 1, order)
        if known == 1:
            noisy = e[0]
        elif known == 2:
            noisy = (3 * e[0] - e[1]) / 2
        elif known == 3:
            noisy = (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
        else:
            noisy = (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24
        x = after.sqrt() * (x - (1 - now).sqrt() * noisy) / now.sqrt() + (1 - after).sqrt() * noisy
        torch.testing.assert_close(made[j], x, rtol=1e-5, atol=1e-5)


def test_align_your_steps_has_its_ten_timesteps_and_goes_between_them_by_log_sigma():
    assert align_your_steps(sd15(), 10) == (999, 850, 736, 645, 545, 455, 343, 233, 124, 24)
    assert align_your_steps(sd15(), 5) == (999, 736, 545, 343, 124)
    twenty = align_your_steps(sd15(), 20)
    assert twenty[::2] == align_your_steps(sd15(), 10)
    sigmas = sigmas_at(sd15(), (*twenty, 0.0)).numpy()
    np.testing.assert_allclose(sigmas[1::2], np.sqrt(sigmas[:-1:2] * sigmas[2::2]), rtol=0.02)  # timesteps are whole


@pytest.mark.parametrize("coefficient", [0.7, 1.0, 1.5])
def test_the_cheapest_levels_are_those_of_brute_force(coefficient):
    def cost(levels):
        return sum(coefficient**k * costs[step] for k, step in enumerate(pairwise((*levels, 6))))

    for seed in range(30):
        costs, calls = np.random.default_rng(seed).random((6, 7)), 1 + seed % 6
        every = [(0, *rest) for rest in combinations(range(1, 6), calls - 1)]
        assert tuple(cheapest(costs, calls=calls, coefficient=coefficient)) == min(every, key=cost)
    with pytest.raises(ValueError, match="found 6 levels for 7 calls"):
        cheapest(costs, calls=7, coefficient=coefficient)


@pytest.fixture
def recorded(sd):
    """A tiny pipe and a trajectory of two of its samples."""
    before, sd.scheduler = sd.scheduler, sd15()
    yield sd, record(sd, ["a fox", "blue"], seeds=range(2), num_inference_steps=8, guidance_scale=2.0)
    sd.scheduler = before


def test_the_deviation_is_that_of_a_step_of_ddim(recorded):
    pipe, seen = recorded
    costs, alphas = deviations(seen, pipe.scheduler), pipe.scheduler.alphas_cumprod.double()
    i, j = 2, 6
    now, after = (alphas[int(seen.timesteps[k])] for k in (i, j))
    x, y, goal = seen.latents[i].double(), seen.outputs[i].double(), seen.latents[j].double()
    stepped = after.sqrt() * (x - (1 - now).sqrt() * y) / now.sqrt() + (1 - after).sqrt() * y
    assert costs[i, j] == pytest.approx(float(((stepped - goal) / after.sqrt()).flatten(1).norm(dim=1).mean()), rel=1e-5)
    assert costs[3, 4] < 1e-5 * costs[i, j]  # the trajectory's own steps


def test_gits_takes_every_step_if_there_are_as_many_calls(recorded):
    pipe, seen = recorded
    assert gits(seen, pipe.scheduler, 8) == seen.timesteps
    few = gits(seen, pipe.scheduler, 3)
    assert few[0] == seen.timesteps[0]
    assert set(few) < set(seen.timesteps)
    assert all(table.timesteps == few for name, table in gits_settings(seen, pipe.scheduler, 3) if name.endswith("1.15"))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_published_sampler_makes_at_most_so_many_calls(name):
    for calls in (5, 10):
        table = SAMPLERS[name](sd15(), calls)
        assert calls - 1 <= len(table) <= calls
        assert np.isfinite(table.matrix).all()


@pytest.mark.parametrize("name", [name for name in EVERY_SOLVER if name in SAMPLERS])
def test_law_10_a_stock_solver_as_a_schedule_draws_its_images(name):
    pipe, call = stable_diffusion(scheduler=sd15())
    table = SAMPLERS[name](pipe.scheduler, 7)
    schedule = as_schedule(find_blocks(pipe.unet), table)
    with apply(pipe, schedule):
        found = draw(pipe, call | {"num_inference_steps": len(table)})
    pipe.scheduler = scheduler_like(pipe.scheduler, *EVERY_SOLVER[name])
    steps = next(n for n in range(7, 0, -1) if len(begun(pipe.scheduler, n).timesteps) == len(table))
    wanted = draw(pipe, call | {"num_inference_steps": steps})
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
