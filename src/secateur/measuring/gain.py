"""What a found schedule gains over fewer steps: the comparison that `secateur demo` shows.

Every rival appears at its best: plain solvers at the spacing, and evenly held calls in the way, that comes nearest to the
dense images. So some variants are drawn that no row shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.denoiser import macs
from secateur.denoiser.blocks import matching
from secateur.denoiser.families import family
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring import compare, quality
from secateur.measuring.compare import Batch
from secateur.measuring.plain_steps import best_solver
from secateur.measuring.records import FOUND
from secateur.measuring.variants import Variant, cached, evenly_held, plainly
from secateur.schedule.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MORE_STEPS = (0.5, 1.5, 2.5, 5)  # of the best solver, as multiples of the steps that cost what the schedule does
HELD = "uniform hold"


def variants(pipe: DiffusionPipeline, schedule: Schedule) -> tuple[Variant, ...]:
    """Dense, the schedule, and at its budget: every stock solver, the static cache, and evenly held calls in three ways."""
    denoiser, steps = denoiser_of(pipe), schedule.made.get("num_inference_steps", schedule.calls)
    costs = macs.count(denoiser, matching(denoiser, schedule.blocks))
    finest = macs.count(denoiser, list(family(denoiser).granularities)[-1])
    keep = round(costs.keep(schedule, calls=schedule.dense_calls), 2)
    few = max(1, round(keep * steps))
    return (
        Variant("dense", "dense", steps),
        Variant(f"Secateur, {few} of {steps} calls", FOUND, steps, schedule, keep=keep),
        *plainly(pipe, few, keep=keep),
        cached(finest, calls=steps, steps=steps, keep=keep),
        *(replace(held, group=HELD) for held in evenly_held(pipe, costs.blocks, steps=steps, keep=keep)),
    )


def nearest_plain(batches: Sequence[Batch]) -> Variant:
    """The plain steps of the solver that is nearest to the dense images at the schedule's budget."""
    near = distances(batches)
    plain = {v.name: v for v in variants_of(batches) if is_plain(v) and v.keep is not None}
    few = min(variant.steps for variant in plain.values())
    return plain[best_solver({name: {few: near[name]} for name in plain}, few)]


def more_steps(batches: Sequence[Batch]) -> tuple[Variant, ...]:
    """The best solver at the schedule's budget, with fewer and with more steps; rows show none of them."""
    best = nearest_plain(batches)
    counts = sorted({max(1, round(times * best.steps)) for times in MORE_STEPS} - {best.steps})
    return tuple(replace(best, name=f"{solver_of(best)}, {steps} steps", steps=steps, keep=None) for steps in counts)


def is_plain(variant: Variant) -> bool:
    """Whether a variant is fewer steps of a stock solver."""
    return variant.schedule is None and variant.group != "dense"


def solver_of(variant: Variant) -> str:
    """The solver in the name of plain steps, with its spacing."""
    return variant.name.rpartition(",")[0]


def variants_of(batches: Sequence[Batch]) -> list[Variant]:
    """The variants of these batches, each once."""
    return [group[0].variant for group in compare.grouped(batches)]


def distances(batches: Sequence[Batch]) -> dict[str, float]:
    """PSNR in dB of each variant's images to the first variant's, by its name."""
    images = {group[0].variant.name: np.concatenate([b.images for b in group]) for group in compare.grouped(batches)}
    first, *others = images
    return {name: float(quality.psnr(images[name], images[first]).mean()) for name in others}


def best_of_each(batches: Sequence[Batch]) -> list[Batch]:
    """The batches of the variant of each group that is nearest to the dense images."""
    near, nearest = distances(batches), {}
    for variant in variants_of(batches):
        rival = nearest.setdefault(variant.group, variant.name)
        if near.get(variant.name, 0.0) > near.get(rival, 0.0):
            nearest[variant.group] = variant.name
    return [batch for batch in batches if batch.variant.name in nearest.values()]


def document(pipe: DiffusionPipeline, batches: Sequence[Batch], conditions: Sequence[Any], **about: Any) -> dict[str, Any]:
    """The record of `compare.document` of what `run` yielded, a row per group, the nearest to the dense images.

    It has two fields more. `plain_steps`: the best solver, and PSNR in dB to the dense images by the number of its steps.
    `not_shown`: PSNR of the variants that were drawn and have no row. about: the further arguments of `compare.document`.
    """
    near, solver = distances(batches), solver_of(nearest_plain(batches))
    curve = {v.steps: near[v.name] for v in variants_of(batches) if is_plain(v) and solver_of(v) == solver}
    shown = [batch for batch in batches if batch.variant.keep is not None or not is_plain(batch.variant)]
    plain = {"solver": solver, "psnr_db": {str(steps): curve[steps] for steps in sorted(curve)}}
    record = compare.document(pipe, best_of_each(shown), conditions, **about)
    rows = {row["name"] for row in record["rows"]}
    others = {name: psnr for name, psnr in near.items() if name not in rows}
    return record | {"plain_steps": plain, "not_shown": others}


def run(pipe: DiffusionPipeline, chosen: Sequence[Variant], conditions: Sequence[Any], **call: Any) -> Iterator[Batch]:
    """The batches of `chosen`, then those of `more_steps`; arguments as for `compare.run`."""
    batches = []
    for batch in compare.run(pipe, chosen, conditions, **call):
        batches.append(batch)
        yield batch
    yield from compare.run(pipe, more_steps(batches), conditions, **call)
