"""One figure of every row, drawn as a dot with its interval: for rows that all cost the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from secateur.measuring.svg import INK, LINE, Axis, colour_of, round_values
from secateur.schedule.drawing import MUTED, PAPER, RUN

LEFT, WIDTH = 6.0, 468.0
TOP, ROW_HEIGHT = 26.0, 40.0


@dataclass(frozen=True)
class Dot:
    """One row: its name, its figure, the ends of its interval, and whether it is what the record is about."""

    name: str
    value: float
    ends: tuple[float, float] | None
    own: bool


def dots_svg(dots: Sequence[Dot], axis: Axis) -> str:
    """SVG of a figure, a line per row: its name, its value, and a dot with its interval on a common axis."""
    ends = [end for dot in dots for end in (dot.value, *(dot.ends or ()))]
    marks = round_values(min(ends), max(ends))
    low, high = marks[0], marks[-1]
    height = TOP + ROW_HEIGHT * len(dots)

    def x(value: float) -> float:
        return LEFT + WIDTH * (value - low) / (high - low)

    ticks = "".join(
        f'<path style="stroke:{LINE}" d="M{x(mark):.5g} {TOP:g}V{height:g}"/>'
        f'<text x="{x(mark):.5g}" y="{height + 16:g}" text-anchor="{_anchor(mark, marks)}">{mark:g}</text>'
        for mark in marks
    )
    lines = "".join(_line(dot, axis, x=x, y=TOP + ROW_HEIGHT * k) for k, dot in enumerate(dots))
    return (
        f'<svg class="plot" role="img" aria-label="{escape(axis.title)} by variant" viewBox="0 0 480 {height + 22:g}" '
        f'font-size="12" fill="{MUTED}">'
        f'<text x="0" y="14" style="fill:{INK};font-weight:600">{escape(axis.title)}</text>{ticks}{lines}</svg>'
    )


def _anchor(mark: float, marks: Sequence[float]) -> str:
    return "start" if mark == marks[0] else "end" if mark == marks[-1] else "middle"


def _line(dot: Dot, axis: Axis, *, x, y: float) -> str:
    colour, weight = (RUN, 650) if dot.own else (colour_of(5), 400)
    low, high = dot.ends or (dot.value, dot.value)
    middle = y + 29
    return (
        f'<text class="halo" x="{LEFT:g}" y="{y + 18:g}" style="fill:{INK};font-weight:{weight}">{escape(dot.name)}</text>'
        f'<text class="halo" x="{LEFT + WIDTH:g}" y="{y + 18:g}" text-anchor="end" style="fill:{INK};font-weight:{weight}">'
        f"{format(dot.value, axis.form)}</text>"
        f'<path style="stroke:{colour};stroke-width:2;opacity:.45" d="M{x(low):.5g} {middle:g}H{x(high):.5g}"/>'
        f'<circle cx="{x(dot.value):.5g}" cy="{middle:g}" r="{5.5 if dot.own else 4.5:g}" '
        f'style="fill:{colour};stroke:{PAPER};stroke-width:1.5"/>'
    )
