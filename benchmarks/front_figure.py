"""The front as a picture: python benchmarks/front_figure.py [emoji-sd|emoji-dit]     writes results/front-PIPE.png"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOM = 0.01  # above a share of one, so that its logarithm is finite
RESULTS = Path(__file__).parents[1] / "results"
PANELS = (
    ("psnr_db", "PSNR to the dense 50-call images, dB"),
    ("converged_psnr_db", "PSNR to the converged images, dB"),
    ("accuracy", "prompt accuracy"),
)
STYLES = {  # group → colour, marker, line
    "Secateur, DDIM": ("#1a7f4b", "o", "-"),
    "Secateur, DPM-Solver++": ("#6a3fa0", "o", "-"),
    "Secateur, UniPC": ("#b8860b", "o", "-"),
    "DPM-Solver++, Karras": ("#b08bd6", "^", "--"),
    "DPM-Solver++, linspace": ("#b08bd6", "s", ":"),
    "UniPC, Karras": ("#d9a21b", "^", "--"),
    "UniPC, linspace": ("#d9a21b", "s", ":"),
    "DDIM, leading": ("#7f8c8d", "s", ":"),
    "DDIM, trailing": ("#7f8c8d", "^", "--"),
    "uniform hold": ("#7fbf9f", "s", ":"),
    "uniform hold, extrapolated": ("#7fbf9f", "^", "--"),
    "uniform hold, Adams–Bashforth": ("#7fbf9f", "D", "-."),
    "static cache, best setting": ("#c0562b", "v", "--"),
    "DiP-GO, published": ("#c0392b", "*", "none"),
    "DiP-GO (60 updates), bisection": ("#c0392b", "D", "--"),
    "DiP-GO (60 updates), greedy": ("#c0392b", "x", ":"),
    "random search": ("#2b6cb0", "x", ":"),
    "genetic search": ("#2b6cb0", "D", "--"),
}


def series(rows: list[dict], key: str) -> dict[str, list[tuple[float, float, float, float]]]:
    """Of each group (calls' worth of MACs, mean over its searches, least, most), by cost."""
    found: dict[str, dict[float, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["group"] in STYLES and row.get(key):
            found[row["group"]][row["keep"]].append((50 * row["keep_linear"], row[key]["mean"]))
    return {group: [point(values) for _, values in sorted(by.items())] for group, by in found.items()}


def point(values: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    costs, means = zip(*values, strict=True)
    return sum(costs) / len(costs), sum(means) / len(means), min(means), max(means)


def shares(axis, dense: dict) -> None:
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


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "emoji-sd"
    rows = json.loads((RESULTS / f"front-{name}.json").read_text())["rows"]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(17, 6))
    for axis, (key, title) in zip(axes, PANELS, strict=True):
        lines = series(rows, key)
        for group, (colour, marker, line) in STYLES.items():
            if group not in lines:
                continue
            costs, means, least, most = zip(*lines[group], strict=True)
            ours = group.startswith("Secateur")
            axis.plot(costs, means, color=colour, marker=marker, linestyle=line, label=group, lw=2.2 if ours else 1.2,
                      ms=7 if ours else 5, zorder=3 if ours else 2)  # fmt: skip
            axis.fill_between(costs, least, most, color=colour, alpha=0.15, lw=0)
        axis.set_xscale("log")
        axis.set_xticks([5, 7.5, 10, 12.5, 17, 25], ["5", "7.5", "10", "12.5", "17", "25"])
        axis.minorticks_off()
        axis.set_xlabel("MACs in dense calls of 50 (conv + linear), log scale")
        axis.set_title(title, fontsize=11, loc="left")
        if key == "accuracy":
            shares(axis, next(row[key] for row in rows if row["group"] == "dense"))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=6, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(RESULTS / f"front-{name}.png", dpi=110)


if __name__ == "__main__":
    main()
