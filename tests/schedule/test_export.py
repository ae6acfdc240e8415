"""Samplers for other programs, beside their formulas written out: k-diffusion's Euler and DPM-Solver++ 2M, and a bare loop."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from math import expm1, log
from pathlib import Path

import diffusers
import pytest
import torch

from secateur import LinearMultistepScheduler, load
from secateur.artifact import thawed
from secateur.denoiser.blocks import find_blocks
from secateur.pipeline import schedulers
from secateur.pipeline.pipes import denoiser_config
from secateur.schedule import baselines
from secateur.schedule.export import sampler_numbers, sigmas_for
from secateur.schedule.fold import fold
from tiny_pipes import ddim, draw, noise, stable_diffusion

T, RUN, TIMES = 10, [0, 1, 4, 7, 8], (999, 780, 520, 300, 50)


def held(hold: str = "output"):
    return baselines.chosen(find_blocks(stable_diffusion()[0].unet), T, run=RUN, hold=hold)


def dpm(**options):
    return diffusers.DPMSolverMultistepScheduler(steps_offset=1, timestep_spacing="linspace", **options)


def predicted(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """A denoiser's noise prediction at latents with this noise, which is no linear one."""
    return torch.sin(3 * x / (1 + sigma**2) ** 0.5) + 0.1 * x


def euler(x, sigmas):
    """k-diffusion's sample_euler, where (x − denoised)/σ is the noise prediction."""
    for now, after in pairwise(sigmas):
        x = x + (after - now) * predicted(x, now)
    return x


def dpmpp_2m(x, sigmas):
    """k-diffusion's sample_dpmpp_2m (arXiv 2211.01095, Algorithm 2)."""
    old = last = None
    for now, after in pairwise(sigmas):
        denoised = x - now * predicted(x, now)
        if after == 0:
            return denoised
        h = log(now) - log(after)
        mixed = denoised if old is None else denoised + (h / (2 * last)) * (denoised - old)
        x, old, last = after / now * x - expm1(-h) * mixed, denoised, h
    return x


@pytest.mark.parametrize(
    ("name", "formula", "schedule", "scheduler"),
    [
        ("euler", euler, held(), ddim()),
        ("euler", euler, held(), diffusers.EulerDiscreteScheduler(steps_offset=1, timestep_spacing="linspace")),
        ("euler", euler, held(), diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)),
        ("euler", euler, held(), diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)),
        ("dpmpp_2m", dpmpp_2m, replace(baselines.dense(find_blocks(stable_diffusion()[0].unet), 5), timesteps=TIMES), dpm()),
    ],
)
def test_sigmas_are_those_at_which_another_program_draws_the_same(name, formula, schedule, scheduler):
    sampler = schedule.bound_to(scheduler).sampler(scheduler)
    found, sigmas = sigmas_for(schedule, scheduler)
    assert (found, len(sigmas)) == (name, len(sampler.timesteps) + 1)
    assert sigmas == sorted(sigmas, reverse=True)
    unit = noise(0, 1, 4, 8, 8).double()
    x = unit * sampler.init_noise_sigma
    table = sampler_numbers(sampler)
    for j, t in enumerate(sampler.timesteps):
        sigma = table["noise_rates"][j] / table["signal_rates"][j]
        x = sampler.step(predicted(x / table["signal_rates"][j], sigma), t, x).prev_sample
    start = sampler.init_noise_sigma / table["signal_rates"][0]
    torch.testing.assert_close(x, formula(unit * start, sigmas), rtol=2e-3, atol=2e-3)


def test_sigmas_of_flow_matching_are_its_noise_levels():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    name, sigmas = sigmas_for(replace(held(), denoiser="SD3Transformer2DModel").bound_to(scheduler), scheduler)
    scheduler.set_timesteps(T)
    assert name == "euler"
    assert sigmas == pytest.approx([*scheduler.sigmas[RUN].tolist(), 0.0])


@pytest.mark.parametrize("hold", ["extrapolate", "adams_bashforth"])
def test_lines_and_fitted_rows_are_no_stock_solver(hold):
    with pytest.raises(
        ValueError, match="rows are fitted, follow a line or are of sigmas between: export it by --to diffusers or"
    ):
        sigmas_for(held(hold), ddim())
    folded = fold(held(), ddim())
    rows = [list(row) for row in folded.table["rows"]]
    rows[2][1] *= 1.05
    with pytest.raises(ValueError, match="rows are fitted"):
        sigmas_for(replace(folded, table={**folded.table, "rows": rows}), ddim())
    with pytest.raises(ValueError, match="sigmas between"):  # which this scheduler rounds to timesteps
        sigmas_for(replace(held(), grid=held().grid[:1] * 5), dpm(use_karras_sigmas=True))


def test_the_numbers_are_enough_to_draw_with():
    pipe, call = stable_diffusion()
    sampler = held("extrapolate").sampler(pipe.scheduler)
    numbers = json.loads(json.dumps(sampler_numbers(sampler)))
    pipe.scheduler = sampler
    wanted = draw(pipe, call | {"num_inference_steps": len(RUN)})
    text = torch.cat([call["negative_prompt_embeds"], call["prompt_embeds"]])
    x, newest = call["latents"] * numbers["init_noise_sigma"], []
    for j, t in enumerate(numbers["timesteps"]):
        scaled = numbers["input_scales"][j] * x
        with torch.no_grad():
            no, yes = pipe.unet(torch.cat([scaled, scaled]), t, text, return_dict=False)[0].chunk(2)
        newest = [no + call["guidance_scale"] * (yes - no), *newest]
        carry, *weights = numbers["rows"][j]
        x = carry * x + sum(weight * y for weight, y in zip(weights, newest, strict=False))
    torch.testing.assert_close(x, wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A schedule of emoji-sd in the working folder, bound to the pipe's scheduler."""
    monkeypatch.chdir(tmp_path)
    schedule = baselines.chosen(find_blocks(denoiser_config("emoji-sd")), T, run=RUN, hold="output")
    schedule.bound_to(schedulers.scheduler_of("emoji-sd")).save("schedule.json")
    return schedule


def test_the_command_writes_each_of_them(run, saved):
    code, out, error = run("export", "schedule.json", "--to", "diffusers", "-o", "scheduler")
    assert code == 0, error
    assert 'LinearMultistepScheduler.from_pretrained("scheduler")' in out
    own = schedulers.scheduler_of("emoji-sd")
    wanted = saved.sampler(own)
    assert LinearMultistepScheduler.from_pretrained("scheduler").config["rows"] == wanted.config["rows"]
    assert run("export", "schedule.json", "--to", "table", "-o", "table.json")[0] == 0
    told = json.loads(Path("table.json").read_text())
    assert told["rows"] == wanted.config["rows"]
    about = {"denoiser": "UNet2DConditionModel", "scheduler": "DDIMScheduler"}
    assert told["made"] == about | thawed(load("schedule.json").made)
    code, out, error = run("export", "schedule.json", "--to", "sigmas", "-o", "sigmas.txt")
    assert code == 0, error
    assert "the sampler euler" in out
    sigmas = [float(text) for text in Path("sigmas.txt").read_text().split(",")]
    assert sigmas == pytest.approx(sigmas_for(saved, own)[1], rel=1e-5)


def test_a_schedule_that_does_not_say_its_scheduler_needs_a_pipe(run, saved):
    saved.save("bare.json")
    code, _, error = run("export", "bare.json", "--to", "table", "-o", "table.json")
    assert (code, Path("table.json").exists()) == (1, False)
    assert "does not say its scheduler's settings: name a pipe that has it by --pipe" in error
    assert run("export", "bare.json", "--to", "table", "-o", "table.json", "--pipe", "emoji-sd")[0] == 0


def test_bad_input_of_the_command_leaves_nothing(run, saved):
    baselines.deepcache(find_blocks(denoiser_config("emoji-sd")), T, interval=2).save("partial.json")
    for words in (
        ("partial.json", "--to", "table", "--pipe", "emoji-sd"),
        ("schedule.json", "--to", "comfy"),
        ("no.json", "--to", "table"),
    ):
        code, _, error = run("export", *words, "-o", "out")
        assert code != 0
        assert "Traceback" not in error
        assert not Path("out").exists()
