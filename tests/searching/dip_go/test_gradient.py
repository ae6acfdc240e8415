"""The gradient search in stock pipelines of tiny size: what it computes, what it leaves behind, how it goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler

from nets import traces
from reference import random_rows
from secateur.denoiser import macs
from secateur.denoiser.of_pipe import denoiser_of
from secateur.denoiser.patch import patch_of
from secateur.measuring import quality
from secateur.pipeline import generate as generating
from secateur.pipeline import trajectory as trajectories
from secateur.schedule import baselines
from secateur.schedule.allocate import allocate
from secateur.schedule.apply import apply
from secateur.searching.dip_go import losses, updates
from secateur.searching.dip_go.gradient import SearchStep, search
from secateur.searching.dip_go.updates import SLACK, Settings, place, presses
from secateur.searching.memo import memo_in
from tiny_pipes import PIPES, dit, noise, said, stable_diffusion

STEPS = 4  # denoising steps, T
SMALL = {"num_inference_steps": STEPS, "guidance_scale": 3.0}
SIDES = {"height": 16, "width": 16}
OPTIONS = {
    "sd": SMALL,
    "sd21": SMALL,
    "sdxl": SMALL,
    "dit": SMALL,
    "pixart": SMALL | SIDES | {"use_resolution_binning": False},
    "sd3": SMALL | SIDES,
    "flux": SMALL | SIDES,
}
QUICK = Settings(steps=3, width=8)
SEPARATING = Settings(  # short steps, and gentle pressure: gates fall one by one, and one that hurts comes back at once
    steps=30, lr=2000.0, clip=5e-4, alpha=1e-3, width=32, batch_size=3, fresh=False
)


# Pipelines that take prompts


def embedded(prompts, *shape: int) -> torch.Tensor:
    return torch.stack([noise(sum(map(ord, prompt)), *shape) for prompt in prompts])


def encoder(kind: str, width: int, pooled: int):
    """A text encoder's place: what this pipeline's encode_prompt gives, made of the prompts' letters."""

    def encode(prompt, *args, negative_prompt=None, **kwargs):
        wordy, empty = embedded(prompt, 5, width), embedded([""] * len(prompt), 5, width)
        short, none = embedded(prompt, pooled), embedded([""] * len(prompt), pooled)
        words, word = said(4, batch=len(prompt)), said(2, batch=len(prompt))
        return {
            "sd": (wordy, empty),
            "sd21": (wordy, empty),
            "pixart": (wordy, words, empty, word),
            "flux": (wordy, short, torch.zeros(5, 3)),
        }.get(kind, (wordy, empty, short, none))

    return encode


def pipe_of(kind: str, **more):
    """A tiny pipe that takes prompts (DiT: labels), and how it is called."""
    pipe, _ = PIPES[kind](**more)
    pipe.vae.register_to_config(shift_factor=0.0)  # SD3 and Flux want one
    if kind != "dit":
        wide = 8 if kind.startswith("sd") and kind != "sd3" else 12
        pipe.encode_prompt = encoder(kind, wide, 8 if kind == "sdxl" else 6)
    return pipe, dict(OPTIONS[kind])


def recorded(pipe, options, *, samples: int = 3) -> trajectories.Trajectory:
    asked = list(range(samples)) if "DiT" in type(pipe).__name__ else ["fox", "owl", "a pear", "red"][:samples]
    return trajectories.record(pipe, asked, seeds=range(10, 10 + samples), **options)


@cache
def counted_of(kind: str) -> macs.Macs:
    return macs.count(denoiser_of(PIPES[kind]()[0]))


def made(kind: str = "dit", *, samples: int = 3, **more):
    pipe, options = pipe_of(kind, **more)
    return pipe, recorded(pipe, options, samples=samples), counted_of(kind)


def ran(*args, **options) -> list[SearchStep]:
    return list(search(*args, **({"keep": 0.5, "settings": QUICK} | options)))


def scattered(counted: macs.Macs, *, seed: int = 0):
    rows = random_rows(len(counted.blocks), STEPS, seed=seed)
    return baselines.closed(counted.blocks, rows, made={})


# Right in every pipeline


def distance(pipe, trajectory, start, *, loss: str) -> float:
    """How far the images of a schedule's SubNet are from the trajectory's, by `losses` as its own test has it."""
    with apply(pipe, start):
        pruned = generating.generate(pipe, trajectory.conditions, seeds=trajectory.seeds, **trajectory.options)
    images = [2 * torch.from_numpy(x).permute(0, 3, 1, 2) - 1 for x in (pruned, trajectory.images)]
    return losses.consistency(*images, kind=loss).mean().item()


@pytest.mark.parametrize("kind", OPTIONS)
def test_in_every_pipeline_the_loss_is_that_of_the_gates_and_an_update_moves_the_scores(kind):
    pipe, trajectory, counted = made(kind)
    start, settings = scattered(counted), Settings(steps=1, width=8, loss="l1", batch_size=3, lr=100.0, clip=None)
    dense = ran(pipe, trajectory, macs=counted, settings=settings)[0]
    assert dense.losses["consistency"] == pytest.approx(0, abs=1e-6)
    fixed, fresh = (
        ran(pipe, trajectory, macs=counted, start=start, settings=replace(settings, fresh=new))[0] for new in (False, True)
    )
    wanted = distance(pipe, trajectory, start, loss="l1")
    assert wanted > 1e-4
    assert fixed.losses["consistency"] == pytest.approx(wanted, rel=1e-3)
    assert fresh.losses["consistency"] != pytest.approx(wanted, rel=1e-3)  # other noise
    at_first = torch.tensor([[-1.0, 1.0][cell == "#"] for row in start.grid[1:] for cell in row]).sigmoid()
    moved = fixed.scores.values[1:].flatten() != at_first.numpy()
    assert moved.reshape(STEPS - 1, -1).any(axis=1).all()


@pytest.mark.parametrize(("kind", "hold"), [("sd", "output"), ("dit", "extrapolate")])
def test_ssim_is_that_of_the_images_too_and_calls_are_held_as_the_start_says(kind, hold):
    pipe, trajectory, counted = made(kind)
    start = replace(scattered(counted), hold=hold)
    found, *_ = ran(pipe, trajectory, macs=counted, start=start, settings=Settings(steps=1, width=8, batch_size=3, fresh=False))
    assert found.losses["consistency"] == pytest.approx(distance(pipe, trajectory, start, loss="ssim"), rel=1e-3)
    assert found.losses["consistency"] > 1e-3
    assert found.schedule.hold == hold


def test_guidance_in_two_calls_and_a_solver_that_calls_once_more():
    pipe, options = pipe_of("flux", true_cfg=3.0)
    trajectory, counted = recorded(pipe, options | {"true_cfg_scale": 3.0, "negative_prompt": "blue"}), counted_of("flux")
    start, settings = scattered(counted), Settings(steps=1, width=8, loss="l1", batch_size=3, fresh=False)
    found, *_ = ran(pipe, trajectory, macs=counted, start=start, settings=settings)
    assert found.losses["consistency"] == pytest.approx(distance(pipe, trajectory, start, loss="l1"), rel=1e-3)
    pipe, trajectory, _ = made("sd", scheduler=PNDMScheduler(steps_offset=1, skip_prk_steps=True))
    assert ran(pipe, trajectory, settings=settings)[-1].schedule.calls == STEPS + 1
    assert not any(x.requires_grad for x in pipe.scheduler.ets)  # it would hold on to the whole graph


def test_a_scheduler_that_draws_noise_of_its_own_draws_the_same_for_both_images_and_every_time():
    """DiTPipeline hands its scheduler no generator."""
    pipe, trajectory, counted = made()
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        assert ran(pipe, trajectory, macs=counted)[0].losses["consistency"] == pytest.approx(0, abs=1e-6)
        found.append(ran(pipe, trajectory, macs=counted, start=scattered(counted))[-1].losses)
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]


# Losses


@pytest.mark.parametrize("kind", ["ssim", "l1", "l2", "l1+ssim"])
def test_the_losses_are_those_of_quality_and_of_torch(kind):
    a, b = (torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    pictures = [x.permute(0, 2, 3, 1) for x in (a, b)]
    torch.testing.assert_close(quality.structural_similarity(a, b).numpy(), quality.ssim(*pictures))
    wanted = {
        "ssim": 1 - quality.structural_similarity(a / 2, b / 2, peak=1),  # SSIM is the same at any scale
        "l1": torch.nn.functional.l1_loss(a, b, reduction="none").mean((1, 2, 3)),
        "l2": torch.nn.functional.mse_loss(a, b, reduction="none").mean((1, 2, 3)),
    }
    found = losses.consistency(a, b, kind=kind)
    torch.testing.assert_close(found, sum(wanted[name] for name in kind.split("+")))
    assert found.shape == (2,)
    torch.testing.assert_close(losses.consistency(3 * a + 1, a * 0 + 5, kind=kind), a.new_zeros(2))  # all beyond white


def test_the_weights_are_the_macs_of_each_block_s_closure():
    """SD-1.5, conv + linear, counted by hand from its graph."""
    counted = macs.count(macs.denoiser_config("sd15"), "stage")
    found = dict(zip(counted.blocks.names, losses.closure_shares(counted), strict=True))
    wanted = {"up_blocks.3": 0.9997, "up_blocks.2": 0.7076, "up_blocks.1": 0.3816, "up_blocks.0": 0.0670, "mid_block": 0.0178}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=3e-4)
    assert found["down_blocks.0"] == pytest.approx(counted.linear[0] / counted.call())
    with_attention = dict(zip(counted.blocks.names, losses.closure_shares(counted, attention=True), strict=True))
    assert with_attention["mid_block"] == pytest.approx(0.0151, abs=5e-5)


def test_sparsity_is_a_weighted_sum_over_the_calls():
    gates, shares = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)), (0.9, 0.2, 0.1)
    wanted = sum(gates[i, b].item() * shares[b] for i in range(4) for b in range(3)) / 4
    assert losses.sparsity(gates, shares).item() == pytest.approx(wanted, rel=1e-6)


def test_the_sparsity_loss_leaves_at_the_budget_and_comes_back_only_well_above_it():
    pressing, found = True, []
    for share in (0.9, 0.6, 0.5, 0.51, 0.54, 0.5 * SLACK, 0.56, 0.52, 0.5, 0.55):
        pressing = presses(pressing, share, 0.5)
        found.append(pressing)
    assert found == [True, True, False, False, False, False, True, True, False, False]


# The search


@pytest.mark.parametrize(("planted", "seed"), [(0, 0), (1, 1), (2, 2), (0, 3), (1, 4), (2, 5)])
def test_planted_redundancy_goes_first(planted, seed):
    """Law 8: of three blocks that cost the same, the one that does nothing, and so is free to reuse, is what goes.

    The budget leaves room for the two others, and the sparsity loss presses until the planted one is gone: SLACK above the
    budget it would not come back. With more to remove, any block that still runs is of use, since the call is entered for it.
    """
    pipe, _ = dit()
    pipe.scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False, beta_end=0.003)  # every call matters
    for i, block in enumerate(pipe.transformer.transformer_blocks):
        block.norm1.linear.weight.data *= 0 if i == planted else 20  # shifts, scales and gates, by timestep and class
        block.norm1.linear.bias.data *= i != planted
    trajectory, counted = recorded(pipe, SMALL), counted_of("dit")
    without = 1 - (STEPS - 1) / STEPS * counted.linear[planted] / counted.call() + 1e-6
    *_, last = search(pipe, trajectory, keep=without / SLACK, macs=counted, settings=replace(SEPARATING, seed=seed))
    others = [i for i in range(3) if i != planted]
    assert last.scores.values[1:, planted].max() < 0.5 < last.scores.values[1:, others].min()
    found = allocate(last.scores, keep=without, method="bisection")
    assert [row[planted] for row in found.grid[1:]] == ["."] * (STEPS - 1)
    assert distance(pipe, trajectory, found, loss="ssim") < 1e-6


def test_calls_that_are_held_at_the_start_can_come_back():
    pipe, trajectory, counted = made("sd")
    held = baselines.chosen(counted.blocks, STEPS, run=[0])
    settings = replace(QUICK, lr=300.0, fresh=False)
    first, *_, last = ran(pipe, trajectory, macs=counted, keep=1.0, start=held, settings=settings)
    assert first.kept_linear > 1 / STEPS
    assert last.losses["consistency"] < first.losses["consistency"] / 2


@pytest.mark.parametrize(("kind", "keep", "attention"), [("sd", 0.3, False), ("dit", 0.61, True), ("dit", 1.0, False)])
def test_every_step_has_a_closed_schedule_within_the_budget(kind, keep, attention):
    pipe, trajectory, counted = made(kind)
    settings = replace(QUICK, lr=100.0, attention=attention, encoder="linear", loss="l1+l2")
    found = ran(pipe, trajectory, macs=counted, keep=keep, settings=settings)
    assert [step.number for step in found] == [1, 2, 3]
    for step in found:
        assert counted.keep(step.schedule, attention=attention) <= keep
        rows = [step.schedule.runs(t) for t in range(STEPS)]
        assert baselines.closed(counted.blocks, rows, made={}).grid == step.schedule.grid
        assert step.schedule.scheduler == "DDIMScheduler"
        assert step.schedule.made["scores"]["method"] == "dip-go"
    apply(pipe, found[-1].schedule).remove()


@pytest.mark.parametrize("loss", ["ssim", "l1+ssim"])
def test_batches_and_accumulation_make_the_same_update(loss):
    pipe, trajectory, counted = made()
    start, values = scattered(counted), []
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        settings = replace(QUICK, steps=2, batch_size=batch_size, accumulation=accumulation, loss=loss)
        values.append(ran(pipe, trajectory, macs=counted, start=start, settings=settings)[-1].scores.values)
    one = ran(pipe, trajectory, macs=counted, start=start, settings=replace(settings, accumulation=1))[-1].scores.values
    for found in values[1:]:
        assert np.abs(found - values[0]).max() < 3e-2 * np.abs(one - values[0]).max()  # gradients round otherwise


def test_plain_sgd_by_default_whose_rate_falls_along_a_cosine(monkeypatch):
    rates = []

    class Watched(torch.optim.SGD):
        def step(self, *args):
            rates.append(self.param_groups[0]["lr"])
            assert self.param_groups[0]["momentum"] == 0
            return super().step(*args)

    assert updates.OPTIMIZERS[Settings().optimizer] is torch.optim.SGD
    monkeypatch.setitem(updates.OPTIMIZERS, Settings().optimizer, Watched)
    pipe, trajectory, counted = made()
    ran(pipe, trajectory, macs=counted, settings=replace(QUICK, steps=4, lr=2.0))
    assert rates == pytest.approx([2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5])


def test_every_condition_is_seen_once_before_any_is_seen_again():
    orders = [[place(5 * epoch + k, 5, seed=1) for k in range(5)] for epoch in range(4)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_weights_of_gamma_and_alpha_and_adam_matter():
    pipe, trajectory, counted = made("sd")
    settings = replace(QUICK, steps=1, lr=1.0, clip=None)
    variants = ({}, {"weighted": False}, {"alpha": 0.1}, {"optimizer": "adam"})
    plain, flat, weak, adam = (
        ran(pipe, trajectory, macs=counted, settings=replace(settings, **change))[-1].scores.values[1:] for change in variants
    )
    at_first = torch.sigmoid(torch.tensor(1.0)).item()
    assert np.ptp(at_first - flat) < np.ptp(at_first - plain)
    np.testing.assert_allclose(at_first - weak, (at_first - plain) / 10, rtol=0.1)
    assert not np.allclose(adam, plain)


def test_the_pipe_is_as_it_was_between_steps_and_after():
    pipe, trajectory, counted = made("sd")
    pipe.unet.conv_in.requires_grad_(True)
    flags = [p.requires_grad for part in (pipe.unet, pipe.vae) for p in part.parameters()]
    scheduler, dense = pipe.scheduler, trajectory.images

    def untouched():
        parameters = [p for part in (pipe.unet, pipe.vae) for p in part.parameters()]
        assert [p.requires_grad for p in parameters] == flags
        assert all(p.grad is None for p in parameters)
        assert not traces(pipe.unet)
        assert patch_of(pipe.unet) is None
        assert "decode" not in vars(pipe.vae)
        assert pipe.scheduler is scheduler
        images = generating.generate(pipe, trajectory.conditions, seeds=trajectory.seeds, **trajectory.options)
        np.testing.assert_array_equal(images, dense)

    found = search(pipe, trajectory, keep=0.5, macs=counted, settings=QUICK)
    untouched()
    next(found)
    untouched()
    found.close()
    untouched()
    found = search(pipe, trajectory, keep=0.5, macs=counted, settings=QUICK)
    next(found)
    pipe.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="samples 1 to 1 gave NaN or infinity"):
        next(found)
    pipe.vae.decoder.conv_out.bias.data.zero_()
    dense = generating.generate(pipe, trajectory.conditions, seeds=trajectory.seeds, **trajectory.options)
    untouched()


def test_bfloat16():
    pipe, trajectory, counted = made()
    found = ran(pipe, trajectory, macs=counted, start=scattered(counted), settings=replace(QUICK, bf16=True))
    exact = ran(pipe, trajectory, macs=counted, start=scattered(counted))
    assert found[0].losses["consistency"] == pytest.approx(exact[0].losses["consistency"], rel=0.2)
    assert found[0].losses["consistency"] != exact[0].losses["consistency"]


# Going on


def kwargs(folder) -> dict:
    """A search in a folder, with an optimizer that has a state."""
    settings = Settings(steps=30, width=8, lr=0.3, optimizer="adam", batch_size=2)
    return {"keep": 0.6, "settings": settings, "memo": memo_in(folder, {})}


SCRIPT = """
import sys
from test_gradient import kwargs, made, search
pipe, told, counted = made()
for step in search(pipe, told, macs=counted, **kwargs(sys.argv[1])):
    print(step.number, flush=True)
"""


def script(*arguments: str, text: str = SCRIPT, **env: str) -> subprocess.Popen:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-W", "ignore", "-c", text, *arguments]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())} | env
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow  # the command's test kills the same search
def test_a_search_that_was_killed_goes_on_and_ends_as_an_undisturbed_one(tmp_path):
    victim = int(np.random.default_rng().integers(3, 11))
    with script(str(tmp_path / "a")) as process:
        for line in process.stdout:
            if int(line) == victim:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    pipe, trajectory, counted = made()
    rest = list(search(pipe, trajectory, macs=counted, **kwargs(tmp_path / "a")))
    whole = list(search(pipe, trajectory, macs=counted, **kwargs(tmp_path / "b")))
    assert [step.number for step in rest] == list(range(1, 31))
    for one, other in zip(rest, whole, strict=True):
        np.testing.assert_array_equal(one.scores.values, other.scores.values)
        assert (one.losses, one.schedule) == (other.losses, other.schedule)


def test_gradients_that_are_known_are_not_computed_again(tmp_path, monkeypatch):
    pipe, trajectory, counted = made()
    steps = search(pipe, trajectory, macs=counted, **kwargs(tmp_path))
    before = [next(steps) for _ in range(3)]
    computed, whole = [], updates.packed_gradient
    monkeypatch.setattr(updates, "packed_gradient", lambda *args, **how: computed.append(how["first"]) or whole(*args, **how))
    again = list(search(pipe, trajectory, macs=counted, **kwargs(tmp_path)))
    assert computed == list(range(6, 60, 2))  # of two samples each, from the fourth update on
    assert [step.losses for step in again[:3]] == [step.losses for step in before]


# Processes

TOGETHER = """
import sys
from accelerate import Accelerator
from test_gradient import Settings, made, scattered, search
accelerator = Accelerator(cpu=True)
pipe, told, counted = made()
settings = Settings(steps=4, width=8, batch_size=3, accumulation=2)
*_, last = search(pipe, told, keep=0.6, macs=counted, settings=settings, start=scattered(counted), accelerator=accelerator)
print(accelerator.num_processes, "/".join(last.schedule.grid), *last.scores.values.flatten().tolist())
"""


def test_two_processes_make_the_schedule_of_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    processes = [script(text=TOGETHER, **env, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    first, second = (process.communicate(timeout=120)[0].split() for process in processes)
    pipe, trajectory, counted = made()
    settings = Settings(steps=4, width=8, batch_size=3, accumulation=2)
    *_, alone = search(pipe, trajectory, keep=0.6, macs=counted, settings=settings, start=scattered(counted))
    assert first == second
    assert first[:2] == ["2", "/".join(alone.schedule.grid)]
    np.testing.assert_allclose(np.array(first[2:], dtype=float), alone.scores.values.flatten(), rtol=1e-3)


def test_losses_go_to_the_trackers():
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

    class Tape(GeneralTracker):
        name, requires_logging_directory, main_process_only = "tape", False, True
        tracker, lines = None, []

        def store_init_configuration(self, values):
            pass

        def log(self, values, step, **_):
            self.lines.append((step, set(values)))

    pipe, trajectory, counted = made()
    accelerator = Accelerator(cpu=True, log_with=[Tape()])
    accelerator.init_trackers("search")
    ran(pipe, trajectory, macs=counted, accelerator=accelerator)
    assert Tape.lines == [(n, {"consistency", "sparsity", "total", "kept_linear", "kept_attention"}) for n in (1, 2, 3)]


# What is refused


def test_pipes_that_draw_nan_are_refused():
    pipe, trajectory, counted = made()
    pipe.transformer.proj_out_2.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the dense pipe draws images with NaN"):
        ran(pipe, trajectory, macs=counted)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep": 0.0}, "above 0 and at most 1; got 0.0"),
        ({"keep": 1.5}, "got 1.5"),
        ({"keep": 0.2}, "0.25 stays whatever is removed"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_drawn(options, says):
    pipe, trajectory, counted = made()
    with pytest.raises(ValueError, match=says):
        search(pipe, trajectory, **({"keep": 0.5, "macs": counted} | options))


def test_trajectories_pipes_and_starts_that_do_not_fit_are_refused():
    pipe, trajectory, counted = made()
    empty = replace(trajectory, conditions=(), seeds=(), latents=trajectory.latents[:, :0], images=trajectory.images[:0])
    with pytest.raises(ValueError, match="got 0 and 0"):
        search(pipe, empty, keep=0.5, macs=counted)
    single = replace(
        trajectory, timesteps=trajectory.timesteps[:1], latents=trajectory.latents[:2], outputs=trajectory.outputs[:1]
    )
    with pytest.raises(ValueError, match="has 1 denoiser calls"):
        search(pipe, single, keep=1.0, macs=counted)
    other = macs.count(stable_diffusion()[0].unet)
    with pytest.raises(ValueError, match="the schedule is for 9 blocks of UNet2DConditionModel"):
        search(pipe, trajectory, keep=0.5, macs=counted, start=scattered(other))
    elsewhere = replace(scattered(counted), timesteps=(900.0, 600.0, 300.0, 1.0))
    with pytest.raises(ValueError, match="has other timesteps"):
        search(pipe, trajectory, keep=0.5, macs=counted, start=elsewhere)
    smaller = replace(trajectory, images=trajectory.images[:, :12])
    with pytest.raises(ValueError, match="with fresh=True"):
        ran(pipe, smaller, macs=counted, settings=replace(QUICK, fresh=False))
    with pytest.raises(TypeError, match="DiTPipeline takes no prompt"):
        search(pipe, replace(trajectory, conditions=("a", "b", "c")), keep=0.5, macs=counted)
    with pytest.raises(ValueError, match="float16, where gradients underflow"):
        search(pipe.to(torch.float16), trajectory, keep=0.5, macs=counted)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0}, "steps=0"),
        ({"accumulation": 0}, "accumulation=0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"loss": "l1+lpips"}, "no loss 'lpips'"),
        ({"optimizer": "lion"}, "no optimizer 'lion'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        Settings(**change)
