"""Law 10 once more: held calls left out are the same images for one-step solvers, and better ones for multistep solvers."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import pytest
import torch

from secateur import baselines, quality, zoo
from secateur.blocks import find_blocks
from secateur.calibration import generate
from secateur.fold import fold
from secateur.subnet import apply
from tiny_pipes import ddim, draw, stable_diffusion

T, RUN = 10, [0, 1, 4, 7, 8]
LINSPACE = {"steps_offset": 1, "timestep_spacing": "linspace"}


def held(pipe, run=RUN):
    return baselines.chosen(find_blocks(pipe.unet), T, run=run)


def images(pipe, call, schedule, steps: int):
    with apply(pipe, schedule):
        return draw(pipe, call | {"num_inference_steps": steps})


@pytest.mark.parametrize(
    "scheduler",
    [
        ddim,
        lambda: diffusers.DDIMScheduler(steps_offset=1, clip_sample=False, set_alpha_to_one=True),
        lambda: diffusers.EulerDiscreteScheduler(**LINSPACE),
        lambda: diffusers.DPMSolverMultistepScheduler(**LINSPACE, solver_order=1),
    ],
)
def test_law_10_folding_changes_no_image_of_a_one_step_solver(scheduler):
    pipe, call = stable_diffusion(scheduler=scheduler())
    schedule = held(pipe).bound_to(pipe.scheduler)
    wanted = images(pipe, call, schedule, T)
    folded, taking = fold(schedule, pipe.scheduler)
    assert (folded.calls, folded.made["folded_from"]["calls"]) == (len(RUN), T)
    pipe.scheduler = taking
    found = images(pipe, call, folded, len(RUN))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (found - images(pipe, call, replace(folded, timesteps=None), len(RUN))).abs().max() > 1e-2


def test_a_multistep_solver_is_better_off_folded():
    pipe = zoo.load("emoji-sd")
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    asked = {"seeds": [1], "guidance_scale": 5.0}

    def psnr(steps: int) -> float:
        images = generate(pipe, ["a fox on a blue background"], num_inference_steps=steps, **asked)
        return float(quality.psnr(images, converged)[0])

    converged = generate(pipe, ["a fox on a blue background"], num_inference_steps=50, **asked)
    schedule = baselines.chosen(find_blocks(pipe.unet), 2 * T, run=range(0, 2 * T, 2))
    with apply(pipe, schedule):
        kept = psnr(2 * T)
    folded, pipe.scheduler = fold(schedule, pipe.scheduler)
    with apply(pipe, folded):
        assert psnr(len(folded.grid)) > kept + 3, kept


def test_partial_rows_stay_partial():
    pipe, _ = stable_diffusion()
    blocks = find_blocks(pipe.unet)
    cached = baselines.deepcache(blocks, T, interval=2)
    grid = tuple("." * len(blocks) if t in (3, 4) else row for t, row in enumerate(cached.grid))
    folded, _ = fold(replace(cached, grid=grid), ddim())
    assert folded.grid == (*grid[:3], *grid[5:])


@pytest.mark.parametrize(
    ("change", "scheduler", "says"),
    [
        ({"hold": "extrapolate"}, ddim, "the schedule extrapolates"),
        ({"hold": "adams_bashforth"}, ddim, "the schedule extrapolates"),
        ({"timesteps": tuple(range(T, 0, -1))}, ddim, "chooses 10 timesteps already"),
        ({}, lambda: diffusers.UniPCMultistepScheduler(), "UniPCMultistepScheduler takes no timesteps"),
        ({}, lambda: diffusers.DDIMScheduler(), "clip_sample=True"),
        ({}, lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), "shifts the timesteps"),
        ({}, lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "shifts the timesteps"),
        ({}, lambda: diffusers.HeunDiscreteScheduler(), "HeunDiscreteScheduler makes 19 calls in 10 steps"),
    ],
)
def test_what_cannot_be_folded_is_refused(change, scheduler, says):
    pipe, _ = stable_diffusion()
    with pytest.raises(ValueError, match=says):
        fold(replace(held(pipe), **change), scheduler())
