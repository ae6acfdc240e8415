"""LinearMultistepScheduler beside the stock schedulers whose tables it follows, in pipelines of tiny size."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import partial

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

import secateur
from secateur import LinearMultistepScheduler, probe
from tiny_pipes import STEPS, ddim, draw, flux, noise, sd3, sdxl, stable_diffusion

STOCK = {
    "DDIM": ddim,
    "Euler": partial(diffusers.EulerDiscreteScheduler, steps_offset=1),
    "DPM-Solver++ 2M": partial(diffusers.DPMSolverMultistepScheduler, steps_offset=1),
    "UniPC": partial(diffusers.UniPCMultistepScheduler, steps_offset=1),
    "DEIS": partial(diffusers.DEISMultistepScheduler, steps_offset=1),
    "PNDM": partial(diffusers.PNDMScheduler, skip_prk_steps=True, steps_offset=1),
    "LMS": partial(diffusers.LMSDiscreteScheduler, steps_offset=1),
    "Heun": partial(diffusers.HeunDiscreteScheduler, steps_offset=1),
}
LOOSE = {"rtol": 1e-4, "atol": 1e-4}
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # DEIS and KDPM2 of diffusers call numpy on tensors


def of(scheduler, steps: int = STEPS, **how) -> LinearMultistepScheduler:
    """The table of a stock scheduler as a scheduler."""
    scheduler = deepcopy(scheduler)
    scheduler.set_timesteps(**({"num_inference_steps": steps} | how))
    return LinearMultistepScheduler.of(probe(scheduler), scheduler)


@pytest.mark.parametrize("name", STOCK)
def test_law_10_a_stock_scheduler_as_a_table_draws_the_same_images(name):
    pipe, call = stable_diffusion(scheduler=STOCK[name]())
    wanted = draw(pipe, call)
    pipe.scheduler = table = of(pipe.scheduler)
    found = draw(pipe, call | {"num_inference_steps": len(table.timesteps)})
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("make", [sdxl, sd3])
def test_other_pipelines_take_it(make):
    pipe, call = make()
    wanted = draw(pipe, call)
    pipe.scheduler = of(pipe.scheduler)
    torch.testing.assert_close(draw(pipe, call), wanted, **LOOSE)


def test_flux_takes_it_with_the_shift_that_it_was_probed_with():
    pipe, call = flux()
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    wanted = draw(pipe, call)
    shift = calculate_shift(call["latents"].shape[1])
    pipe.scheduler = of(pipe.scheduler, num_inference_steps=None, sigmas=np.linspace(1, 1 / STEPS, STEPS), mu=shift)
    torch.testing.assert_close(draw(pipe, call), wanted, **LOOSE)


@pytest.mark.parametrize("kind", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"])
@pytest.mark.parametrize("name", ["DDIM", "Euler", "DPM-Solver++ 2M"])
def test_image_to_image_begins_in_the_middle(kind, name):
    """A missing prediction is the first one: the first-order step with which DPM-Solver++ 2M begins as well."""
    pipe, call = stable_diffusion(kind, scheduler=STOCK[name]())
    wanted = draw(pipe, deepcopy(call))
    pipe.scheduler = of(pipe.scheduler)
    torch.testing.assert_close(draw(pipe, deepcopy(call)), wanted, **LOOSE)


def test_it_is_saved_and_loaded_alone_and_with_a_pipeline(tmp_path):
    pipe, call = stable_diffusion(scheduler=diffusers.DPMSolverMultistepScheduler(steps_offset=1, use_karras_sigmas=True))
    pipe.scheduler = of(pipe.scheduler)
    wanted = draw(pipe, call)
    pipe.scheduler.save_pretrained(tmp_path / "alone")
    again = LinearMultistepScheduler.from_pretrained(tmp_path / "alone")
    assert {k: v for k, v in again.config.items() if k[0] != "_"} == {
        k: v for k, v in pipe.scheduler.config.items() if k[0] != "_"
    }
    pipe.save_pretrained(tmp_path / "whole")
    index = json.loads((tmp_path / "whole" / "model_index.json").read_text())
    assert index["scheduler"] == ["secateur", "LinearMultistepScheduler"]
    parts = {"safety_checker": None, "text_encoder": None, "tokenizer": None}
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "whole", **parts)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(draw(loaded, call), wanted)


def test_a_stock_scheduler_is_made_of_it_again():
    before = diffusers.DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False)
    again = diffusers.DDIMScheduler.from_config(of(before).config)
    assert all(again.config[name] == value for name, value in before.config.items())
    assert diffusers.DDIMScheduler in of(before).compatibles


@pytest.mark.parametrize("name", ["DDIM", "Euler"])
def test_add_noise_is_the_stock_schedulers(name):
    stock = STOCK[name]()
    table = of(stock)
    stock.set_timesteps(STEPS)
    data, extra, times = noise(1, 3, 4, 8, 8), noise(2, 3, 4, 8, 8), table.timesteps[[1, 4, 2]]
    torch.testing.assert_close(table.add_noise(data, extra, times), stock.add_noise(data, extra, times))
    with pytest.raises(ValueError, match="makes no call at timestep 7"):
        table.add_noise(data, extra, torch.tensor([7]))
    silent = diffusers.IPNDMScheduler()
    with pytest.raises(ValueError, match="begin at pure noise"):
        of(silent).add_noise(data, extra, times)


def test_other_steps_are_refused():
    table = of(ddim())
    with pytest.raises(ValueError, match="makes 6 calls and 50 steps were asked for: ask for 6"):
        table.set_timesteps(50)
    with pytest.raises(ValueError, match="makes 6 calls and 2 steps"):
        table.set_timesteps(sigmas=[1.0, 0.5])
    with pytest.raises(ValueError, match="timesteps of its own"):
        table.set_timesteps(timesteps=[6, 5, 4, 3, 2, 1])
    table.set_timesteps(timesteps=table.timesteps.tolist())
    table.set_timesteps(sigmas=[1.0] * 6, mu=0.3)


@pytest.mark.parametrize("rows", [[[1.0, 0.0]], [[1.0, 0.0], [1.0]], [[1.0, 0.0, 0.0], [1.0, 0.0]]])
def test_numbers_that_make_no_table_are_refused(rows):
    with pytest.raises(ValueError, match=r"^found 2 timesteps, 1 rows|^row \d has \d numbers"):
        LinearMultistepScheduler(timesteps=[9, 5], rows=rows, input_scales=[1.0, 1.0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_precision_is_added_up_in_float32(dtype):
    """Each step is rounded once, to the latents' own precision."""
    table, exact = of(diffusers.LMSDiscreteScheduler()), of(diffusers.LMSDiscreteScheduler())
    x, predictions = 100 * noise(0, 1, 4, 8, 8).to(dtype), noise(1, STEPS, 1, 4, 8, 8).to(dtype)
    for t, y in zip(table.timesteps, predictions, strict=True):
        wanted = exact.step(y.double(), t, x.double()).prev_sample
        x = table.step(y, t, x).prev_sample
        assert x.dtype == dtype
        torch.testing.assert_close(x, wanted.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_a_second_image_and_a_copy_know_nothing_of_the_first():
    pipe, call = stable_diffusion(scheduler=STOCK["UniPC"]())
    pipe.scheduler = of(pipe.scheduler)
    wanted = draw(pipe, call)
    other = deepcopy(pipe.scheduler)
    assert not pipe.scheduler._running.predictions
    draw(pipe, call | {"latents": noise(9, 1, 4, 8, 8)})
    assert torch.equal(draw(pipe, call), wanted)
    pipe.scheduler = other
    assert torch.equal(draw(pipe, call), wanted)


def test_it_is_what_secateur_gives_by_name():
    assert secateur.LinearMultistepScheduler is LinearMultistepScheduler
    with pytest.raises(AttributeError, match="has no attribute 'Multistep'"):
        _ = secateur.Multistep
