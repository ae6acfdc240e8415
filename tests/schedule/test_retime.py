"""Schedules carried over to other numbers of calls and other schedulers."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import diffusers
import numpy as np
import pytest

from secateur import zoo
from secateur.denoiser.blocks import find_blocks
from secateur.measuring import quality
from secateur.pipeline.generate import generate
from secateur.schedule import baselines
from secateur.schedule.apply import apply
from secateur.schedule.retime import nearest, retime, timesteps_of
from tiny import tiny
from tiny_pipes import ddim

T, RUN = 20, [0, 1, 4, 9, 10, 17]
OFFSET = {"steps_offset": 1}


def schedule_of(**changes):
    return replace(baselines.chosen(find_blocks(tiny("sd15")), T, run=RUN), **changes)


def test_the_same_grid_changes_nothing():
    schedule = schedule_of(hold="extrapolate").bound_to(ddim())
    again = retime(schedule, ddim(), ddim(), calls=T)
    assert (again.grid, again.hold, again.scheduler_hash) == (schedule.grid, "extrapolate", schedule.scheduler_hash)


@pytest.mark.parametrize("calls", [6, 10, 33, 50])
def test_calls_stay_near_in_noise_and_in_order(calls):
    found = retime(schedule_of(), ddim(), ddim(), calls=calls)
    running = [t for t in range(calls) if not found.held(t)]
    assert found.calls == calls
    assert len(running) == len(RUN)
    assert running[0] == 0
    old, new = timesteps_of(ddim(), T), timesteps_of(ddim(), calls)
    if calls > T:
        assert np.abs(old[RUN] - new[running])[1:].max() <= 1000 / calls
    assert list(new[running]) == sorted(new[running], reverse=True)


def test_the_assignment_is_the_best_of_all_of_them():
    wanted, grid = np.array([900.0, 520.0, 510.0, 20.0]), np.array([800.0, 600.0, 515.0, 400.0, 100.0, 50.0])
    found = nearest(wanted, grid)
    best = min(combinations(range(6), 4), key=lambda places: float(((wanted - grid[list(places)]) ** 2).sum()))
    assert found == [place + 1 for place in best]


def test_rows_that_run_in_part_go_along():
    blocks = find_blocks(tiny("sd15"))
    cached = baselines.deepcache(blocks, T, interval=4)
    found = retime(cached, ddim(), diffusers.EulerDiscreteScheduler(**OFFSET, timestep_spacing="leading"), calls=30)
    assert tuple(row for row in found.grid if "#" in row) == cached.grid
    assert found.scheduler == "EulerDiscreteScheduler"


def test_it_is_worth_something_on_a_trained_pipeline():
    """Found at 50 calls, used at 40: nearer to the 40-call images than calls evenly held."""
    pipe = zoo.load("emoji-sd")
    asked = {"seeds": [1, 2], "num_inference_steps": 40, "guidance_scale": 5.0}
    conditions, _ = zoo.conditions("emoji-sd", 2)
    found = baselines.chosen(find_blocks(pipe.unet), 50, run=[0, 2, 4, 8, 11, 14, 19, 27, 37, 46])
    moved = retime(replace(found, hold="extrapolate"), pipe.scheduler, pipe.scheduler, calls=40)
    dense = generate(pipe, conditions, **asked)

    def psnr(schedule) -> float:
        with apply(pipe, schedule):
            return float(quality.psnr(generate(pipe, conditions, **asked), dense).mean())

    assert psnr(moved) > psnr(baselines.uniform(find_blocks(pipe.unet), 40, every=4)) + 1


@pytest.mark.parametrize(
    ("change", "new", "calls", "says"),
    [
        ({}, ddim, 5, "6 calls of the schedule run and there are 5"),
        ({"timesteps": tuple(range(T, 0, -1))}, ddim, 30, "chooses its 20 timesteps"),
        ({}, lambda: diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2"), 30, "add noise differently"),
        ({}, lambda: diffusers.FlowMatchEulerDiscreteScheduler(), 30, "add noise differently"),
        ({}, lambda: diffusers.DPMSolverMultistepScheduler(**OFFSET), 30, "of 2 predictions"),
        ({}, lambda: diffusers.LMSDiscreteScheduler(**OFFSET, beta_start=1e-4, beta_end=0.02), 30, "of 4 predictions"),
        ({"scheduler_hash": "0" * 16}, ddim, 30, "for 0000000000000000 and this is DDIMScheduler"),
        ({}, lambda: diffusers.PNDMScheduler(**OFFSET, skip_prk_steps=True), 30, "of 4 predictions"),
        (
            {},
            lambda: diffusers.EulerAncestralDiscreteScheduler(**OFFSET, beta_start=1e-4, beta_end=0.02),
            30,
            "draws new noise",
        ),
        (
            {},
            lambda: diffusers.HeunDiscreteScheduler(**OFFSET, beta_start=1e-4, beta_end=0.02),
            30,
            "makes 59 calls in 30 steps",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(change, new, calls, says):
    with pytest.raises(ValueError, match=says):
        retime(schedule_of(**change), ddim(), new(), calls=calls)


def test_dynamic_shifting_moves_every_level_alike():
    def flux():
        return diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)

    found = retime(schedule_of(), flux(), flux(), calls=2 * T)
    rows = [t for t in range(T) if not schedule_of().held(t)]
    kept = [t for t in range(2 * T) if not found.held(t)]
    assert [found.grid[t] for t in kept] == [schedule_of().grid[t] for t in rows]
    assert all(abs(new / (2 * T - 1) - old / (T - 1)) < 1 / T for new, old in zip(kept, rows, strict=True))
