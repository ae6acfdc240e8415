"""README's picture: four prompts of emoji-sd, dense, with ten plain steps and with a searched schedule of ten calls.

    python benchmarks/picture.py     writes results/gains.png and, for links to the repository, docs/images/social.png

The prompts and seeds are the first four that the front measures. What stands beside a row is of all the front's images.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from figures import GREEN, plt
from names import is_plain, library
from published import EVERY_SOLVER
from secateur import zoo
from secateur.measuring import quality
from secateur.measuring.compare import draw
from secateur.pipeline import schedulers
from secateur.schedule import schedule
from tables import RESULTS, Row, load, shown
from tables_front import best

PIPE, COUNT, FIRST_SEED, STEPS, CALLS, AMPLIFIED = "emoji-sd", 4, 50_000, 50, 10, 8
SEARCHED = RESULTS / "schedules" / "emoji-sd-secateur-ddim-10-seed-40000.json"
COST = "{calls} calls\n{macs_linear:.1f (G)} GMACs"
GAIN = "\n{speedup.median:.1f}× faster\nPSNR {psnr_db.mean:.1f dB}"
Way = tuple[str, Row, np.ndarray]  # a title, the front's row, four images
TELLS = "any diffusers pipeline,\na fifth of the calls,\nnearly the same pictures"
GREY, INK, DARK = "#5f6b66", (0.45, 0.05, 0.15), "#1d2420"


def ways() -> Iterator[Way]:
    """Dense, the best stock solver at ten steps, and the searched schedule: title, the front's row of it, images."""
    rows = {row["name"]: row for row in load(f"front-{PIPE}")["rows"]}
    plain = best([row for row in rows.values() if row["steps"] == CALLS], is_plain)
    pipe, solver = zoo.load(PIPE), library(plain["group"])
    pipe.set_progress_bar_config(disable=True)
    some = {"conditions": zoo.conditions(PIPE, COUNT)[0], "seeds": range(FIRST_SEED, FIRST_SEED + COUNT), "batch_size": COUNT}

    def images(steps: int, found: schedule.Schedule | None = None) -> np.ndarray:
        return draw(pipe, **some, guidance_scale=zoo.GUIDANCE[PIPE], schedule=found, num_inference_steps=steps)

    yield "dense\n(DDIM)", rows["dense"], images(STEPS)
    with schedulers.scheduled(pipe, *EVERY_SOLVER[solver]):
        fewer = images(CALLS)
    yield f"{solver}\n(best stock solver)", plain, fewer
    yield "Secateur\n(searched, DDIM)", rows["Secateur, DDIM, 10, seed 40000"], images(STEPS, schedule.load(SEARCHED))


def main() -> None:
    found = list(ways())
    gains(found)
    social(found)


def gains(found: list[Way]) -> None:
    """README's picture: four images of every way, and what differs from the dense ones."""
    figure, axes = plt.subplots(5, COUNT, figsize=(9, 9.75), dpi=150)
    figure.subplots_adjust(left=0.215, right=0.995, top=0.953, bottom=0.006, wspace=0.035, hspace=0.105)
    (title, row, dense), *others = found
    line(axes[0], dense)
    beside(axes[0, 0], title, shown(COST, row | {"calls": STEPS}))
    for axis, caption in zip(axes[0], zoo.conditions(PIPE, COUNT)[1], strict=True):
        axis.set_title(caption.replace(" on ", "\non "), fontsize=9, color=DARK, pad=5)
    for place, (title, row, images) in enumerate(others):
        above, under = axes[1 + 2 * place : 3 + 2 * place]
        line(above, images)
        beside(above[0], title, shown(COST + GAIN, row | {"calls": CALLS}))
        for axis, near in zip(above, quality.psnr(images, dense), strict=True):
            axis.set_xlabel(f"{near:.1f} dB", fontsize=8, color=GREY, labelpad=2)
        ink = np.clip(AMPLIFIED * np.abs(images - dense).max(-1, keepdims=True), 0, 1)  # of the three colours the farthest
        line(under, 1 - ink * (1 - np.array(INK)))
        text, style = f"its difference\nto dense, × {AMPLIFIED}\n(white: the same)", {"ha": "right", "va": "center"}
        under[0].text(-0.07, 0.5, text, transform=under[0].transAxes, fontsize=8.5, color=GREY, linespacing=1.5, **style)
    figure.savefig(RESULTS / "gains.png")


def social(found: list[Way]) -> None:
    """GitHub's picture of the repository, 1280 × 640: two images of every way, under its calls."""
    figure, axes = plt.subplots(2, len(found), figsize=(12.8, 6.4), dpi=100)
    figure.subplots_adjust(left=0.335, right=0.985, top=0.86, bottom=0.03, wspace=0.04, hspace=0.05)
    for column, (title, row, images) in zip(axes.T, found, strict=True):
        line(column, images[:2])
        calls, near = row["calls"], shown("{psnr_db.mean:.1f dB}", row) if row["calls"] < STEPS else "the original"
        name = "dense" if calls == STEPS else title.partition("\n")[0]
        colour = GREEN if name == "Secateur" else DARK
        column[0].set_title(f"{calls} calls, {name}\n{near}", fontsize=15, color=colour, pad=8, linespacing=1.4)
    words = {0.74: ("Secateur", 44, GREEN), 0.7: ("pruning shears\nfor diffusion models", 19, DARK), 0.2: (TELLS, 14, GREY)}
    for height, (text, size, colour) in words.items():
        weight = "bold" if text == "Secateur" else "normal"
        figure.text(
            0.03,
            height,
            text,
            fontsize=size,
            color=colour,
            fontweight=weight,
            va="top" if size < 40 else "bottom",
            linespacing=1.5,
        )
    figure.savefig(RESULTS.parent / "docs" / "images" / "social.png")


def line(axes: np.ndarray, images: np.ndarray) -> None:
    """Images (B, H, W, 3) in [0, 1] side by side at a readable size."""
    for axis, pixels in zip(axes, (images * 255).round().clip(0, 255).astype(np.uint8), strict=True):
        axis.imshow(Image.fromarray(pixels).resize((256, 256), Image.Resampling.LANCZOS), interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(color="#d7dcd9", lw=0.6)


def beside(axis, title: str, cost: str) -> None:
    """What stands on the left of a row: what it is, what it costs and how near it is over all the images of the front."""
    style, colour = {"transform": axis.transAxes, "ha": "right", "linespacing": 1.4}, GREEN if "Secateur" in title else DARK
    axis.text(-0.07, 0.97, title, va="top", fontsize=10, fontweight="bold", color=colour, **style)
    axis.text(-0.07, 0.03, cost, va="bottom", fontsize=9, color=DARK, **style)


if __name__ == "__main__":
    main()
