"""The figures of docs/: fronts, and students against updates, drawn from the records.

python benchmarks/figures.py     writes results/NAME.png, beside the record of that name
"""

from collections.abc import Sequence
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from names import library
from tables import RESULTS, Record, Row, load

GREEN = "#1a7f4b"
ARMS = (GREEN, "#c8641b", "#7f8c8d", "#2b6cb0", "#8b4fa0", "#8a6d00", "#5dbb87", "#b83280", "#2d3748")
PANELS = {"psnr_db": "PSNR to the dense 50-call images, dB", "converged_psnr_db": "PSNR to the converged images, dB"}
# Of the groups of a front, solvers by the library's names: colour, marker, line.
STYLES = """Secateur, DDIM = #1a7f4b o - | Secateur, DPM-Solver++ = #6a3fa0 o - | Secateur, UniPC = #b8860b o -
    | DPM-Solver++ Karras = #b08bd6 ^ -- | DPM-Solver++ = #b08bd6 s : | UniPC Karras = #d9a21b ^ -- | UniPC = #d9a21b s :
    | DDIM leading = #7f8c8d s : | DDIM = #7f8c8d ^ -- | uniform hold = #7fbf9f s :
    | uniform hold, extrapolated = #7fbf9f ^ -- | uniform hold, Adams–Bashforth = #7fbf9f D -.
    | static cache, best setting = #c0562b v -- | DiP-GO, published = #c0392b * none
    | DiP-GO (60 updates), bisection = #c0392b D -- | DiP-GO (60 updates), greedy = #c0392b x : | random search = #2b6cb0 x :
    | genetic search = #2b6cb0 D -- | BudCache-like = #2b6cb0 ^ -. | GITS = #b83280 s : | GITS, best setting = #b83280 ^ --
    | Align Your Steps = #8a6d00 s : | iPNDM, order 2, Karras = #8a6d00 ^ -- | DEIS Karras = #8a6d00 D -."""


def tidy(axis: Axes, title: str, *, x: str) -> None:
    """A light grid, a title on the left, no frame above and on the right."""
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlabel(x)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def below(figure: Figure, axis: Axes, *, columns: int, room: float) -> Figure:
    """The figure with the legend of an axis under the whole."""
    figure.legend(*axis.get_legend_handles_labels(), loc="lower center", ncol=columns, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, room, 1, 1))
    return figure


def front(record: Record) -> Figure:
    """Fidelity against MACs, a line for each way and a band for its searches."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(14, 7))
    rows = [row for row in record["rows"] if row["keep"]]
    for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
        for name, style in (part.split("=") for part in STYLES.split("|")):
            group, (colour, marker, line) = name.strip(), style.split()
            if points := series([row for row in rows if library(row["group"]) == group and row.get(key)], key):
                costs, means, least, most = zip(*points, strict=True)
                width, size, order = (2.2, 7, 3) if group.startswith("Secateur") else (1.2, 5, 2)
                axis.plot(costs, means, color=colour, marker=marker, ls=line, label=group, lw=width, ms=size, zorder=order)
                axis.fill_between(costs, least, most, color=colour, alpha=0.15, lw=0)
        axis.set_xscale("log")
        axis.set_xticks([5, 7.5, 10, 12.5, 17, 25], ["5", "7.5", "10", "12.5", "17", "25"])
        axis.minorticks_off()
        tidy(axis, title, x="MACs in dense calls of 50 (conv + linear), log scale")
    return below(figure, axes[0], columns=6, room=0.1)


def series(rows: Sequence[Row], key: str) -> list[tuple[float, ...]]:
    """(calls' worth of MACs, mean over the searches, least, most) of a group at each budget."""
    at = [[row for row in rows if row["keep"] == keep] for keep in sorted({row["keep"] for row in rows})]
    values = [[row[key]["mean"] for row in some] for some in at]
    costs = [fmean(50 * row["keep_linear"] for row in some) for some in at]
    return [(cost, fmean(some), min(some), max(some)) for cost, some in zip(costs, values, strict=True)]


def recovery(record: Record) -> Figure:
    """Accuracy against updates, the mean over seeds as a line and each seed as a dot."""
    figure, axis = plt.subplots(figsize=(9, 6))
    rows, share = record["rows"], "keep_macs" if record["options"].get("cost") == "macs" else "keep"
    teacher = next(row["accuracy"]["mean"] for row in rows if row["plan"] == "teacher")
    axis.axhline(teacher, color="#1d2420", lw=1, ls="--", label="teacher")
    axis.axhline(0.96 * teacher, color="#bbbbbb", lw=1, ls=":", label="4 % below")
    for arm, colour in zip(dict.fromkeys((r["plan"], r["way"]) for r in rows if r.get("way")), ARMS, strict=False):
        runs = [row for row in rows if (row["plan"], row.get("way")) in (arm, (arm[0], None))]
        points = [(row["updates"], row["accuracy"]["mean"]) for row in runs]
        places = sorted({place for place, _ in points})
        middle = [fmean(right for at, right in points if at == place) for place in places]
        label = f"{', '.join(arm)} (keeps {100 * fmean(row[share] for row in runs):.0f} %)"
        axis.plot(places, middle, color=colour, label=label)
        axis.plot(*zip(*points, strict=True), ".", color=colour, ms=4)
    axis.set_xscale("symlog", linthresh=max(record["options"]["updates"] / 10, 1))
    tidy(axis, "prompt accuracy", x="updates")
    return below(figure, axis, columns=2, room=0.2)


def main() -> None:
    for start, draw in {"front-": front, "recovery-emoji-": recovery}.items():
        for path in sorted(RESULTS.glob(f"{start}*.json")):
            draw(load(path.stem)).savefig(path.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
