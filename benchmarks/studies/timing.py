"""How many times faster the rows of a front are than dense calls, in turns with them, on an idle machine.

One image at a time, and at a fifth of the MACs also a batch of 8, and folded. A speed-up far from the MACs reduction is timed
again, with more pairs."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from bench import BATCH, Bench, faster
from names import library
from secateur import Schedule, apply, chosen, fold, zoo
from secateur.measuring import timing
from secateur.measuring.hardware import hardware
from secateur.pipeline import schedulers
from secateur.pipeline.generate import generate
from studies.front import STEPS, bench_of, head
from study import Job, Row, Run, Study

MANY, SOME, FEW = 25, 9, 3  # pairs
DOUBT = 1.2  # a speed-up so many times the MACs reduction, or so many times less, is timed again


def jobs(run: Run) -> Iterator[Job]:
    """What is missing of each row: a fifth of the MACs, what the search found, and as many steps of its sampler first."""
    bench = bench_of(run)
    other = bench_of(run)  # the same pipe again, for what is timed in turns with it
    yield Job("outside the denoiser", lambda: outside(run, bench, other), done="outside_macs" in run.record)
    for row in sorted(run.record["rows"], key=lambda row: (row["keep"] != 0.2, not is_ours(row, or_leading=True))):
        for key, images, repeats in wanted(run, row):
            make = partial(timed, bench, other, row, key, images=images, repeats=repeats)
            yield Job(f"{row['name']}: {key}, {repeats} pairs", make, done=row.get(key, {}).get("repeats", 0) >= repeats)


def is_ours(row: Row, *, or_leading: bool = False) -> bool:
    """Whether a row is what the search found; or of the sampler that schedules are folded into, whose speed is compared."""
    return row["group"].startswith("Secateur") or (or_leading and library(row["group"]) == "DDIM leading")


def wanted(run: Run, row: Row) -> Iterator[tuple[str, int, int]]:
    """What is timed of a row: as what, how many images at a time, and in how many pairs at least."""
    if row["keep"] != 0.2:
        yield "speedup", 1, FEW
        if "speedup" in row and doubtful(run, row):
            yield "speedup", 1, SOME
        return
    compared = is_ours(row, or_leading=True)
    yield "speedup", 1, MANY if compared and not is_ours(row) else SOME
    yield "speedup_batch", BATCH, SOME if compared else FEW
    if is_ours(row) and not row["timesteps"]:
        yield "folded_speedup", 1, MANY
        yield "folded_speedup_batch", BATCH, SOME


def doubtful(run: Run, row: Row) -> bool:
    """Whether a speed-up is far from the MACs reduction of all that is timed: few pairs may have met a burst of noise."""
    rest = run.record.get("outside_macs", 0)
    fewer = (run.row("dense")["macs_attention"] + rest) / (row["macs_attention"] + rest)
    return not 1 / DOUBT < row["speedup"]["median"] / fewer < DOUBT


def timed(bench: Bench, other: Bench, row: Row, key: str, *, images: int, repeats: int) -> list[Row]:
    """How many times faster than dense calls a row's are, so many images at a time; folded: its held calls left out."""
    schedule, steps, pipe = rebuilt(bench, row), row["steps"], other.pipe
    with schedulers.scheduled(pipe, row["scheduler"], row.get("options") or {}):
        if key.startswith("folded"):
            schedule = fold(schedule, pipe.scheduler)
            steps = schedule.calls
        times = in_turns(bench, pipe, schedule, steps=steps, images=images, repeats=repeats)
    return [{"name": row["name"], key: faster(times["dense"], times["row"], repeats=repeats, cpu=hardware()["cpu"])}]


def rebuilt(bench: Bench, row: Row) -> Schedule | None:
    """The schedule of a row; None for plain steps."""
    blocks, grid = (bench.macs.blocks, row["grid"]) if row.get("grid") else (bench.layers.blocks, row.get("layer_grid"))
    if grid is None:
        return None
    timesteps, reuse = row["timesteps"] and tuple(row["timesteps"]), tuple(row.get("reuse") or blocks.reuse)
    return Schedule(blocks.names, tuple(grid), reuse, blocks.denoiser, timesteps=timesteps, hold=row["hold"])


def in_turns(bench: Bench, pipe: Any, schedule: Schedule | None, *, steps: int, images: int, repeats: int) -> dict[str, Any]:
    """Timings of dense calls and of a schedule, which is applied once, as users do; one batch of each in turns."""
    call = {"seeds": bench.seeds[:images], **bench.call, "batch_size": images}
    draw = partial(generate, conditions=bench.conditions[:images], **call)
    with apply(pipe, schedule, blocks=bench.counted(schedule).blocks) if schedule else nullcontext():
        runs = {"dense": partial(draw, bench.pipe, num_inference_steps=STEPS)}
        return timing.time_together(runs | {"row": partial(draw, pipe, num_inference_steps=steps)}, repeats=repeats)


def outside(run: Run, bench: Bench, other: Bench) -> list[Row]:
    """Adds what no schedule saves of a dense image: the share of its time, and the MACs of decoder and text encoder."""
    once = chosen(bench.macs.blocks, STEPS, run=[0])
    times = in_turns(bench, other.pipe, once, steps=STEPS, images=1, repeats=SOME)
    saved = 1 - np.divide(times["row"].seconds, times["dense"].seconds)
    parts = np.percentile(1 - saved * STEPS / (STEPS - 1), (50, 25, 75)).tolist()
    share = dict(zip(("median", "low", "high"), parts, strict=True)) | {"repeats": SOME, "cpu": hardware()["cpu"]}
    run.record.update(outside=share, outside_macs=2 * image_macs(bench, 1) - image_macs(bench, 2))
    return []


def image_macs(bench: Bench, steps: int) -> int:
    """MACs of one image of so many steps, of the whole pipeline, attention counted."""
    with FlopCounterMode(display=False) as counter:
        generate(bench.pipe, bench.conditions[:1], seeds=bench.seeds[:1], num_inference_steps=steps, **bench.call)
    return counter.get_total_flops() // 2


HOW: dict[str, Any] = {"options": {"images": 128}, "pipes": zoo.NAMES, "head": head, "times": True}
TITLE = "Paired speed-ups of the front on {pipe}"
STUDIES = (Study("timing", TITLE, jobs, file=lambda pipe, options: f"front-{pipe}", **HOW),)
