"""How good the zoo is: the judge on unseen renders, and prompt accuracy of both pipelines at 50 DDIM steps, with a sheet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from secateur import zoo
from secateur.measuring import quality
from secateur.pipeline.generate import generate_batches
from secateur.zoo import judge, scenes
from study import Job, Record, Row, Run, Study
from tables import RESULTS
from tables_costs import zoo_rows

STEPS, SEED, BATCH, COLUMNS, ROWS, RENDERS = 50, 10_000, 8, 12, 4, 1000


def jobs(run: Run) -> Iterator[Job]:
    """The judge on one object and on two, then both pipelines; a record of the older form is read as rows."""
    run.record["rows"] = list(zoo_rows(run.record))
    count = run.options["images"]
    for several, number in ((0.0, "one object"), (1.0, "two objects")):
        for held_out, kind in ((False, "seen combinations"), (True, "held-out combinations")):
            name = f"judge, renders, {number}, {kind}"
            yield Job(name, partial(judged, name, several, held_out))
    pairs = [scenes.sample(rng, pairs=1.0).caption for rng in [np.random.default_rng(11)] for _ in range(count // 2)]
    yield job("emoji-sd, one object, held-out combinations", "emoji-sd", *zoo.conditions("emoji-sd", count), sheet=True)
    yield job("emoji-sd, two objects", "emoji-sd", pairs, pairs)
    yield job("emoji-dit, every class", "emoji-dit", *zoo.conditions("emoji-dit", count), sheet=True)


def job(name: str, pipe: str, conditions: Sequence[Any], captions: Sequence[str], *, sheet: bool = False) -> Job:
    return Job(name, partial(drawn, name, pipe, conditions, captions, sheet=sheet))


def rate(images: np.ndarray, captions: Sequence[str]) -> Row:
    """The share of images in which the judge reads the caption."""
    return {**quality.rate_of(quality.prompt_accuracy(images, captions, judge)), "count": len(images)}


def judged(name: str, several: float, held_out: bool) -> list[Row]:
    """The judge on unseen renders of one object or two, in combinations trained on or held out of training."""
    rng = np.random.default_rng((7, int(several), int(held_out)))
    samples = [scenes.sample(rng, pairs=several, held_out=held_out) for _ in range(RENDERS)]
    pictures = np.stack([scenes.render(scene, rng) for scene in samples]).astype(np.float32) / 255
    return [{"name": name, **rate(pictures, [scene.caption for scene in samples])}]


def drawn(name: str, pipe: str, conditions: Sequence[Any], captions: Sequence[str], *, sheet: bool) -> list[Row]:
    """Images of the conditions judged, and the median seconds that one took: whole pipeline, guidance on."""
    call = {"batch_size": BATCH, "num_inference_steps": STEPS, "guidance_scale": zoo.GUIDANCE[pipe]}
    batches = generate_batches(zoo.load(pipe), conditions, seeds=range(SEED, SEED + len(conditions)), **call)
    seconds, parts, start = [], [], time.perf_counter()
    for images in batches:
        seconds.append((time.perf_counter() - start) / len(images))
        parts.append(images)
        start = time.perf_counter()
    images = np.concatenate(parts)
    if sheet and len(images) >= COLUMNS * ROWS:
        save_sheet(images, RESULTS / f"{pipe}.png")
    return [{"name": name, **rate(images, captions), "seconds_per_image": float(np.median(seconds))}]


def save_sheet(images: np.ndarray, path: Path) -> None:
    """The first images on one picture, each at twice its size."""
    rows = images[: COLUMNS * ROWS].reshape(ROWS, COLUMNS, *images.shape[1:])
    tiled = rows.transpose(0, 2, 1, 3, 4).reshape(ROWS * 64, COLUMNS * 64, 3)
    picture = Image.fromarray((tiled * 255).round().astype(np.uint8))
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.LANCZOS).save(path, optimize=True)


def settings(pipe: str, options: Mapping[str, Any]) -> Record:
    measured = {
        "steps": STEPS,
        "scheduler": "DDIM, leading",
        "guidance_scale": zoo.GUIDANCE,
        "first_seed": SEED,
        "batch_size": BATCH,
        "images": options["images"],
    }
    return {"options": measured}


STUDY = Study("zoo", "How good the zoo is", jobs, options={"images": 128}, settings=settings)
