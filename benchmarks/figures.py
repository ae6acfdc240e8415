"""The pictures of results/: fronts, scatters and curves, drawn from the records.

python benchmarks/figures.py [NAME ...]     writes results/NAME.png; by default every one that has a record
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from names import library
from tables import RESULTS, Record, Row, load

GREEN, BLUE, RED, GREY = "#1a7f4b", "#2b6cb0", "#c0392b", "#7f8c8d"
ARMS = (GREEN, "#c8641b", GREY, BLUE, "#8b4fa0", "#8a6d00", "#5dbb87", "#b83280", "#2d3748")
PANELS = {
    "psnr_db": "PSNR to the dense 50-call images, dB",
    "converged_psnr_db": "PSNR to the converged images, dB",
    "accuracy": "prompt accuracy",
}
STYLES = """Secateur, DDIM = #1a7f4b o - | Secateur, DPM-Solver++ = #6a3fa0 o - | Secateur, UniPC = #b8860b o -
    | DPM-Solver++ Karras = #b08bd6 ^ -- | DPM-Solver++ = #b08bd6 s : | UniPC Karras = #d9a21b ^ -- | UniPC = #d9a21b s :
    | DDIM leading = #7f8c8d s : | DDIM = #7f8c8d ^ -- | uniform hold = #7fbf9f s :
    | uniform hold, extrapolated = #7fbf9f ^ -- | uniform hold, Adams–Bashforth = #7fbf9f D -.
    | static cache, best setting = #c0562b v -- | DiP-GO, published = #c0392b * none
    | DiP-GO (60 updates), bisection = #c0392b D -- | DiP-GO (60 updates), greedy = #c0392b x : | random search = #2b6cb0 x :
    | genetic search = #2b6cb0 D --"""  # of the groups of a front, solvers by the library's names: colour, marker, line
SEARCHES = """random = #7f8c8d x : | genetic = #2b6cb0 D -- | DiP-GO = #c0392b s - | additive, outputs held = #7fbf9f ^ -
    | additive = #1a7f4b o - | additive, refresh = #6a3fa0 v - | additive, refresh, local = #d9a21b * -"""
CHOSEN = (("random", GREY, "."), ("best by latents", BLUE, "s"), ("best by images", GREEN, "o"))
BUDGETS = {0.7: (GREEN, "o", -0.24), 0.5: (BLUE, "s", 0.0), 0.38: (RED, "D", 0.24)}  # in depth: colour, marker, above its line


def styles(text: str) -> dict[str, list[str]]:
    """Colour, marker and line by name."""
    return {name.strip(): style.split() for name, style in (part.split("=") for part in text.split("|"))}


def tidy(axis: Axes, title: str = "", *, x: str = "", y: str = "", size: int = 11) -> None:
    """A light grid, a title on the left, no frame above and on the right."""
    axis.set_title(title, fontsize=size, loc="left")
    axis.set(xlabel=x, ylabel=y)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def below(figure: Figure, axis: Axes, *, columns: int, room: float) -> Figure:
    """The figure with the legend of an axis under the whole."""
    figure.legend(*axis.get_legend_handles_labels(), loc="lower center", ncol=columns, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, room, 1, 1))
    return figure


def front(record: Record) -> Figure:
    """Fidelity and accuracy against MACs, a line for each way and a band for its searches."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(17, 6))
    for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
        for group, (colour, marker, line) in styles(STYLES).items():
            if points := series([row for row in record["rows"] if library(row["group"]) == group and row.get(key)], key):
                costs, means, least, most = zip(*points, strict=True)
                width, size, order = (2.2, 7, 3) if group.startswith("Secateur") else (1.2, 5, 2)
                axis.plot(costs, means, color=colour, marker=marker, ls=line, label=group, lw=width, ms=size, zorder=order)
                axis.fill_between(costs, least, most, color=colour, alpha=0.15, lw=0)
        axis.set_xscale("log")
        axis.set_xticks([5, 7.5, 10, 12.5, 17, 25], ["5", "7.5", "10", "12.5", "17", "25"])
        axis.minorticks_off()
        tidy(axis, title, x="MACs in dense calls of 50 (conv + linear), log scale")
    shares(axes[-1], record["rows"][0]["accuracy"])
    return below(figure, axes[0], columns=6, room=0.1)


def series(rows: Sequence[Row], key: str) -> list[tuple[float, ...]]:
    """(calls' worth of MACs, mean over the searches, least, most) of a group at each budget."""
    at = [[row for row in rows if row["keep"] == keep] for keep in sorted({row["keep"] for row in rows})]
    values = [[row[key]["mean"] for row in some] for some in at]
    costs = [fmean(50 * row["keep_linear"] for row in some) for some in at]
    return [(cost, fmean(some), min(some), max(some)) for cost, some in zip(costs, values, strict=True)]


def shares(axis: Axes, dense: Row, room: float = 0.01) -> None:
    """A scale on which shares near one stay apart, and the interval of the dense images' own."""
    apart = (lambda share: -np.log(1 + room - np.asarray(share)), lambda height: 1 + room - np.exp(-np.asarray(height)))
    axis.set_yscale("function", functions=apart)
    ticks = [tick for tick in (0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 1.0) if tick >= axis.get_ylim()[0]]
    axis.set_yticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axis.set_ylim(top=1)
    axis.axhspan(*dense["ci95"], color="#888888", alpha=0.12, lw=0)
    axis.axhline(dense["mean"], color="#888888", lw=1)
    place = {"transform": axis.get_yaxis_transform(), "ha": "right", "va": "bottom"}
    axis.text(0.99, dense["ci95"][0], "dense images, and their 95 % interval", fontsize=9, color="#555555", **place)


def ablations(record: Record) -> Figure:
    """What searching costs and finds: PSNR against CPU seconds, a dot for each search and a line for their mean."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8))
    for axis, keep in zip(axes, (0.5, 0.3), strict=True):
        for variant, (colour, marker, line) in styles(SEARCHES).items():
            fits = [r for r in record["rows"] if (r["variant"], r["keep"]) == (variant, keep) and r["allocation"] != "exact"]
            fits.sort(key=lambda row: row["evaluations"])
            runs = [[r for r in fits if r["job"] == job] for job in dict.fromkeys(r["job"] for r in fits)]
            stops = [[(r["search_cpu_s"], r["psnr_db"]["mean"]) for r in stop] for stop in zip(*runs, strict=True)]
            for stop in stops:  # the first of each search, the second, …
                axis.plot(*zip(*stop, strict=True), marker, color=colour, ms=4)
            axis.plot(*np.mean(stops, axis=1).T, color=colour, marker=marker, linestyle=line, label=variant)
        axis.set_xscale("log")
        tidy(axis, f"10 DDIM calls, {keep:g} of the MACs", x="CPU seconds of the search", y="PSNR to the dense images, dB")
    return below(figure, axes[0], columns=7, room=0.05)


def additivity(record: Record) -> Figure:
    """The predicted error of sets of calls against the measured one."""
    rows = record["rows"]
    figure, axes = plt.subplots(len(rows) // 3, 3, figsize=(13, 4 * len(rows) / 3))
    for axis, row in zip(axes.flat, rows, strict=True):
        for kind, colour, marker in CHOSEN:
            points = [(p["images"], p["measured"]) for p in row["points"] if p["set"].startswith(kind)]
            axis.loglog(*zip(*points, strict=True), marker, color=colour, label=kind)
        both = [p[key] for p in row["points"] for key in ("images", "measured")]
        axis.plot([min(both), max(both)], [min(both), max(both)], color="#bbbbbb", lw=1, zorder=0)
        for side in (axis.xaxis, axis.yaxis):
            side.set_minor_formatter(NullFormatter())
        agreed = f"Spearman {row['spearman_images']:.2f}, by latents {row['spearman_latents']:.2f}"
        tidy(axis, f"{row['name']}\n{agreed}", x="predicted mean square error", y="measured", size=10)
    axes.flat[0].legend(frameon=False)
    figure.tight_layout()
    return figure


def depth(record: Record) -> Figure:
    """How additive losses are, where that breaks, and how sets of equal budgets compare."""
    figure, axes = plt.subplots(1, 4, figsize=(19, 5.8), width_ratios=(1.2, 1, 1.15, 0.6), layout="constrained")
    criteria = [row for row in record["rows"] if row["group"] == "additivity"]
    sums(axes[0], next(row for row in criteria if row["criterion"] == "output"))
    ranks(axes[1], criteria)
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
    x, y = "sum of the losses without each layer alone", "measured loss without all of them"
    tidy(axis, f"output loss of random sets of layers\n{agreed}", x=x, y=y)


def ranks(axis: Axes, rows: Sequence[Row]) -> None:
    """Rank correlation within each quarter of the layers, by criterion: where each breaks."""
    for row in rows:
        gone, agreed = zip(*((100 * np.mean(part["removed"]), part["spearman"]) for part in row["quarters"]), strict=True)
        broad = {"output": 7.0, "task": 4.0}.get(row["criterion"], 1.5)  # so that lines which coincide are all seen
        axis.plot(gone, agreed, "-o", label=row["criterion"], lw=broad, ms=broad + 2, alpha=0.45 if broad > 2 else 1)
    axis.axhline(0, color=GREY, lw=1)
    title = "rank correlation of a criterion's sums\nwith the measured joint output loss"
    tidy(axis, title, x="% of the layers that go (sets within a quarter)", y="Spearman")
    axis.legend(frameon=False, fontsize=8)


def choices(losses: Axes, rights: Axes, record: Record) -> None:
    """Joint loss and prompt accuracy of random, chosen and handcrafted sets, a line for each way of choosing."""
    way = lambda row: "random" if row["group"] == "random" else row["name"].partition(" at ")[0]  # noqa: E731
    rows, shapes = record["rows"], [row for row in record["rows"] if row["group"] == "handcrafted"]
    ways = [*dict.fromkeys(way(row) for row in rows if row["group"] == "chosen"), "random"]
    for place, name in enumerate(ways):
        for budget, (colour, marker, above) in BUDGETS.items():
            at = [row for row in rows if row.get("wanted") == budget and way(row) == name]
            style: dict[str, Any] = {
                "color": colour,
                "marker": marker,
                "ms": 6,
                "label": "" if place else f"{100 * budget:g} %",
            }
            dots(
                losses, rights, at, place + above, style | ({"marker": ".", "ms": 3, "alpha": 0.6} if name == "random" else {})
            )
    for place, row in enumerate(shapes, start=len(ways)):
        dots(losses, rights, [row], place, {"color": "black", "marker": "*", "ms": 10})
    every = "every set" if record["options"].get("sets") == "all" else "random"
    labelled(losses, rights, [*ways[:-1], every, *(f"{way(row)} ({100 * row['keep']:.0f} %)" for row in shapes)])
    rights.axvline(100 * next(row for row in rows if row["group"] == "dense")["accuracy"]["mean"], color=GREY, lw=1)


def dots(losses: Axes, rights: Axes, rows: Sequence[Row], height: float, style: dict[str, Any]) -> None:
    """Each row's loss, what it draws right, and the interval of that if it is no random set; losses below 1e-8 lie there."""
    losses.plot([max(row["joint_loss"], 1e-8) for row in rows], [height] * len(rows), ls="none", **style)
    seen = [row["accuracy"] for row in rows if "accuracy" in row]
    rights.plot([100 * share["mean"] for share in seen], [height] * len(seen), ls="none", **style)
    if style["marker"] != ".":
        ends = [100 * end for share in seen for end in share["ci95"]]
        rights.plot(ends, [height] * len(ends), color=style["color"], lw=1, alpha=0.5)


def labelled(losses: Axes, rights: Axes, names: Sequence[str]) -> None:
    """The names of the lines, and scales that fit them."""
    losses.set_xscale("log")
    tidy(losses, "sets chosen, before any training;\nkept, as asked:", x="measured joint output loss")
    tidy(rights, "drawn right\n(line: teacher)", x="prompt accuracy, 95 %")
    for axis, texts in ((losses, names), (rights, [""] * len(names))):
        axis.set_yticks(range(len(names)), texts, fontsize=9)
        axis.set_ylim(len(names) - 0.4, -0.6)
    losses.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=3, handletextpad=0)
    low, high = losses.get_xlim()
    narrow = np.log10(high / low) < 2.5
    losses.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=20))
    losses.xaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}" if narrow else f"{loss:.0e}"))
    losses.xaxis.set_minor_formatter(NullFormatter())


def recovery(record: Record) -> Figure:
    """Accuracy and Fréchet distance against updates, the mean over seeds as a line and each seed as a dot."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5))
    rows, share = record["rows"], "keep_macs" if record["options"].get("cost") == "macs" else "keep"
    teacher = next(row for row in rows if row["plan"] == "teacher")
    values = {"prompt accuracy": lambda row: row["accuracy"]["mean"], "judge-Fréchet distance": lambda row: row["frechet"]}
    for axis, (title, value) in zip(axes, values.items(), strict=True):
        axis.axhline(value(teacher), color="#1d2420", lw=1, ls="--", label="teacher")
        if axis is axes[0]:
            axis.axhline(0.96 * value(teacher), color="#bbbbbb", lw=1, ls=":", label="4 % below")
        for arm, colour in zip(dict.fromkeys((r["plan"], r["way"]) for r in rows if r.get("way")), ARMS, strict=False):
            runs = [row for row in rows if (row["plan"], row.get("way")) in (arm, (arm[0], None))]
            places = sorted({row["updates"] for row in runs})
            middle = [fmean(value(row) for row in runs if row["updates"] == place) for place in places]
            label = f"{', '.join(arm)} (keeps {100 * fmean(row[share] for row in runs):.0f} %)"
            axis.plot(places, middle, color=colour, label=label)
            axis.plot([row["updates"] for row in runs], [value(row) for row in runs], ".", color=colour, ms=4)
        axis.set_xscale("symlog", linthresh=max(record["options"]["updates"] / 10, 1))
        tidy(axis, title, x="updates", size=10)
    axes[1].set_yscale("log")
    return below(figure, axes[0], columns=3, room=0.16)


def terms(record: Record) -> Figure:
    """Feature terms of a student by site over its updates: raw, and as shares of what each way minimises."""
    ways = list(dict.fromkeys(row["way"] for row in record["rows"]))
    figure, axes = plt.subplots(2, len(ways), figsize=(6 * len(ways), 8), sharex=True, sharey="row", squeeze=False)
    for (above, under), name in zip(axes.T, ways, strict=True):
        rows = [row for row in record["rows"] if row["way"] == name]
        sites = [site for site in rows[-1]["raw"] if site.startswith("feature.")]
        for k, site in enumerate(sites):
            line, label = "--" if ".up_" in site or k > 9 else "-", site.removeprefix("feature.")
            minimised = [row["normalized"][site] / sum(row["normalized"][other] for other in sites) for row in rows]
            for axis, ys in ((above, [row["raw"][site] for row in rows]), (under, minimised)):
                seen = [y or np.nan for y in ys]  # 0 before the first update of what nothing has changed
                axis.semilogy([row["updates"] for row in rows], seen, line, color=f"C{k % 10}", label=label)
        tidy(above, f"{name}: raw terms", size=10)
        tidy(under, f"{name}: share of what is minimised", x="updates", size=10)
    return below(figure, axes[0, 0], columns=5, room=0.06)


KINDS = {  # how the names of records begin: figure, dots an inch
    "front-": (front, 110),
    "ablations": (ablations, 110),
    "additivity": (additivity, 100),
    "depth-": (depth, 90),
    "recovery-terms-": (terms, 110),
    "recovery-": (recovery, 110),
}


def main() -> None:
    drawable = [path.stem for path in sorted(RESULTS.glob("*.json")) if path.name.startswith(tuple(KINDS))]
    for name in sys.argv[1:] or drawable:
        if name not in drawable:
            raise SystemExit(f"there is no figure {name}: choose among {', '.join(drawable)}")
        draw, dots_an_inch = next(kind for start, kind in KINDS.items() if name.startswith(start))
        figure = draw(load(name))
        figure.savefig(RESULTS / f"{name}.png", dpi=dots_an_inch)
        plt.close(figure)


if __name__ == "__main__":
    main()
