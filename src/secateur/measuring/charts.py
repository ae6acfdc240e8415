"""The charts of a record: bars at one budget, otherwise quality against cost with a mark for each series."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from secateur.measuring.columns import Row, by_keep, centre, dense_row, is_dense, is_own
from secateur.measuring.records import GIVEN, interval
from secateur.measuring.svg import MOST_SERIES, Axis, Point, plot_svg

COSTS = (0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
Series = tuple[str, bool]  # name, and whether it is a schedule that the user gave: each is a series of its own


class Figure(NamedTuple):
    """A figure that is drawn: its key in a row, its title, how a value is written, which bar is better, the most it can be."""

    key: str
    title: str
    form: str
    better: str = "longer"
    most: float = math.inf


PSNR = Figure("psnr_db", "PSNR to the dense images, dB", ".1f")
SSIM = Figure("ssim", "SSIM to the dense images", ".3f", most=1.0)
ACCURACY = Figure("accuracy", "Prompt accuracy", ".2f", most=1.0)
LPIPS = Figure("lpips", "LPIPS to the dense images", ".3f", "shorter")
PLOTTED = (PSNR, SSIM, LPIPS, ACCURACY)
BARRED = (PSNR, LPIPS, ACCURACY)  # of SSIM all bars that begin at 0 look alike


class Bar(NamedTuple):
    """A row in a bar chart: its figure as text, and the ends of bar and interval in per cent of the chart."""

    row: Row
    text: str
    length: float
    ends: tuple[float, float] | None


class Bars(NamedTuple):
    """A bar chart, from zero on: of one figure, a bar a row; dense is the place of the dense figure."""

    figure: Figure
    bars: tuple[Bar, ...]
    dense: float | None


def one_budget(rows: Sequence[Row]) -> bool:
    """Whether all rows but dense cost about the same, so that a plot against cost would be a single line."""
    shares = [row["keep_linear"] for row in rows if row.get("keep_linear") and not is_dense(row)]
    return bool(shares) and max(shares) < min(shares) * 1.15


def bars(record: dict[str, Any], figure: Figure) -> Bars | None:
    """The bar chart of a figure; None if all rows print the same, which needs no drawing."""
    rows = (row for _, members in by_keep(record["rows"]) for row in members)
    drawn = [(row, point, format(point.value, figure.form)) for row in rows if (point := _point(row, figure))]
    if len({text for _, _, text in drawn}) < 2:
        return None
    dense = centre(dense_row(record) or {}, figure.key)
    top = max(end for _, point, _ in drawn for end in (point.value, dense or 0.0, *(point.ends or ())))

    def place(value: float) -> float:
        return round(100 * max(value, 0.0) / (top or 1.0), 2)

    ends = [point.ends and (place(point.ends[0]), place(point.ends[1])) for _, point, _ in drawn]
    made = (Bar(row, text, place(point.value), end) for (row, point, text), end in zip(drawn, ends, strict=True))
    return Bars(figure, tuple(made), None if dense is None else place(dense))


def _of(row: Row) -> Series:
    given = row.get("group") == GIVEN
    return (row["name"] if given else row.get("group") or row["name"]), given


def series_of(rows: Sequence[Row]) -> list[Series]:
    """The series of a plot: those that the record is about, then by the best place that one has at any budget."""
    places: dict[Series, tuple[bool, int]] = {}
    for title, members in by_keep(rows):
        drawn = [row for row in members if any(_point(row, figure) for figure in PLOTTED)]
        for place, row in enumerate(drawn):
            series, mine = _of(row), (not is_own(row), place if title else len(rows))
            places[series] = min(mine, places.get(series, mine))
    return sorted(places, key=lambda series: places[series])


def shortened(series: Sequence[Series]) -> list[str]:
    """The names for a legend: from `MOST_SERIES` on their number."""
    more = len(series) - MOST_SERIES
    return [*(name for name, _ in series[:MOST_SERIES]), *([f"{more} more"] if more > 0 else [])]


def _point(row: Row, figure: Figure) -> Point | None:
    value = centre(row, figure.key)
    if value is None or not row.get("keep_linear") or is_dense(row):
        return None
    ends = interval(row[figure.key])
    return Point(row["keep_linear"], value, ends and (ends[0], min(ends[1], figure.most)), row["name"])


def plots(record: dict[str, Any], series: Sequence[Series]) -> Iterator[str]:
    """Quality against cost as SVG, a plot for each figure that the record has."""
    rows, dense = record["rows"], dense_row(record) or {}
    own = len({_of(row) for row in rows if is_own(row)} & set(series))
    for figure in PLOTTED:
        lines = [_dots(rows, figure, one) for one in series]
        if len({format(point.value, figure.form) for line in lines for point in line}) > 1:  # equal figures need no drawing
            axis = Axis(figure.title, figure.form, dense=centre(dense, figure.key))
            yield plot_svg(lines, axis, ticks=_cost_ticks(rows, lines), own=own)


def _dots(rows: Sequence[Row], figure: Figure, series: Series) -> list[Point]:
    """The points of a series, one a budget: of several rows at the same one (seeds) the mean, and of their intervals' ends."""
    budgets: dict[float, list[Point]] = {}
    for row in rows:
        if _of(row) == series and (point := _point(row, figure)):
            budgets.setdefault(row.get("keep") or point.kept, []).append(point)
    return [_mean(points, series[0]) for points in budgets.values()]


def _mean(points: Sequence[Point], name: str) -> Point:
    if len(points) == 1:
        return points[0]
    mean = lambda values: sum(values) / len(points)  # noqa: E731
    ends = [point.ends or (point.value, point.value) for point in points]
    middle = (mean([point.kept for point in points]), mean([point.value for point in points]))
    return Point(*middle, (mean([low for low, _ in ends]), mean([high for _, high in ends])), f"{name}, mean of {len(points)}")


def _cost_ticks(rows: Sequence[Row], series: Sequence[Sequence[Point]]) -> list[float]:
    """The costs that the rows were made for if these are few, otherwise round costs in the range of the points."""
    aims = {row["keep"] for row in rows if row.get("keep") and not is_dense(row)}
    least = min(point.kept for line in series for point in line)
    return [*(aims if 1 < len(aims) <= 5 else (cost for cost in COSTS if cost >= least * 0.85)), 1.0]
