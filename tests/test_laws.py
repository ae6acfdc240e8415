"""The laws: what correct means here, on real diffusers classes of tiny size. (3, 5, 6 and 8 come with what they are about.)"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from grids import blocks_of, scattered
from nets import executed, traces
from secateur.denoiser import macs
from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.of_pipe import denoiser_of
from secateur.schedule import baselines
from secateur.schedule.apply import apply
from secateur.schedule.schedule import Schedule, load
from tiny_pipes import PIPES, STEPS, draw, noise, stable_diffusion

GOLDEN = Path(__file__).parent / "golden" / "schedule-format-1.json"


@pytest.mark.parametrize("name", PIPES)
def test_law_1_the_dense_schedule_is_the_denoiser_bit_for_bit(name):
    pipe, call = PIPES[name]()
    dense = draw(pipe, call)
    with apply(pipe, baselines.dense(find_blocks(denoiser_of(pipe)), STEPS)):
        assert torch.equal(draw(pipe, call), dense)


@pytest.mark.parametrize("granularity", ["stage", "layer"])
@pytest.mark.parametrize("fails", [False, True])
def test_law_2_no_trace_after_remove_also_after_an_exception(granularity, fails):
    pipe, call = stable_diffusion()
    dense, before = draw(pipe, call), set(vars(pipe.scheduler))
    blocks = blocks_of("sd15", granularity)

    def interrupt(pipe, step, timestep, tensors):
        if fails and step == 3:
            raise KeyboardInterrupt
        return tensors

    try:
        with apply(pipe, scattered(blocks), blocks=blocks):
            assert len(traces(pipe.unet)) > 2
            draw(pipe, call | {"callback_on_step_end": interrupt})
    except KeyboardInterrupt:
        assert fails
    hooks = [h for m in pipe.unet.modules() for h in (m._forward_hooks, m._forward_pre_hooks) if h]
    assert not traces(pipe.unet)
    assert not hooks
    assert set(vars(pipe.scheduler)) == before
    assert torch.equal(draw(pipe, call), dense)


def test_law_4_the_golden_file_of_format_1_loads_for_ever(tmp_path):
    wanted = Schedule(
        blocks=("down_blocks.0", "mid_block", "up_blocks.0"),
        grid=("###", "#.#", "...", "###"),
        reuse=("output", "output", "output"),
        denoiser="UNet2DConditionModel",
        scheduler="DDIMScheduler",
        scheduler_hash="0123456789abcdef",
        timesteps=(981.0, 741.0, 501.0, 261.5),
        made={
            "method": "golden",
            "command": "secateur search × 3",
            "seed": 7,
            "quality": {"psnr_db": 31.4},
            "calls": [0, 1, 3],
        },
    )
    assert load(GOLDEN) == wanted
    wanted.save(tmp_path / "again.json")
    assert load(tmp_path / "again.json") == wanted


def test_law_4_the_golden_file_of_format_2_loads_for_ever(tmp_path):
    """Two calls, held ones left out: their timesteps, and the rows of their sampler."""
    wanted = Schedule(
        blocks=("down_blocks.0", "mid_block"),
        grid=("##", "#."),
        reuse=("output", "residual"),
        denoiser="UNet2DConditionModel",
        timesteps=(981, 501),
        table={
            "rows": [[1.25, -0.5], [1.5, -0.75, 0.125]],
            "input_scales": [1.0, 1.0],
            "signal_rates": [0.0625, 0.5],
            "noise_rates": [0.998, 0.866],
            "init_noise_sigma": 1.0,
        },
        made={"method": "golden"},
    )
    assert load(GOLDEN.with_name("schedule-format-2.json")) == wanted
    wanted.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == GOLDEN.with_name("schedule-format-2.json").read_text()


@pytest.mark.parametrize(
    ("name", "granularity"),
    [("sd", "stage"), ("sd", "layer"), ("sdxl", "layer"), ("pixart", "layer"), ("sd3", "layer"), ("wan", "layer")],
)
def test_law_7_the_macs_that_executed_are_the_macs_that_were_counted(name, granularity):
    pipe, call = PIPES[name]()
    denoiser = denoiser_of(pipe)
    blocks = find_blocks(denoiser, granularity)
    size = (2, 4, 4) if name == "wan" else 8
    counted = macs.count(denoiser, blocks, size=size, tokens=5)
    for schedule in (scattered(blocks), baselines.fora(blocks, STEPS, interval=4)):
        assert counted.keep(schedule) < 1
        assert executed(pipe, call, schedule, blocks) == 2 * counted.of(schedule)  # guidance: two samples, or two calls


def test_law_9_two_pipes_do_not_see_each_other():
    blocks = blocks_of("sd15", "stage")
    (one, call), (two, _), (three, _) = (stable_diffusion() for _ in range(3))
    dense = draw(three, call)
    schedules = scattered(blocks, seed=1), scattered(blocks, seed=2)
    alone = []
    for schedule in schedules:
        with apply(three, schedule, blocks=blocks):
            alone.append(draw(three, call))
    assert not torch.equal(*alone)
    found = {}

    def other(pipe, step, timestep, tensors):  # the second image is made in the middle of the first one
        if step == 2:
            found["two"], found["three"] = draw(two, call), draw(three, call)
        return tensors

    with apply(one, schedules[0], blocks=blocks), apply(two, schedules[1], blocks=blocks):
        found["one"] = draw(one, call | {"callback_on_step_end": other})
    assert torch.equal(found["one"], alone[0])
    assert torch.equal(found["two"], alone[1])
    assert torch.equal(found["three"], dense)


@pytest.mark.parametrize("broken_off", [False, True])
def test_law_9_the_second_image_does_not_see_the_first_ones_cache(broken_off):
    pipe, call = stable_diffusion()
    blocks = blocks_of("sd15", "stage")
    schedule = scattered(blocks)

    def interrupt(pipe, step, timestep, tensors):
        if broken_off and step == 2:
            raise KeyboardInterrupt
        return tensors

    with apply(pipe, schedule, blocks=blocks):
        fresh = draw(pipe, call)
    with apply(pipe, schedule, blocks=blocks) as subnet:
        try:
            draw(pipe, call | {"latents": noise(99, 1, 4, 8, 8), "callback_on_step_end": interrupt})
        except KeyboardInterrupt:
            assert broken_off
            assert subnet.cached_bytes > 0
        subnet.restart()
        assert subnet.cached_bytes == 0
        assert torch.equal(draw(pipe, call), fresh)


@pytest.mark.parametrize("every", [2, 3, 5])
def test_law_10_holding_k_calls_under_ddim_is_one_step_over_them(every):
    """η = 0, no clipping, in float64: x / √ᾱ is linear in σ along a held prediction."""
    pipe, call = stable_diffusion()
    pipe.to(torch.float64)
    pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod.double()
    pipe.scheduler.final_alpha_cumprod = pipe.scheduler.final_alpha_cumprod.double()
    call = {k: v.double() if torch.is_tensor(v) else v for k, v in call.items()} | {"num_inference_steps": 10}
    blocks = blocks_of("sd15", "stage")
    with apply(pipe, baselines.uniform(blocks, 10, every=every), blocks=blocks, fold=False):
        held = draw(pipe, call)
    torch.testing.assert_close(held, one_step_over(pipe, call, every), rtol=1e-9, atol=1e-9)


def one_step_over(pipe, call, every: int) -> torch.Tensor:
    """DDIM written out (arXiv 2010.02502, Eq. 12) over every so many of the scheduler's timesteps."""
    scheduler: DDIMScheduler = pipe.scheduler
    scheduler.set_timesteps(call["num_inference_steps"])
    times = scheduler.timesteps.tolist()
    after = [*times[1:], None]
    x = call["latents"]
    text = torch.cat([call["negative_prompt_embeds"], call["prompt_embeds"]])
    for k in range(0, len(times), every):
        t, s = times[k], after[min(k + every, len(times)) - 1]
        a, b = (scheduler.final_alpha_cumprod if u is None else scheduler.alphas_cumprod[u] for u in (t, s))
        no, yes = pipe.unet(torch.cat([x, x]), t, text, return_dict=False)[0].chunk(2)
        eps = no + call["guidance_scale"] * (yes - no)
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    return x


# 11. Time is noisy on a busy machine, so what is imported is what counts; the clock has the last word with a wide margin.

HEAVY = (
    "diffusers",
    "huggingface_hub",
    "transformers",
    "accelerate",
    "torch._dynamo",
    "torchvision",
    "scipy",
    "matplotlib",
    "jinja2",
    "PIL",
    "pandas",
)
PROBE = """
import sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
print(seconds, *[m for m in {heavy!r} if m in sys.modules])
"""


def imported(statement: str) -> tuple[float, set[str]]:
    """Seconds, and what heavy modules are there after a statement in a fresh process."""
    code = PROBE.format(statement=statement, heavy=HEAVY)
    seconds, *heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), set(heavy)


def is_light(ours: tuple[float, set[str]], torchs: tuple[float, set[str]]) -> bool:
    """Whether an import brings nothing heavy beyond what torch does, and takes about the time that torch takes."""
    return ours[1] <= torchs[1] and ours[0] < 1.25 * torchs[0] + 0.25


def test_law_11_importing_secateur_costs_no_more_than_importing_torch():
    assert any(is_light(imported("import secateur"), imported("import torch")) for _ in range(3))


def test_law_11_can_fail():
    seconds, heavy = imported("import diffusers")
    assert {"diffusers", "torch._dynamo"} <= heavy
    assert not is_light((seconds, heavy), (seconds, set()))
    assert not is_light((2.0, set()), (1.0, set()))
    assert is_light((1.2, set()), (1.0, set()))


def test_the_laws_that_tests_name_are_those_of_contributing():
    tests, page = Path(__file__).parent, (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    named = {number for file in tests.rglob("test_*.py") for number in re.findall(r"def test_law_(\d+)_", file.read_text())}
    listed = re.findall(r"^(\d+)\. ", page.partition("## Laws")[2].partition("##")[0], re.MULTILINE)
    assert sorted(named, key=int) == listed == [str(number) for number in range(1, 1 + len(listed))]
