"""One loop draws and measures all variants: each draws the same conditions from the same seeds, in turns.

A variant is a Schedule, or fewer steps of some scheduler. The others are compared with the first, the dense pipe.
Batches are the outer loop: a busy machine slows all variants alike, and speed-ups are taken pair by pair.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur import zoo
from secateur.denoiser import macs
from secateur.denoiser.blocks import matching
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring import quality, records, timing
from secateur.measuring.learned_scores import Distance, lpips_if_installed
from secateur.measuring.memory import Peak, peak_memory
from secateur.measuring.quality import check_finite
from secateur.measuring.records import FOUND, GIVEN
from secateur.measuring.variants import Variant
from secateur.pipeline import schedulers
from secateur.pipeline.generate import generate
from secateur.pipeline.pixels import png, webp
from secateur.schedule.apply import apply
from secateur.schedule.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FRECHET_IMAGES = 256  # fewer than twice the 128 features say nothing about their covariance
PICTURES = 8  # kept in a record
SMALL_PX, MOST_PX = 256, 512  # a side: of a picture kept as it is, and of any picture kept


@dataclass(frozen=True, eq=False)
class Batch:
    """What one variant drew of one batch of conditions, and how long the whole pipeline took."""

    variant: Variant
    images: np.ndarray  # (B, H, W, 3) float32 in [0, 1]
    seconds: float
    calls: int
    peak_cached_bytes: int  # kept for later calls, for the whole batch
    peak_memory: Peak  # of the process or the GPU, for the whole batch


def draw(pipe: DiffusionPipeline, schedule: Schedule | None, conditions: Sequence[Any], **call: Any) -> np.ndarray:
    """Images (B, H, W, 3) of a pipe, following a schedule if one is given; arguments as for `generate`.

    Raises NotFiniteError if a pixel is NaN or infinite, here and in `run`.
    """
    with apply(pipe, schedule) if schedule else nullcontext():
        images = generate(pipe, conditions, **call)
    check_finite(images, "the images")
    return images


def run(
    pipe: DiffusionPipeline,
    variants: Sequence[Variant],
    conditions: Sequence[str | int],
    *,
    seeds: Sequence[int],
    batch_size: int = 8,
    clock: Callable[[], float] = time.perf_counter,
    **call: Any,
) -> Iterator[Batch]:
    """Each Batch when it is drawn, `len(variants)` for each batch of conditions. A warm-up goes before and is not yielded."""
    for other in dict.fromkeys(variant.pipe for variant in variants):  # every kernel has been chosen before a clock is read
        warm_up = Variant("warm-up", "", 2, pipe=other)
        _draw(pipe, warm_up, conditions[:batch_size], seeds[:batch_size], clock, call)
    for start in range(0, len(seeds), batch_size):
        part = slice(start, start + batch_size)
        for variant in variants:
            yield _draw(pipe, variant, conditions[part], seeds[part], clock, call)


def _draw(pipe, variant: Variant, conditions, seeds, clock, call: Mapping[str, Any]) -> Batch:
    pipe = variant.pipe or pipe
    with ExitStack() as stack:
        stack.enter_context(schedulers.scheduled(pipe, variant.scheduler, variant.options))
        subnet = stack.enter_context(apply(pipe, variant.schedule)) if variant.schedule else None
        draws, options = [], {"batch_size": len(seeds), "num_inference_steps": variant.steps, **call}
        draw = partial(generate, pipe, conditions, seeds=seeds, **options)
        memory = peak_memory(lambda: draws.append(_timed(draw, clock)), device=pipe.device)
        [(images, seconds)], cached = draws, subnet.peak_bytes if subnet else 0
        check_finite(images, f"the images of {variant.name}")
        return Batch(variant, images, seconds, len(pipe.scheduler.timesteps), cached, memory)


def _timed(make: Callable[[], np.ndarray], clock: Callable[[], float]) -> tuple[np.ndarray, float]:
    start = clock()
    return make(), clock() - start


def grouped(batches: Sequence[Batch]) -> list[list[Batch]]:
    """The batches of each variant."""
    groups: dict[int, list[Batch]] = {}
    for batch in batches:
        groups.setdefault(id(batch.variant), []).append(batch)
    return list(groups.values())


def document(
    pipe: DiffusionPipeline,
    batches: Sequence[Batch],
    conditions: Sequence[Any],
    *,
    seeds: Sequence[int],
    title: str,
    command: str,
    source: str,
    captions: Sequence[str] | None = None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The record, format 1, of what `run` yielded; the first variant is the reference.

    LPIPS is measured if it is installed. captions: what the zoo's judge should read in the images, if they are the zoo's.
    options: how the pipe was called; "guidance_scale" above 1 counts two samples an image.
    """
    groups = grouped(batches)
    variants = [group[0].variant for group in groups]
    blocks, denoiser = _drawn_blocks(variants), denoiser_of(pipe)
    names = {blocks, *(variant.schedule.blocks for variant in variants if variant.schedule)}
    by_blocks = {name: macs.count(denoiser, matching(denoiser, name) if name else None) for name in names}
    costs = [_costs(variant, by_blocks, blocks) for variant in variants]
    lpips = lpips_if_installed(device=str(pipe.device))
    samples = 2 if options.get("guidance_scale", 1) > 1 else 1
    settings = {
        **options,
        "samples_an_image": samples,
        "batch_size": len(batches[0].images),
        "peak_memory_of_a_batch": batches[0].peak_memory.how,
        **({"pictures": f"WebP, at most {MOST_PX} px a side"} if is_large(batches[0].images[0]) else {}),
    }
    return records.blank(title, command, pipe=source, seeds=seeds, options=settings) | {
        "conditions": list(captions or conditions),
        "blocks": list(blocks),
        "rows": [
            _row(group, groups[0], (cost, costs[0]), samples=samples, captions=captions, blocks=blocks, lpips=lpips)
            for group, cost in zip(groups, costs, strict=True)
        ],
    }


def _drawn_blocks(variants: Sequence[Variant]) -> tuple[str, ...]:
    """The blocks whose grids a record shows: those of the last schedule that was found or given, else of the last rival."""
    scheduled = [variant for variant in variants if variant.schedule]
    own = [variant for variant in scheduled if variant.group in (FOUND, GIVEN)]
    return next((v.schedule.blocks for v in reversed(own or scheduled) if v.schedule), ())


def _costs(variant: Variant, by_blocks: Mapping[tuple[str, ...], macs.Macs], blocks: tuple[str, ...]) -> macs.Macs:
    """What a call of the denoiser that draws a variant takes, by the blocks of its schedule, if it has one."""
    if variant.pipe is not None:
        return macs.count(denoiser_of(variant.pipe))
    return by_blocks[variant.schedule.blocks if variant.schedule else blocks]


def _row(
    group: list[Batch],
    reference: list[Batch],
    costs: Sequence[macs.Macs],
    *,
    samples: int,
    captions: Sequence[str] | None,
    blocks: tuple[str, ...],
    lpips: Distance | None,
) -> dict[str, Any]:
    """costs: of this variant and of the reference."""
    variant, calls, (own, dense) = group[0].variant, group[0].calls, costs
    schedule = variant.schedule
    images = np.concatenate([b.images for b in group])
    dense_images = None if group is reference else np.concatenate([b.images for b in reference])
    features = zoo.features(tuple(captions)) if captions and len(captions) >= FRECHET_IMAGES else None
    return {
        "name": variant.name,
        "group": variant.group,
        "keep": variant.keep
        and variant.keep * (own.call() / dense.call()),  # as `keep_linear`: of the reference's, a teacher's
        "calls": calls,
        "steps": variant.steps,
        "scheduler": variant.scheduler,
        **own.spent(schedule, calls, samples=samples, whole=(dense, reference[0].calls)),
        **_times(group, reference),
        **quality.measured(images, dense_images, captions=captions, features=features, lpips=lpips),
        "peak_cached_bytes": max(b.peak_cached_bytes for b in group) // len(group[0].images),
        "peak_memory_bytes": max(b.peak_memory.peak_bytes for b in group),
        "grid": list(schedule.grid) if schedule and schedule.blocks == blocks else None,
        "timesteps": list(schedule.timesteps) if schedule and schedule.timesteps else None,
        "images": [data_uri(image) for image in images[:PICTURES]],
    }


def _times(group: list[Batch], reference: list[Batch]) -> dict[str, Any]:
    size = len(reference[0].images)
    pairs = [(r, b) for r, b in zip(reference, group, strict=True) if len(b.images) == size]
    slow = timing.Timing("reference", tuple(r.seconds / size for r, _ in pairs))
    fast = timing.Timing("variant", tuple(b.seconds / size for _, b in pairs))
    median, low, high = timing.speedup(slow, fast)
    return {"latency_s": fast.as_json(), "speedup": {"median": median, "low": low, "high": high}}


def data_uri(image: np.ndarray) -> str:
    """`image` (H, W, 3) in [0, 1] in a data URI: a PNG if it is small, else a WebP, so that a page of many can be mailed."""
    kind, raw = ("webp", webp(image, most_px=MOST_PX)) if is_large(image) else ("png", png(image, optimize=True))
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def is_large(image: np.ndarray) -> bool:
    """Whether an image is too large to be kept in a record pixel by pixel."""
    return max(image.shape[:2]) > SMALL_PX
