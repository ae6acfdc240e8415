"""A pipe with a schedule is copied, shared, and drawn with from several threads: what runs is what its own schedule says."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

from grids import blocks_of, scattered
from reference import reference
from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.of_pipe import denoiser_of
from secateur.schedule import baselines
from secateur.schedule.apply import apply, remove
from secateur.schedule.fold import fold
from tiny import tiny
from tiny_pipes import OFFSET, PIPES, SCHEDULERS, STEPS, ddim, draw, expected, noise, quiet, stable_diffusion

THREADS = 3


def saved_by_torch(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda thing: pickle.loads(pickle.dumps(thing)), "torch.save": saved_by_torch}


def halved(net) -> None:
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(0.5)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("name", ["sd", "dit"])
def test_a_copy_of_the_denoiser_runs_its_own_weights(name, copied):
    pipe, call = PIPES[name]()
    schedule = scattered(find_blocks(denoiser_of(pipe)), seed=3)
    wanted = expected(pipe, call, schedule)
    other, _ = PIPES[name]()
    halved(denoiser_of(other))
    dense = draw(other, call)
    with apply(pipe, schedule):
        mine = copied(denoiser_of(pipe))
        halved(mine)
        setattr(other, "unet" if name == "sd" else "transformer", mine)
        assert torch.equal(draw(other, call), dense)
        assert torch.equal(draw(pipe, call), wanted)
    assert torch.equal(draw(other, call), dense)
    twice = scattered(find_blocks(denoiser_of(pipe)), seed=4)
    with apply(other, twice):
        pruned = draw(other, call)
    assert torch.equal(pruned, expected(other, call, twice))


@pytest.mark.parametrize("copied", [*COPIES.values(), copy.copy], ids=[*COPIES, "copy"])
@pytest.mark.parametrize("name", ["ddim", "pndm", "unipc"])
def test_a_copy_of_the_scheduler_is_a_stock_one_that_steers_nothing(name, copied):
    pipe, call = stable_diffusion(scheduler=SCHEDULERS[name]())
    dense = draw(pipe, call)
    schedule = scattered(blocks_of("sd15", "stage"), len(pipe.scheduler.timesteps))
    wanted = expected(pipe, call, schedule)
    kind = type(pipe.scheduler)
    other, _ = stable_diffusion()
    with apply(pipe, schedule):
        other.scheduler = copied(pipe.scheduler)
        assert type(other.scheduler) is kind
        assert torch.equal(draw(other, call), dense)
        assert torch.equal(draw(pipe, call), wanted)
    assert torch.equal(draw(other, call), dense)


def test_a_copy_of_the_whole_pipe_is_a_stock_one():
    pipe, call = stable_diffusion()
    dense, schedule = draw(pipe, call), scattered(blocks_of("sd15", "stage"))
    with apply(pipe, schedule):
        other = copy.deepcopy(pipe)
        assert torch.equal(draw(other, call), dense)
    assert torch.equal(draw(other, call), dense)


@pytest.mark.parametrize("copied", [*COPIES.values(), copy.copy], ids=[*COPIES, "copy"])
def test_a_copy_of_a_sampler_draws_what_it_draws(copied):
    pipe, call = stable_diffusion()
    other, _ = stable_diffusion()
    with apply(pipe, baselines.uniform(find_blocks(pipe.unet), STEPS, keep=0.5)):
        other.scheduler = copied(pipe.scheduler)
        wanted = draw(pipe, call)
        assert torch.equal(draw(other, call | {"num_inference_steps": len(other.scheduler.timesteps)}), wanted)
    assert type(pipe.scheduler) is DDIMScheduler


class Silent(diffusers.StableDiffusionImg2ImgPipeline):
    """Says to no scheduler at which call it begins, as some pipelines do not."""

    def get_timesteps(self, num_inference_steps, strength, device):
        first = num_inference_steps - int(num_inference_steps * strength)
        return self.scheduler.timesteps[first * self.scheduler.order :], num_inference_steps - first


@pytest.mark.parametrize("kind", [diffusers.StableDiffusionImg2ImgPipeline, Silent])
@pytest.mark.parametrize("name", ["ddim", "pndm", "euler", "heun"])
def test_image_to_image_made_from_a_pipe_with_a_schedule_begins_where_it_says(name, kind):
    pipe, _ = stable_diffusion(scheduler=SCHEDULERS[name]())
    alone, call = stable_diffusion("StableDiffusionImg2ImgPipeline", SCHEDULERS[name]())
    pipe.scheduler.set_timesteps(STEPS)
    schedule = scattered(blocks_of("sd15", "stage"), len(pipe.scheduler.timesteps), seed=4)
    wanted = [expected(alone, call | {"strength": s}, schedule, offset=k) for s, k in begins(alone.scheduler)]
    with apply(pipe, schedule):
        other = quiet(kind.from_pipe(pipe, requires_safety_checker=False))
        found = [draw(other, call | {"strength": s}) for s, _ in begins(alone.scheduler)]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def begins(scheduler) -> list[tuple[float, int]]:
    """Strengths, and the call at which each begins, with `STEPS` steps."""
    return [(strength, (STEPS - int(STEPS * strength)) * scheduler.order) for strength in (1.0, 0.9, 0.7, 0.4)]


def test_image_to_image_is_told_to_ask_for_the_calls_of_a_sampler_that_text_to_image_was_given():
    pipe, _ = stable_diffusion()
    _, call = stable_diffusion("StableDiffusionImg2ImgPipeline")
    folded = fold(baselines.uniform(find_blocks(pipe.unet), STEPS, keep=0.5), pipe.scheduler)
    with apply(pipe, folded) as sampled:
        other = quiet(diffusers.StableDiffusionImg2ImgPipeline.from_pipe(pipe, requires_safety_checker=False))
        calls = len(sampled.scheduler.timesteps)
        with pytest.raises(ValueError, match=f"makes {calls} calls and {STEPS} steps were asked for: ask for {calls}"):
            draw(other, call)
        assert draw(other, call | {"num_inference_steps": calls}).isfinite().all()


@pytest.mark.parametrize("before", [0, 1])
def test_a_second_scheduler_on_the_same_denoiser_is_refused_at_its_first_call(before):
    pipe, call = stable_diffusion()
    other, _ = stable_diffusion()
    with apply(pipe, scattered(blocks_of("sd15", "stage"))):
        other.unet = pipe.unet
        for _ in range(before):
            draw(pipe, call)
        entered = []
        handle = pipe.unet.conv_in.register_forward_hook(lambda *_: entered.append(1))
        with pytest.raises(ValueError, match="another one draws: apply it to the pipe that draws"):
            draw(other, call)
        assert not entered
        handle.remove()


def drawn_in_threads(pipe, calls: list[dict]) -> list[torch.Tensor]:
    """An image of each of these, all begun at once; and again, by threads that have drawn before."""
    ready = Barrier(len(calls))

    def one(call: dict) -> torch.Tensor:
        ready.wait(60)
        return draw(pipe, call)

    with ThreadPoolExecutor(len(calls)) as pool:
        return [image for _ in range(2) for image in pool.map(one, calls)]


def seeds(call: dict) -> list[dict]:
    return [call | {"latents": noise(10 + k, *call["latents"].shape)} for k in range(THREADS)]


@pytest.mark.parametrize("name", ["ddim", "pndm", "unipc", "euler"])
def test_several_threads_draw_with_one_pipe_what_each_draws_alone(name):
    pipe, call = stable_diffusion(scheduler=SCHEDULERS[name]())
    pipe.scheduler.set_timesteps(STEPS)
    schedule = scattered(blocks_of("sd15", "stage"), len(pipe.scheduler.timesteps))
    wanted = [expected(pipe, each, schedule) for each in seeds(call)]
    with apply(pipe, schedule):
        assert all(torch.equal(*pair) for pair in zip(drawn_in_threads(pipe, seeds(call)), 2 * wanted, strict=True))


@pytest.mark.parametrize("make", [stable_diffusion, PIPES["flux"]])
def test_several_threads_draw_by_one_sampler_and_by_evenly_held_calls(make):
    pipe, call = make()
    for given in (baselines.uniform(find_blocks(denoiser_of(pipe)), STEPS, keep=0.5, hold="extrapolate"), None):
        with apply(pipe, given) if given else apply(pipe, keep=0.5):
            wanted = [draw(pipe, each) for each in seeds(call)]
            assert all(torch.equal(*pair) for pair in zip(drawn_in_threads(pipe, seeds(call)), 2 * wanted, strict=True))


def test_a_block_that_nobody_reads_may_be_written_into():
    """FreeU scales what up blocks read in place; some of that is of blocks that do not run, and whose readers do not either."""
    pipe, call = stable_diffusion()
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    cached = baselines.deepcache(blocks_of("sd15", "layer"), STEPS, interval=2, depth=1)
    with apply(pipe, cached, copy_outputs=True):
        found = draw(pipe, call)
    with reference(pipe.unet, cached):
        for name in cached.blocks:  # readers write into copies
            pipe.unet.get_submodule(name).register_forward_hook(lambda m, given, out: copy.deepcopy(out))
        assert torch.equal(found, draw(pipe, call))


@pytest.mark.parametrize(
    ("kind", "scheduler", "asked", "says"),
    [
        ("SAG", ddim, {"sag_scale": 0.5}, "CrossAttnStoreProcessor reads what attention computes"),
        ("AttendAndExcite", ddim, {"token_indices": [1], "attn_res": (8, 8)}, "AttendExciteAttnProcessor reads what attention"),
        (
            "Paradigms",
            lambda: diffusers.DDIMParallelScheduler(**OFFSET, clip_sample=False),
            {"parallel": 3},
            "several timesteps at once",
        ),
    ],
)
def test_a_pipeline_that_needs_more_of_a_call_than_its_output_is_refused_before_any_work(sd, kind, scheduler, asked, says):
    parts = {"unet": tiny("sd15"), "tokenizer": sd.tokenizer, "text_encoder": sd.text_encoder, "vae": sd.vae}
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = quiet(getattr(diffusers, f"StableDiffusion{kind}Pipeline")(**parts, **rest, scheduler=scheduler()))
    entered = []
    pipe.unet.conv_in.register_forward_hook(lambda *_: entered.append(1))
    with apply(pipe, scattered(blocks_of("sd15", "stage"))), pytest.raises(ValueError, match=says):
        pipe(prompt="a fox", num_inference_steps=STEPS, height=16, width=16, output_type="latent", **asked)
    assert not entered


def test_offload_that_is_enabled_after_a_schedule_was_applied_is_refused_too():
    pipe, call = stable_diffusion()
    with apply(pipe, scattered(blocks_of("sd15", "stage"))):
        draw(pipe, call)
        pipe.unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
        with pytest.raises(ValueError, match="group offload expects every layer to run"):
            draw(pipe, call)


COMPILED = {
    "by torch": lambda net: torch.compile(net, fullgraph=True, backend="eager"),
    "in place": lambda net: net.compile(fullgraph=True, backend="eager") or net,
}


def test_a_denoiser_with_a_schedule_is_not_compiled_in_place_as_one_graph():
    pipe, call = stable_diffusion()
    with apply(pipe, schedule := scattered(blocks_of("sd15", "stage"))):
        with pytest.raises(ValueError, match="compile the denoiser first"):
            pipe.unet.compile(fullgraph=True, backend="eager")
        found = draw(pipe, call)
    assert torch.equal(found, expected(pipe, call, schedule))
    assert "compile" not in vars(pipe.unet)


@pytest.mark.parametrize(("how", "first"), [("by torch", True), ("by torch", False), ("in place", True)])
@pytest.mark.usefixtures("quick_dynamo")
def test_a_denoiser_compiled_as_one_graph_holds_calls_and_is_refused_where_blocks_reuse(how, first):
    (pipe, call), compiled = stable_diffusion(), COMPILED[how]
    plain = pipe.unet
    whole = baselines.evenly(blocks_of("sd15", "stage"), STEPS, 3, hold="extrapolate")
    wanted = expected(pipe, call, whole)
    for schedule in (whole, scattered(blocks_of("sd15", "stage"))):
        pipe.unet = compiled(plain) if first else plain
        with apply(pipe, schedule, fold=False):
            pipe.unet = pipe.unet if first else compiled(plain)
            if schedule is whole:
                torch.testing.assert_close(draw(pipe, call), wanted)
            else:
                with pytest.raises(ValueError, match="as one graph"):
                    draw(pipe, call)


@pytest.mark.parametrize("first", [True, False], ids=["compiled first", "applied first"])
@pytest.mark.usefixtures("quick_dynamo")
def test_diffusers_own_compiled_blocks_follow_without_a_break(first):
    pipe, call = PIPES["flux"]()
    schedule = scattered(find_blocks(pipe.transformer))
    wanted = expected(pipe, call, schedule)
    if first:
        pipe.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    with apply(pipe, schedule):
        if not first:
            pipe.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
        torch.testing.assert_close(draw(pipe, call), wanted)


def test_a_pipe_made_from_one_with_a_schedule_is_a_stock_one_when_that_is_removed():
    pipe, call = stable_diffusion(scheduler=ddim())
    dense = draw(pipe, call)
    apply(pipe, scattered(blocks_of("sd15", "stage")))
    other = quiet(diffusers.StableDiffusionPipeline.from_pipe(pipe, requires_safety_checker=False))
    remove(pipe)
    assert torch.equal(draw(other, call), dense)
    assert torch.equal(draw(pipe, call), dense)


def test_a_scheduler_that_follows_makes_others_of_its_class():
    pipe, _ = stable_diffusion(scheduler=SCHEDULERS["pndm"]())
    with apply(pipe, scattered(blocks_of("sd15", "stage"), STEPS + 1)):
        assert isinstance(pipe.scheduler, PNDMScheduler)
        assert type(type(pipe.scheduler).from_config(pipe.scheduler.config)) is PNDMScheduler
        assert type(DDIMScheduler.from_config(pipe.scheduler.config)) is DDIMScheduler
        assert pipe.config["scheduler"] == ("diffusers", "PNDMScheduler")
