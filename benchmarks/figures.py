"""The pictures of results/: fronts, scatters and curves, drawn from the records.

python benchmarks/figures.py [NAME ...]     writes results/NAME.png; by default every one that has a record
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np

from names import library
from tables import RESULTS, Record, Row, load

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

ROOM = 0.01  # above a share of one, so that its logarithm is finite
GREEN, BLUE, RED, GREY, PALE = "#1a7f4b", "#2b6cb0", "#c0392b", "#7f8c8d", "#7fbf9f"
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
ARMS = (GREEN, "#c8641b", GREY, BLUE, "#8b4fa0", "#8a6d00", "#5dbb87", "#b83280", "#2d3748")
BUDGETS = {0.7: (GREEN, "o"), 0.5: (BLUE, "s"), 0.38: (RED, "D")}  # of pruning in depth: colour, marker
CHOSEN = (("random", GREY, "."), ("best by latents", BLUE, "s"), ("best by images", GREEN, "o"))
APART, SMALLEST = 0.24, 1e-8  # between the budgets of one line; losses below are drawn there


def tidy(axis: Axes, title: str = "", *, x: str = "", y: str = "", size: int = 11) -> None:
    """A light grid, a title on the left, no frame above and on the right."""
    axis.set_title(title, fontsize=size, loc="left")
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def below(figure: Figure, axis: Axes, *, columns: int, room: float) -> None:
    """The legend of an axis under the whole figure."""
    figure.legend(*axis.get_legend_handles_labels(), loc="lower center", ncol=columns, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, room, 1, 1))


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


# Pruning in depth


def depth(record: Record) -> Figure:
    """How additive losses are, where that breaks, and how sets of equal budgets compare."""
    figure, axes = plt.subplots(1, 4, figsize=(19, 5.8), width_ratios=(1.2, 1, 1.15, 0.6), layout="constrained")
    rows = record["rows"]
    sums(axes[0], next(row for row in rows if row["name"] == "additivity, output"))
    ranks(axes[1], [row for row in rows if row["group"] == "additivity"])
    choices(axes[2], axes[3], record)
    figure.suptitle(record["title"], x=0.01, ha="left")
    return figure


def sums(axis: Axes, row: Row) -> None:
    """The sum of single losses against the joint loss, a point for each random set."""
    share, single, joint = np.array(row["points"]).T
    points = axis.scatter(single, joint, c=share, cmap="viridis", s=14)
    ends = [min(single.min(), joint.min()), max(single.max(), joint.max())]
    axis.loglog(ends, ends, color=GREY, lw=1, zorder=0)
    axis.figure.colorbar(points, ax=axis, label="share of the layers that goes")
    agreed = f"Pearson {row['pearson']:.2f}, Spearman {row['spearman']:.2f}, slope {row['slope']:.2f}"
    title = f"output loss of random sets of layers\n{agreed}"
    tidy(axis, title, x="sum of the losses without each layer alone", y="measured loss without all of them")


def ranks(axis: Axes, rows: list[Row]) -> None:
    """Rank correlation within each quarter of the layers, by criterion: where each breaks."""
    for row in rows:
        middles = [100 * np.mean(q["removed"]) for q in row["quarters"]]
        broad = {"output": 7.0, "task": 4.0}.get(row["criterion"], 1.5)  # so that lines which coincide are all seen
        style = {"lw": broad, "ms": broad + 2, "alpha": 0.45 if broad > 2 else 1}
        axis.plot(middles, [q["spearman"] for q in row["quarters"]], "-o", label=row["criterion"], **style)
    axis.axhline(0, color=GREY, lw=1)
    title = "rank correlation of a criterion's sums\nwith the measured joint output loss"
    tidy(axis, title, x="% of the layers that go (sets within a quarter)", y="Spearman")
    axis.legend(frameon=False, fontsize=8)


def choices(losses: Axes, rights: Axes, record: Record) -> None:
    """Joint loss and prompt accuracy of random, chosen and handcrafted sets, a line for each way of choosing."""
    rows = record["rows"]
    ways = [*list(dict.fromkeys(way(row) for row in rows if row["group"] == "chosen")), "random"]
    for place, name in enumerate(ways):
        for step, (budget, (colour, marker)) in enumerate(BUDGETS.items()):
            at = [row for row in rows if row.get("wanted") == budget and way(row) == name]
            style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none", "ms": 6}
            style |= {"marker": ".", "ms": 3, "alpha": 0.6} if name == "random" else {}
            label, height = f"{100 * budget:g} %" if place == 0 else None, place + APART * (step - 1)
            losses.plot([max(r["joint_loss"], SMALLEST) for r in at], [height] * len(at), label=label, **style)
            accuracies(rights, [row for row in at if "accuracy" in row], height, interval=name != "random", **style)
    shapes = [row for row in rows if row["group"] == "handcrafted"]
    for place, row in enumerate(shapes, start=len(ways)):
        losses.plot(row["joint_loss"], place, "*", color="black", ms=10)
        accuracies(rights, [row], place, color="black", marker="*", ms=10)
    every = {"random": "every set"} if record["options"].get("sets") == "all" else {}
    names = [*(every.get(name, name) for name in ways), *(f"{way(row)} ({100 * row['keep']:.0f} %)" for row in shapes)]
    labelled(losses, rights, names)
    dense = next(row for row in rows if row["group"] == "dense")
    rights.axvline(100 * dense["accuracy"]["mean"], color=GREY, lw=1)


def accuracies(axis: Axes, rows: list[Row], height: float, *, interval: bool = True, **style: Any) -> None:
    """What each row draws right, and its interval."""
    axis.plot([100 * row["accuracy"]["mean"] for row in rows], [height] * len(rows), **style)
    if interval:
        ends = [100 * end for row in rows for end in row["accuracy"]["ci95"]]
        axis.plot(ends, [height] * len(ends), color=style["color"], lw=1, alpha=0.5)


def labelled(losses: Axes, rights: Axes, names: list[str]) -> None:
    """The names of the lines, and scales that fit them."""
    losses.set_xscale("log")
    losses.set_yticks(range(len(names)), names, fontsize=9)
    rights.set_yticks(range(len(names)), [""] * len(names))
    tidy(losses, "sets chosen, before any training;\nkept, as asked:", x="measured joint output loss")
    tidy(rights, "drawn right\n(line: teacher)", x="prompt accuracy, 95 %")
    for axis in (losses, rights):
        axis.set_ylim(len(names) - 0.4, -0.6)
    losses.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=3, handletextpad=0)
    low, high = losses.get_xlim()
    narrow = np.log10(high / low) < 2.5
    losses.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=20))
    losses.xaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}" if narrow else f"{loss:.0e}"))
    losses.xaxis.set_minor_formatter(NullFormatter())


def way(row: Row) -> str:
    """How a row's layers were chosen."""
    return "random" if row["group"] == "random" else row["name"].partition(" at ")[0]


# Recovery


def recovery(record: Record) -> Figure:
    """Accuracy and Fréchet distance against updates, the mean over seeds as a line and each seed as a dot."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5))
    rows, options = record["rows"], record["options"]
    share = "keep_macs" if options.get("cost") == "macs" else "keep"
    teacher = next(row for row in rows if row["plan"] == "teacher")
    arms = dict.fromkeys((row["plan"], row["way"]) for row in rows if row.get("way"))
    values = {"prompt accuracy": lambda row: row["accuracy"]["mean"], "judge-Fréchet distance": lambda row: row["frechet"]}
    for axis, (title, value) in zip(axes, values.items(), strict=True):
        axis.axhline(value(teacher), color="#1d2420", lw=1, ls="--", label="teacher")
        if title == "prompt accuracy":
            axis.axhline(0.96 * value(teacher), color="#bbbbbb", lw=1, ls=":", label="4 % below")
        for arm, colour in zip(arms, ARMS, strict=False):
            runs = [row for row in rows if (row["plan"], row.get("way")) in (arm, (arm[0], None))]
            label = f"{', '.join(arm)} (keeps {100 * np.mean([row[share] for row in runs]):.0f} %)"
            curve(axis, [(row["updates"], value(row)) for row in runs], color=colour, label=label)
        axis.set_xscale("symlog", linthresh=max(options["updates"] / 10, 1))
        tidy(axis, title, x="updates", size=10)
    axes[1].set_yscale("log")
    below(figure, axes[0], columns=3, room=0.16)
    return figure


def curve(axis: Axes, points: Sequence[tuple[int, float]], *, color: str, label: str) -> None:
    """Points, and a line through their mean at each place."""
    places = sorted({place for place, _ in points})
    axis.plot(places, [np.mean([y for x, y in points if x == place]) for place in places], color=color, label=label)
    axis.plot(*zip(*points, strict=True), ".", color=color, ms=4)


def terms(record: Record) -> Figure:
    """Feature terms of a student by site over its updates: raw, and as shares of what each way minimises."""
    ways = list(dict.fromkeys(row["way"] for row in record["rows"]))
    figure, axes = plt.subplots(2, len(ways), figsize=(6 * len(ways), 8), sharex=True, sharey="row", squeeze=False)
    for column, name in enumerate(ways):
        rows = [row for row in record["rows"] if row["way"] == name]
        sites = [site for site in rows[-1]["raw"] if site.startswith("feature.")]
        for k, site in enumerate(sites):
            line, label = "--" if ".up_" in site or k > 9 else "-", site.removeprefix("feature.")
            minimised = [row["normalized"][site] / sum(row["normalized"][other] for other in sites) for row in rows]
            for axis, ys in zip(axes[:, column], ([row["raw"][site] for row in rows], minimised), strict=True):
                seen = [y or np.nan for y in ys]  # 0 before the first update of what nothing has changed
                axis.semilogy([row["updates"] for row in rows], seen, line, color=f"C{k % 10}", label=label)
        tidy(axes[0, column], f"{name}: raw terms", size=10)
        tidy(axes[1, column], f"{name}: share of what is minimised", x="updates", size=10)
    below(figure, axes[0, 0], columns=5, room=0.06)
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
