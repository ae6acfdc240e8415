"""One update of DiP-GO's search at full size: SD-1.5's U-Net and VAE with random weights, 64² latents, T = 4, guidance.

    python benchmarks/fullsize.py [--calls 4] [--dtype bfloat16] [--device cpu]      writes results/fullsize.json

Speed and memory do not ask for trained weights. Embeddings stand for prompts. Seconds of a whole search are those of an
update times the paper's 1000.
"""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from rich.console import Console

from secateur.denoiser import macs
from secateur.measuring import report
from secateur.measuring.hardware import hardware
from secateur.measuring.memory import peak_memory
from secateur.pipeline.trajectory import Trajectory
from secateur.searching.dip_go.gradient import search
from secateur.searching.dip_go.updates import Settings

RESULTS = Path(__file__).parents[1] / "results"
PAPER_UPDATES, PAPER_CALLS = 1000, 50


def pipeline(dtype: torch.dtype, device: str) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 but for its text encoder, with random weights."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(macs.denoiser_config("sd15"))
    coder = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
        scaling_factor=0.18215,
    )
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    parts = (part.to(device, dtype).eval() for part in (coder, unet))
    coder, unet = parts
    pipe = StableDiffusionPipeline(coder, None, None, unet, scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def told(pipe: StableDiffusionPipeline, calls: int) -> Trajectory:
    """What a search with fresh noise reads of a trajectory: a condition, how the pipe is called, and its timesteps."""
    text = torch.randn(2, 77, 768, generator=torch.Generator().manual_seed(1)).to(pipe.device, pipe.unet.dtype)
    condition = {"prompt_embeds": text[0], "negative_prompt_embeds": text[1]}
    pipe.scheduler.set_timesteps(calls)
    times = tuple(float(t) for t in pipe.scheduler.timesteps)
    blank = torch.zeros(calls + 1, 1, 4, 64, 64)
    options = {"num_inference_steps": calls, "guidance_scale": 7.5}
    return Trajectory((condition,), (0,), times, blank, blank[1:], np.zeros((1, 8, 8, 3), np.float32), options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    pipe, seconds = pipeline(getattr(torch, args.dtype), args.device), []
    steps = search(pipe, told(pipe, args.calls), keep=0.5, macs=macs.count(pipe.unet), settings=Settings(steps=1))

    def run() -> None:
        start = time.perf_counter()
        for step in steps:
            seconds.append(time.perf_counter() - start)
            print(step.losses, flush=True)

    peak = peak_memory(run, device=args.device)
    weights = sum(p.numel() * p.element_size() for part in (pipe.unet, pipe.vae) for p in part.parameters())
    row = {
        "name": f"SD-1.5, T = {args.calls}",
        "calls": args.calls,
        "update_s": seconds[0],
        "paper_search_h": seconds[0] / args.calls * PAPER_CALLS * PAPER_UPDATES / 3600,
        "weights_bytes": weights,
        "peak_memory_bytes": peak.peak_bytes,
    }
    record = {
        "format": 1,
        "title": "One update of DiP-GO's search at full size (random weights)",
        "command": f"python benchmarks/fullsize.py --calls {args.calls} --dtype {args.dtype} --device {args.device}",
        "pipe": "sd15 (random weights)",
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "options": {
            "dtype": args.dtype,
            "latent_side": 64,
            "guidance_scale": 7.5,
            "peak_memory": peak.how,
            "paper_search_h": "1000 updates of 50 calls, by the seconds a call took here",
        },
        "rows": [row],
    }
    report.save(record, RESULTS / "fullsize.json")
    Console(width=120).print(report.table(record))


if __name__ == "__main__":
    main()
