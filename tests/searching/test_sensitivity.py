"""An error put into a trajectory shows in the images as a run by hand says."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.of_pipe import denoiser_of
from secateur.pipeline import trajectory as trajectories
from secateur.pipeline.trajectory import record
from secateur.searching import ladder as ladders
from secateur.searching import sensitivity

CALLS = 6


@pytest.fixture(params=["sd", "sd free", "dit"])
def told(request):
    pipe = request.getfixturevalue(request.param.split()[0])
    before = pipe.scheduler
    pipe.scheduler = type(before).from_config(before.config, clip_sample=False)
    if "free" in request.param:
        pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(before.config, timestep_spacing="linspace")
    asked = ["a fox", "blue", "on"] if "sd" in request.param else [1, 2, 3]
    yield pipe, record(pipe, asked, seeds=[1, 2, 3], num_inference_steps=CALLS, guidance_scale=3.0)
    pipe.scheduler = before


def test_no_error_changes_nothing_and_an_error_at_the_end_is_decoded(told):
    pipe, trajectory = told
    blocks, nothing = find_blocks(denoiser_of(pipe)), torch.zeros_like(trajectory.latents[0])
    for k in (1, 3, CALLS):
        same = sensitivity.rerun(pipe, trajectory, k, nothing, blocks=blocks, batch_size=2)
        np.testing.assert_allclose(same, trajectory.images, atol=1e-4)
    shift = torch.randn(nothing.shape, generator=torch.Generator().manual_seed(0))
    found = sensitivity.rerun(pipe, trajectory, CALLS, shift, blocks=blocks, batch_size=2)
    with torch.no_grad():
        moved = (trajectory.latents[-1] + shift) / pipe.vae.config.scaling_factor
        wanted = (pipe.vae.decode(moved).sample / 2 + 0.5).clamp(0, 1)
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1).numpy(), atol=1e-4)


def test_weights_say_how_much_the_images_move(told):
    pipe, trajectory = told
    free = isinstance(pipe.scheduler, diffusers.DPMSolverMultistepScheduler)
    ladder = ladders.free(trajectory, pipe.scheduler) if free else ladders.held(trajectory, pipe.scheduler)
    blocks = find_blocks(denoiser_of(pipe))
    weights = sensitivity.sensitivity(pipe, trajectory, ladder, blocks=blocks, gap=2, samples=2)
    assert weights.shape == (CALLS + 1,)
    assert (weights > 0).all()
    one = sensitivity.probe(pipe, trajectories.first(trajectory, 2), ladder, 4, blocks=blocks, gap=2, batch_size=8)
    assert weights[4] == pytest.approx(one, rel=1e-3)
    assert weights[1] == weights[2]  # the first update misses by rounding alone, and says nothing
    assert 0.01 < weights[2] / weights[3] < 100
