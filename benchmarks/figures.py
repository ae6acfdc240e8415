"""The pictures of results/: fronts, scatters and curves, drawn from the records.

python benchmarks/figures.py [NAME ...]     writes results/NAME.png; by default every one that has a record
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from figures_depth import depth, recovery, terms
from figures_style import BLUE, GREEN, GREY, PALE, RED, below, tidy
from names import library
from tables import RESULTS, Record, Row, load

ROOM = 0.01  # above a share of one, so that its logarithm is finite
Style = tuple[str, str, str]  # colour, marker, line
PANELS = (
    ("psnr_db", "PSNR to the dense 50-call images, dB"),
    ("converged_psnr_db", "PSNR to the converged images, dB"),
    ("accuracy", "prompt accuracy"),
)
STYLES: dict[str, Style] = {  # of the groups of a front; solvers by the library's names
    "Secateur, DDIM": (GREEN, "o", "-"),
    "Secateur, DPM-Solver++": ("#6a3fa0", "o", "-"),
    "Secateur, UniPC": ("#b8860b", "o", "-"),
    "DPM-Solver++ Karras": ("#b08bd6", "^", "--"),
    "DPM-Solver++": ("#b08bd6", "s", ":"),
    "UniPC Karras": ("#d9a21b", "^", "--"),
    "UniPC": ("#d9a21b", "s", ":"),
    "DDIM leading": (GREY, "s", ":"),
    "DDIM": (GREY, "^", "--"),
    "uniform hold": (PALE, "s", ":"),
    "uniform hold, extrapolated": (PALE, "^", "--"),
    "uniform hold, Adams–Bashforth": (PALE, "D", "-."),
    "static cache, best setting": ("#c0562b", "v", "--"),
    "DiP-GO, published": (RED, "*", "none"),
    "DiP-GO (60 updates), bisection": (RED, "D", "--"),
    "DiP-GO (60 updates), greedy": (RED, "x", ":"),
    "random search": (BLUE, "x", ":"),
    "genetic search": (BLUE, "D", "--"),
}
SEARCHES: dict[str, Style] = {
    "random": (GREY, "x", ":"),
    "genetic": (BLUE, "D", "--"),
    "DiP-GO": (RED, "s", "-"),
    "additive, outputs held": (PALE, "^", "-"),
    "additive": (GREEN, "o", "-"),
    "additive, refresh": ("#6a3fa0", "v", "-"),
    "additive, refresh, local": ("#d9a21b", "*", "-"),
}
CHOSEN = (("random", GREY, "."), ("best by latents", BLUE, "s"), ("best by images", GREEN, "o"))


# Fronts


def front(record: Record) -> Figure:
    """Fidelity and accuracy against MACs, a line for each way and a band for its searches."""
    rows = record["rows"]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(17, 6))
    for axis, (key, title) in zip(axes, PANELS, strict=True):
        lines = series(rows, key)
        for group, (colour, marker, line) in STYLES.items():
            if group not in lines:
                continue
            costs, means, least, most = zip(*lines[group], strict=True)
            width, size, order = (2.2, 7, 3) if group.startswith("Secateur") else (1.2, 5, 2)
            axis.plot(costs, means, color=colour, marker=marker, ls=line, label=group, lw=width, ms=size, zorder=order)
            axis.fill_between(costs, least, most, color=colour, alpha=0.15, lw=0)
        axis.set_xscale("log")
        axis.set_xticks([5, 7.5, 10, 12.5, 17, 25], ["5", "7.5", "10", "12.5", "17", "25"])
        axis.minorticks_off()
        tidy(axis, title, x="MACs in dense calls of 50 (conv + linear), log scale")
        if key == "accuracy":
            shares(axis, next(row[key] for row in rows if row["group"] == "dense"))
    below(figure, axes[0], columns=6, room=0.1)
    return figure


def series(rows: list[Row], key: str) -> dict[str, list[tuple[float, ...]]]:
    """Of each group (calls' worth of MACs, mean over its searches, least, most), by cost."""
    found: dict[str, dict[float, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.get(key):
            found[library(row["group"])][row["keep"]].append((50 * row["keep_linear"], row[key]["mean"]))
    return {group: [point(values) for _, values in sorted(by.items())] for group, by in found.items()}


def point(values: list[tuple[float, float]]) -> tuple[float, ...]:
    costs, means = zip(*values, strict=True)
    return sum(costs) / len(costs), sum(means) / len(means), min(means), max(means)


def shares(axis: Axes, dense: Row) -> None:
    """A scale on which shares near one stay apart, and the interval of the dense images' own."""
    apart = (lambda share: -np.log(1 + ROOM - np.asarray(share)), lambda height: 1 + ROOM - np.exp(-np.asarray(height)))
    axis.set_yscale("function", functions=apart)
    ticks = [tick for tick in (0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 1.0) if tick >= axis.get_ylim()[0]]
    axis.set_yticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axis.set_ylim(top=1)
    low, high = dense["ci95"]
    axis.axhspan(low, high, color="#888888", alpha=0.12, lw=0)
    axis.axhline(dense["mean"], color="#888888", lw=1)
    axis.text(0.99, low, "dense images, and their 95 % interval", transform=axis.get_yaxis_transform(), fontsize=9, ha="right",
              va="bottom", color="#555555")  # fmt: skip


# Searching


def ablations(record: Record) -> Figure:
    """What searching costs and finds: PSNR against CPU seconds, a dot for each search and a line for their mean."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8))
    for axis, keep in zip(axes, (0.5, 0.3), strict=True):
        for variant, (colour, marker, line) in SEARCHES.items():
            fits = [r for r in record["rows"] if (r["variant"], r["keep"]) == (variant, keep) and r["allocation"] != "exact"]
            runs = [[r for r in fits if r["job"] == job] for job in dict.fromkeys(r["job"] for r in fits)]
            runs = [sorted(run, key=lambda row: row["evaluations"]) for run in runs]
            stops = [[(r["search_cpu_s"], r["psnr_db"]["mean"]) for r in stop] for stop in zip(*runs, strict=True)]
            for stop in stops:  # the first of each search, the second, …
                axis.plot(*zip(*stop, strict=True), marker, color=colour, ms=4)
            costs, means = zip(*(np.mean(stop, axis=0) for stop in stops), strict=True)
            axis.plot(costs, means, color=colour, marker=marker, linestyle=line, label=variant)
        axis.set_xscale("log")
        tidy(axis, f"10 DDIM calls, {keep:g} of the MACs", x="CPU seconds of the search", y="PSNR to the dense images, dB")
    below(figure, axes[0], columns=len(SEARCHES), room=0.05)
    return figure


def additivity(record: Record) -> Figure:
    """The predicted error of sets of calls against the measured one."""
    rows = record["rows"]
    figure, axes = plt.subplots(len(rows) // 3, 3, figsize=(13, 4 * len(rows) / 3))
    for axis, row in zip(axes.flat, rows, strict=True):
        for kind, colour, marker in CHOSEN:
            points = [p for p in row["points"] if p["set"].startswith(kind)]
            axis.loglog([p["images"] for p in points], [p["measured"] for p in points], marker, color=colour, label=kind)
        low, high = (f(p[k] for p in row["points"] for k in ("images", "measured")) for f in (min, max))
        axis.plot([low, high], [low, high], color="#bbbbbb", lw=1, zorder=0)
        for side in (axis.xaxis, axis.yaxis):
            side.set_minor_formatter(NullFormatter())
        agreed = f"Spearman {row['spearman_images']:.2f}, by latents {row['spearman_latents']:.2f}"
        tidy(axis, f"{row['name']}\n{agreed}", x="predicted mean square error", y="measured", size=10)
    axes.flat[0].legend(frameon=False)
    figure.tight_layout()
    return figure


KINDS: dict[str, tuple[Callable[[Record], Figure], int]] = {  # how the names of records begin: figure, dots an inch
    "front": (front, 110),
    "ablations": (ablations, 110),
    "additivity": (additivity, 100),
    "depth": (depth, 90),
    "recovery-terms": (terms, 110),
    "recovery": (recovery, 110),
}


def kind_of(name: str) -> str | None:
    return next((kind for kind in KINDS if name == kind or name.startswith(f"{kind}-")), None)


def drawable() -> Iterator[str]:
    """The records that have a figure."""
    yield from (path.stem for path in sorted(RESULTS.glob("*.json")) if kind_of(path.stem))


def main() -> None:
    for name in sys.argv[1:] or drawable():
        if (kind := kind_of(name)) is None:
            raise SystemExit(f"there is no figure {name}: choose among {', '.join(drawable())}")
        draw, dots = KINDS[kind]
        figure = draw(load(name))
        figure.savefig(RESULTS / f"{name}.png", dpi=dots)
        plt.close(figure)


if __name__ == "__main__":
    main()
