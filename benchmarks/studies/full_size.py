"""Full-size denoisers with random weights or none at all: MACs, memory and seconds do not ask for trained ones.

`paper-macs`: the MACs in DiP-GO's tables, and the convention in which each of them holds. `cache`: what reuse costs in memory.
`runtime`: what MACs are worth in milliseconds, in turns. `fullsize`: an update of the gradient search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from secateur.denoiser import macs
from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.families import dummy_inputs
from secateur.measuring import timing
from secateur.measuring.memory import peak_memory
from secateur.pipeline.trajectory import Trajectory
from secateur.schedule import baselines
from secateur.schedule.apply import apply
from secateur.schedule.cache import block_bytes, peak_cached_bytes
from secateur.searching.dip_go.gradient import search
from secateur.searching.dip_go.updates import Settings
from study import Job, Record, Row, Run, Study

CALLS = 50
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_unet(name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> UNet2DConditionModel:
    """A full-size U-Net with random weights, made in its own dtype."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        return UNet2DConditionModel.from_config(macs.denoiser_config(name)).to(device).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def sd15(dtype: torch.dtype, device: str, *, coder: nn.Module | None = None) -> StableDiffusionPipeline:
    """SD-1.5's U-Net with random weights in a stock pipeline that gets embeddings."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    unet = random_unet("sd15", dtype=dtype, device=device)
    pipe = StableDiffusionPipeline(coder, None, None, unet, scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# The MACs of the paper's tables


class Figure(NamedTuple):
    """A figure of the paper in T (10¹² MACs), and how to count it."""

    denoiser: str
    calls: int
    paper_t: float
    samples: int = 1
    published: bool = False


FIGURES = {
    "SD-1.5, 50 calls": Figure("sd15", 50, 16.94),
    "SD-1.5, published DiP-GO schedule": Figure("sd15", 50, 3.38, published=True),
    "SD-2.1, 768 px, 50 calls": Figure("sd21", 50, 38.04),
    "DiT-XL/2, 256 px, 250 calls": Figure("dit-xl-2", 250, 29.66),
    "SDXL, 4 calls": Figure("sdxl", 4, 11.95),
    "PixArt-α, 1024 px, 20 calls, guidance": Figure("pixart-alpha-1024", 20, 85.65, samples=2),
}


def paper_jobs(run: Run) -> Iterator[Job]:
    for name, figure in FIGURES.items():
        yield Job(name, partial(paper_rows, name, figure))


def paper_rows(name: str, figure: Figure) -> list[Row]:
    """Both conventions, and which of them is the paper's."""
    counted = macs.count(macs.denoiser_config(figure.denoiser))
    plan = baselines.published_dip_go(counted.blocks) if figure.published else None
    spent = counted.spent(plan, figure.calls, samples=figure.samples)
    amounts = {"conv + linear": spent["macs_linear"], "with attention": spent["macs_attention"]}
    off = {convention: amount / (figure.paper_t * 1e12) - 1 for convention, amount in amounts.items()}
    nearest = min(off, key=lambda convention: abs(off[convention]))
    shown = f"secateur macs {figure.denoiser} --calls {figure.calls}" + " --guidance" * (figure.samples == 2)
    if figure.published:
        shown = "secateur schedule sd15 --method dip-go-published -o s.json; secateur macs sd15 --schedule s.json"
    return [
        {
            "name": name,
            "calls": figure.calls,
            "macs_linear": spent["macs_linear"],
            "macs_attention": spent["macs_attention"],
            "paper": f"{figure.paper_t} T",
            "convention": nearest,
            "off_percent": round(100 * off[nearest], 2),
            "command": shown,
        }
    ]


# Bytes kept for later calls


def cache_jobs(run: Run) -> Iterator[Job]:
    """Counted on the meta device, float16, guidance on (batch 2)."""
    for name in ("sd15", "sdxl"):
        for granularity in ("stage", "layer"):
            last = f"{name}, {granularity}, DeepCache, interval 5"
            yield Job(f"{name}, {granularity}", partial(cache_rows, name, granularity), last=last)


def cache_rows(name: str, granularity: str) -> Iterator[Row]:
    """A row for each schedule of one denoiser at one granularity."""
    denoiser = macs.meta_denoiser(name).half()
    blocks = find_blocks(denoiser, granularity)
    with torch.device("meta"):
        inputs = dummy_inputs(denoiser, batch=2)
    half = {k: v.half() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs.items()}
    half |= {k: {n: x.half() for n, x in v.items()} for k, v in inputs.items() if isinstance(v, dict)}
    sizes = block_bytes(denoiser, blocks, half)
    plans = {"uniform hold, every 5th call": baselines.uniform(blocks, CALLS, every=5)}
    plans["DeepCache, interval 5"] = baselines.deepcache(blocks, CALLS, interval=5)
    if name == "sd15" and granularity == "stage":
        plans["published DiP-GO"] = baselines.published_dip_go(blocks)
    for method, plan in plans.items():
        peak = peak_cached_bytes(plan, blocks, sizes)
        named = {"name": f"{name}, {granularity}, {method}", "calls": CALLS}
        yield {**named, "every_output_bytes": sum(sizes), "peak_cached_bytes": peak}


# Milliseconds for MACs


def runtime_jobs(run: Run) -> Iterator[Job]:
    """One job: 50 DDIM calls each with guidance, through the stock pipeline's own loop to the final latents, in turns."""
    yield Job("dense, the published schedule and DeepCache", partial(runtime_rows, **run.options), last="dense")


def runtime_rows(*, size: int, dtype: str, repeats: int) -> Iterator[Row]:
    """Dense, the published DiP-GO schedule and DeepCache; efficiency is the speed-up over the MACs reduction."""
    pipe, kind = sd15(getattr(torch, dtype), DEVICE), getattr(torch, dtype)
    text = torch.randn(2, 1, 77, 768, generator=torch.Generator().manual_seed(1)).to(DEVICE, kind)
    noise = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(2)).to(DEVICE, kind)
    stage, layer = (macs.count(pipe.unet, granularity, size=size) for granularity in ("stage", "layer"))
    plans = {
        "dense": (stage, baselines.dense(stage.blocks, CALLS)),
        "DiP-GO, published, keep 0.2": (stage, baselines.published_dip_go(stage.blocks)),
        "DeepCache, interval 5": (layer, baselines.deepcache(layer.blocks, CALLS, interval=5)),
    }

    def sample(schedule: Any) -> None:
        with apply(pipe, schedule):
            pipe(prompt_embeds=text[0], negative_prompt_embeds=text[1], latents=noise.clone(), num_inference_steps=CALLS,
                 guidance_scale=7.5, output_type="latent")  # fmt: skip

    times = timing.time_together({name: partial(sample, plan) for name, (_, plan) in plans.items()}, repeats=repeats)
    for name, (counted, plan) in plans.items():
        median, low, high = timing.speedup(times["dense"], times[name])
        yield {
            "name": name,
            "group": name.partition(",")[0],
            "calls": CALLS,
            "steps": CALLS,
            "scheduler": "DDIMScheduler",
            **counted.spent(plan, CALLS, samples=2),
            "latency_s": times[name].as_json(),
            "speedup": {"median": median, "low": low, "high": high},
            "efficiency": median * counted.keep(plan, attention=True),
        }


# One update of DiP-GO's search


def update_jobs(run: Run) -> Iterator[Job]:
    """SD-1.5's U-Net and VAE, 64² latents, guidance; embeddings stand for prompts."""
    yield Job(f"SD-1.5, T = {run.options['calls']}", partial(update_rows, run, **run.options))


def update_rows(run: Run, *, calls: int, dtype: str) -> list[Row]:
    """Seconds of one update, and of a whole search of the paper's 1000 updates of 50 calls."""
    coder = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
        scaling_factor=0.18215,
    )
    pipe = sd15(getattr(torch, dtype), DEVICE, coder=coder.to(DEVICE, getattr(torch, dtype)).eval())
    steps = search(pipe, blank_trajectory(pipe, calls), keep=0.5, macs=macs.count(pipe.unet), settings=Settings(steps=1))
    start = time.perf_counter()
    peak = peak_memory(lambda: list(steps), device=DEVICE)
    seconds = time.perf_counter() - start
    run.record["options"]["peak_memory"] = peak.how
    return [
        {
            "name": f"SD-1.5, T = {calls}",
            "calls": calls,
            "update_s": seconds,
            "paper_search_h": seconds / calls * 50 * 1000 / 3600,
            "weights_bytes": sum(p.numel() * p.element_size() for part in (pipe.unet, pipe.vae) for p in part.parameters()),
            "peak_memory_bytes": peak.peak_bytes,
        }
    ]


def blank_trajectory(pipe: StableDiffusionPipeline, calls: int) -> Trajectory:
    """What a search with fresh noise reads of a trajectory: a condition, how the pipe is called, and its timesteps."""
    text = torch.randn(2, 77, 768, generator=torch.Generator().manual_seed(1)).to(pipe.device, pipe.unet.dtype)
    condition = {"prompt_embeds": text[0], "negative_prompt_embeds": text[1]}
    pipe.scheduler.set_timesteps(calls)
    times = tuple(float(t) for t in pipe.scheduler.timesteps)
    blank = torch.zeros(calls + 1, 1, 4, 64, 64)
    options = {"num_inference_steps": calls, "guidance_scale": 7.5}
    return Trajectory((condition,), (0,), times, blank, blank[1:], np.zeros((1, 8, 8, 3), np.float32), options)


def measured_with(options: Callable[[Mapping[str, Any]], Record], **more: Any) -> Callable[[str, Mapping[str, Any]], Record]:
    """The settings of a study, by its options."""
    return lambda pipe, given: {"options": options(given), **more}


STUDIES = (
    Study(
        "paper-macs",
        "The MACs in DiP-GO's tables",
        paper_jobs,
        settings=lambda pipe, options: {"pipe": "full-size configurations (meta)"},
    ),
    Study(
        "cache",
        "Bytes cached at most, freed after the last reader, against every block's output",
        cache_jobs,
        settings=measured_with(lambda options: {"dtype": "float16", "batch": 2}, pipe="sd15, sdxl (meta)"),
    ),
    Study(
        "runtime",
        "Runtime efficiency on SD-1.5's full-size U-Net (random weights)",
        runtime_jobs,
        options={"size": 32, "dtype": "bfloat16", "repeats": 5},
        settings=measured_with(
            lambda options: {"samples_an_image": 2, "latent_side": options["size"], "dtype": options["dtype"]},
            pipe="sd15 (random weights)",
        ),
    ),
    Study(
        "fullsize",
        "One update of DiP-GO's search at full size (random weights)",
        update_jobs,
        options={"calls": 4, "dtype": "bfloat16"},
        settings=measured_with(
            lambda options: {"dtype": options["dtype"], "latent_side": 64, "guidance_scale": 7.5}, pipe="sd15 (random weights)"
        ),
    ),
)
