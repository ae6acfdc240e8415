"""What searching costs and finds, as a picture: python benchmarks/ablations_figure.py     writes results/ablations.png"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).parents[1] / "results"
KEEPS = (0.5, 0.3)
STYLES = {
    "random": ("#7f8c8d", "x", ":"),
    "genetic": ("#2b6cb0", "D", "--"),
    "DiP-GO": ("#c0392b", "s", "-"),
    "additive, outputs held": ("#7fbf9f", "^", "-"),
    "additive": ("#1a7f4b", "o", "-"),
    "additive, refresh": ("#6a3fa0", "v", "-"),
    "additive, refresh, local": ("#d9a21b", "*", "-"),
}


def evaluations(row: dict) -> int:
    """After how many of them a row was measured."""
    return row["evaluations"]


def main() -> None:
    rows = json.loads((RESULTS / "ablations.json").read_text())["rows"]
    figure, axes = plt.subplots(1, len(KEEPS), figsize=(12, 4.8))
    for axis, keep in zip(axes, KEEPS, strict=True):
        for variant, (colour, marker, line) in STYLES.items():
            fits = [row for row in rows if (row["variant"], row["keep"]) == (variant, keep) and row["allocation"] != "exact"]
            runs = [
                sorted((r for r in fits if r["job"] == job), key=evaluations) for job in dict.fromkeys(r["job"] for r in fits)
            ]
            stops = list(zip(*runs, strict=True))  # the first of each search, the second, …
            for stop in stops:
                axis.plot([r["search_cpu_s"] for r in stop], [r["psnr_db"]["mean"] for r in stop], marker, color=colour, ms=4)
            cost = [np.mean([r["search_cpu_s"] for r in stop]) for stop in stops]
            means = [np.mean([r["psnr_db"]["mean"] for r in stop]) for stop in stops]
            axis.plot(cost, means, color=colour, marker=marker, linestyle=line, label=variant)
        axis.set_xscale("log")
        axis.set_xlabel("CPU seconds of the search")
        axis.set_ylabel("PSNR to the dense images, dB")
        axis.set_title(f"10 DDIM calls, {keep:g} of the MACs", fontsize=11, loc="left")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", frameon=False, fontsize=9, ncol=len(STYLES))
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(RESULTS / "ablations.png", dpi=110)


if __name__ == "__main__":
    main()
