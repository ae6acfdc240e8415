"""Full-size denoisers with random weights or none at all: MACs, memory and seconds do not ask for trained ones.

`paper-macs`: the MACs in DiP-GO's tables, and the convention in which each of them holds. `cache`: what reuse costs in memory.
`runtime`: what MACs are worth in milliseconds, in turns. `fullsize`: an update of the gradient search.
`fullsize-depth`: pruning in depth and an update of distillation, phase by phase.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import secateur
from bench import DEVICE, costing
from secateur import DistilSettings, Examples, count, deepcache, dip_go, find_blocks, published_dip_go, record
from secateur.denoiser.families import dummy_inputs
from secateur.denoiser.macs import denoiser_config, meta_denoiser
from secateur.schedule.cache import block_bytes, peak_cached_bytes
from stock import Way, around, call_of, coder, embedded, latencies, random_net
from study import Job, Row, Run, Study

CALLS, UPDATED, SIDE, REPEATS = 50, 4, 32, 5  # UPDATED: calls of an update


# The MACs of the paper's tables

FIGURES = {  # figures of the paper: denoiser, calls, T (10¹² MACs)
    "SD-1.5, 50 calls": ("sd15", 50, 16.94),
    "SD-1.5, published DiP-GO schedule": ("sd15", 50, 3.38),
    "SD-2.1, 768 px, 50 calls": ("sd21", 50, 38.04),
    "DiT-XL/2, 256 px, 250 calls": ("dit-xl-2", 250, 29.66),
    "SDXL, 4 calls": ("sdxl", 4, 11.95),
    "PixArt-α, 1024 px, 20 calls, guidance": ("pixart-alpha-1024", 20, 85.65),
}


def paper_jobs(run: Run) -> Iterator[Job]:
    yield from (Job(name, partial(paper_row, name, *figure)) for name, figure in FIGURES.items())


def paper_row(name: str, denoiser: str, calls: int, paper_t: float) -> Row:
    """Both conventions, and which of them is the paper's."""
    counted = count(denoiser_config(denoiser))
    schedule = published_dip_go(counted.blocks) if "published" in name else None
    spent = counted.spent(schedule, calls, samples=1 + ("guidance" in name))
    amounts = {"conv + linear": spent["macs_linear"], "with attention": spent["macs_attention"]}
    off = {convention: amount / (paper_t * 1e12) - 1 for convention, amount in amounts.items()}
    nearest = min(off, key=lambda convention: abs(off[convention]))
    found = {"paper": f"{paper_t} T", "convention": nearest, "off_percent": round(100 * off[nearest], 2)}
    return {"calls": calls, **spent, **found}


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
    plans = {"uniform hold, every 5th call": secateur.uniform(blocks, CALLS, every=5)}
    plans["DeepCache, interval 5"] = deepcache(blocks, CALLS, interval=5)
    if name == "sd15" and granularity == "stage":
        plans["published DiP-GO"] = published_dip_go(blocks)
    for method, plan in plans.items():
        sums = {"every_output_bytes": sum(sizes), "peak_cached_bytes": peak_cached_bytes(plan, blocks, sizes)}
        yield {"name": f"{name}, {granularity}, {method}", "calls": CALLS, **sums}


def runtime_jobs(run: Run) -> Iterator[Job]:
    """One job: 50 DDIM calls each with guidance, through the stock pipeline's own loop to the final latents, in turns."""
    yield Job("dense, the published schedule and DeepCache", runtime_rows, last="dense")


def runtime_rows() -> Iterator[Row]:
    """Dense, the published DiP-GO schedule and DeepCache; efficiency is the speed-up over the MACs reduction."""
    pipe = around("sd15", random_net("sd15"))
    stage, layer = (count(pipe.unet, granularity, size=SIDE) for granularity in ("stage", "layer"))
    ways = {
        "dense": Way(pipe, stage, CALLS),
        "DiP-GO, published, keep 0.2": Way(pipe, stage, CALLS, published_dip_go(stage.blocks)),
        "DeepCache, interval 5": Way(pipe, layer, CALLS, deepcache(layer.blocks, CALLS, interval=5)),
    }
    yield from latencies(ways, call_of(pipe, side=SIDE), samples=2, rounds=REPEATS)


def update_jobs(run: Run) -> Iterator[Job]:
    """SD-1.5's U-Net and VAE, 64² latents, guidance; embeddings stand for prompts."""
    yield Job(f"SD-1.5, T = {UPDATED}", update_row)


def update_row(calls: int = UPDATED, *, tiny: bool = False) -> Row:
    """Seconds of one update, and of a whole search of the paper's 1000 updates of 50 calls."""
    pipe = around("sd15", random_net("sd15", tiny=tiny), vae=coder(tiny=tiny))
    condition = {name: text[0] for name, text in embedded(pipe).items()}
    drawn = record(pipe, [condition], seeds=[0], num_inference_steps=calls, guidance_scale=7.5)
    updates = dip_go.search(pipe, drawn, keep=0.5, settings=dip_go.Settings(steps=1))
    _, spent = costing(lambda: list(updates))
    weights = sum(p.numel() * p.element_size() for part in (pipe.unet, pipe.vae) for p in part.parameters())
    hours = spent["s"] / calls * 50 * 1000 / 3600
    sizes = {"weights_bytes": weights, "peak_memory_bytes": spent["peak_memory_bytes"]}
    return {"calls": calls, "update_s": spent["s"], "paper_search_h": hours, **sizes}


# Pruning in depth

KEEPS = {"sd15": 0.5, "sdxl": 0.3}  # AdamW takes 16 bytes a parameter: of SDXL's half that is 20 GB beside a teacher of 5
SIDES = {"sd15": 64, "sdxl": 32}
ONE_UPDATE = DistilSettings(updates=1, batch_size=1, mixed_precision="bf16", checkpointing=True, ema=None)


def depth_jobs(run: Run) -> Iterator[Job]:
    """The teacher is in bfloat16; the student learns in float32 under bfloat16 autocast with gradient checkpointing."""
    for name in SIDES:
        yield Job(name, partial(phases, name), last=f"{name}, one update")


def phases(name: str, *, side: int = 0, tiny: bool = False) -> list[Row]:
    """The whole way, phase by phase. Memory is what a phase adds at most to what was there."""
    rows, scheduler = list[Row](), diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    side = side or SIDES[name]

    def phase(label: str, make: Callable[[], Any], **more: Any) -> Any:
        """What a phase makes; its row is added."""
        made, cost = costing(make)
        memory = {"peak_memory_bytes": cost["peak_memory_bytes"], "process_peak_bytes": 1024 * getrusage(RUSAGE_SELF).ru_maxrss}
        rows.append({"name": f"{name}, {label}", "seconds": cost["s"], **memory, **more, "denoiser": name})
        return made

    teacher = phase("random weights", lambda: random_net(name, tiny=tiny).requires_grad_(False))
    examples = examples_for(teacher, side=side)
    score = secateur.output_loss(teacher, examples, scheduler, samples=1, batch_size=1)
    scores = phase("score", lambda: list(score)[-1].scores, latent_side=side, tuples=1)
    plan = phase("solve", lambda: secateur.planned(scores, keep=KEEPS[name]), layers=len(scores.layers))
    student = phase("cut", lambda: secateur.drop_layers(teacher, plan), removed=len(plan.layers), keep=plan.made["kept"])
    with TemporaryDirectory() as folder:
        phase("save", partial(student.save_pretrained, folder))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        load = partial(type(student).from_pretrained, folder, dtype=torch.float32)
        student = phase("load", lambda: load().to(DEVICE), disk_bytes=size)
    steps = secateur.distil_steps(teacher, student.train(), examples, scheduler, settings=ONE_UPDATE)
    phase("one update", lambda: [step.total for step in steps], batch_size=1, latent_side=side)
    return rows


def examples_for(teacher: torch.nn.Module, *, side: int) -> Examples:
    """Two samples of noise, and noise in place of their conditions."""
    given = tree_map_only(Tensor, lambda x: torch.randn(x.shape), dummy_inputs(teacher, batch=2, size=side))
    return Examples(given.pop("sample"), {key: value for key, value in given.items() if key != "timestep"})


CACHE = "Bytes cached at most, freed after the last reader, against every block's output"
CACHE_HEAD = {"options": {"dtype": "float16", "batch": 2}}
RUNTIME_HEAD = {"options": {"samples_an_image": 2, "latent_side": SIDE, "dtype": "bfloat16"}}
UPDATE_HEAD = {"options": {"dtype": "bfloat16", "latent_side": 64, "guidance_scale": 7.5}}
DEPTH_HEAD = {"options": {"keep": KEEPS, "teacher": "bfloat16"}}
STUDIES = (
    Study("paper-macs", "The MACs in DiP-GO's tables", paper_jobs),
    Study("cache", CACHE, cache_jobs, head=CACHE_HEAD),
    Study("runtime", "Runtime efficiency on SD-1.5's full-size U-Net (random weights)", runtime_jobs, head=RUNTIME_HEAD),
    Study("fullsize", "One update of DiP-GO's search at full size (random weights)", update_jobs, head=UPDATE_HEAD),
    Study("fullsize-depth", "Pruning in depth at full size (random weights)", depth_jobs, head=DEPTH_HEAD),
)
