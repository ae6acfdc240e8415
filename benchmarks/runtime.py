"""What a schedule's MACs are worth in milliseconds on SD-1.5's full-size architecture (random weights: speed does not ask).

    python benchmarks/runtime.py [--size 32] [--dtype bfloat16] [--repeats 5]      writes results/runtime.json

Dense, the published DiP-GO schedule (keep 0.2) and DeepCache (interval 5, depth 1 of the layers), 50 DDIM calls each with
guidance through the stock pipeline's own loop to the final latents, in turns. Efficiency is speed-up ÷ MACs reduction.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from rich.console import Console

from secateur.denoiser import macs
from secateur.measuring import report, timing
from secateur.measuring.hardware import hardware
from secateur.schedule import baselines
from secateur.schedule.apply import apply
from secateur.schedule.schedule import Schedule

RESULTS = Path(__file__).parents[1] / "results"
CALLS = 50


def pipeline(dtype: torch.dtype, device: str) -> StableDiffusionPipeline:
    """SD-1.5's U-Net with random weights in a stock pipeline that gets embeddings and gives latents."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(macs.denoiser_config("sd15")).to(device, dtype).eval()
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipe = StableDiffusionPipeline(None, None, None, unet, scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32, help="latent side")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    dtype = getattr(torch, args.dtype)
    pipe = pipeline(dtype, args.device)
    text = torch.randn(2, 1, 77, 768, generator=torch.Generator().manual_seed(1)).to(args.device, dtype)
    noise = torch.randn(1, 4, args.size, args.size, generator=torch.Generator().manual_seed(2)).to(args.device, dtype)

    def sample(schedule):
        def run():
            with apply(pipe, schedule):
                pipe(prompt_embeds=text[0], negative_prompt_embeds=text[1], latents=noise.clone(), num_inference_steps=CALLS,
                     guidance_scale=7.5, output_type="latent")  # fmt: skip

        return run

    plans = variants(pipe.unet, args.size)
    timings = timing.time_together({name: sample(plan) for name, (_, plan) in plans.items()}, repeats=args.repeats)
    record = {
        "format": 1,
        "title": f"Runtime efficiency on SD-1.5's full-size U-Net, {args.size}² latents, {args.dtype}, {args.device}",
        "command": f"python benchmarks/runtime.py --size {args.size} --dtype {args.dtype} --repeats {args.repeats}",
        "pipe": "sd15 (random weights)",
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "seeds": [2],
        "options": {"samples_an_image": 2, "latent_side": args.size, "dtype": args.dtype},
        "rows": [row(name, *plans[name], timings) for name in plans],
    }
    report.save(record, RESULTS / "runtime.json")
    Console().print(report.table(record))


def variants(unet: UNet2DConditionModel, size: int) -> dict[str, tuple[macs.Macs, Schedule]]:
    """Each schedule to be timed, with the MACs of its granularity."""
    stage, layer = (macs.count(unet, granularity, size=size) for granularity in ("stage", "layer"))
    return {
        "dense": (stage, baselines.dense(stage.blocks, CALLS)),
        "DiP-GO, published, keep 0.2": (stage, baselines.published_dip_go(stage.blocks)),
        "DeepCache, interval 5": (layer, baselines.deepcache(layer.blocks, CALLS, interval=5)),
    }


def row(name: str, counted: macs.Macs, plan: Schedule, timings: dict[str, timing.Timing]) -> dict:
    """One line of the record; efficiency is the speed-up over the MACs reduction, attention products counted."""
    median, low, high = timing.speedup(timings["dense"], timings[name])
    return {
        "name": name,
        "group": name.partition(",")[0],
        "calls": CALLS,
        "steps": CALLS,
        "scheduler": "DDIMScheduler",
        "macs_linear": 2 * counted.of(plan),
        "macs_attention": 2 * counted.of(plan, attention=True),
        "keep_linear": counted.keep(plan),
        "keep_attention": counted.keep(plan, attention=True),
        "latency_s": timings[name].as_json(),
        "speedup": {"median": median, "low": low, "high": high},
        "efficiency": median * counted.keep(plan, attention=True),
    }


if __name__ == "__main__":
    main()
