"""Images do not depend on the batch size; the trajectory is the one that the pipe went through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)

from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.of_pipe import denoiser_of
from secateur.pipeline.generate import generate, generate_batches, generators
from secateur.pipeline.trajectory import Trajectory, record, replay
from secateur.schedule.apply import apply
from secateur.schedule.baselines import chosen

PROMPTS = ["a fox", "a cat on red", "blue", "a red fox on a blue cat", "on"]
SEEDS = [3, 1, 4, 1, 5]


def with_scheduler(pipe: StableDiffusionPipeline, scheduler) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(**{**pipe.components, "scheduler": scheduler}, requires_safety_checker=False)


def close(a, b) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def interrupt(*_) -> dict:
    raise InterruptedError


def test_generators_are_one_per_sample() -> None:
    first, again = (torch.randn(3, generator=generators([7, 8])[1]) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first, torch.randn(3, generator=torch.Generator().manual_seed(8)))


@pytest.mark.parametrize("eta", [0.0, 1.0])  # with η = 1 the scheduler draws noise at every step
def test_batch_size_does_not_change_the_image(sd, eta) -> None:
    images = [
        generate(sd, PROMPTS, seeds=SEEDS, batch_size=b, num_inference_steps=3, eta=eta, negative_prompt="cat")
        for b in (1, 2, 8)
    ]
    assert images[0].shape == (5, 16, 16, 3)
    assert images[0].dtype == np.float32
    assert 0 <= images[0].min() < images[0].max() <= 1
    close(images[1], images[0])
    close(images[2], images[0])


def test_batch_size_does_not_change_a_stochastic_sampler(sd) -> None:
    lcm = with_scheduler(sd, LCMScheduler.from_config(sd.scheduler.config))
    one, all_ = (generate(lcm, PROMPTS, seeds=SEEDS, batch_size=b, num_inference_steps=3) for b in (1, 8))
    close(all_, one)


def test_seed_and_prompt_change_the_image(sd) -> None:
    images = generate(sd, ["a fox", "a fox", "blue"], seeds=[1, 2, 1], num_inference_steps=2)
    assert np.abs(images[0] - images[1]).max() > 1e-3
    assert np.abs(images[0] - images[2]).max() > 1e-4


def test_batch_size_does_not_change_a_class_conditional_image(dit) -> None:
    labels = np.array([1, 5, 999])
    one, all_ = (generate(dit, labels, seeds=[1, 2, 3], batch_size=b, num_inference_steps=2) for b in (1, 8))
    assert one.shape == (3, 16, 16, 3)
    close(all_, one)


def test_batches_come_as_they_are_made(sd) -> None:
    batches = generate_batches(sd, PROMPTS, seeds=SEEDS, batch_size=2, num_inference_steps=1)
    assert [len(b) for b in batches] == [2, 2, 1]


def test_progress_bar_setting_is_put_back(sd, capfd) -> None:
    sd.set_progress_bar_config(desc="mine")
    generate(sd, ["a fox"], seeds=[0], num_inference_steps=1)
    assert capfd.readouterr().err == ""
    assert sd._progress_bar_config == {"desc": "mine"}
    with pytest.raises(InterruptedError):
        generate(sd, ["a fox"], seeds=[0], num_inference_steps=1, callback_on_step_end=interrupt)
    assert sd._progress_bar_config == {"desc": "mine"}
    sd.set_progress_bar_config()


def test_trajectory_is_what_the_pipe_went_through(sd) -> None:
    options = {"num_inference_steps": 3, "guidance_scale": 4.0}
    seen: list[torch.Tensor] = []

    def keep(pipe, i, t, state):
        seen.append(state["latents"].clone())
        return state

    sd(PROMPTS[:2], generator=generators(SEEDS[:2]), output_type="np", callback_on_step_end=keep, **options)
    told = record(sd, PROMPTS[:2], seeds=SEEDS[:2], **options)
    assert torch.equal(told.latents[1:], torch.stack(seen))
    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=g) for g in generators(SEEDS[:2])])
    assert torch.equal(told.latents[0], noise)
    assert told.timesteps == tuple(float(t) for t in sd.scheduler.timesteps)
    assert np.array_equal(told.images, generate(sd, PROMPTS[:2], seeds=SEEDS[:2], **options))
    assert (told.conditions, told.seeds, dict(told.options)) == (tuple(PROMPTS[:2]), tuple(SEEDS[:2]), options)


@pytest.mark.parametrize(("scheduler", "calls"), [(PNDMScheduler, 5), (HeunDiscreteScheduler, 7)])
def test_trajectory_counts_the_scheduler_s_own_calls(sd, scheduler, calls) -> None:
    pipe = with_scheduler(sd, scheduler.from_config(sd.scheduler.config, skip_prk_steps=True))
    told = record(pipe, PROMPTS, seeds=SEEDS, batch_size=2, num_inference_steps=4)
    assert (len(told.timesteps), told.latents.shape) == (calls, (calls + 1, 5, 4, 8, 8))


def test_trajectory_of_a_pipe_without_callback(dit) -> None:
    parts, whole = (record(dit, [1, 5, 9], seeds=[1, 2, 3], batch_size=b, num_inference_steps=2) for b in (2, 8))
    assert whole.latents.shape == (3, 3, 4, 8, 8)
    close(parts.latents, whole.latents)
    last = dit.vae.decode(whole.latents[-1] / dit.vae.config.scaling_factor).sample
    close((last / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).detach(), whole.images)


def test_recording_leaves_no_trace(sd) -> None:
    record(sd, ["a fox"], seeds=[0], num_inference_steps=1)
    with pytest.raises(InterruptedError):
        record(sd, ["a fox"], seeds=[0], num_inference_steps=1, callback_on_step_end=interrupt)
    assert "step" not in vars(sd.scheduler)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"conditions": ["a"], "seeds": [1, 2]}, ValueError, "got 1 and 2"),
        ({"conditions": [], "seeds": []}, ValueError, "got 0 and 0"),
        ({"conditions": ["a", 3], "seeds": [1, 2]}, TypeError, "int, str"),
        ({"conditions": [3], "seeds": [1]}, TypeError, "takes no class_labels: got 3; give it prompts"),
        ({"conditions": ["a"], "seeds": [1], "batch_size": 0}, ValueError, "batch_size is 0"),
        ({"conditions": ["a"], "seeds": [1], "generator": None}, ValueError, "'generator' is set"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(sd, arguments, error, words) -> None:
    with pytest.raises(error, match=words):
        generate(sd, **arguments)


def test_prompts_are_refused_where_labels_are_wanted(dit) -> None:
    with pytest.raises(TypeError, match="DiTPipeline takes no prompt: got 'a fox'; give it class labels, as whole numbers"):
        generate(dit, ["a fox"], seeds=[1])


@pytest.mark.parametrize("name", ["sd", "dit"])
def test_a_replay_says_what_was_said_and_what_a_schedule_would_say_instead(name, request) -> None:
    pipe = request.getfixturevalue(name)
    asked = ["a fox", "a car", "a cat"] if name == "sd" else [1, 2, 3]
    told = record(pipe, asked, seeds=[1, 2, 3], num_inference_steps=4, guidance_scale=3.0)
    for batch_size in (2, 3):
        close(replay(pipe, told, batch_size=batch_size), told.outputs)
    blocks = find_blocks(denoiser_of(pipe))
    with apply(pipe, chosen(blocks, 4, run=[0, 1, 3]), fold=False):
        found = replay(pipe, told)
    close(found, told.outputs[[0, 1, 1, 3]])


@pytest.mark.parametrize(
    ("seeds", "timesteps", "words"),
    [((1,), (9.0,), r"got \[1, 2\]"), ((1, 2), (9.0, 5.0), "2 timesteps"), ((1, 2), (), "0 timesteps")],
)
def test_a_trajectory_is_complete_when_built(seeds, timesteps, words) -> None:
    with pytest.raises(ValueError, match=words):
        Trajectory(
            ("a", "b"), seeds, timesteps, torch.zeros(2, 2, 4, 8, 8), torch.zeros(1, 2, 4, 8, 8), np.zeros((2, 16, 16, 3)), {}
        )
