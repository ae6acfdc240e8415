"""Teachers of every kind of sampler, against their own steps."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import diffusers
import numpy as np
import pytest
import torch

from secateur.denoiser.blocks import find_blocks
from secateur.pipeline.schedulers import begun
from secateur.pipeline.table import probe
from secateur.pipeline.trajectory import record
from secateur.schedule import baselines
from secateur.searching.teacher import FINE, Teacher, converged_teacher, nearest

STEPS = 6
TWICE = {
    "HeunDiscreteScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "DDIMScheduler": {"clip_sample": False},
    "UniPCMultistepScheduler": {},
}


@pytest.fixture(params=TWICE)
def taught(request, sd):
    before = sd.scheduler
    sd.scheduler = getattr(diffusers, request.param).from_config(before.config, **TWICE[request.param])
    trajectory = record(sd, ["a fox", "blue"], seeds=[1, 2], num_inference_steps=STEPS, guidance_scale=2.0)
    yield sd, trajectory, Teacher.of(trajectory, sd.scheduler)
    sd.scheduler = before


def test_a_level_is_where_a_sampler_has_arrived(taught):
    pipe, trajectory, teacher = taught
    times, path = trajectory.timesteps, teacher.trajectory
    assert list(teacher.timesteps) == sorted(set(times), reverse=True)
    assert torch.equal(path.latents[0], trajectory.latents[0])
    assert torch.equal(path.latents[-1], trajectory.latents[-1])
    for k, time in enumerate(teacher.timesteps):
        last = max(t for t, other in enumerate(times) if other == time)
        assert torch.equal(path.outputs[k], trajectory.outputs[last])
        assert k == 0 or torch.equal(path.latents[k], trajectory.latents[last])
    own = probe(begun(pipe.scheduler, STEPS))
    assert teacher.table.init_noise_sigma == own.init_noise_sigma
    assert teacher.table.scales[-1] == own.scales[-1]
    assert dict(zip(own.timesteps, own.noise, strict=True)) == dict(zip(teacher.timesteps, teacher.table.noise, strict=True))


def test_calls_are_placed_at_levels_of_their_own(taught):
    pipe, trajectory, teacher = taught
    blocks = find_blocks(pipe.unet)
    times = teacher.timesteps
    close = (times[0] + 3, times[1] + 2, times[1] - 1)
    found = teacher.placed(replace(baselines.dense(blocks, 3), timesteps=close), close)
    assert found.timesteps in ((times[0], times[1], times[2]),)
    held = baselines.chosen(blocks, len(trajectory.timesteps), run=[0, 2])
    assert teacher.placed(held, trajectory.timesteps).timesteps == (times[0], trajectory.timesteps[2])


def test_a_converged_teacher_has_many_levels_and_the_same_noise(sd):
    trajectory = record(sd, ["a fox"], seeds=[1], num_inference_steps=2, guidance_scale=2.0)
    own = sd.scheduler
    teacher = converged_teacher(sd, trajectory, batch_size=1)
    assert sd.scheduler is own
    assert len(teacher.timesteps) == FINE
    assert teacher.timesteps[0] == 999
    torch.testing.assert_close(teacher.trajectory.latents[0], trajectory.latents[0])


def test_the_assignment_of_calls_to_levels_is_the_best_of_all_of_them():
    wanted, grid = np.array([900.0, 520.0, 510.0, 20.0]), np.array([800.0, 600.0, 515.0, 400.0, 100.0, 50.0])
    best = min(combinations(range(6), 4), key=lambda places: float(((wanted - grid[list(places)]) ** 2).sum()))
    assert nearest(wanted, grid) == [place + 1 for place in best]
