"""Drawings of a schedule as SVG text. Colours are CSS variables with fallbacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.schedule.schedule import Schedule

RUN, REUSE, HELD = "var(--run, #2e6b4a)", "var(--reuse, #cfdcd3)", "var(--held, #f0f2ee)"
MUTED, PAPER = "var(--muted, #66706a)", "var(--paper, #fff)"
GRID_WIDTH = 400.0
TRAINING_STEPS = 1000  # of every family that diffusers serves
Band = tuple[str, int, int]  # label, first block, one past the last
FEW = 12  # blocks with a label each; more are labelled by group


def grid_svg(grid: Sequence[str], names: Sequence[str]) -> str:
    """SVG of a schedule: calls across, blocks down; running, reusing, and calls held whole in three tones.

    grid: T strings of L characters '#' and '.'; names: the L block names, in execution order.
    """
    bands = _bands(names)
    gutter = 10 + 7.6 * max(len(label) for label, _, _ in bands)
    height = len(names) * (13.0 if len(names) <= FEW else max(4.0, 220 / len(names)))
    running = sum("#" in line for line in grid)
    share = sum(line.count("#") for line in grid) / (len(grid) * len(names))
    label = f"{running} of {len(grid)} calls enter the denoiser; {share:.0%} of the cells run"
    return (
        f'<svg class="grid" role="img" aria-label="{label}" viewBox="0 0 {gutter + GRID_WIDTH + 2:g} {height + 22:g}" '
        f'font-size="11" fill="{MUTED}">'
        f"{_cells(grid, bands, x=gutter, height=height)}"
        f"{''.join(_band(band, len(names), x=gutter, height=height) for band in bands)}"
        f"{_call_ticks(len(grid), x=gutter, y=height)}</svg>"
    )


def calls_svg(timesteps: Sequence[float]) -> str:
    """SVG of the noise levels at which a sampler calls the denoiser: a line a call, from noise on the left to the image."""
    last = max(1000.0, *timesteps)
    lines = "".join(f"M{GRID_WIDTH * (1 - t / last):.5g} 0v22" for t in timesteps)
    return (
        f'<svg class="grid" role="img" aria-label="{len(timesteps)} calls, at the timesteps '
        f'{" ".join(f"{t:g}" for t in timesteps)}" viewBox="-6 -2 {GRID_WIDTH + 12:g} 44" font-size="11" fill="{MUTED}">'
        f'<path style="fill:{HELD}" d="M-4 0h{GRID_WIDTH + 8:g}v22h-{GRID_WIDTH + 8:g}z"/>'
        f'<path style="stroke:{RUN};stroke-width:3.5" d="{lines}"/>'
        f'<text x="-4" y="38">noise, timestep {last:g}</text>'
        f'<text x="{GRID_WIDTH + 4:g}" y="38" text-anchor="end">image, 0</text></svg>'
    )


def _bands(names: Sequence[str]) -> list[Band]:
    """(label, first, stop) of neighbouring blocks with the same label: the deepest labelling that is still legible."""
    for label in (_full_label, _place_label, _kind_label):
        runs = [(text, list(run)) for text, run in groupby(range(len(names)), key=lambda i: label(names[i]))]
        if len(runs) <= FEW:
            return [(text, run[0], run[-1] + 1) for text, run in runs]
    return [(f"{len(names)} blocks", 0, len(names))]


def _full_label(name: str) -> str:
    return " ".join(re.sub(r"_blocks?$", "", part).replace("_", " ") for part in name.split("."))


def _place_label(name: str) -> str:
    parts = name.split(".")
    return _full_label(".".join(parts[: 2 if parts[1:2] and parts[1].isdigit() else 1]))


def _kind_label(name: str) -> str:
    return _full_label(name.split(".")[0])


def _cells(grid: Sequence[str], bands: Sequence[Band], *, x: float, height: float) -> str:
    """The grid in units of cells, scaled as a whole: whole coordinates keep a page of many schedules small."""
    calls, blocks = len(grid), bands[-1][2]
    runs = "".join(_runs(grid, blocks))
    holds = "".join(f"M{t} 0h1v{blocks}h-1z" for t, line in enumerate(grid) if "#" not in line)
    return (
        f'<g transform="translate({x:g} 0) scale({GRID_WIDTH / calls:.5g} {height / blocks:.5g})">'
        f'<path style="fill:{REUSE}" d="M0 0h{calls}v{blocks}H0z"/>'
        f'<path style="fill:{HELD}" d="{holds}"/><path style="fill:{RUN}" d="{runs}"/>'
        f'<path vector-effect="non-scaling-stroke" style="stroke:{PAPER};fill:none" d="{_rulings(calls, bands)}"/></g>'
    )


def _runs(grid: Sequence[str], blocks: int) -> Iterator[str]:
    for i in range(blocks):
        t = 0
        for cell, run in groupby(line[i] for line in grid):
            width = len(list(run))
            if cell == "#":
                yield f"M{t} {i}h{width}v1h-{width}z"
            t += width


def _rulings(calls: int, bands: Sequence[Band]) -> str:
    # beyond about a hundred calls the rulings would cover the cells
    down = (f"M{t} 0v{bands[-1][2]}" for t in range(calls + 1)) if calls <= 100 else ()
    return "".join(f"M0 {first}h{calls}" for _, first, _ in bands) + "".join(down)


def _band(band: Band, blocks: int, *, x: float, height: float) -> str:
    label, first, stop = band
    middle = (first + stop) / 2 / blocks * height
    return f'<text x="{x - 6:g}" y="{middle:.4g}" dy=".35em" text-anchor="end">{escape(label)}</text>'


def _call_ticks(calls: int, *, x: float, y: float) -> str:
    pace = next(pace for pace in (1, 2, 5, 10, 20, 50, 100, 200, calls) if calls / pace <= 6)
    width = GRID_WIDTH / calls
    return "".join(
        f'<text x="{x + (t + 0.5) * width:.5g}" y="{y + 15:g}" text-anchor="middle">{t}</text>' for t in range(0, calls, pace)
    )


def drawing(schedule: Schedule) -> str:
    """A whole SVG file of a schedule: its grid, or the timesteps of its calls if it chooses them and each runs whole."""
    chosen = schedule.timesteps if schedule.share == 1 else None
    svg = levels_svg(chosen) if chosen else grid_svg(schedule.grid, schedule.blocks)
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" style="background:#fff" font-family="sans-serif" ', 1)


def levels_svg(timesteps: Sequence[float]) -> str:
    """SVG of calls as lines over the noise levels of 1000 training timesteps, from noise to image."""
    places = [GRID_WIDTH * (1 - t / TRAINING_STEPS) + 20 for t in timesteps]
    lines = "".join(f"M{x:.5g} 0v40" for x in places)
    ticks = "".join(
        f'<text x="{GRID_WIDTH * (1 - t / TRAINING_STEPS) + 20:g}" y="57" text-anchor="middle">{t}</text>'
        for t in range(0, TRAINING_STEPS + 1, 200)
    )
    return (
        f'<svg class="levels" role="img" aria-label="{len(places)} calls at their timesteps" '
        f'viewBox="0 0 {GRID_WIDTH + 40:g} 80" font-size="11" fill="{MUTED}">'
        f'<path style="fill:{HELD}" d="M20 0h{GRID_WIDTH:g}v40h-{GRID_WIDTH:g}z"/>'
        f'<path style="stroke:{RUN};stroke-width:3" d="{lines}"/>{ticks}'
        f'<text x="{20 + GRID_WIDTH / 2:g}" y="74" text-anchor="middle">timestep of a call, from noise to image</text></svg>'
    )
