"""Law 10: held calls left out are the same images, for every scheduler that is linear."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.families import dummy_inputs
from secateur.denoiser.macs import count
from secateur.schedule import baselines
from secateur.schedule.apply import apply, follow
from secateur.schedule.fold import fold
from secateur.schedule.holds import HOLDS, taken
from secateur.searching.local import local_search
from tiny_pipes import ddim, draw, flux, sd3, stable_diffusion

T, RUN = 10, [0, 1, 4, 7, 8]
LINSPACE = {"steps_offset": 1, "timestep_spacing": "linspace"}


def held(pipe, run=RUN):
    return baselines.chosen(find_blocks(pipe.unet), T, run=run)


def images(pipe, call, schedule, steps: int):
    with apply(pipe, schedule, fold=False):
        return draw(pipe, call | {"num_inference_steps": steps})


SCHEDULERS = {
    "DDIM": ddim,
    "DDIM linspace": partial(diffusers.DDIMScheduler, **LINSPACE, clip_sample=False),
    "DDIM to the data": partial(diffusers.DDIMScheduler, steps_offset=1, clip_sample=False, prediction_type="sample"),
    "DDIM velocities": partial(diffusers.DDIMScheduler, steps_offset=1, clip_sample=False, prediction_type="v_prediction"),
    "Euler": partial(diffusers.EulerDiscreteScheduler, **LINSPACE),
    "Euler Karras velocities": partial(
        diffusers.EulerDiscreteScheduler, **LINSPACE, use_karras_sigmas=True, prediction_type="v_prediction"
    ),
    "DPM-Solver++": partial(diffusers.DPMSolverMultistepScheduler, **LINSPACE),
    "DPM-Solver++ 3M": partial(diffusers.DPMSolverMultistepScheduler, steps_offset=1, solver_order=3),
    "UniPC": partial(diffusers.UniPCMultistepScheduler, **LINSPACE),
    "DEIS": partial(diffusers.DEISMultistepScheduler, steps_offset=1),
    "PNDM": partial(diffusers.PNDMScheduler, skip_prk_steps=True, steps_offset=1),
    "LMS": partial(diffusers.LMSDiscreteScheduler, steps_offset=1),
    "Heun": partial(diffusers.HeunDiscreteScheduler, steps_offset=1),
    "KDPM2": partial(diffusers.KDPM2DiscreteScheduler, steps_offset=1),
}
CALLS = {"PNDM": T + 1, "Heun": 2 * T - 1, "KDPM2": 2 * T - 1}


@pytest.mark.filterwarnings("ignore:__array_wrap__")  # DEIS and KDPM2 of diffusers call numpy on tensors
@pytest.mark.parametrize("name", SCHEDULERS)
def test_law_10_folding_changes_no_image_of_any_linear_scheduler(name):
    """With the patch the pipeline takes all steps, and held ones get earlier predictions; folded it takes the others alone."""
    pipe, call = stable_diffusion(scheduler=SCHEDULERS[name]())
    own, drawn = pipe.scheduler, {}
    for hold in HOLDS:
        schedule = baselines.chosen(find_blocks(pipe.unet), CALLS.get(name, T), run=RUN, hold=hold).bound_to(own)
        drawn[hold] = images(pipe, call, schedule, T)
        pipe.scheduler = schedule.sampler(own)
        found = draw(pipe, call | {"num_inference_steps": len(RUN)})
        torch.testing.assert_close(found, drawn[hold], rtol=1e-4, atol=1e-4 * float(drawn[hold].abs().max()))
        pipe.scheduler = own
        folded = fold(schedule, own)
        assert (folded.calls, folded.made["folded_from"]["calls"]) == (len(RUN), schedule.calls)
        assert torch.equal(images(pipe, call, folded, len(RUN)), found)
        assert folded.sampler(own).config["rows"] == schedule.sampler(own).config["rows"]
        assert pipe.scheduler is own
    assert all((drawn[one] - drawn[other]).abs().max() > 1e-2 for one, other in combinations(HOLDS, 2))


def test_law_10_holding_is_what_a_held_denoiser_gives():
    """The weights of `taken`, and the outputs of a patched denoiser in a loop of one's own."""
    net, gave = stable_diffusion()[0].unet, []
    inputs = dummy_inputs(net)
    for hold in HOLDS:
        schedule = baselines.chosen(find_blocks(net), T, run=RUN, hold=hold)
        made = [net(**inputs | {"timestep": 999 - 90 * t})[0] for t in range(T)]
        with follow(net, schedule), torch.no_grad():
            gave = [net(**inputs | {"timestep": 999 - 90 * t})[0] for t in range(T)]
        weights = torch.tensor(taken([t not in RUN for t in range(T)], hold), dtype=torch.float32)
        torch.testing.assert_close(torch.tensordot(weights, torch.stack(made), dims=1), torch.stack(gave), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("hold", "shift"), [("output", 1.0), ("extrapolate", 3.0), ("adams_bashforth", 3.0)])
def test_law_10_of_flow_matching_however_it_shifts_its_timesteps(hold, shift):
    pipe, call = sd3()
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = baselines.chosen(find_blocks(pipe.transformer), T, run=RUN, hold=hold).bound_to(pipe.scheduler)
    wanted = images(pipe, call, schedule, T)
    pipe.scheduler = schedule.sampler(pipe.scheduler)
    found = draw(pipe, call | {"num_inference_steps": len(RUN)})
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_law_10_of_flux_whose_pipeline_shifts_by_the_size_of_the_picture():
    pipe, call = flux()
    pipe.scheduler = own = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    schedule = baselines.chosen(find_blocks(pipe.transformer), T, run=RUN, hold="extrapolate").bound_to(own)
    wanted = images(pipe, call, schedule, T)
    with pytest.raises(ValueError, match="by the size of the picture: give fold\\(\\) the mu= of yours"):
        fold(schedule, own)
    passed = {"sigmas": np.linspace(1, 1 / T, T), "mu": calculate_shift(call["latents"].shape[1])}
    found = images(pipe, call, fold(schedule, own, **passed), len(RUN))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_line_folded_is_the_two_step_adams_bashforth_method():
    """Flow matching of even steps, every second call made: 3/2 of the new prediction − 1/2 of the old one, for two steps."""
    schedule = baselines.chosen(find_blocks(stable_diffusion()[0].unet), T, run=range(0, T, 2), hold="adams_bashforth")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(T)
    long = scheduler.sigmas[2::2] - scheduler.sigmas[:-2:2]
    rows = fold(schedule, scheduler).table["rows"]
    assert rows[0] == pytest.approx((1.0, float(long[0])), abs=1e-6)
    for step, row in zip(long[1:4].tolist(), rows[1:4], strict=True):
        assert row == pytest.approx((1.0, 1.5 * step, -0.5 * step), abs=1e-6)


def test_a_schedule_of_its_own_timesteps_gets_its_table():
    pipe, call = stable_diffusion(scheduler=SCHEDULERS["DPM-Solver++"]())
    schedule = replace(baselines.dense(find_blocks(pipe.unet), 5), timesteps=(999, 780, 520, 300, 50)).bound_to(pipe.scheduler)
    wanted = images(pipe, call, schedule, 5)
    pipe.scheduler = schedule.sampler(pipe.scheduler)
    assert pipe.scheduler.timesteps.tolist() == [999, 780, 520, 300, 50]
    torch.testing.assert_close(draw(pipe, call | {"num_inference_steps": 5}), wanted, rtol=1e-4, atol=1e-4)


def test_a_sampler_is_made_of_whole_calls_for_the_pipe_that_the_schedule_is_for():
    pipe, _ = stable_diffusion()
    with pytest.raises(
        ValueError, match=r"5 calls of the schedule reuse blocks, which no scheduler can do: use secateur.apply$"
    ):
        baselines.deepcache(find_blocks(pipe.unet), T, interval=2).sampler(pipe.scheduler)
    other = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, beta_schedule="scaled_linear")
    with pytest.raises(ValueError, match="the schedule is for DDIMScheduler"):
        held(pipe).bound_to(pipe.scheduler).sampler(other)


def test_no_search_begins_at_a_folded_schedule():
    pipe, _ = stable_diffusion()
    folded = fold(replace(held(pipe), hold="extrapolate"), pipe.scheduler)
    with pytest.raises(ValueError, match="no search can begin there"):
        next(local_search(folded, macs=count(pipe.unet), calls=T, keep=1.0, objective=lambda _: 0.0, trials=1, seed=0))


def test_partial_rows_stay_partial():
    pipe, call = stable_diffusion()
    blocks = find_blocks(pipe.unet)
    cached = baselines.deepcache(blocks, T, interval=2)
    grid = tuple("." * len(blocks) if t in (3, 4) else row for t, row in enumerate(cached.grid))
    folded = fold(replace(cached, grid=grid), ddim())
    assert folded.grid == (*grid[:3], *grid[5:])
    wanted = images(pipe, call, replace(cached, grid=grid), T)
    for steps in (len(folded.grid), 50):
        torch.testing.assert_close(images(pipe, call, folded, steps), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="blocks extrapolate"):
        fold(replace(cached, grid=grid, reuse=("extrapolate",) * len(blocks)), ddim())


@pytest.mark.parametrize(
    ("change", "scheduler", "says"),
    [
        ({}, diffusers.DDPMScheduler, "DDPMScheduler draws new noise"),
        ({}, diffusers.DDIMScheduler, "DDIMScheduler is no fixed sum of its predictions, it clips"),
        ({}, diffusers.HeunDiscreteScheduler, "no number of steps of HeunDiscreteScheduler makes 10 calls"),
        ({"timesteps": tuple(range(T, 0, -1))}, ddim, "DDIMScheduler takes none"),
        ({"scheduler": "PNDMScheduler"}, ddim, "the schedule is for PNDMScheduler"),
    ],
)
def test_what_cannot_be_folded_is_refused(change, scheduler, says):
    pipe, _ = stable_diffusion()
    with pytest.raises(ValueError, match=says):
        fold(replace(held(pipe), **change), scheduler())


def test_a_folded_schedule_says_the_settings_of_its_scheduler():
    pipe, _ = stable_diffusion()
    assert fold(held(pipe), pipe.scheduler).made["scheduler_settings"]["beta_schedule"] == "linear"


def test_a_folded_schedule_is_not_folded_again():
    pipe, _ = stable_diffusion()
    with pytest.raises(ValueError, match=r"^it is folded already: the schedule has a table, and so no held calls"):
        fold(fold(held(pipe), pipe.scheduler), pipe.scheduler)


@pytest.mark.parametrize("other", ["PNDM", "DDIM linspace", "Euler", "UniPC"])
def test_a_sampler_is_good_for_any_pipe_of_the_same_model(other):
    """Its table makes the steps, so of the pipe's own scheduler only the noise levels and the kind of prediction matter."""
    pipe, call = stable_diffusion(scheduler=SCHEDULERS["DPM-Solver++"]())
    folded = fold(held(pipe).bound_to(pipe.scheduler), pipe.scheduler)
    wanted = images(pipe, call, folded, len(RUN))
    pipe.scheduler = own = SCHEDULERS[other]()
    assert torch.equal(images(pipe, call, folded, len(RUN)), wanted)
    assert pipe.scheduler is own
    pipe.scheduler = folded.sampler(own)
    assert torch.equal(draw(pipe, call | {"num_inference_steps": len(RUN)}), wanted)


@pytest.mark.parametrize("change", [{"beta_schedule": "scaled_linear"}, {"prediction_type": "v_prediction"}])
def test_a_sampler_is_refused_by_a_pipe_of_another_model(change):
    pipe, _ = stable_diffusion(scheduler=SCHEDULERS["DPM-Solver++"]())
    folded = fold(held(pipe).bound_to(pipe.scheduler), pipe.scheduler)
    with pytest.raises(ValueError, match=f"{next(iter(change))} '{next(iter(change.values()))}'"):
        folded.sampler(diffusers.PNDMScheduler(steps_offset=1, **change))
