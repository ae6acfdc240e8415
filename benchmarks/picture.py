"""README's picture: four prompts of emoji-sd, dense, with ten plain steps and with a searched schedule of ten calls.

    python benchmarks/picture.py     writes results/gains.png, in about a minute

The prompts and seeds are the first four that the front measures. What stands beside a row is of all the front's images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import matplotlib
import numpy as np
from PIL import Image

from names import is_plain, library
from tables import RESULTS, Row, load

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from secateur import zoo
from secateur.measuring import quality
from secateur.measuring.compare import draw
from secateur.pipeline import schedulers
from secateur.schedule import schedule

PIPE, COUNT, FIRST_SEED, STEPS, CALLS, AMPLIFIED = "emoji-sd", 4, 50_000, 50, 10, 8
SEARCHED = "emoji-sd-secateur-ddim-10-seed-40000"
WIDTH, HEIGHT, DPI, PIXELS = 9.0, 9.75, 150, 256  # inches; pixels of an image
GREEN, GREY, INK = "#1a7f4b", "#5f6b66", (0.45, 0.05, 0.15)


@dataclass(frozen=True)
class Way:
    """A row of the picture: its images, and the front's row that says what it costs."""

    title: str
    images: np.ndarray
    row: Row


def ways() -> list[Way]:
    """Dense, the best stock solver at ten steps, and the searched schedule."""
    rows = load(f"front-{PIPE}")["rows"]
    named = {row["name"]: row for row in rows}
    plain = max((r for r in rows if is_plain(r["group"]) and r["steps"] == CALLS), key=lambda row: row["psnr_db"]["mean"])
    found = schedule.load(RESULTS / "schedules" / f"{SEARCHED}.json")
    pipe, solver = zoo.load(PIPE), library(plain["group"])
    pipe.set_progress_bar_config(disable=True)
    asked, seeds = zoo.conditions(PIPE, COUNT)[0], range(FIRST_SEED, FIRST_SEED + COUNT)
    images = partial(draw, pipe, conditions=asked, seeds=seeds, batch_size=COUNT, guidance_scale=zoo.GUIDANCE[PIPE])
    with schedulers.scheduled(pipe, *schedulers.SOLVERS[solver]):
        fewer = images(schedule=None, num_inference_steps=CALLS)
    return [
        Way("dense\n(DDIM)", images(schedule=None, num_inference_steps=STEPS), named["dense"]),
        Way(f"{solver}\n(best stock solver)", fewer, plain),
        Way(
            "Secateur\n(searched, DDIM)",
            images(schedule=found, num_inference_steps=STEPS),
            named["Secateur, DDIM, 10, seed 40000"],
        ),
    ]


def cost(way: Way, calls: int) -> str:
    """What a row costs and how near it is, over all the images of the front."""
    faster = "" if calls == STEPS else f"\n{way.row['speedup']['median']:.1f}× faster\nPSNR {way.row['psnr_db']['mean']:.1f} dB"
    return f"{calls} calls\n{way.row['macs_linear'] / 1e9:.1f} GMACs{faster}"


def main() -> None:
    captions, found = zoo.conditions(PIPE, COUNT)[1], ways()
    figure, axes = plt.subplots(5, COUNT, figsize=(WIDTH, HEIGHT), dpi=DPI)
    figure.subplots_adjust(left=0.215, right=0.995, top=0.953, bottom=0.006, wspace=0.035, hspace=0.105)
    dense = found[0].images
    lines = [(found[0], found[0].images, None)]
    for way in found[1:]:
        lines += [(way, way.images, quality.psnr(way.images, dense)), (None, difference(way.images, dense), None)]
    for place, (way, images, near) in enumerate(lines):
        for column, axis in enumerate(axes[place]):
            axis.imshow(enlarged(images[column]), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set(color="#d7dcd9", lw=0.6)
            if near is not None:
                axis.set_xlabel(f"{near[column]:.1f} dB", fontsize=8, color=GREY, labelpad=2)
            if place == 0:
                axis.set_title(captions[column].replace(" on ", "\non "), fontsize=9, color="#1d2420", pad=5)
        label(axes[place, 0], way)
    figure.savefig(RESULTS / "gains.png")


def label(axis, way: Way | None) -> None:
    """What stands on the left of a row."""
    if way is None:
        text = f"its difference\nto dense, × {AMPLIFIED}\n(white: the same)"
        axis.text(
            -0.07, 0.5, text, transform=axis.transAxes, ha="right", va="center", fontsize=8.5, color=GREY, linespacing=1.5
        )
        return
    ours = way.title.startswith("Secateur")
    calls = STEPS if way.row["group"] == "dense" else CALLS
    style = {"transform": axis.transAxes, "ha": "right", "linespacing": 1.4}
    axis.text(-0.07, 0.97, way.title, va="top", fontsize=10, fontweight="bold", color=GREEN if ours else "#1d2420", **style)
    axis.text(-0.07, 0.03, cost(way, calls), va="bottom", fontsize=9, color="#1d2420", **style)


def enlarged(image: np.ndarray) -> Image.Image:
    """(H, W, 3) in [0, 1] at a readable size."""
    return Image.fromarray((image * 255).round().clip(0, 255).astype(np.uint8)).resize(
        (PIXELS, PIXELS), Image.Resampling.LANCZOS
    )


def difference(images: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """How far each image is from the dense one, amplified, as ink on white; of the three colours the farthest."""
    ink = np.clip(AMPLIFIED * np.abs(images - dense).max(-1, keepdims=True), 0, 1)
    return 1 - ink * (1 - np.array(INK))


if __name__ == "__main__":
    main()
