"""The picture of pruning in depth: how additive losses are, where that breaks, and how sets of equal budgets compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

BLUE, GREEN, RED, GREY = "#2b6cb0", "#1a7f4b", "#c0392b", "#9aa5b1"
MARKS = {  # of the rows of a budget, by how their names begin
    "output, exact at": ("o", BLUE),
    "output, exact, stages": ("D", BLUE),
    "output, greedy at": ("v", BLUE),
    "output, greedy by ratio": ("^", BLUE),
    "output, Min-SNR": ("P", GREEN),
    "task": ("s", RED),
    "taylor": ("<", RED),
    "cosine": (">", RED),
    "magnitude": ("x", RED),
}


def draw(record: dict[str, Any], path: Path) -> None:
    """Write the picture of a record."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(17, 5.4))
    rows = record["rows"]
    output = next(row for row in rows if row["name"] == "additivity, output")
    scatter(left, output)
    ratios(middle, rows)
    budgets(right, rows)
    figure.suptitle(record["title"], x=0.01, ha="left")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def scatter(axis: Axes, row: dict[str, Any]) -> None:
    """The sum of single losses against the joint loss, a point for each random set."""
    share, sums, joint = np.array(row["points"]).T
    points = axis.scatter(sums, joint, c=share, cmap="viridis", s=14)
    ends = [min(sums.min(), joint.min()), max(sums.max(), joint.max())]
    axis.loglog(ends, ends, color=GREY, lw=1, zorder=0)
    axis.figure.colorbar(points, ax=axis, label="share of the layers that goes")
    axis.set_title(f"Pearson {row['pearson']:.2f}, Spearman {row['spearman']:.2f}, slope {row['slope']:.2f}", loc="left")
    axis.set_xlabel("sum of the output losses of single layers")
    axis.set_ylabel("measured joint output loss")


def ratios(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """Rank correlation within each quarter of the layers, by criterion: where each breaks."""
    for row in (row for row in rows if row.get("group") == "additivity"):
        middles = [100 * np.mean(q["removed"]) for q in row["quarters"]]
        name = row["criterion"]
        style = "-" if name.startswith("output") else "--"
        axis.plot(middles, [q["spearman"] for q in row["quarters"]], f"{style}o", label=name)
    axis.axhline(0, color=GREY, lw=1)
    axis.set_title("rank correlation of sum and joint output loss", loc="left")
    axis.set_xlabel("% of the layers that go (sets within a quarter)")
    axis.set_ylabel("Spearman")
    axis.legend(frameon=False, fontsize=8)


def budgets(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """Joint loss of random, chosen and handcrafted sets against the parameters that each keeps."""
    random = [row for row in rows if row.get("group") == "random"]
    axis.plot([100 * r["keep"] for r in random], [r["joint_loss"] for r in random], ".", color=GREY, ms=4, label="random")
    for row in (row for row in rows if row.get("group") == "handcrafted"):
        axis.plot(100 * row["keep"], row["joint_loss"], "*", color="black", ms=10)
        axis.annotate(
            row["name"].split(" at")[0],
            (100 * row["keep"], row["joint_loss"]),
            fontsize=8,
            xytext=(5, 3),
            textcoords="offset points",
        )
    for start, (marker, colour) in MARKS.items():
        found = [row for row in rows if row.get("group") == "chosen" and row["name"].startswith(start)]
        places, losses = [100 * row["keep"] for row in found], [row["joint_loss"] for row in found]
        axis.plot(places, losses, marker, color=colour, label=start.removesuffix(" at"), mfc="none" if marker != "x" else None)
    axis.set_yscale("log")
    axis.set_title("sets of equal budgets, before any training", loc="left")
    axis.set_xlabel("% of the parameters that stay")
    axis.set_ylabel("measured joint output loss")
    axis.legend(frameon=False, fontsize=8)
