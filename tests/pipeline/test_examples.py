"""Examples: what the pipe itself asks and what perfect denoisers answer, for every kind of pipe."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
import torch

from secateur.denoiser.of_pipe import denoiser_of
from secateur.denoiser.patch import intercept
from secateur.pipeline.examples import Examples, answer, from_images, from_trajectory, question
from secateur.pipeline.noise import timesteps_at
from secateur.pipeline.trajectory import record
from tiny import tiny
from tiny_pipes import PIPES, ddim, noise, stable_diffusion

SEEDS, STEPS = (3, 4, 5), 3
EMBEDDED = ["sd", "sdxl", "pixart", "sd3", "flux"]


def told(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """A tiny pipe, three conditions of its own, how it is called, and its guidance turned off."""
    pipe, call = PIPES[name]()
    if name in ("sd3", "flux"):
        pipe.vae.register_to_config(shift_factor=0.1)
    call = {k: v for k, v in call.items() if k not in ("latents", "output_type", "num_inference_steps")}
    labels = call.pop("class_labels", None)
    given = {k: v for k, v in call.items() if torch.is_tensor(v)}
    drawn = [{k: own(v, seed) for k, v in given.items()} for seed in SEEDS]
    rest = {k: v for k, v in call.items() if k not in given} | {"num_inference_steps": STEPS}
    return pipe, ([7, 2, 7] if labels else drawn), rest | {"guidance_scale": 1.0}


def own(like: torch.Tensor, seed: int) -> torch.Tensor:
    """One sample's argument: a mask is left full."""
    return torch.ones(like.shape[1:]) if bool((like == 1).all()) else noise(seed, *like.shape[1:])


def heard(pipe, conditions, call) -> list[Any]:
    """Every call of the pipe's denoiser, by argument, in one batch."""
    calls, denoiser = [], denoiser_of(pipe)
    names = list(inspect.signature(type(denoiser).forward).parameters)[1:]

    def forward(original, *args, **kwargs):
        calls.append(dict(zip(names, args, strict=False)) | kwargs)
        return original(*args, **kwargs)

    handle = intercept(denoiser, "forward", forward)
    trajectory = record(pipe, conditions, seeds=SEEDS, **call)
    handle.remove()
    return [trajectory, *calls]


def same(ours, theirs) -> bool:
    if isinstance(theirs, dict):
        return all(same(ours[k], v) for k, v in theirs.items())
    return torch.equal(ours, theirs) if torch.is_tensor(theirs) else ours == theirs


@pytest.mark.parametrize("name", [*EMBEDDED, "dit"])
def test_a_question_asks_what_the_pipe_asks(name):
    pipe, conditions, call = told(name)
    trajectory, first, *_ = heard(pipe, conditions, call)
    examples = from_trajectory(pipe, trajectory)
    assert torch.equal(examples.latents, trajectory.latents[-1])
    time = torch.full((3,), int(trajectory.timesteps[-1]))
    asked = question(examples, pipe.scheduler, range(3), timesteps=time, noise=torch.zeros_like(examples.latents))
    assert asked.arguments.keys() - first.keys() == set()
    assert same(asked.arguments, {k: v for k, v in first.items() if k not in ("timestep", examples.stream, "return_dict")})
    assert asked.arguments["timestep"].shape == (3,)
    assert answer(denoiser_of(pipe), asked).shape == asked.target.shape == examples.latents.shape


def test_pictures_become_the_packed_latents_of_flux():
    pipe, conditions, call = told("flux")
    images = torch.rand(3, 32, 16, 3, generator=torch.Generator().manual_seed(0))
    examples = from_images(pipe, images, conditions, **{k: v for k, v in call.items() if k not in ("height", "width")})
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    loop = pipe._unpack_latents(examples.latents, 32, 16, factor)
    latents = pipe.vae.encode(images.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(loop, (latents - 0.1) * pipe.vae.config.scaling_factor, atol=1e-5, rtol=1e-4)
    assert examples.shared["img_ids"][:, 1:].max(0).values.tolist() == [32 / factor / 2 - 1, 16 / factor / 2 - 1]


@pytest.mark.parametrize("name", ["sd", "flux", "sd3"])
def test_the_last_call_of_a_pipe_is_answered_alike(name):
    """Noise is chosen so that the noisy latents are those that the pipe had."""
    pipe, conditions, call = told(name)
    trajectory, *_ = heard(pipe, conditions, call)
    examples = from_trajectory(pipe, trajectory)
    k, scheduler = STEPS - 1, pipe.scheduler
    time = torch.full((3,), trajectory.timesteps[k])
    sigma = time[0] / 1000
    alpha = scheduler.alphas_cumprod[int(time[0])] if name == "sd" else None
    signal, spread = (alpha.sqrt(), (1 - alpha).sqrt()) if alpha is not None else (1 - sigma, sigma)
    drawn = (trajectory.latents[k] - signal * examples.latents) / spread
    asked = question(examples, scheduler, [0, 1, 2], timesteps=time, noise=drawn)
    predictions = answer(denoiser_of(pipe), asked)
    torch.testing.assert_close(predictions, trajectory.outputs[k], atol=1e-4, rtol=1e-3)
    one = question(examples, scheduler, [1], timesteps=time[:1], noise=drawn[1:2])
    torch.testing.assert_close(answer(denoiser_of(pipe), one), predictions[1:2], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_leads_ddim_back_to_the_clean_latents(kind):
    scheduler: Any = diffusers.DDIMScheduler(prediction_type=kind, clip_sample=False, set_alpha_to_one=True)
    examples = Examples(noise(0, 2, 4, 8, 8), {})
    asked = question(examples, scheduler, [1, 0], timesteps=torch.tensor([700, 700]), noise=noise(1, 2, 4, 8, 8))
    scheduler.set_timesteps(1)
    found = scheduler.step(asked.target, 700, asked.arguments["sample"]).pred_original_sample
    torch.testing.assert_close(found, examples.latents[[1, 0]], atol=1e-4, rtol=1e-4)


def test_levels_are_those_of_training_or_of_the_calls_of_few_steps():
    levels = torch.tensor([0.0, 0.3, 0.6, 0.999])
    assert timesteps_at(levels, diffusers.DDIMScheduler()).tolist() == [0, 300, 600, 999]
    turbo = diffusers.EulerAncestralDiscreteScheduler(timestep_spacing="trailing")
    turbo.set_timesteps(4)
    assert timesteps_at(levels, turbo, turbo.timesteps.tolist()).tolist() == [249, 499, 749, 999]
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    flow.set_timesteps(2)
    found = timesteps_at(torch.tensor([0.2, 0.7, 1.0]), flow, flow.timesteps.tolist())
    torch.testing.assert_close(found, torch.tensor([flow.timesteps[1], 999.0, 999.0]))
    question(Examples(noise(0, 3, 4, 8, 8), {}), flow, [0, 1, 2], timesteps=found, noise=noise(1, 3, 4, 8, 8))


@pytest.mark.parametrize("cls", [diffusers.DDPMScheduler, diffusers.PNDMScheduler])
def test_noise_is_what_diffusers_adds(cls):
    scheduler, times, drawn = cls(), torch.tensor([0, 999]), noise(1, 2, 4, 8, 8)
    examples = Examples(noise(0, 2, 4, 8, 8), {})
    asked = question(examples, scheduler, [0, 1], timesteps=times, noise=drawn)
    assert torch.equal(asked.target, drawn)
    torch.testing.assert_close(asked.arguments["sample"], scheduler.add_noise(examples.latents, drawn, times))


def test_flow_matching_is_a_straight_line():
    drawn = noise(1, 1, 4, 8, 8)
    scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler()
    examples = Examples(noise(0, 1, 4, 8, 8), {})
    asked = question(examples, scheduler, [0], timesteps=torch.tensor([250.0]), noise=drawn)
    noisy = scheduler.scale_noise(examples.latents, scheduler.timesteps[[750]], drawn)
    torch.testing.assert_close(asked.arguments["sample"], noisy)
    torch.testing.assert_close(asked.target, drawn - examples.latents)
    torch.testing.assert_close(asked.arguments["sample"] - 0.25 * asked.target, examples.latents)


@pytest.mark.parametrize("name", ["sd", "sd3", "dit"])
def test_images_come_back_from_the_latents_that_the_pipe_decodes(name):
    pipe, conditions, call = told(name)
    images = noise(2, 3, 16, 16, 3).abs().clamp(max=1)
    more = {k: v for k, v in call.items() if k not in ("height", "width", "guidance_scale")}
    found = from_images(pipe, images, conditions, batch_size=2, **more)
    z = found.latents / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0)
    wanted = pipe.vae.encode(images.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
    torch.testing.assert_close(z, wanted)
    assert len(found) == 3
    assert found.latents.is_contiguous()


def test_latents_are_scaled_by_the_means_that_a_vae_names():
    pipe, conditions, _ = told("sd")
    plain = from_images(pipe, images := noise(2, 3, 16, 16, 3).sigmoid(), conditions).latents
    pipe.vae.register_to_config(latents_mean=[1.0] * 4, latents_std=[2.0] * 4)
    factor = pipe.vae.config.scaling_factor
    torch.testing.assert_close(from_images(pipe, images, conditions).latents, (plain / factor - 1) / 2 * factor)


def test_the_pipe_is_left_as_it_was():
    pipe, conditions, call = told("sd")
    trajectory = record(pipe, conditions, seeds=SEEDS, **call)
    entered = []
    handle = intercept(pipe.unet, "forward", lambda original, *a, **k: entered.append(1) or original(*a, **k))
    from_trajectory(pipe, trajectory)
    handle.remove()
    assert not entered
    assert "forward" not in vars(pipe.unet)
    again = record(pipe, conditions, seeds=SEEDS, **call)
    assert torch.equal(again.latents, trajectory.latents)


def test_equal_labels_are_asked_for_once():
    pipe, labels, call = told("dit")
    trajectory, asked = record(pipe, labels, seeds=SEEDS, **call), []
    handle = intercept(pipe.scheduler, "set_timesteps", lambda original, *a, **k: asked.append(1) or original(*a, **k))
    found = from_trajectory(pipe, trajectory)
    handle.remove()
    assert len(asked) == 2
    assert found.conditions["class_labels"].tolist() == labels


def test_a_question_moves():
    pipe, conditions, call = told("sdxl")
    found = from_trajectory(pipe, record(pipe, conditions, seeds=SEEDS, **call))
    asked = question(found, ddim(), [0], timesteps=torch.tensor([5]), noise=torch.zeros(1, 4, 8, 8)).to("cpu", torch.bfloat16)
    assert asked.arguments["sample"].dtype is asked.target.dtype is torch.bfloat16
    assert asked.arguments["added_cond_kwargs"]["text_embeds"].dtype is torch.bfloat16
    assert asked.arguments["timestep"].dtype is torch.long


def message(function, *args, **kwargs) -> str:
    with pytest.raises((ValueError, TypeError)) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_asked_is_refused_in_a_sentence():
    pipe, conditions, _ = told("sd")
    images = torch.zeros(3, 16, 16, 3)
    assert "give (N, C, H, W)" in message(Examples, torch.zeros(4), {})
    assert "NaN" in message(Examples, torch.full((1, 4, 8, 8), torch.nan), {})
    assert "one for each" in message(Examples, torch.zeros(2, 4, 8, 8), {"x": torch.zeros(3)})
    assert "each sample has a condition" in message(from_images, pipe, images, [])
    assert "3 images and 2 conditions" in message(from_images, pipe, images, conditions[:2])
    assert "divide bytes by 255" in message(from_images, pipe, images.byte(), conditions)
    assert "lie in [0, 1]" in message(from_images, pipe, images + 2, conditions)
    assert "pad prompts" in message(from_images, pipe, images[:2], [{"prompt_embeds": torch.zeros(n, 8)} for n in (5, 6)])
    joined, _ = stable_diffusion("StableDiffusionInpaintPipeline", unet={"in_channels": 9})
    rest = {"image": torch.zeros(1, 3, 16, 16), "mask_image": torch.ones(1, 1, 16, 16)}
    assert "of shape (9, 8, 8) and these latents are (4, 8, 8)" in message(from_images, joined, images, conditions, **rest)


def test_noise_that_is_not_known_is_refused_in_a_sentence():
    examples, zero = Examples(torch.zeros(1, 4, 8, 8), {}), torch.zeros(1, 4, 8, 8)
    asked = {"timesteps": torch.tensor([1000]), "noise": zero}
    assert "from 0 to below 1000" in message(question, examples, ddim(), [0], **asked)
    asked = {"timesteps": torch.tensor([1]), "noise": zero}
    assert "EDMEulerScheduler trains by another noise" in message(
        question, examples, diffusers.EDMEulerScheduler(), [0], **asked
    )


def test_learned_sigma_is_left_out():
    net = tiny("dit", out_channels=8)
    arguments = {"class_labels": torch.tensor([1])}
    asked = question(
        Examples(noise(0, 1, 4, 8, 8), arguments, stream="hidden_states"),
        ddim(), [0], timesteps=torch.tensor([3]), noise=noise(1, 1, 4, 8, 8),
    )  # fmt: skip
    whole = net(**asked.arguments).sample
    assert whole.shape[1] == 8
    assert torch.equal(answer(net, asked), whole[:, :4])
