"""The runtime in stock pipelines of tiny size, against the plain reference that computes everything."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from torch.utils._python_dispatch import TorchDispatchMode

import tiny_pipes
from grids import KNOWN, blocks_of, scattered
from nets import NAMES, Net, traces
from reference import lined_rows, random_rows, reference
from secateur.denoiser.blocks import Blocks, find_blocks
from secateur.denoiser.of_pipe import denoiser_of
from secateur.denoiser.patch import compile_blocks, patch_of
from secateur.pipeline.schedulers import HOLDABLE
from secateur.schedule import baselines
from secateur.schedule.apply import apply, follow, remove
from secateur.schedule.cache import block_bytes, peak_cached_bytes
from secateur.schedule.fit import is_same_model
from secateur.schedule.holds import LINES
from secateur.schedule.schedule import Schedule, load
from secateur.schedule.subnet import MOST_BRANCHES
from tiny import tiny
from tiny_pipes import OFFSET, PIPES, SCHEDULERS, STEPS, ddim, draw, expected, ip_adapter, noise, stable_diffusion

CALLS = {"pndm": STEPS + 1, "heun": 2 * STEPS - 1}


def pruned(pipe, call, schedule, *, fold: bool = False, **how):
    """By the patch, also if the schedule is a sampler; see test_sampled.py."""
    blocks = how.pop("blocks", KNOWN.get(schedule.blocks) if isinstance(schedule, Schedule) else None)
    with apply(pipe, schedule, blocks=blocks, fold=fold, **how):
        return draw(pipe, call)


# right in every pipeline


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", PIPES)
def test_every_pipeline_computes_what_the_schedule_means(name, seed):
    pipe, call = PIPES[name]()
    blocks = blocks_of("sd15", "layer") if name == "sd" else find_blocks(denoiser_of(pipe))
    schedule = scattered(blocks, seed=seed)
    dense, wanted = draw(pipe, call), expected(pipe, call, schedule, branches=2 if name == "wan" else 1)
    assert torch.equal(pruned(pipe, call, schedule, blocks=blocks), wanted)
    assert not torch.equal(dense, wanted)
    assert torch.isfinite(wanted).all()
    assert torch.equal(draw(pipe, call), dense)


@pytest.mark.parametrize("hold", LINES)
@pytest.mark.parametrize("name", PIPES)
def test_every_pipeline_extrapolates(name, hold):
    pipe, call = PIPES[name]()
    blocks = blocks_of("sd15", "layer") if name == "sd" else find_blocks(denoiser_of(pipe))
    blocks = replace(blocks, reuse=("extrapolate",) * len(blocks))
    schedule = replace(baselines.closed(blocks, lined_rows(len(blocks)), made={}), hold=hold)
    wanted = expected(pipe, call, schedule, branches=2 if name == "wan" else 1)
    found = pruned(pipe, call, schedule, blocks=blocks)
    last = replace(blocks, reuse=("output",) * len(blocks))
    level = pruned(pipe, call, replace(schedule, reuse=last.reuse, hold="output"), blocks=last)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (found - level).abs().max() > 1e-3


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_runs_dense_and_pruned_schedules_right(name):
    pipe, call = stable_diffusion(scheduler=SCHEDULERS[name]())
    call["generator"] = torch.Generator()
    blocks, calls = blocks_of("sd15", "stage"), CALLS.get(name, STEPS)
    dense = draw(pipe, call)
    assert torch.equal(pruned(pipe, call, baselines.dense(blocks, calls), blocks=blocks), dense)
    schedule = scattered(blocks, calls)
    wanted = expected(pipe, call, schedule)
    assert torch.equal(pruned(pipe, call, schedule, blocks=blocks), wanted)
    assert not torch.equal(wanted, dense)


@pytest.mark.parametrize("kind", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"])
@pytest.mark.parametrize(("name", "first"), [("ddim", 3), ("pndm", 3), ("dpm++", 3), ("heun", 6)])
def test_image_to_image_starts_part_of_the_way_down(kind, name, first):
    pipe, call = stable_diffusion(kind, SCHEDULERS[name]())
    schedule = scattered(blocks_of("sd15", "stage"), CALLS.get(name, STEPS), seed=4)
    assert "." in schedule.grid[first], "the image's first call must be one that the schedule prunes"
    wanted = expected(pipe, call, schedule, offset=first)
    assert torch.equal(pruned(pipe, call, schedule), wanted)
    assert not torch.equal(wanted, expected(pipe, call, schedule, offset=first - 1))


def test_a_line_is_read_ahead_in_an_image_that_starts_part_of_the_way_down():
    """It starts at call 5, which runs whole for want of another, so that from call 8 on there is a line."""
    pipe, call = stable_diffusion("StableDiffusionImg2ImgPipeline")
    blocks, call = blocks_of("sd15", "stage"), call | {"num_inference_steps": 12}
    schedule = baselines.chosen(blocks, 12, run=[0, 1, 8], hold="adams_bashforth")
    wanted = expected(pipe, call, schedule, offset=5)
    torch.testing.assert_close(pruned(pipe, call, schedule), wanted, rtol=1e-4, atol=1e-5)
    extrapolated = expected(pipe, call, replace(schedule, hold="extrapolate"), offset=5)
    assert not torch.allclose(wanted, extrapolated, rtol=1e-2, atol=1e-2)


def test_an_image_to_image_pipeline_may_begin_and_end_part_of_the_way():
    """DDIM does not tell at which call it begins, so that the timesteps that the denoiser is given do."""
    pipe, _ = tiny_pipes.sdxl()
    parts = {name: part for name, part in pipe.components.items() if part is not None or "t" in name}
    other = tiny_pipes.quiet(diffusers.StableDiffusionXLImg2ImgPipeline(**parts | {"scheduler": ddim()}))
    call = tiny_pipes.common() | {
        "pooled_prompt_embeds": noise(6, 1, 8),
        "negative_pooled_prompt_embeds": noise(7, 1, 8),
        "image": noise(5, 1, 3, 16, 16).abs().clamp(max=1),
        "generator": torch.Generator(),
        "strength": 0.8,
        "denoising_end": 0.8,
    }
    schedule = scattered(find_blocks(other.unet), seed=4)
    wanted = expected(other, call, schedule, offset=2)
    assert torch.equal(pruned(other, call, schedule), wanted)
    assert not torch.equal(wanted, expected(other, call, schedule))


def test_image_to_image_with_timesteps_of_its_own_asks_for_as_many_steps():
    pipe, call = stable_diffusion("StableDiffusionImg2ImgPipeline", scheduler=SCHEDULERS["dpm++"]())
    times = (900.0, 700.0, 500.0, 300.0, 200.0, 100.0, 50.0, 10.0)
    schedule = replace(baselines.dense(blocks_of("sd15"), len(times)), timesteps=times)
    with pytest.raises(ValueError, match=f"chooses 8 timesteps and {STEPS} were asked for"):
        pruned(pipe, call, schedule)
    assert pruned(pipe, call | {"num_inference_steps": 8}, schedule).isfinite().all()


@pytest.mark.parametrize(
    ("make", "options"), [(tiny_pipes.sd3, {"shift": 3.0}), (tiny_pipes.flux, {"use_dynamic_shifting": True})]
)
def test_chosen_timesteps_stay_where_they_are_though_flow_matching_shifts(make, options):
    pipe, call = make()
    schedule = replace(baselines.dense(find_blocks(pipe.transformer), 2), timesteps=(900.5, 300.25))
    wanted = pruned(pipe, call | {"num_inference_steps": 2}, schedule)
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    with apply(pipe, schedule, fold=False):
        torch.testing.assert_close(draw(pipe, call | {"num_inference_steps": 2}), wanted)
        assert pipe.scheduler.timesteps.tolist() == [900.5, 300.25]
        assert pipe.scheduler.sigmas.tolist() == pytest.approx([0.9005, 0.30025, 0.0])


def test_chosen_timesteps_are_refused_where_a_scheduler_would_shift_them():
    pipe, _ = tiny_pipes.sd3()
    schedule = replace(baselines.dense(find_blocks(pipe.transformer), 2), timesteps=(900.0, 300.0))
    pipe.scheduler = diffusers.FlowMatchLCMScheduler(shift=3.0)
    with pytest.raises(ValueError, match="shifts what it is given"):
        apply(pipe, schedule)


def test_controlnet():
    unet = tiny("sd15")
    pipe, call = stable_diffusion("StableDiffusionControlNetPipeline", controlnet=tiny_pipes.controlnet(unet))
    schedule = scattered(blocks_of("sd15", "stage"))
    wanted = expected(pipe, call, schedule)
    assert torch.equal(pruned(pipe, call, schedule), wanted)
    assert not torch.equal(wanted, expected(pipe, call | {"controlnet_conditioning_scale": 0.0}, schedule))


def test_lora():
    peft = pytest.importorskip("peft", reason="LoRA in diffusers needs peft")
    pipe, call = stable_diffusion()
    schedule = scattered(blocks_of("sd15", "stage"))
    plain = pruned(pipe, call, schedule)
    torch.manual_seed(0)
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    wanted = expected(pipe, call, schedule)
    assert torch.equal(pruned(pipe, call, schedule), wanted)
    assert not torch.equal(plain, wanted)


def test_ip_adapter():
    pipe, call = stable_diffusion()
    torch.manual_seed(3)
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)])
    call["ip_adapter_image_embeds"] = [noise(8, 2, 1, 6)]
    schedule = scattered(blocks_of("sd15", "stage"))
    wanted = expected(pipe, call, schedule)
    assert torch.equal(pruned(pipe, call, schedule), wanted)
    assert not torch.equal(wanted, expected(pipe, call | {"ip_adapter_image_embeds": [noise(9, 2, 1, 6)]}, schedule))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_batch_is_its_images_and_guidance_is_no_matter(guidance):
    blocks = blocks_of("sd15", "stage")
    pipe, call = stable_diffusion(batch=2, guidance=guidance)
    both = pruned(pipe, call, scattered(blocks), blocks=blocks)
    for k in range(2):
        one = {name: v[k : k + 1] if torch.is_tensor(v) else v for name, v in call.items()}
        torch.testing.assert_close(pruned(pipe, one, scattered(blocks), blocks=blocks), both[k : k + 1], atol=1e-3, rtol=1e-4)


def test_generators_still_reach_the_scheduler():
    pipe, call = stable_diffusion()
    call |= {"eta": 1.0, "generator": torch.Generator()}
    schedule = baselines.dense(blocks_of("sd15", "stage"), STEPS)
    assert torch.equal(pruned(pipe, call, schedule), draw(pipe, call))


def test_true_guidance_of_flux_has_a_branch_of_its_own():
    pipe, call = tiny_pipes.flux(true_cfg=2.0)
    schedule = scattered(blocks_of("flux"))
    wanted = expected(pipe, call, schedule, branches=2)
    assert torch.equal(pruned(pipe, call, schedule), wanted)


def test_a_batch_that_shrinks_half_way_goes_on_from_a_dense_call():
    """Guidance may stop before the end: pipelines then halve the batch."""
    pipe, call = stable_diffusion()
    entered = []

    def stop(pipe, step, timestep, tensors):
        if step == 2:
            pipe._guidance_scale = 0.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[1]
        return tensors

    call |= {"callback_on_step_end": stop, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    blocks = blocks_of("sd15", "stage")
    handle = pipe.unet.conv_in.register_forward_pre_hook(lambda m, args: entered.append(len(args[0])))
    out = pruned(pipe, call, baselines.uniform(blocks, STEPS, every=5), blocks=blocks)
    handle.remove()
    assert entered == [2, 1, 1]  # calls 0, 3 (new shape) and 5
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("options", [{}, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}])
def test_timesteps_are_placed_where_diffusers_lets_nobody_choose_them(options):
    """UniPC at its own timesteps is itself, and at others of as many it is not."""
    pipe, call = stable_diffusion(scheduler=diffusers.UniPCMultistepScheduler(**OFFSET, timestep_spacing="linspace", **options))
    wanted = draw(pipe, call)
    times = tuple(pipe.scheduler.timesteps.tolist())
    for moved in (False, True):
        chosen = (*times[:-1], times[-1] // 2) if moved else times
        schedule = replace(baselines.dense(blocks_of("sd15", "stage"), len(times)), timesteps=chosen)
        with apply(pipe, schedule, fold=False):
            found = draw(pipe, call)
            assert tuple(pipe.scheduler.timesteps.tolist()) == chosen
            kept = float(pipe.scheduler.alphas_cumprod[chosen[-1]])
            sigma = chosen[-1] / 1000 if options else ((1 - kept) / kept) ** 0.5
            assert float(pipe.scheduler.sigmas[len(times) - 1]) == pytest.approx(sigma, rel=1e-4)
        near = torch.allclose(found, wanted, rtol=1e-2 if options else 1e-5, atol=1e-2 if options else 1e-5)
        assert near is not moved


def test_a_schedule_can_choose_the_timesteps():
    pipe, call = stable_diffusion(scheduler=SCHEDULERS["dpm++"]())
    times = (990.0, 700.0, 420.0, 60.0)
    schedule = replace(baselines.dense(blocks_of("sd15", "stage"), 4), timesteps=times)
    wanted = draw(pipe, {k: v for k, v in call.items() if k != "num_inference_steps"} | {"timesteps": [int(t) for t in times]})
    assert torch.equal(pruned(pipe, call, schedule), wanted)
    pipe.scheduler = ddim()
    with pytest.raises(ValueError, match="chooses its timesteps and DDIMScheduler takes none"):
        apply(pipe, schedule)


# offload, compilation, and those who write in place


def test_model_offload_renews_its_hooks_between_images():
    from accelerate.hooks import CpuOffload, add_hook_to_module, remove_hook_from_module

    pipe, call = stable_diffusion()
    schedule = scattered(blocks_of("sd15", "stage"))
    wanted = expected(pipe, call, schedule)
    add_hook_to_module(pipe.unet, CpuOffload(execution_device="cpu"))
    with apply(pipe, schedule, blocks=KNOWN[schedule.blocks]):
        for _ in range(2):
            assert torch.equal(draw(pipe, call), wanted)
            remove_hook_from_module(pipe.unet, recurse=True)  # what maybe_free_model_hooks does
            add_hook_to_module(pipe.unet, CpuOffload(execution_device="cpu"))
    remove_hook_from_module(pipe.unet, recurse=True)
    assert pipe.unet.forward.__func__ is type(pipe.unet).forward


def test_sequential_and_group_offload_are_refused():
    import accelerate
    from diffusers.hooks import apply_group_offloading

    schedule = scattered(blocks_of("sd15", "stage"))
    pipe, _ = stable_diffusion()
    accelerate.cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"sequential CPU offload .*enable_model_cpu_offload\(\)"):
        apply(pipe, schedule)
    pipe, _ = stable_diffusion()
    cpu = torch.device("cpu")
    apply_group_offloading(pipe.unet, onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    with pytest.raises(ValueError, match="group offload"):
        apply(pipe, schedule)


@pytest.mark.usefixtures("quick_dynamo")
def test_compiled_blocks_make_no_graph_after_the_first_call():
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("eager")
    pipe, call = tiny_pipes.pixart()
    blocks = blocks_of("pixart")
    schedule = baselines.closed(blocks, random_rows(len(blocks), STEPS, seed=1), made={})
    wanted = expected(pipe, call, schedule)
    counts = []
    with compile_blocks(pipe.transformer, blocks.names, backend=counter, fullgraph=True), apply(pipe, schedule, blocks=blocks):
        pipe.transformer.register_forward_hook(lambda *_: counts.append(counter.frame_count))
        torch.testing.assert_close(draw(pipe, call), wanted)
        draw(pipe, call)
    assert counts[0] == counts[-1] <= 2  # three blocks of one shape share their graphs
    assert not traces(pipe.transformer)


@pytest.mark.usefixtures("quick_dynamo")
def test_a_denoiser_compiled_whole_still_follows_and_makes_no_more_graphs():
    """A small net of our own: compiling a real denoiser whole takes half a minute."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter, net = CompileCounterWithBackend("eager"), Net().requires_grad_(False)
    whole = torch.compile(net, backend=counter)
    blocks = Blocks("Net", "layer", NAMES, ("output",) * 3, ((), (0,), (1,)), (2,))
    schedule = Schedule(NAMES, ("###", ".##", "...", "..#", "###", ".##"), blocks.reuse, "Net")
    xs = [noise(k, 2, 4) for k in range(STEPS)]
    dense = [whole(x) for x in xs]
    with reference(net, schedule):
        wanted = [net(x) for x in xs]
    counts = []
    with follow(whole, schedule, blocks=blocks) as subnet:
        for _ in range(3):
            subnet.restart()
            torch.testing.assert_close([whole(x) for x in xs], wanted)
            counts.append(counter.frame_count)
    assert counts[0] == counts[2]
    torch.testing.assert_close([whole(x) for x in xs], dense)


def test_those_who_write_into_what_they_read_are_found_out_and_served_copies():
    """FreeU scales half of mid_block's output in place."""
    pipe, call = stable_diffusion()
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    blocks = blocks_of("sd15", "stage")
    rows = [[name != "mid_block" for name in blocks.names]] * STEPS
    schedule = baselines.closed(blocks, [None, *rows[1:]], made={})
    with pytest.raises(RuntimeError, match=r"the output of mid_block was changed in place.*copy_outputs=True"):
        pruned(pipe, call, schedule, blocks=blocks)
    plain = pruned(pipe, call, schedule, blocks=blocks, copy_outputs=True)
    pure = []  # mid_block's output before anyone has written into it
    pipe.unet.mid_block.register_forward_hook(lambda m, a, out: pure.append(out.clone()) or pure[0].clone())
    assert torch.equal(draw(pipe, call), plain)


# what is kept


@pytest.mark.parametrize("granularity", ["stage", "layer"])
def test_it_keeps_what_liveness_says_and_nothing_at_the_end(granularity):
    pipe, call = stable_diffusion(guidance=1.0)
    blocks = blocks_of("sd15", granularity)
    inputs = {"sample": noise(1, 1, 4, 8, 8), "timestep": torch.tensor(1), "encoder_hidden_states": noise(2, 1, 5, 8)}
    sizes = block_bytes(pipe.unet, blocks, inputs)
    for schedule in (
        scattered(blocks),
        baselines.deepcache(blocks, STEPS, interval=3),
        baselines.uniform(blocks, STEPS, every=3),
    ):
        with apply(pipe, schedule, blocks=blocks, fold=False) as subnet:
            draw(pipe, call)
            assert subnet.peak_bytes == peak_cached_bytes(schedule, blocks, sizes) < sum(sizes)
            assert subnet.cached_bytes == 0
        assert subnet.peak_bytes == peak_cached_bytes(schedule, blocks, sizes)
    assert peak_cached_bytes(baselines.dense(blocks, STEPS), blocks, sizes) == 0
    assert sizes[-1] == 4 * 4 * 8 * 8


@pytest.mark.parametrize("granularity", ["stage", "layer"])
def test_extrapolation_keeps_two_outputs_of_each_block_and_nothing_at_the_end(granularity):
    pipe, call = stable_diffusion(guidance=1.0)
    blocks = blocks_of("sd15", granularity)
    lines = replace(blocks, reuse=("extrapolate",) * len(blocks))
    inputs = {"sample": noise(1, 1, 4, 8, 8), "timestep": torch.tensor(1), "encoder_hidden_states": noise(2, 1, 5, 8)}
    sizes = block_bytes(pipe.unet, blocks, inputs)
    for level in (scattered(lines), baselines.deepcache(lines, STEPS, interval=3), baselines.uniform(lines, STEPS, every=2)):
        schedule = replace(level, hold="adams_bashforth")
        with apply(pipe, schedule, blocks=lines, fold=False) as subnet:
            draw(pipe, call)
            assert subnet.peak_bytes == peak_cached_bytes(schedule, lines, sizes)
            assert subnet.peak_bytes > peak_cached_bytes(replace(schedule, hold="output"), blocks, sizes)
            assert subnet.cached_bytes == 0


def test_only_blocks_that_are_passed_by_at_some_call_are_intercepted():
    """Whole calls, made or held, need no block's help; a row with a hole needs those that it does not run."""
    pipe, call = stable_diffusion()
    blocks = blocks_of("sd15", "stage")
    for schedule in (baselines.dense(blocks, STEPS), baselines.uniform(blocks, STEPS, every=2)):
        wanted = expected(pipe, call, schedule)
        with apply(pipe, schedule, blocks=blocks, fold=False):
            assert traces(pipe.unet) == [""], "the denoiser itself, and nothing in it"
            assert torch.equal(draw(pipe, call), wanted)
    rows = ("#########", ".........", "#######.#", *["........."] * 3)
    with apply(pipe, Schedule(blocks.names, rows, blocks.reuse, blocks.denoiser), blocks=blocks):
        assert set(traces(pipe.unet)) == {"", *blocks.names} - {"down_blocks.0", "up_blocks.3"}


def test_a_held_call_costs_nothing_and_dead_blocks_never_run():
    pipe, call = stable_diffusion()
    blocks = blocks_of("sd15", "stage")
    ran = []
    for name in ("conv_in", *blocks.names):
        leaf = next(m for m in pipe.unet.get_submodule(name).modules() if isinstance(m, torch.nn.Conv2d))
        leaf.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    rows = ("#########", ".........", "#######.#", *["........."] * 3)
    pruned(pipe, call, Schedule(blocks.names, rows, blocks.reuse, blocks.denoiser), blocks=blocks)
    assert ran == ["conv_in", *blocks.names, "conv_in", "down_blocks.0", "up_blocks.3"]


class Syncs(TorchDispatchMode):
    """Counts what would wait for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default)
        return func(*args, **(kwargs or {}))


def test_it_never_waits_for_the_device():
    pipe, call = stable_diffusion()
    with Syncs() as dense:
        draw(pipe, call)
    blocks = blocks_of("sd15", "stage")
    with apply(pipe, scattered(blocks), blocks=blocks), Syncs() as sub:
        draw(pipe, call)
    assert sub.count <= dense.count


# loops of one's own


def test_follow_counts_the_calls_itself():
    net = tiny("sd15")
    blocks = blocks_of("sd15", "stage")
    schedule = scattered(blocks)
    xs = [noise(k, 1, 4, 8, 8) for k in range(STEPS)]

    def loop():
        return [net(x, torch.tensor(1), noise(2, 1, 5, 8), return_dict=False)[0] for x in xs]

    with reference(net, schedule):
        wanted = loop()
    with follow(net, schedule, blocks=blocks) as subnet:
        for _ in range(2):
            subnet.restart()
            assert all(torch.equal(a, b) for a, b in zip(loop(), wanted, strict=True))
        with pytest.raises(ValueError, match="call 7 of a schedule of 6"):
            net(xs[0], torch.tensor(1), noise(2, 1, 5, 8))


def test_a_loop_of_ones_own_under_apply_is_found_out():
    pipe, _ = stable_diffusion()
    call = partial(pipe.unet, noise(1, 1, 4, 8, 8), torch.tensor(1), noise(2, 1, 5, 8))
    with apply(pipe, scattered(blocks_of("sd15", "stage"))):
        with pytest.raises(ValueError, match=r"another one draws.*follow\(\)"):
            call()
        pipe.scheduler.set_timesteps(STEPS)
        for _ in range(MOST_BRANCHES):
            call()
        with pytest.raises(ValueError, match=rf"{MOST_BRANCHES + 1} times without a step.*follow\(\)"):
            call()


# what does not fit


@contextmanager
def refused(pipe, says: str):
    with pytest.raises(ValueError, match=says) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert not traces(denoiser_of(pipe))
    assert "step" not in vars(pipe.scheduler)


def test_mismatches_are_refused_with_both_values():
    pipe, call = stable_diffusion()
    blocks = blocks_of("sd15", "stage")
    schedule = scattered(blocks)
    with refused(pipe, "for a DiTTransformer2DModel and the pipe has a UNet2DConditionModel"):
        apply(pipe, scattered(blocks_of("dit")))
    names = ("down_blocks.9", *blocks.names[1:])
    with refused(pipe, r"no block named down_blocks\.9"):
        apply(pipe, replace(schedule, blocks=names))
    with refused(pipe, "8 blocks are not those of UNet2DConditionModel at granularity stage or layer"):
        apply(pipe, Schedule(blocks.names[1:], ("########",), blocks.reuse[1:], blocks.denoiser))
    with refused(pipe, "the schedule is for 9 calls and DDIMScheduler makes 6: call the pipe with"):
        pruned(pipe, call, scattered(blocks, 9))
    with refused(pipe, "has none where one denoiser"):
        apply(pipe, schedule, denoiser="transformer")


def test_a_scheduler_that_the_pipes_configuration_does_not_give_is_refused_with_both_values():
    pipe, call = stable_diffusion()
    schedule = scattered(blocks_of("sd15", "stage")).bound_to(EulerDiscreteScheduler())
    with refused(pipe, r"for EulerDiscreteScheduler with other settings: this DDIMScheduler has steps_offset 1 \(0.*bound_to"):
        apply(pipe, schedule)
    with refused(pipe, "DDIMScheduler .* DDIMScheduler"):
        apply(pipe, schedule.bound_to(DDIMScheduler(steps_offset=3)))
    with refused(pipe, "for FlowMatchEulerDiscreteScheduler and this is DDIMScheduler"):
        apply(pipe, replace(schedule, scheduler="FlowMatchEulerDiscreteScheduler", scheduler_hash=None))
    with refused(pipe, "for MyScheduler 0123 and this is DDIMScheduler"):
        apply(pipe, replace(schedule, scheduler="MyScheduler", scheduler_hash="0123"))
    pruned(pipe, call, schedule.bound_to(ddim()))


def test_settings_that_differ_are_named_with_both_values(tmp_path):
    pipe, _ = stable_diffusion()
    other = DDIMScheduler.from_config(ddim().config, steps_offset=3, timestep_spacing="trailing")
    bound = scattered(blocks_of("sd15", "stage")).bound_to(other)
    bound.save(tmp_path / "s.json")
    for schedule in (bound, tmp_path / "s.json"):
        with refused(pipe, r"steps_offset 1 \(3 wanted\), timestep_spacing 'leading' \('trailing' wanted\): set it, or use"):
            apply(pipe, schedule)
    pipe.scheduler = other
    apply(pipe, bound).remove()


class Stop(Exception):
    """What a user's callback raises."""


def stop(*_):
    raise Stop


def test_a_schedule_for_another_scheduler_draws_what_the_pipe_with_that_one_draws_and_leaves_the_pipes_own():
    pipe, call = stable_diffusion(scheduler=SCHEDULERS["pndm"]())
    own, blocks = pipe.scheduler, blocks_of("sd15", "stage")
    dense, other = draw(pipe, call), DDIMScheduler.from_config(own.config)
    schedule = scattered(blocks).bound_to(other)
    pipe.scheduler = other
    wanted = pruned(pipe, call, schedule)
    pipe.scheduler = own
    with refused(pipe, "for DDIMScheduler [0-9a-f]{16} and this is PNDMScheduler"):
        apply(pipe, schedule, strict=True)
    assert torch.equal(pruned(pipe, call, schedule), wanted)
    assert pipe.scheduler is own
    with pytest.raises(Stop), apply(pipe, schedule):
        pipe(**call, callback_on_step_end=stop)
    assert pipe.scheduler is own
    assert torch.equal(draw(pipe, call), dense)


def test_schedules_applied_one_after_another_begin_from_the_pipes_own_scheduler():
    pipe, _ = stable_diffusion(scheduler=SCHEDULERS["pndm"]())
    own, blocks = pipe.scheduler, blocks_of("sd15", "stage")
    apply(pipe, scattered(blocks).bound_to(DDIMScheduler.from_config(own.config)))
    assert isinstance(pipe.scheduler, DDIMScheduler)
    apply(pipe, scattered(blocks).bound_to(EulerDiscreteScheduler.from_config(own.config)))
    assert isinstance(pipe.scheduler, EulerDiscreteScheduler)
    apply(pipe, scattered(blocks, STEPS + 1).bound_to(own))
    assert isinstance(pipe.scheduler, PNDMScheduler)
    apply(pipe, scattered(blocks).bound_to(DDIMScheduler.from_config(own.config)))
    mine = pipe.scheduler = ddim()
    remove(pipe)
    assert pipe.scheduler is mine


@pytest.mark.parametrize(("keep", "hold"), [(0.34, "extrapolate"), (0.2, "adams_bashforth")])
@pytest.mark.parametrize("name", ["sd", "dit", "flux"])
def test_keep_alone_is_evenly_held_calls_at_any_number_of_steps(name, keep, hold):
    pipe, call = PIPES[name]()
    blocks, steps = find_blocks(denoiser_of(pipe)), (10, 15)
    held = [baselines.evenly(blocks, T, round(keep * T), hold=hold) for T in steps]
    calls = [call | {"num_inference_steps": T} for T in steps]
    wanted = [pruned(pipe, *pair) for pair in zip(calls, held, strict=True)]
    with apply(pipe, keep=keep) as subnet:
        found = [draw(pipe, call) for call in (*calls, calls[0])]
        assert subnet.schedule.grid == held[0].grid
    assert all(torch.equal(a, b) for a, b in zip(found, (*wanted, wanted[0]), strict=True))
    assert not traces(denoiser_of(pipe))


def test_keep_alone_takes_ddim_for_a_scheduler_whose_calls_cannot_be_held():
    pipe, call = stable_diffusion(scheduler=SCHEDULERS["pndm"]())
    own, call = pipe.scheduler, call | {"num_inference_steps": 10}
    with apply(pipe, keep=0.5):
        kept = draw(pipe, call)
    assert pipe.scheduler is own
    with refused(pipe, r"PNDMScheduler .*: set pipe\.scheduler = DDIMScheduler\.from_config\(pipe\.scheduler\.config\) first"):
        apply(pipe, keep=0.5, strict=True)
    with refused(pipe, "above 0 and at most 1; got 0"):
        apply(pipe, keep=0)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(own.config, **HOLDABLE[1])
    held = baselines.evenly(find_blocks(pipe.unet), 10, 5, hold="extrapolate")
    assert torch.equal(kept, pruned(pipe, call, held))


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_as_good_as_the_schedule_in_the_file(kind, tmp_path):
    pipe, call = stable_diffusion()
    schedule = scattered(blocks_of("sd15", "stage"))
    schedule.save(tmp_path / "s.json")
    assert torch.equal(pruned(pipe, call, kind(tmp_path / "s.json")), pruned(pipe, call, schedule))
    assert load(kind(tmp_path / "s.json")) == schedule
    with pytest.raises(FileNotFoundError, match="does not exist: give a schedule file"):
        apply(pipe, kind(tmp_path / "t.json"))


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda pipe, schedule: apply(pipe, 3), TypeError, "found 3 for a schedule: give a Schedule, the path of"),
        (lambda pipe, schedule: apply(pipe), TypeError, "found None for a schedule.* or keep=0.33"),
        (lambda pipe, schedule: apply(pipe, schedule, keep=0.5), ValueError, "found a schedule and keep=0.5: give one"),
        (lambda pipe, schedule: apply(pipe.unet, schedule), TypeError, "found a UNet2DConditionModel for a pipe"),
        (lambda pipe, schedule: apply(pipe.unet, keep=0.5), TypeError, "found a UNet2DConditionModel for a pipe"),
        (lambda pipe, schedule: baselines.uniform(pipe.unet, 5, every=2), TypeError, "found a UNet2DConditionModel for blocks"),
        (
            lambda pipe, schedule: baselines.deepcache("sd", 5, interval=2),
            TypeError,
            "found a str for blocks: give what",
        ),
    ],
)
def test_what_is_no_pipe_schedule_or_blocks_is_refused_in_a_sentence(wrong, error, says):
    pipe, _ = stable_diffusion()
    with pytest.raises(error, match=says):
        wrong(pipe, scattered(blocks_of("sd15", "stage")))


def test_a_scheduler_changed_under_a_schedule_is_noticed():
    pipe, call = stable_diffusion()
    with apply(pipe, scattered(blocks_of("sd15", "stage"))):
        pipe.scheduler = EulerDiscreteScheduler()
        with pytest.raises(ValueError, match="another one draws: apply it to the pipe that draws"):
            draw(pipe, call)


def test_two_denoisers_of_one_architecture_follow_a_schedule_each_for_its_calls():
    """As in Wan 2.2. The second one's first call runs dense, as an image's does."""
    pipe, call = tiny_pipes.wan()
    second = tiny("wan")
    with torch.no_grad():
        for weight in second.parameters():
            weight.mul_(0.7)
    pipe.register_modules(transformer_2=second)
    pipe.register_to_config(boundary_ratio=0.6)
    pipe.scheduler.set_timesteps(STEPS)
    first = sum(t >= 600 for t in pipe.scheduler.timesteps.tolist())
    assert 1 < first < STEPS - 1
    schedule, dense = scattered(blocks_of("wan"), seed=5), draw(pipe, call)
    with reference(pipe.transformer, schedule, branches=2), reference(second, schedule, branches=2, offset=first):
        wanted = draw(pipe, call)
    assert not torch.equal(wanted, dense)
    assert torch.equal(pruned(pipe, call, schedule), wanted)
    assert not traces(pipe.transformer)
    assert not traces(second)
    assert torch.equal(draw(pipe, call), dense)


def test_two_denoisers_of_different_architectures_are_refused():
    pipe, _ = tiny_pipes.wan()
    pipe.register_modules(transformer_2=tiny("wan", num_layers=1))
    with pytest.raises(ValueError, match="WanPipeline has transformer, transformer_2 where one denoiser"):
        apply(pipe, scattered(blocks_of("wan")))


def test_applying_again_replaces_and_remove_by_pipe_works():
    pipe, call = stable_diffusion()
    blocks = blocks_of("sd15", "stage")
    dense = draw(pipe, call)
    first = apply(pipe, scattered(blocks, seed=0), blocks=blocks)
    apply(pipe, scattered(blocks, seed=1), blocks=blocks)
    wanted = draw(pipe, call)
    first.remove()  # the first one is gone already, the second stays
    assert torch.equal(draw(pipe, call), wanted)
    remove(pipe)
    remove(pipe)
    assert patch_of(pipe.unet) is None
    assert torch.equal(draw(pipe, call), dense)
    assert torch.equal(wanted, expected(pipe, call, scattered(blocks, seed=1)))


def test_a_refusal_leaves_the_schedule_that_is_applied():
    pipe, _ = stable_diffusion()
    kept = apply(pipe, scattered(blocks_of("sd15", "stage")))
    with pytest.raises(ValueError, match="DiT"):
        apply(pipe, scattered(blocks_of("dit")))
    assert patch_of(pipe.unet).owner is kept


@pytest.mark.gpu
def test_noise_levels_are_compared_on_whichever_device_they_lie():
    """`add_noise` of diffusers leaves them where the latents are."""
    used, latents = ddim(), torch.zeros(1, 4, 8, 8, device="cuda")
    used.add_noise(latents, latents, torch.tensor([5], device="cuda"))
    assert is_same_model(used, ddim())
