"""The picture of pruning in depth: how additive losses are, where that breaks, and how sets of equal budgets compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

GREY = "#9aa5b1"
BUDGETS = {0.7: ("#1a7f4b", "o"), 0.5: ("#2b6cb0", "s"), 0.38: ("#c0392b", "D")}  # budget asked → colour, marker
APART = 0.24  # between the budgets of one row
SMALLEST = 1e-8  # losses below are drawn there


def draw(record: dict[str, Any], path: Path) -> None:
    """Write the picture of a record."""
    figure, axes = plt.subplots(1, 4, figsize=(19, 5.8), width_ratios=(1.2, 1, 1.15, 0.6), layout="constrained")
    rows = record["rows"]
    scatter(axes[0], next(row for row in rows if row["name"] == "additivity, output"))
    ratios(axes[1], rows)
    regret(axes[2], axes[3], rows, record["options"])
    figure.suptitle(record["title"], x=0.01, ha="left")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def scatter(axis: Axes, row: dict[str, Any]) -> None:
    """The sum of single losses against the joint loss, a point for each random set."""
    share, sums, joint = np.array(row["points"]).T
    points = axis.scatter(sums, joint, c=share, cmap="viridis", s=14)
    ends = [min(sums.min(), joint.min()), max(sums.max(), joint.max())]
    axis.loglog(ends, ends, color=GREY, lw=1, zorder=0)
    axis.figure.colorbar(points, ax=axis, label="share of the layers that goes")
    agreed = f"Pearson {row['pearson']:.2f}, Spearman {row['spearman']:.2f}, slope {row['slope']:.2f}"
    axis.set_title(f"output loss of random sets of layers\n{agreed}", loc="left", fontsize=11)
    axis.set_xlabel("sum of the losses without each layer alone")
    axis.set_ylabel("measured loss without all of them")


def ratios(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """Rank correlation within each quarter of the layers, by criterion: where each breaks."""
    for row in (row for row in rows if row.get("group") == "additivity"):
        middles = [100 * np.mean(q["removed"]) for q in row["quarters"]]
        broad = {"output": 7.0, "task": 4.0}.get(row["criterion"], 1.5)  # so that lines which coincide are all seen
        axis.plot(middles, [q["spearman"] for q in row["quarters"]], "-o", label=row["criterion"], lw=broad, ms=broad + 2,
                  alpha=0.45 if broad > 2 else 1)  # fmt: skip
    axis.axhline(0, color=GREY, lw=1)
    axis.set_title("rank correlation of a criterion's sums\nwith the measured joint output loss", loc="left", fontsize=11)
    axis.set_xlabel("% of the layers that go (sets within a quarter)")
    axis.set_ylabel("Spearman")
    axis.legend(frameon=False, fontsize=8)


def regret(losses: Axes, rights: Axes, rows: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """Joint loss and prompt accuracy of random, chosen and handcrafted sets, a line for each way of choosing."""
    ways = list(dict.fromkeys(way(row) for row in rows if row.get("group") in ("random", "chosen")))
    ways = [name for name in ways if name != "random"] + ["random"]
    for place, name in enumerate(ways):
        for step, (budget, (colour, marker)) in enumerate(BUDGETS.items()):
            at = [row for row in rows if row.get("wanted") == budget and way(row) == name]
            height = place + APART * (step - 1)
            style: dict[str, Any] = {"color": colour, "marker": "." if name == "random" else marker, "linestyle": "none"}
            style |= {"ms": 3, "alpha": 0.6} if name == "random" else {"ms": 6}
            label = f"{100 * budget:g} %" if place == 0 else None
            losses.plot([max(r["joint_loss"], SMALLEST) for r in at], [height] * len(at), label=label, **style)
            seen = [row for row in at if "accuracy" in row]
            rights.plot([100 * r["accuracy"]["mean"] for r in seen], [height] * len(seen), **style)
            if name != "random":
                ends = [end for row in seen for end in row["accuracy"]["ci95"]]
                rights.plot([100 * end for end in ends], [height] * len(ends), color=colour, lw=1, alpha=0.5)
    shapes = [row for row in rows if row.get("group") == "handcrafted"]
    for place, row in enumerate(shapes, start=len(ways)):
        losses.plot(row["joint_loss"], place, "*", color="black", ms=10)
        rights.plot(100 * row["accuracy"]["mean"], place, "*", color="black", ms=10)
        rights.plot([100 * end for end in row["accuracy"]["ci95"]], [place] * 2, color="black", lw=1, alpha=0.5)
    every = {"random": "every set"} if options.get("sets") == "all" else {}
    names = [*(every.get(name, name) for name in ways), *(f"{way(row)} ({100 * row['keep']:.0f} %)" for row in shapes)]
    losses.set_xscale("log")
    losses.set_yticks(range(len(names)), names, fontsize=9)
    rights.set_yticks(range(len(names)), [""] * len(names))
    for axis in (losses, rights):
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.grid(alpha=0.25)
    dense = next(row for row in rows if row.get("group") == "dense")
    rights.axvline(100 * dense["accuracy"]["mean"], color=GREY, lw=1)
    losses.set_title("sets chosen, before any training;\nkept, as asked:", loc="left", fontsize=11)
    losses.set_xlabel("measured joint output loss")
    losses.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=3, handletextpad=0)
    low, high = losses.get_xlim()
    decades = np.log10(high / low)
    losses.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,), numticks=20))
    losses.xaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:.0e}" if decades > 2.5 else f"{loss:g}"))
    losses.xaxis.set_minor_formatter(NullFormatter())
    rights.set_title("drawn right\n(line: teacher)", loc="left", fontsize=11)
    rights.set_xlabel("prompt accuracy, 95 %")


def way(row: dict[str, Any]) -> str:
    """How a row's layers were chosen."""
    return "random" if row.get("group") == "random" else row["name"].partition(" at ")[0]
