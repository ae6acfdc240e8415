"""A schedule of whole calls, applied: the pipe has its sampler, and nothing is wrapped."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import diffusers
import pytest
import torch

import tiny_pipes
from nets import traces
from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.of_pipe import denoiser_of
from secateur.pipeline.multistep import LinearMultistepScheduler
from secateur.schedule import baselines
from secateur.schedule.apply import apply, follow, remove
from secateur.schedule.fold import fold
from secateur.schedule.sampled import Sampled, own_scheduler
from secateur.schedule.schedule import Schedule
from tiny_pipes import ddim, draw, noise, sd3, stable_diffusion

T, RUN = 10, [0, 1, 4, 7, 8]
K = len(RUN)


def held(pipe, hold: str = "extrapolate", calls: int = T) -> Schedule:
    """Some calls run whole, the others are held."""
    return baselines.chosen(find_blocks(denoiser_of(pipe)), calls, run=RUN, hold=hold)


def at(call, steps: int):
    return call | {"num_inference_steps": steps}


def by_hand(pipe, call, schedule: Schedule) -> torch.Tensor:
    """The images of a loop of our own over all calls, the denoiser following the schedule."""
    text = torch.cat([call["negative_prompt_embeds"], call["prompt_embeds"]])
    pipe.scheduler.set_timesteps(call["num_inference_steps"])
    x = call["latents"] * pipe.scheduler.init_noise_sigma
    with follow(pipe.unet, schedule), torch.no_grad():
        for t in pipe.scheduler.timesteps:
            both = pipe.scheduler.scale_model_input(torch.cat([x, x]), t)
            no, yes = pipe.unet(both, t, text, return_dict=False)[0].chunk(2)
            x = pipe.scheduler.step(no + call["guidance_scale"] * (yes - no), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("hold", ["output", "extrapolate", "adams_bashforth"])
@pytest.mark.parametrize(
    ("scheduler", "calls"),
    [
        (ddim, T),
        (lambda: diffusers.EulerDiscreteScheduler(steps_offset=1), T),
        (lambda: diffusers.PNDMScheduler(steps_offset=1, skip_prk_steps=True), T + 1),
    ],
)
def test_no_forward_is_wrapped_and_the_images_are_those_of_the_held_calls(scheduler, calls, hold):
    pipe, call = stable_diffusion(scheduler=scheduler())
    own, before, unpatched = pipe.scheduler, set(vars(pipe.unet)), draw(pipe, at(call, T))
    schedule = held(pipe, hold, calls)
    wanted = by_hand(pipe, at(call, T), schedule)
    near = {"rtol": 1e-5, "atol": 1e-5 * float(wanted.abs().max())}
    for given in (schedule, schedule.bound_to(own), fold(schedule, own)):
        with apply(pipe, given) as handle:
            assert isinstance(handle, Sampled)
            assert handle.schedule == given
            assert pipe.scheduler is handle.scheduler
            assert isinstance(pipe.scheduler, LinearMultistepScheduler)
            assert set(vars(pipe.unet)) == before
            assert not traces(pipe.unet)
            assert own_scheduler(pipe) is own
            for steps in (T, K):
                torch.testing.assert_close(draw(pipe, at(call, steps)), wanted, **near)
        assert pipe.scheduler is own
    assert not hasattr(handle.scheduler, "own_scheduler")
    assert torch.equal(draw(pipe, at(call, T)), unpatched)


def test_a_schedule_of_its_own_timesteps_takes_any_number_of_steps():
    pipe, call = stable_diffusion(scheduler=diffusers.DPMSolverMultistepScheduler(steps_offset=1))
    times = (990, 700, 420, 60)
    schedule = replace(baselines.dense(find_blocks(pipe.unet), len(times)), timesteps=times)
    without = {k: v for k, v in call.items() if k != "num_inference_steps"}
    wanted = draw(pipe, without | {"timesteps": list(times)})
    with apply(pipe, schedule):
        assert not traces(pipe.unet)
        for steps in (len(times), 50):
            torch.testing.assert_close(draw(pipe, at(call, steps)), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_other_steps_than_those_of_the_held_calls_are_refused():
    pipe, call = stable_diffusion()
    with apply(pipe, held(pipe)), pytest.raises(ValueError, match="makes 5 calls and 7 steps were asked for: ask for 5"):
        draw(pipe, at(call, 7))


@pytest.mark.parametrize("kind", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"])
def test_image_to_image_asks_for_the_samplers_calls(kind):
    pipe, call = stable_diffusion(kind)
    folded = fold(held(pipe), pipe.scheduler)
    with apply(pipe, folded):
        assert not traces(pipe.unet)
        with pytest.raises(ValueError, match="makes 5 calls and 10 steps were asked for: ask for 5"):
            draw(pipe, at(call, T))
        found = draw(pipe, at(call, K))
    pipe.scheduler = folded.sampler(pipe.scheduler)
    assert torch.equal(draw(pipe, at(call, K)), found)


@pytest.mark.parametrize(
    "make",
    [
        lambda: stable_diffusion("StableDiffusionImg2ImgPipeline"),
        lambda: stable_diffusion(scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False, thresholding=True)),
        sd3,
        tiny_pipes.flux,
        tiny_pipes.wan,
    ],
)
def test_the_patch_stays_for_pipes_whose_steps_only_they_know(make):
    """Image-to-image begins at a call of its own, pipelines of flow matching pass sigmas, and what thresholds is no table."""
    pipe, call = make()
    schedule = held(pipe)
    wanted = []
    for how in ({}, {"fold": False}):
        with apply(pipe, schedule, **how) as handle:
            assert traces(denoiser_of(pipe)) == [""]
            wanted.append(draw(pipe, at(call, T)))
        assert not isinstance(handle, Sampled)
    assert torch.equal(*wanted)


def test_a_callback_sees_held_calls_if_it_wants_to():
    pipe, call = stable_diffusion()
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append(step)
        return tensors

    for fold_, steps in ((True, K), (False, T)):
        seen.clear()
        with apply(pipe, held(pipe), fold=fold_):
            draw(pipe, at(call, T) | {"callback_on_step_end": callback})
        assert seen == list(range(steps))


def test_whatever_is_applied_replaces_what_was_and_remove_finds_it():
    pipe, call = stable_diffusion()
    own, folded = pipe.scheduler, fold(held(pipe), pipe.scheduler)
    dense = draw(pipe, call)
    cached = baselines.deepcache(find_blocks(pipe.unet), tiny_pipes.STEPS, interval=2)
    first, second = apply(pipe, folded), apply(pipe, folded)
    first.remove()  # it is gone already, and the second stays
    assert pipe.scheduler is second.scheduler
    apply(pipe, cached)
    assert own_scheduler(pipe) is own
    second.remove()
    assert traces(pipe.unet)
    apply(pipe, held(pipe))
    assert not traces(pipe.unet)
    remove(pipe)
    remove(pipe)
    assert pipe.scheduler is own
    assert torch.equal(draw(pipe, call), dense)
    handle = apply(pipe, folded)
    pipe.scheduler = mine = ddim()
    handle.remove()
    assert pipe.scheduler is own_scheduler(pipe) is mine


def test_an_exception_leaves_the_pipes_own_scheduler():
    pipe, call = stable_diffusion()
    own = pipe.scheduler
    with pytest.raises(ZeroDivisionError), apply(pipe, held(pipe)):
        draw(pipe, at(call, T) | {"callback_on_step_end": lambda *_: 1 / 0})
    assert pipe.scheduler is own


def test_layer_by_layer_offload_works_as_no_layer_is_left_out():
    import accelerate
    from diffusers.hooks import apply_group_offloading

    cpu = torch.device("cpu")
    for offload in (
        lambda pipe: [accelerate.cpu_offload(part, execution_device=cpu) for part in (pipe.vae, pipe.unet)],
        lambda pipe: apply_group_offloading(pipe.unet, onload_device=cpu, offload_device=cpu, offload_type="leaf_level"),
    ):
        pipe, call = stable_diffusion()
        schedule = held(pipe)
        with apply(pipe, schedule):
            wanted = draw(pipe, at(call, T))
        offload(pipe)
        with apply(pipe, schedule):
            assert torch.equal(draw(pipe, at(call, T)), wanted)
        with pytest.raises(ValueError, match="offload expects every layer to run"):
            apply(pipe, schedule, fold=False)


def test_the_denoiser_compiles_whole():
    pipe, call = stable_diffusion()
    with apply(pipe, held(pipe)):
        wanted = draw(pipe, at(call, T))
        pipe.unet.compile(fullgraph=True, backend="eager")
        torch.testing.assert_close(draw(pipe, at(call, T)), wanted, rtol=1e-4, atol=1e-4)


def test_a_copy_of_the_pipe_draws_by_itself_in_a_thread_of_its_own():
    pipe, call = stable_diffusion()
    schedule = held(pipe)
    other_call, found = at(call | {"latents": noise(9, 1, 4, 8, 8)}, T), {}
    with apply(pipe, schedule):
        wanted = {"one": draw(pipe, at(call, T)), "two": draw(pipe, other_call)}
        other = copy.deepcopy(pipe)
    pipe_of = {"one": (pipe, at(call, T)), "two": (other, other_call)}

    def run(name):
        found[name] = draw(*pipe_of[name])

    with apply(pipe, schedule):
        threads = [threading.Thread(target=run, args=(name,)) for name in pipe_of]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert all(torch.equal(found[name], image) for name, image in wanted.items())
    remove(other)
    assert type(other.scheduler) is diffusers.DDIMScheduler


def test_a_handle_says_what_it_is():
    pipe, _ = stable_diffusion()
    assert repr(apply(pipe, held(pipe))) == f"Sampled: {K} calls, until remove()"
    assert repr(apply(pipe, held(pipe), fold=False)) == f"SubNet: {T} calls, until remove()"
    assert repr(apply(pipe, keep=0.5)) == "SubNet: any number of calls, until remove()"


def test_a_pipe_that_has_a_saved_sampler_is_told_to_take_its_own_scheduler(tmp_path):
    pipe, _ = stable_diffusion()
    fold(held(pipe), pipe.scheduler).sampler(pipe.scheduler).save_pretrained(tmp_path)
    pipe.scheduler = LinearMultistepScheduler.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="already has a schedule's sampler: give it its own scheduler first"):
        apply(pipe, keep=0.5)
