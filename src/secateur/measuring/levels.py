"""At which noise levels an image's calls are made, as numbers and as a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from secateur.measuring.svg import INK, LINE, colour_of
from secateur.pipeline.schedulers import begun
from secateur.pipeline.table import levels_of
from secateur.schedule.drawing import MUTED, RUN
from secateur.schedule.fold import steps_for, table_at
from secateur.schedule.schedule import Schedule

WIDTH, EDGE, ROW, TALL = 360.0, 1.0, 38.0, 14.0  # of the drawing, its margin, a line, and the mark of a whole call


class Call(NamedTuple):
    """A call that is made: its noise level, see `noise_shares`, and the share of the blocks that run in it."""

    level: float
    share: float = 1.0


def noise_shares(signal: Sequence[float], noise: Sequence[float]) -> tuple[float, ...]:
    """σ ÷ (α + σ) of latents α·data + σ·noise: 1 for noise alone, 0 for a picture. It is flow matching's own σ."""
    return tuple(n / (s + n) for s, n in zip(signal, noise, strict=True))


def calls_of(scheduler: Any, steps: int) -> tuple[Call, ...]:
    """The calls of a scheduler's steps; none if it cannot say how much noise there is."""
    return tuple(map(Call, noise_shares(*levels_of(begun(scheduler, steps)))))


def calls_made(scheduler: Any, schedule: Schedule) -> tuple[Call, ...]:
    """The calls that a schedule for this scheduler makes; held ones are none."""
    if schedule.table:
        levels = noise_shares(schedule.table["signal_rates"], schedule.table["noise_rates"])
    elif schedule.timesteps:
        table = table_at(scheduler, schedule.timesteps)
        levels = noise_shares(table.signal, table.noise)
    else:
        levels = tuple(call.level for call in calls_of(scheduler, steps_for(scheduler, schedule.calls)))
    rows = map(schedule.runs, range(schedule.calls))
    return tuple(Call(level, sum(row) / len(row)) for level, row in zip(levels, rows, strict=False) if any(row))


def levels_svg(lines: Sequence[tuple[str, Sequence[Call]]]) -> str:
    """SVG with a line for each name, from noise to picture, and a mark where a call is made, as tall as what runs in it.

    The last line is in the colour of what runs, and the first in that of the text.
    """
    colours = [MUTED, *map(colour_of, range(1, len(lines) - 1)), RUN]
    height = ROW * len(lines) + 24
    return (
        f'<svg class="levels" role="img" aria-label="noise levels at which calls are made" viewBox="0 0 {WIDTH:g} {height:g}" '
        f'font-size="11" fill="{MUTED}">{"".join(_line(k, *line, colour=colours[k]) for k, line in enumerate(lines))}'
        f'<text x="{EDGE:g}" y="{height - 6:g}">noise</text>'
        f'<text x="{WIDTH - EDGE:g}" y="{height - 6:g}" text-anchor="end">picture</text></svg>'
    )


def _line(number: int, name: str, calls: Sequence[Call], *, colour: str) -> str:
    foot, length = ROW * (number + 1), WIDTH - 2 * EDGE
    marks = "".join(f"M{EDGE + (1 - call.level) * length:.5g} {foot:g}v{-TALL * call.share:.4g}" for call in calls)
    return (
        f'<text x="{EDGE:g}" y="{foot - TALL - 5:g}" style="fill:{INK}">{escape(name)}</text>'
        f'<path style="stroke:{LINE}" d="M{EDGE:g} {foot:g}h{length:g}"/>'
        f'<path style="stroke:{colour};stroke-width:2" d="{marks}"/>'
    )
