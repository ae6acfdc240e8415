"""Law 10 once more: held calls left out are the same images for one-step solvers, and better ones for multistep solvers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations

import diffusers
import pytest
import torch

from secateur import zoo
from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.families import dummy_inputs
from secateur.denoiser.macs import count
from secateur.measuring import quality
from secateur.pipeline.generate import generate
from secateur.schedule import baselines
from secateur.schedule.acts import Act, acts
from secateur.schedule.apply import apply, follow
from secateur.schedule.cache import peak_cached_bytes
from secateur.schedule.fold import fold
from secateur.schedule.holds import HOLDS
from secateur.searching.local import local_search
from tiny_pipes import ddim, draw, flux, sd3, stable_diffusion

T, RUN = 10, [0, 1, 4, 7, 8]
LINSPACE = {"steps_offset": 1, "timestep_spacing": "linspace"}


def held(pipe, run=RUN):
    return baselines.chosen(find_blocks(pipe.unet), T, run=run)


def images(pipe, call, schedule, steps: int):
    with apply(pipe, schedule):
        return draw(pipe, call | {"num_inference_steps": steps})


ONE_STEP = [
    ddim,
    lambda: diffusers.DDIMScheduler(steps_offset=1, clip_sample=False, set_alpha_to_one=True),
    lambda: diffusers.DDIMScheduler(steps_offset=1, clip_sample=False, prediction_type="sample"),
    lambda: diffusers.EulerDiscreteScheduler(**LINSPACE),
    lambda: diffusers.DPMSolverMultistepScheduler(**LINSPACE, solver_order=1),
]


@pytest.mark.parametrize("scheduler", ONE_STEP)
def test_law_10_folding_changes_no_image_of_a_one_step_solver(scheduler):
    pipe, call = stable_diffusion(scheduler=scheduler())
    own, drawn = pipe.scheduler, {}
    for hold in HOLDS:
        schedule = replace(held(pipe), hold=hold).bound_to(own)
        drawn[hold] = images(pipe, call, schedule, T)
        folded, pipe.scheduler = fold(schedule, own)
        assert (folded.calls, folded.made["folded_from"]["calls"]) == (len(RUN), T)
        found = images(pipe, call, folded, len(RUN))
        torch.testing.assert_close(found, drawn[hold], rtol=1e-4, atol=1e-4)
        pipe.scheduler = own
    assert all((drawn[one] - drawn[other]).abs().max() > 1e-2 for one, other in combinations(HOLDS, 2))


def test_a_folded_schedule_is_one_of_its_own_timesteps():
    pipe, call = stable_diffusion()
    folded, pipe.scheduler = fold(held(pipe), pipe.scheduler)
    even = images(pipe, call, replace(folded, timesteps=None), len(RUN))
    assert (images(pipe, call, folded, len(RUN)) - even).abs().max() > 1e-2


@pytest.mark.parametrize(("hold", "shift"), [("output", 1.0), ("extrapolate", 3.0), ("adams_bashforth", 3.0)])
def test_law_10_of_flow_matching_however_it_shifts_its_timesteps(hold, shift):
    pipe, call = sd3()
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = baselines.chosen(find_blocks(pipe.transformer), T, run=RUN, hold=hold).bound_to(pipe.scheduler)
    wanted = images(pipe, call, schedule, T)
    folded, pipe.scheduler = fold(schedule, pipe.scheduler)
    torch.testing.assert_close(images(pipe, call, folded, len(RUN)), wanted, rtol=1e-4, atol=1e-4)


def test_a_line_folded_is_the_two_step_adams_bashforth_method():
    """Flow matching of even steps, every second call made: each answers half a call ahead, which is 3/2 new − 1/2 old."""
    schedule = baselines.chosen(find_blocks(stable_diffusion()[0].unet), T, run=range(0, T, 2), hold="adams_bashforth")
    folded, _ = fold(schedule, diffusers.FlowMatchEulerDiscreteScheduler())
    assert folded.ahead[:-1] == pytest.approx((0.0, 0.5, 0.5, 0.5), abs=1e-6)
    assert folded.ahead[-1] < 0.02  # the last of diffusers' steps goes by one timestep of a thousand, so little is made up for


def test_a_call_kept_for_its_line_is_counted_and_dropped():
    pipe, call = stable_diffusion()
    blocks = find_blocks(pipe.unet)
    folded, pipe.scheduler = fold(replace(held(pipe, [0, 2, 5, 6, 7, 8, 9]), hold="extrapolate"), pipe.scheduler)
    assert [bool(a) for a in folded.ahead] == [False, True, False, False, False, False, False]
    assert [row[-1] for row in acts(folded, blocks)] == [Act.KEEP, Act.AHEAD] + [Act.RUN] * 5
    with apply(pipe, folded) as subnet:
        draw(pipe, call | {"num_inference_steps": folded.calls})
        assert subnet.cached_bytes == 0
    size = call["latents"].nbytes * 2  # with guidance
    assert subnet.peak_bytes == peak_cached_bytes(folded, blocks, [0] * len(blocks) + [size]) == size


def test_what_a_call_reads_ahead_from_may_not_be_written_into():
    net = stable_diffusion()[0].unet
    schedule = replace(baselines.dense(find_blocks(net), 3), hold="extrapolate", ahead=(0.0, 0.5, 0.0))
    with follow(net, schedule), torch.no_grad():
        net(**dummy_inputs(net))[0].mul_(2)
        with pytest.raises(RuntimeError, match="changed in place"):
            net(**dummy_inputs(net))


def test_a_last_step_that_goes_nowhere_folds_too():
    scheduler = diffusers.EulerDiscreteScheduler(**LINSPACE, final_sigmas_type="sigma_min")
    folded, _ = fold(replace(held(stable_diffusion()[0], [0, 1, 4, 7, 9]), hold="extrapolate"), scheduler)
    assert folded.ahead[-1] == 0.0


def test_no_search_begins_at_a_folded_schedule():
    pipe, _ = stable_diffusion()
    folded, _ = fold(replace(held(pipe), hold="extrapolate"), pipe.scheduler)
    with pytest.raises(ValueError, match="no search can begin there"):
        next(local_search(folded, macs=count(pipe.unet), calls=T, keep=1.0, objective=lambda _: 0.0, trials=1, seed=0))


def test_a_multistep_solver_is_better_off_folded():
    pipe = zoo.load("emoji-sd")
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    asked = {"seeds": [1], "guidance_scale": 5.0}

    def psnr(steps: int) -> float:
        images = generate(pipe, ["a fox on a blue background"], num_inference_steps=steps, **asked)
        return float(quality.psnr(images, converged)[0])

    converged = generate(pipe, ["a fox on a blue background"], num_inference_steps=30, **asked)
    schedule = baselines.chosen(find_blocks(pipe.unet), 2 * T, run=range(0, 2 * T, 2))
    with apply(pipe, schedule):
        kept = psnr(2 * T)
    folded, pipe.scheduler = fold(schedule, pipe.scheduler)
    with apply(pipe, folded):
        assert psnr(len(folded.grid)) > kept + 3, kept


def test_timesteps_that_a_pipeline_chooses_itself_cannot_be_named():
    schedule = baselines.chosen(find_blocks(flux()[0].transformer), T, run=RUN)
    with pytest.raises(ValueError, match="the pipelines of FluxTransformer2DModel choose their timesteps themselves"):
        fold(schedule, diffusers.FlowMatchEulerDiscreteScheduler())


def test_partial_rows_stay_partial():
    pipe, _ = stable_diffusion()
    blocks = find_blocks(pipe.unet)
    cached = baselines.deepcache(blocks, T, interval=2)
    grid = tuple("." * len(blocks) if t in (3, 4) else row for t, row in enumerate(cached.grid))
    folded, _ = fold(replace(cached, grid=grid), ddim())
    assert folded.grid == (*grid[:3], *grid[5:])
    with pytest.raises(ValueError, match="blocks extrapolate"):
        fold(replace(cached, grid=grid, reuse=("extrapolate",) * len(blocks)), ddim())


@pytest.mark.parametrize(
    ("change", "scheduler", "says"),
    [
        (
            {"hold": "extrapolate"},
            partial(diffusers.DPMSolverMultistepScheduler, **LINSPACE),
            "combines the last 2 predictions in every step",
        ),
        ({}, diffusers.DDPMScheduler, "draws new noise"),
        (
            {},
            partial(diffusers.DDIMScheduler, **LINSPACE, clip_sample=False),
            r"end elsewhere than the next ones begin \(10 of them, linspace",
        ),
        ({}, lambda: diffusers.DPMSolverMultistepScheduler(solver_order=1, use_flow_sigmas=True), "shifts the timesteps that"),
        ({}, partial(diffusers.EulerDiscreteScheduler, **LINSPACE, prediction_type="v_prediction"), "hold velocities"),
        ({"timesteps": tuple(range(T, 0, -1))}, ddim, "chooses 10 timesteps already"),
        ({}, lambda: diffusers.UniPCMultistepScheduler(), "UniPCMultistepScheduler takes no timesteps"),
        ({}, lambda: diffusers.DDIMScheduler(), "clip_sample=True"),
        ({}, partial(diffusers.FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True), "by the size of the picture"),
        ({}, partial(diffusers.FlowMatchLCMScheduler, shift=3.0), "shifts the timesteps that it is given"),
        ({}, lambda: diffusers.HeunDiscreteScheduler(), "HeunDiscreteScheduler makes 19 calls in 10 steps"),
    ],
)
def test_what_cannot_be_folded_is_refused(change, scheduler, says):
    pipe, _ = stable_diffusion()
    with pytest.raises(ValueError, match=says):
        fold(replace(held(pipe), **change), scheduler())
