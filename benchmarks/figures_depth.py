"""The pictures of pruning in depth and of how students recover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from figures_style import BLUE, GREEN, GREY, RED, below, tidy
from tables import Record, Row

ARMS = (GREEN, "#c8641b", GREY, BLUE, "#8b4fa0", "#8a6d00", "#5dbb87", "#b83280", "#2d3748")
BUDGETS = {0.7: (GREEN, "o"), 0.5: (BLUE, "s"), 0.38: (RED, "D")}  # of pruning in depth: colour, marker
APART, SMALLEST = 0.24, 1e-8  # between the budgets of one line; losses below are drawn there


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
