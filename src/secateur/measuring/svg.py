"""Drawings of quality against cost as SVG text. Colours are CSS variables with fallbacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from secateur.schedule.drawing import MUTED, PAPER

INK, LINE = "var(--ink, #1d2420)", "var(--line, #e4e6e1)"
COLOURS = ("#2e7d55", "#c8641b", "#2f6db5", "#8b4fa0", "#8a6d00", "#5d6a73")  # the first for the first series alone
# centred on 0, 0, of about equal area
SHAPES = (
    "M-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0-9.2 0z",
    "M-4.2-4.2h8.4v8.4h-8.4z",
    "M0-5.6L5.4 4H-5.4z",
    "M0-6L6 0L0 6L-6 0z",
    "M0 5.6L5.4-4H-5.4z",
    "M-1.7-5.4h3.4v3.7h3.7v3.4h-3.7v3.7h-3.4v-3.7h-3.7v-3.4h3.7z",
    "M2.6-5L5-2.6L2.4 0L5 2.6L2.6 5L0 2.4L-2.6 5L-5 2.6L-2.4 0L-5-2.6L-2.6-5L0-2.4z",
    "M0-6.4L1.6-2.2L6.1-2L2.6.8L3.8 5.2L0 2.7L-3.8 5.2L-2.6.8L-6.1-2L-1.6-2.2z",
    "M-5-5h10L1.7 0L5 5h-10L-1.7 0z",
    "M-6.4-2.2h12.8v4.4h-12.8z",
)
MOST_SERIES = 2 * len(SHAPES)  # each shape filled and hollow, told apart without colour; further series are alike
WIDEST_PACE_PX = 9.0  # from a point to the next one of about the same cost


@dataclass(frozen=True)
class Point:
    """One variant in a plot: cost kept in (0, 1], its quality, the ends of its interval, and its name."""

    kept: float
    value: float
    ends: tuple[float, float] | None
    name: str


class Placed(NamedTuple):
    """A point where it is drawn, and the ends of its interval."""

    point: Point
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Axis:
    """The quality axis: its title, how a value is written, and the value of the dense denoiser if it has one."""

    title: str
    form: str
    dense: float | None = None


@dataclass(frozen=True)
class Frame:
    """The plotting area: maps cost kept (log) and quality (linear) to SVG coordinates."""

    kept: tuple[float, float]
    value: tuple[float, float]
    left: float = 50.0
    top: float = 34.0
    width: float = 414.0
    height: float = 222.0

    def x(self, share: float) -> float:
        low, high = map(math.log, self.kept)
        return self.left + self.width * (math.log(share) - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.value
        return self.top + self.height * (high - value) / (high - low)


def plot_svg(series: Sequence[Sequence[Point]], axis: Axis, *, ticks: Sequence[float], own: int = 0) -> str:
    """SVG of quality against cost kept on a log axis: one line with its own colour and mark per series.

    series: possibly empty; those from `MOST_SERIES` on look alike. ticks: costs to mark on the axis. own: that many series
    come first and are drawn larger, over the others.
    """
    points = [point for line in series for point in line]
    frame, marks = _frame(points, axis)
    places = _places([(slot, point) for slot, line in enumerate(series) for point in line], frame)
    lines = "".join(_series(slot, places[slot], own=slot < own) for slot in sorted(places, reverse=True))
    return (
        f'<svg class="plot" role="img" aria-label="{escape(axis.title)} against MACs kept" viewBox="0 0 480 310" '
        f'font-size="12" fill="{MUTED}">'
        f'<text x="0" y="14" style="fill:{INK};font-weight:600">{escape(axis.title)}</text>'
        f"{''.join(_value_tick(mark, frame) for mark in marks)}"
        f"{''.join(_kept_tick(share, frame) for share in ticks)}"
        f'<text x="{frame.left + frame.width / 2:g}" y="302" text-anchor="middle">MACs kept, log scale</text>'
        f"{_dense(axis, frame)}{lines}</svg>"
    )


def _frame(points: Sequence[Point], axis: Axis) -> tuple[Frame, list[float]]:
    ends = [end for point in points for end in (point.value, *(point.ends or ()))]
    ends += [] if axis.dense is None else [axis.dense]
    marks = round_values(min(ends), max(ends))
    shares = [point.kept for point in points]
    return Frame(kept=(min(shares) * 0.85, max(*shares, 1.0) * 1.1), value=(marks[0], marks[-1])), marks


def round_values(low: float, high: float) -> list[float]:
    """Round values at one pace of 1, 2 or 5 × 10ⁿ that enclose low and high, seven of them at most."""
    span = max(high - low, 1e-3 * max(abs(high), 1.0))
    decade = 10 ** math.floor(math.log10(span / 5))
    pace = next(step * decade for step in (1, 2, 5, 10) if span / (step * decade) <= 5)
    first, last = math.floor(low / pace + 1e-9), math.ceil(high / pace - 1e-9)
    return [round(k * pace, 10) for k in range(first, max(last, first + 1) + 1)]


def _value_tick(value: float, frame: Frame) -> str:
    y = frame.y(value)
    return (
        f'<path style="stroke:{LINE}" d="M{frame.left:g} {y:.5g}h{frame.width:g}"/>'
        f'<text x="{frame.left - 8:g}" y="{y:.5g}" dy=".35em" text-anchor="end">{value:g}</text>'
    )


def _kept_tick(share: float, frame: Frame) -> str:
    x, y = frame.x(share), frame.top + frame.height
    return (
        f'<path style="stroke:{MUTED}" d="M{x:.5g} {y:g}v5"/>'
        f'<text x="{x:.5g}" y="{y + 21:g}" text-anchor="middle">{100 * share:.3g} %</text>'
    )


def _dense(axis: Axis, frame: Frame) -> str:
    """A dashed line at the quality of the dense denoiser, or at its cost if its quality has no number."""
    x = frame.x(1.0)
    if axis.dense is None:
        line = f"M{x:.5g} {frame.top:g}v{frame.height:g}"
        label = f'<text x="{x - 6:.5g}" y="{frame.top + 14:g}" text-anchor="end" style="fill:{INK}">dense</text>'
        return f'<path style="stroke:{INK};stroke-dasharray:2 4" d="{line}"/>{label}'
    y = frame.y(axis.dense)
    return (
        f'<path style="stroke:{INK};stroke-dasharray:2 4" d="M{frame.left:g} {y:.5g}h{frame.width:g}"/>'
        f'<circle cx="{x:.5g}" cy="{y:.5g}" r="5" style="fill:{INK};stroke:{PAPER};stroke-width:1.5"/>'
        f'<text class="halo" x="{x:.5g}" y="{y - 10:.5g}" text-anchor="end" style="fill:{INK}">'
        f"dense {format(axis.dense, axis.form)}</text>"
    )


def _places(points: Sequence[tuple[int, Point]], frame: Frame) -> dict[int, list[Placed]]:
    """Where the points of each series are drawn: those of about the same cost are moved sideways, to hide none."""
    pace = min(WIDEST_PACE_PX, frame.width / 2 / len(points))
    runs: list[list[tuple[int, Point, float]]] = []  # neighbours, none nearer than the pace
    for slot, point in sorted(points, key=lambda one: (one[1].kept, one[0])):
        x = frame.x(point.kept)
        if runs and x < (least := runs[-1][-1][2] + pace):
            runs[-1].append((slot, point, least))
        else:
            runs.append([(slot, point, x)])
    placed: dict[int, list[Placed]] = {}
    for run in runs:
        moved = sum(x - frame.x(point.kept) for _, point, x in run) / len(run)
        for slot, point, x in run:
            low, high = (frame.y(end) for end in (point.ends or (point.value, point.value)))
            placed.setdefault(slot, []).append(Placed(point, x - moved, frame.y(point.value), low, high))
    return placed


def _series(slot: int, line: Sequence[Placed], *, own: bool) -> str:
    path = "L".join(f"{one.x:.5g} {one.y:.5g}" for one in line)
    width, opacity = (3, 1) if own else (1.2, 0.4)
    return (
        f'<g data-series="{min(slot, MOST_SERIES)}"><path style="fill:none;stroke:{colour_of(slot)};stroke-width:{width};'
        f'opacity:{opacity}" d="M{path}"/>{"".join(_point(one, slot, own=own) for one in line)}</g>'
    )


def _point(one: Placed, slot: int, *, own: bool) -> str:
    return (
        f'<path style="stroke:{colour_of(slot)};stroke-width:1.5;opacity:.35" d="M{one.x:.5g} {one.low:.5g}V{one.high:.5g}"/>'
        f'<g transform="translate({one.x:.5g} {one.y:.5g}){" scale(1.3)" if own else ""}">{mark_svg(slot)}'
        f"<title>{escape(one.point.name)}: {one.point.value:.3g} at {one.point.kept:.0%}</title></g>"
    )


def colour_of(slot: int) -> str:
    """CSS colour of a series, which the page's style sheet may set for light and dark; grey from `MOST_SERIES` on."""
    number = slot and 1 + (slot - 1) % (len(COLOURS) - 1)
    return MUTED if slot >= MOST_SERIES else f"var(--series-{number}, {COLOURS[number]})"


def mark_svg(slot: int) -> str:
    """The mark of a series as a path around 0, 0: the first ten are filled, the next ten hollow, all others small dots."""
    colour = colour_of(slot)
    if slot >= MOST_SERIES:
        return f'<path style="fill:{colour};opacity:.6" d="M-2.4 0a2.4 2.4 0 1 0 4.8 0a2.4 2.4 0 1 0-4.8 0z"/>'
    fill, edge, width = (PAPER, colour, 1.8) if slot >= len(SHAPES) else (colour, PAPER, 1.2)
    return f'<path style="fill:{fill};stroke:{edge};stroke-width:{width}" d="{SHAPES[slot % len(SHAPES)]}"/>'


def swatch_svg(slot: int) -> str:
    """SVG of a series' mark on its line, for a legend in HTML."""
    line = f'<path style="stroke:{colour_of(slot)};stroke-width:2" d="M-12 0h24"/>'
    return f'<svg class="swatch" aria-hidden="true" width="26" height="16" viewBox="-13 -8 26 16">{line}{mark_svg(slot)}</svg>'
