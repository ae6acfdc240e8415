"""Full-size denoisers with random weights or none at all: MACs, memory and seconds do not ask for trained ones.

`paper-macs`: the MACs in DiP-GO's tables, and the convention in which each of them holds. `cache`: what reuse costs in memory.
`runtime`: what MACs are worth in milliseconds, in turns. `fullsize`: an update of the gradient search.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from bench import faster
from secateur import Schedule, Trajectory, apply, count, deepcache, dense, find_blocks, published_dip_go, uniform
from secateur.denoiser.families import dummy_inputs
from secateur.denoiser.macs import denoiser_config, meta_denoiser
from secateur.measuring.memory import peak_memory
from secateur.measuring.timing import time_together
from secateur.schedule.cache import block_bytes, peak_cached_bytes
from secateur.searching.dip_go.gradient import search
from secateur.searching.dip_go.updates import Settings
from study import Job, Row, Run, Study

CALLS, UPDATED, SIDE, REPEATS, DTYPE = 50, 4, 32, 5, torch.bfloat16  # UPDATED: calls of an update
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_unet(name: str, *, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    """A full-size U-Net with random weights, made in its own dtype."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        return UNet2DConditionModel.from_config(denoiser_config(name)).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def sd15(coder: nn.Module | None = None) -> StableDiffusionPipeline:
    """SD-1.5's U-Net with random weights in a stock pipeline that gets embeddings."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    unet = random_unet("sd15", dtype=DTYPE).to(DEVICE)
    pipe = StableDiffusionPipeline(coder, None, None, unet, scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(*shape: int, seed: int, like: Any) -> Tensor:
    """Noise on the device of a pipe and in its dtype: embeddings of a prompt and of none, or latents."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(like.device, like.dtype)


# The MACs of the paper's tables

FIGURES = {  # figures of the paper: denoiser, calls, T (10¹² MACs)
    "SD-1.5, 50 calls": ("sd15", 50, 16.94),
    "SD-1.5, published DiP-GO schedule": ("sd15", 50, 3.38),
    "SD-2.1, 768 px, 50 calls": ("sd21", 50, 38.04),
    "DiT-XL/2, 256 px, 250 calls": ("dit-xl-2", 250, 29.66),
    "SDXL, 4 calls": ("sdxl", 4, 11.95),
    "PixArt-α, 1024 px, 20 calls, guidance": ("pixart-alpha-1024", 20, 85.65),
}
NAMED = ("conv + linear", "with attention")
PUBLISHED = "secateur schedule sd15 --method dip-go-published -o s.json; secateur macs sd15 --schedule s.json"


def paper_jobs(run: Run) -> Iterator[Job]:
    yield from (Job(name, partial(paper_row, name, *figure)) for name, figure in FIGURES.items())


def paper_row(name: str, denoiser: str, calls: int, paper_t: float) -> Row:
    """Both conventions, and which of them is the paper's."""
    counted, published, samples = count(denoiser_config(denoiser)), "published" in name, 1 + ("guidance" in name)
    spent = counted.spent(published_dip_go(counted.blocks) if published else None, calls, samples=samples)
    amounts = {key: spent[key] for key in ("macs_linear", "macs_attention")}
    off = {name: x / (paper_t * 1e12) - 1 for name, x in zip(NAMED, amounts.values(), strict=True)}
    nearest = min(off, key=lambda convention: abs(off[convention]))
    shown = PUBLISHED if published else f"secateur macs {denoiser} --calls {calls}" + " --guidance" * (samples == 2)
    found = {"paper": f"{paper_t} T", "convention": nearest, "off_percent": round(100 * off[nearest], 2)}
    return {"calls": calls, **amounts, **found, "command": shown}


# Bytes kept for later calls


def cache_jobs(run: Run) -> Iterator[Job]:
    """Counted on the meta device, float16, guidance on (batch 2)."""
    for name in ("sd15", "sdxl"):
        for granularity in ("stage", "layer"):
            last = f"{name}, {granularity}, DeepCache, interval 5"
            yield Job(f"{name}, {granularity}", partial(cache_rows, name, granularity), last=last)


def cache_rows(name: str, granularity: str) -> Iterator[Row]:
    """A row for each schedule of one denoiser at one granularity."""
    denoiser = meta_denoiser(name).half()
    blocks = find_blocks(denoiser, granularity)
    with torch.device("meta"):
        inputs = dummy_inputs(denoiser, batch=2)
    sizes = block_bytes(denoiser, blocks, tree_map_only(Tensor, lambda x: x.half() if x.is_floating_point() else x, inputs))
    plans = {"uniform hold, every 5th call": uniform(blocks, CALLS, every=5)}
    plans["DeepCache, interval 5"] = deepcache(blocks, CALLS, interval=5)
    if name == "sd15" and granularity == "stage":
        plans["published DiP-GO"] = published_dip_go(blocks)
    for method, plan in plans.items():
        sums = {"every_output_bytes": sum(sizes), "peak_cached_bytes": peak_cached_bytes(plan, blocks, sizes)}
        yield {"name": f"{name}, {granularity}, {method}", "calls": CALLS, **sums}


# Milliseconds for MACs


def runtime_jobs(run: Run) -> Iterator[Job]:
    """One job: 50 DDIM calls each with guidance, through the stock pipeline's own loop to the final latents, in turns."""
    yield Job("dense, the published schedule and DeepCache", runtime_rows, last="dense")


def runtime_rows() -> Iterator[Row]:
    """Dense, the published DiP-GO schedule and DeepCache; efficiency is the speed-up over the MACs reduction."""
    pipe = sd15()
    text, latents = noise(2, 1, 77, 768, seed=1, like=pipe), noise(1, 4, SIDE, SIDE, seed=2, like=pipe)
    stage, layer = (count(pipe.unet, granularity, size=SIDE) for granularity in ("stage", "layer"))
    plans = {
        "dense": (stage, dense(stage.blocks, CALLS)),
        "DiP-GO, published, keep 0.2": (stage, published_dip_go(stage.blocks)),
        "DeepCache, interval 5": (layer, deepcache(layer.blocks, CALLS, interval=5)),
    }
    call = {"num_inference_steps": CALLS, "guidance_scale": 7.5, "output_type": "latent"}

    def sample(schedule: Schedule) -> None:
        with apply(pipe, schedule):
            pipe(prompt_embeds=text[0], negative_prompt_embeds=text[1], latents=latents.clone(), **call)

    times = time_together({name: partial(sample, plan) for name, (_, plan) in plans.items()}, repeats=REPEATS)
    for name, (counted, plan) in plans.items():
        speedup = faster(times["dense"], times[name])
        row = {"name": name, "group": name.partition(",")[0], "calls": CALLS, "steps": CALLS, "scheduler": "DDIMScheduler"}
        row |= {**counted.spent(plan, CALLS, samples=2), "latency_s": times[name].as_json(), "speedup": speedup}
        yield row | {"efficiency": speedup["median"] * counted.keep(plan, attention=True)}


# One update of DiP-GO's search


def update_jobs(run: Run) -> Iterator[Job]:
    """SD-1.5's U-Net and VAE, 64² latents, guidance; embeddings stand for prompts."""
    yield Job(f"SD-1.5, T = {UPDATED}", partial(update_row, run))


def update_row(run: Run) -> Row:
    """Seconds of one update, and of a whole search of the paper's 1000 updates of 50 calls."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    sizes = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512}
    coder = AutoencoderKL(**blocks, **sizes, scaling_factor=0.18215).to(device=DEVICE, dtype=DTYPE).eval()
    pipe = sd15(coder)
    steps = search(pipe, blank_trajectory(pipe, UPDATED), keep=0.5, macs=count(pipe.unet), settings=Settings(steps=1))
    start = time.perf_counter()
    peak = peak_memory(lambda: list(steps), device=DEVICE)
    seconds = time.perf_counter() - start
    run.record["options"]["peak_memory"] = peak.how
    weights = sum(p.numel() * p.element_size() for part in (pipe.unet, pipe.vae) for p in part.parameters())
    found = {"calls": UPDATED, "update_s": seconds, "paper_search_h": seconds / UPDATED * 50 * 1000 / 3600}
    return found | {"weights_bytes": weights, "peak_memory_bytes": peak.peak_bytes}


def blank_trajectory(pipe: StableDiffusionPipeline, calls: int) -> Trajectory:
    """What a search with fresh noise reads of a trajectory: a condition, how the pipe is called, and its timesteps."""
    text = noise(2, 77, 768, seed=1, like=pipe)
    condition = {"prompt_embeds": text[0], "negative_prompt_embeds": text[1]}
    pipe.scheduler.set_timesteps(calls)
    blank, times = torch.zeros(calls + 1, 1, 4, 64, 64), tuple(float(t) for t in pipe.scheduler.timesteps)
    options = {"num_inference_steps": calls, "guidance_scale": 7.5}
    return Trajectory((condition,), (0,), times, blank, blank[1:], np.zeros((1, 8, 8, 3), np.float32), options)


CACHE = "Bytes cached at most, freed after the last reader, against every block's output"
CACHE_HEAD = {"pipe": "sd15, sdxl (meta)", "options": {"dtype": "float16", "batch": 2}}
RANDOM = {"pipe": "sd15 (random weights)"}
RUNTIME = "Runtime efficiency on SD-1.5's full-size U-Net (random weights)"
RUNTIME_HEAD = RANDOM | {"options": {"samples_an_image": 2, "latent_side": SIDE, "dtype": "bfloat16"}}
UPDATE = "One update of DiP-GO's search at full size (random weights)"
UPDATE_HEAD = RANDOM | {"options": {"dtype": "bfloat16", "latent_side": 64, "guidance_scale": 7.5}}
STUDIES = (
    Study("paper-macs", "The MACs in DiP-GO's tables", paper_jobs, head={"pipe": "full-size configurations (meta)"}),
    Study("cache", CACHE, cache_jobs, head=CACHE_HEAD),
    Study("runtime", RUNTIME, runtime_jobs, head=RUNTIME_HEAD),
    Study("fullsize", UPDATE, update_jobs, head=UPDATE_HEAD),
)
