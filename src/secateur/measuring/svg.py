"""Drawings of quality against cost as SVG text. Colours are CSS variables with fallbacks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from secateur.schedule.drawing import MUTED, PAPER

INK, LINE = "var(--ink, #1d2420)", "var(--line, #e4e6e1)"
SERIES = ("#2e7d55", "#c8641b", "#2f6db5", "#8b4fa0", "#8a6d00", "#5d6a73")
# centred on 0, 0, of about equal area: series differ in shape as well as in colour
MARKERS = (
    "M-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0-9.2 0z",
    "M-4.2-4.2h8.4v8.4h-8.4z",
    "M0-5.6L5.4 4H-5.4z",
    "M0-6L6 0L0 6L-6 0z",
    "M0 5.6L5.4-4H-5.4z",
    "M-1.7-5.4h3.4v3.7h3.7v3.4h-3.7v3.7h-3.4v-3.7h-3.7v-3.4h3.7z",
)


@dataclass(frozen=True)
class Point:
    """One variant in a plot: cost kept in (0, 1], its quality, the ends of its interval, and its name."""

    kept: float
    value: float
    ends: tuple[float, float] | None
    name: str


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


def plot_svg(series: Sequence[Sequence[Point]], axis: Axis, *, ticks: Sequence[float]) -> str:
    """SVG of quality against cost kept on a log axis: one line with its own colour and marker per series.

    series: one per group, in the order of `SERIES` and `MARKERS`, possibly empty; ticks: costs to mark on the axis.
    """
    points = [point for line in series for point in line]
    frame, marks = _frame(points, axis)
    lines = "".join(_series(line, slot, frame) for slot, line in enumerate(series) if line)
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


def _series(line: Sequence[Point], slot: int, frame: Frame) -> str:
    line = sorted(line, key=lambda point: point.kept)
    path = "L".join(f"{frame.x(point.kept):.5g} {frame.y(point.value):.5g}" for point in line)
    colour = colour_of(slot)
    return (
        f'<g style="fill:{colour};stroke:{colour}"><path style="fill:none;stroke-width:2" d="M{path}"/>'
        f"{''.join(_marker(point, slot, frame) for point in line)}</g>"
    )


def _marker(point: Point, slot: int, frame: Frame) -> str:
    x, y = frame.x(point.kept), frame.y(point.value)
    low, high = (frame.y(end) for end in (point.ends or (point.value, point.value)))
    return (
        f'<path style="stroke-width:1.5;opacity:.4" d="M{x:.5g} {low:.5g}V{high:.5g}"/>'
        f'<path transform="translate({x:.5g} {y:.5g})" style="stroke:{PAPER};stroke-width:1.5" '
        f'd="{MARKERS[slot % len(MARKERS)]}">'
        f"<title>{escape(point.name)}: {point.value:.3g} at {point.kept:.0%}</title></path>"
    )


def colour_of(slot: int) -> str:
    """CSS colour of a series, which the page's style sheet may set for light and dark."""
    slot %= len(SERIES)
    return f"var(--series-{slot}, {SERIES[slot]})"


def swatch_svg(slot: int) -> str:
    """SVG of a series' marker on its line, for a legend in HTML."""
    line = f'<path style="stroke:{colour_of(slot)};stroke-width:2" d="M-12 0h24"/>'
    marker = f'<path style="fill:{colour_of(slot)};stroke:{PAPER};stroke-width:1.5" d="{MARKERS[slot % len(MARKERS)]}"/>'
    return f'<svg class="swatch" aria-hidden="true" width="26" height="14" viewBox="-13 -7 26 14">{line}{marker}</svg>'
