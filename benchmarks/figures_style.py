"""What all figures share: colours, a tidy axis, a legend below."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

GREEN, BLUE, RED, GREY, PALE = "#1a7f4b", "#2b6cb0", "#c0392b", "#7f8c8d", "#7fbf9f"


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
