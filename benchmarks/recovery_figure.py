"""The pictures of recovery: accuracy and Fréchet distance against updates, and the feature terms site by site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Arm = tuple[str, str]  # plan, and how it is distilled
COLOURS = ("#1a7f4b", "#c8641b", "#7f8c8d", "#2b6cb0", "#8b4fa0", "#8a6d00", "#5dbb87", "#b83280", "#2d3748")


def draw(document: Mapping[str, Any], arms: Sequence[Arm], path: Path) -> None:
    """Accuracy and Fréchet distance against updates, the mean over seeds as a line and each seed as a dot."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5))
    teacher = next(row for row in document["rows"] if row["plan"] == "teacher")
    values: tuple[tuple[str, Callable[[Mapping[str, Any]], float]], ...] = (
        ("prompt accuracy", lambda row: row["accuracy"]["mean"]),
        ("judge-Fréchet distance", lambda row: row["frechet"]),
    )
    for axis, (title, value) in zip(axes, values, strict=True):
        axis.axhline(value(teacher), color="#1d2420", lw=1, ls="--", label="teacher")
        if title == "prompt accuracy":
            axis.axhline(0.96 * value(teacher), color="#bbbbbb", lw=1, ls=":", label="4 % below")
        for arm, colour in zip(arms, COLOURS, strict=False):
            curve(
                axis,
                [row for row in document["rows"] if (row["plan"], row.get("way")) in (arm, (arm[0], None))],
                value,
                arm,
                colour,
                "keep_macs" if document["options"].get("cost") == "macs" else "keep",
            )
        axis.set_xscale("symlog", linthresh=max(document["options"]["updates"] / 10, 1))
        axis.set_xlabel("updates")
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(alpha=0.2)
    axes[1].set_yscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", frameon=False, fontsize=9, ncol=3)
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def curve(axis: Axes, rows: Sequence[Mapping[str, Any]], value: Callable, arm: Arm, colour: str, share: str) -> None:
    if not any(row["updates"] for row in rows):  # not taught yet
        return
    marks = sorted({row["updates"] for row in rows})
    means = [np.mean([value(row) for row in rows if row["updates"] == mark]) for mark in marks]
    keep = np.mean([row[share] for row in rows])
    axis.plot(marks, means, color=colour, label=f"{arm[0]}, {arm[1]} (keeps {100 * keep:.0f} %)")
    axis.plot([row["updates"] for row in rows], [value(row) for row in rows], ".", color=colour, ms=4)


def draw_terms(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Feature terms of a student by site over its updates: raw, and as shares of what each way minimises."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    figure, axes = plt.subplots(2, len(ways), figsize=(6 * len(ways), 8), sharex=True, sharey="row", squeeze=False)
    for column, way in enumerate(ways):
        found = [row for row in rows if row["way"] == way]
        names = [name for name in found[-1]["raw"] if name.startswith("feature.")]
        styles = [(f"C{k % 10}", "--" if ".up_" in name or k > 9 else "-") for k, name in enumerate(names)]
        at = [row["updates"] for row in found]
        for (colour, line), name in zip(styles, names, strict=True):
            raw = [row["raw"][name] or np.nan for row in found]  # 0 before the first update of what nothing has changed
            axes[0, column].semilogy(at, raw, line, color=colour, label=name.removeprefix("feature."))
            minimised = [row["normalized"][name] / sum(row["normalized"][n] for n in names) for row in found]
            axes[1, column].semilogy(at, [share or np.nan for share in minimised], line, color=colour)
        axes[0, column].set_title(f"{way}: raw terms", fontsize=10, loc="left")
        axes[1, column].set_title(f"{way}: share of what is minimised", fontsize=10, loc="left")
        axes[1, column].set_xlabel("updates")
    for axis in axes.flat:
        axis.grid(alpha=0.2)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", frameon=False, fontsize=8, ncol=5)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
