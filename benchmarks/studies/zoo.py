"""How good the zoo is: the judge on unseen renders, and prompt accuracy of both pipelines at 50 DDIM steps, with a sheet."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from bench import BATCH, Bench
from secateur import zoo
from secateur.measuring import quality
from secateur.zoo import judge, scenes
from study import Job, Row, Run, Study
from tables import RESULTS
from tables_costs import zoo_rows

STEPS, SEED, IMAGES, COLUMNS, ROWS, RENDERS = 50, 10_000, 128, 12, 4, 1000


def jobs(run: Run) -> Iterator[Job]:
    """The judge on one object and on two, then both pipelines; a record of the older form is read as rows."""
    run.record["rows"] = list(zoo_rows(run.record))
    for several, number in ((0.0, "one object"), (1.0, "two objects")):
        for held_out, kind in ((False, "seen combinations"), (True, "held-out combinations")):
            yield Job(f"judge, renders, {number}, {kind}", partial(judged, several, held_out))
    one, two, classes = (Bench(name, steps=STEPS, images=IMAGES, seed=SEED) for name in SHOWN.values())
    rng = np.random.default_rng(11)
    two.conditions = two.captions = tuple(scenes.sample(rng, pairs=1.0).caption for _ in two.seeds[::2])
    two.seeds = two.seeds[: len(two.captions)]
    for name, bench in zip(SHOWN, (one, two, classes), strict=True):
        yield Job(name, partial(drawn, bench, sheet=bench is not two))


SHOWN = {
    "emoji-sd, one object, held-out combinations": "emoji-sd",
    "emoji-sd, two objects": "emoji-sd",
    "emoji-dit, every class": "emoji-dit",
}


def rate(images: np.ndarray, captions: Sequence[str]) -> Row:
    """The share of images in which the judge reads the caption."""
    return {**quality.rate_of(quality.prompt_accuracy(images, captions, judge)), "count": len(images)}


def judged(several: float, held_out: bool) -> Row:
    """The judge on unseen renders of one object or two, in combinations trained on or held out of training."""
    rng = np.random.default_rng((7, int(several), int(held_out)))
    samples = [scenes.sample(rng, pairs=several, held_out=held_out) for _ in range(RENDERS)]
    pictures = np.stack([scenes.render(scene, rng) for scene in samples]).astype(np.float32) / 255
    return rate(pictures, [scene.caption for scene in samples])


def drawn(bench: Bench, *, sheet: bool) -> Row:
    """Images judged, and the median seconds that one took: whole pipeline, guidance on."""
    images, seconds = bench.clocked()
    if sheet and len(images) >= COLUMNS * ROWS:
        save_sheet(images, RESULTS / f"{bench.name}.png")
    return {**rate(images, bench.captions), "seconds_per_image": float(np.median(seconds))}


def save_sheet(images: np.ndarray, path: Path) -> None:
    """The first images on one picture, each at twice its size."""
    rows = images[: COLUMNS * ROWS].reshape(ROWS, COLUMNS, *images.shape[1:])
    tiled = rows.transpose(0, 2, 1, 3, 4).reshape(ROWS * 64, COLUMNS * 64, 3)
    picture = Image.fromarray((tiled * 255).round().astype(np.uint8))
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.LANCZOS).save(path, optimize=True)


OPTIONS = {"steps": STEPS, "scheduler": "DDIM, leading", "guidance_scale": zoo.GUIDANCE, "first_seed": SEED}
HEAD = {"options": OPTIONS | {"batch_size": BATCH, "images": IMAGES}}
STUDIES = (Study("zoo", "How good the zoo is", jobs, head=HEAD),)
