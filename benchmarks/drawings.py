"""The drawings of docs/concepts as SVG, from schedules, samplers and records: docs/images/NAME.svg is what NAME here returns.

Each stands on a card of its own, which is dark where the reader's system is. benchmarks/pages.py writes them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from html import escape
from itertools import pairwise
from math import log10, sqrt

import numpy as np
from diffusers import DDIMScheduler

import published
from secateur import find_blocks, load, zoo
from secateur.denoiser.blocks import Blocks
from secateur.pipeline.schedulers import SOLVERS
from secateur.schedule.baselines import deepcache, dense, uniform
from secateur.schedule.holds import HOLDS, taken
from tables import load as record_of

WIDTH, EDGE, ROW = 540, 16, 19  # px: of a card, around it, from line to line
STYLE = """text{font:13px system-ui,sans-serif;fill:#1d2420}.m{fill:#66706a}.c{fill:#fbfcfa;stroke:#dfe4e0}.h{fill:#d8dfda}
.g{fill:#2e7d55}.l{fill:#a9cdb8}.o{fill:#d07f3c}.s{fill:none;stroke:#2e7d55;stroke-width:2}.t{fill:none;stroke:#8b958f}
@media(prefers-color-scheme:dark){text{fill:#e6ebe7}.m{fill:#9aa59f}.c{fill:#1b211e;stroke:#39423d}.h{fill:#333c37}
.g{fill:#4fae7d}.l{fill:#2f5b45}.o{fill:#dd9355}.s{stroke:#4fae7d}.t{stroke:#7d8882}}"""
SAMPLERS = {"DDIM": partial(published.stock, SOLVERS["DDIM"]), "iPNDM": published.SAMPLERS["iPNDM, order 2"]}
SPREAD = 1.5  # of Gaussian pictures, whose best prediction is known exactly


def card(lines: Iterable[str], *, height: float, what: str) -> str:
    """A whole SVG: some elements on a card of this height. what: they say, for those who cannot see them."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" role="img">'
    paper = f'<rect class="c" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1:g}" rx="8"/>'
    return "\n".join([head, f"<title>{escape(what)}</title><style>{STYLE}</style>", paper, *lines, "</svg>\n"])


def text(x: float, y: float, words: str, *, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, *, kind: str, seen: float = 1.0) -> str:
    shade = "" if seen == 1 else f' opacity="{seen:.2f}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{shade}/>'


def line(points: Iterable[tuple[float, float]], *, kind: str) -> str:
    return f'<path class="{kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'


def bar(x: float, y: float, parts: Sequence[tuple[float, str]]) -> str:
    """Widths side by side, each with its kind."""
    starts = np.cumsum([0.0, *(width for width, _ in parts)])
    return "".join(box(x + start, y, width, 11, kind=kind) for start, (width, kind) in zip(starts, parts, strict=False))


def config(pipe: str, part: str) -> dict:
    """The configuration of a part of a pipe of the zoo; its weights are not read."""
    name = "scheduler_config" if part == "scheduler" else "config"
    return json.loads((zoo.folder(pipe) / part / f"{name}.json").read_text(encoding="utf-8"))


def blocks_of(pipe: str = "emoji-sd") -> Blocks:
    return find_blocks(config(pipe, "unet"), "stage")


def scheduler_of(steps: int) -> DDIMScheduler:
    """The scheduler of emoji-sd, at so many steps."""
    scheduler = DDIMScheduler.from_config(config("emoji-sd", "scheduler"))
    scheduler.set_timesteps(steps)
    return scheduler


def cells() -> str:
    """Three schedules of twenty calls of emoji-sd: dense, evenly held, DeepCache."""
    blocks, calls, side, tall, left = blocks_of(), 20, 19, 10, 128
    shown = {
        "dense: every cell runs": dense(blocks, calls),
        "four calls run, the others are held whole": uniform(blocks, calls, every=5),
        "DeepCache: the others run the outer blocks": deepcache(blocks, calls, interval=5),
    }
    lines, y = list[str](), EDGE
    for title, schedule in shown.items():
        lines.append(text(left, y + 12, title))
        for kind, d in shapes(schedule.grid, x=left, y=y + ROW, side=side, tall=tall).items():
            lines.append(f'<path class="{kind}" d="{d}"/>')
        for i in (0, len(blocks) // 2, len(blocks) - 1):
            name = blocks.names[i].replace("_blocks", "").replace("_block", "").replace(".", " ")
            lines.append(text(left - 8, y + ROW + tall * i + 9, name, kind="m", anchor="end"))
        y += ROW + tall * len(blocks) + 14
    lines += [
        text(left, y + 8, "call 0", kind="m"),
        text(left + side * calls, y + 8, f"call {calls - 1}", kind="m", anchor="end"),
    ]
    return card(lines, height=y + 20, what="Grids of blocks and calls: dense, held calls, DeepCache")


def shapes(grid: Sequence[str], *, x: float, y: float, side: int, tall: int) -> dict[str, str]:
    """The cells of a grid as a path for each kind: those that run, those that reuse, and those of held calls."""
    kinds = {"g": "", "l": "", "h": ""}
    for t, row in enumerate(grid):
        for i, cell in enumerate(row):
            kind = "g" if cell == "#" else "l" if "#" in row else "h"
            kinds[kind] += f"M{x + side * t} {y + tall * i}h{side - 1}v{tall - 1}h{1 - side}z"
    return kinds


def table() -> str:
    """The rows of three samplers of ten calls: what the latents after each call are made of."""
    rows = {name: table(scheduler_of(50), 10).steps for name, table in SAMPLERS.items()}
    rows |= {"Secateur, fitted": (load(zoo.schedule("emoji-sd")).table or {})["rows"]}
    lines, side, apart = [text(EDGE, 70, "step 1", kind="m"), text(EDGE, 70 + 9 * 13, "step 10", kind="m")], 13, 153
    for place, (name, steps) in enumerate(rows.items()):
        left = 72 + place * apart
        lines.append(text(left, EDGE + 12, name))
        lines += [text(left, EDGE + 31, "latents, predictions", kind="m")]
        for j, (_, *weights) in enumerate(steps):
            lines.append(box(left, 60 + side * j, side - 1, side - 1, kind="h"))
            most = max(map(abs, weights))
            for k, weight in enumerate(weights):
                seen = max(0.3, sqrt(abs(weight) / most)) if abs(weight) > 1e-4 * most else 0
                x = left + side * (1.3 + j - k)
                lines += [box(x, 60 + side * j, side - 1, side - 1, kind="g" if weight < 0 else "o", seen=seen)] if seen else []
    lines.append(text(72, 60 + side * 10 + 19, "green: takes noise away; orange: corrects; stronger is larger", kind="m"))
    return card(lines, height=60 + side * 10 + 34, what="Which predictions each of ten steps adds up, under three samplers")


def holds() -> str:
    """What a sampler takes at held calls, beside the best prediction for Gaussian pictures, which is known exactly."""
    calls, every, wide, tall = 20, 5, 152, 96
    signal = np.array((scheduler := scheduler_of(calls)).alphas_cumprod)[scheduler.timesteps.numpy()]
    best = np.sqrt(1 - signal) / np.sqrt(signal * SPREAD**2 + 1 - signal)
    held, lines = [t % every != 0 for t in range(calls)], list[str]()
    for place, hold in enumerate(HOLDS):
        left, taken_by = EDGE + 6 + place * (wide + 20), taken(held, hold) @ best

        def at(t: float, value: float, *, x: float = left) -> tuple[float, float]:
            return x + t * wide / (calls - 1), 46 + (1.02 - value) * tall / (1.02 - best.min())

        lines += [text(left, EDGE + 12, hold), line(map(at, range(calls), best), kind="t")]
        lines += [line(map(at, range(s, s + every), taken_by[s : s + every]), kind="s") for s in range(0, calls, every)]
        lines += [
            f'<circle class="g" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in (at(t, best[t]) for t in range(0, calls, every))
        ]
    lines.append(text(EDGE + 6, 46 + tall + 34, "grey: every call; dots: calls that run; green: what the steps take", kind="m"))
    return card(lines, height=46 + tall + 48, what="Three ways to hold calls, as lines beside the true prediction")


def search() -> str:
    """Ten of fifty calls as paths over the calls: evenly spread, and what searches found for the zoo."""
    found = {f"found for {pipe}": load(zoo.schedule(pipe)).timesteps or () for pipe in zoo.NAMES}
    ways = {"ten even steps": tuple(range(981, 0, -100))} | dict(sorted(found.items(), reverse=True))
    left, wide, lines = EDGE + 4, WIDTH - 2 * EDGE - 8, list[str]()

    def x(timestep: float) -> float:
        return left + wide * (981 - timestep) / 981

    for place, (name, times) in enumerate(ways.items()):
        y = 74 + place * 82
        lines.append(text(left, y - 40, name))
        for s, e in pairwise((*times, 0)):
            lines.append(
                f'<path class="s" d="M{x(s):.1f} {y}Q{(x(s) + x(e)) / 2:.1f} {y - 0.55 * (x(e) - x(s)):.1f} {x(e):.1f} {y}"/>'
            )
        for t in range(981, 0, -20):
            lines.append(
                f'<circle class="{"g" if t in times else "h"}" cx="{x(t):.1f}" cy="{y}" r="{4 if t in times else 2.5}"/>'
            )
    y = 74 + 82 * (len(ways) - 1)
    lines += [text(left, y + 24, "noise", kind="m"), text(left + wide, y + 24, "image", kind="m", anchor="end")]
    return card(lines, height=y + 36, what="Which ten of fifty calls are made, from noise to image")


def depth() -> str:
    """The output loss of each layer of emoji-sd, and which layers half of the parameters leave."""
    record = record_of("depth-emoji-sd")
    scores = record["scores"]["output"]
    gone = next(row["layers"] for row in record["rows"] if row["name"] == "output, exact at 0.5")
    left, floor, wide, lines = EDGE + 48, 190, (WIDTH - 2 * EDGE - 52) / len(scores), list[str]()
    low = log10(min(scores.values())) - 0.5
    for i, (layer, score) in enumerate(scores.items()):
        height = 145 * (log10(score) - low) / -low
        lines.append(box(left + i * wide, floor - height, wide - 2, height, kind="h" if layer in gone else "g"))
    for power in (0, -3, -6, -9):
        lines.append(text(left - 8, floor - 145 * (power - low) / -low + 4, f"10{SUPERSCRIPTS[power]}", kind="m", anchor="end"))
    ends = {"down": 0, "mid": 14, "up": len(scores) - 1}
    for (name, i), anchor in zip(ends.items(), ("start", "middle", "end"), strict=True):
        lines.append(
            text(
                left + (i + (0.5 if anchor == "middle" else anchor == "end")) * wide, floor + 18, name, kind="m", anchor=anchor
            )
        )
    lines.append(text(left, EDGE + 12, "output loss without each layer; grey: gone at half of the parameters"))
    return card(lines, height=floor + 30, what="A bar for each layer of emoji-sd; the innermost lose least")


SUPERSCRIPTS = {0: "⁰", -3: "⁻³", -6: "⁻⁶", -9: "⁻⁹"}


def distillation() -> str:
    """The twelve blocks of emoji-dit and those that half leaves, with the features that are compared."""
    row = next(row for row in record_of("depth-emoji-dit")["rows"] if row["name"] == "output, exact at 0.5")
    gone = {int(layer.rpartition(".")[2]) for layer in row["layers"]}
    lines, side, top, under = [text(EDGE, 62, "teacher"), text(EDGE, 142, "student")], 31, 45, 125
    kept = [i for i in range(12) if i not in gone]
    for i in range(12):
        x = 78 + i * 34
        lines += [box(x, top, side, 26, kind="h" if i in gone else "l"), text(x + side / 2, top + 18, str(i), anchor="middle")]
    for i, following in pairwise((*kept, 12)):
        x, last = 78 + i * 34, 78 + (following - 1) * 34
        lines += [box(x, under, side, 26, kind="l"), text(x + side / 2, under + 18, str(i), anchor="middle")]
        lines.append(line([(x + side / 2, under - 2), (last + side / 2, top + 28)], kind="s"))
    lines += [text(78 + 12 * 34 + 6, top + 18, "ε_T"), text(78 + 12 * 34 + 6, under + 18, "ε_S")]
    lines.append(line([(78 + 12 * 34 + 14, under - 2), (78 + 12 * 34 + 14, top + 28)], kind="s"))
    lines.append(text(EDGE, EDGE + 12, "lines join what is compared: features, and the two predictions"))
    lines.append(text(EDGE, under + 50, "grey: removed; what a block of the student gives is compared behind them", kind="m"))
    return card(lines, height=under + 64, what="Teacher and student of emoji-dit, and which features are compared")


def macs() -> str:
    """MACs of a call of full-size denoisers in both conventions."""
    rows, lines, left, wide = record_of("paper-macs")["rows"], list[str](), 190, 240
    rows = [row for row in rows if "published" not in row["name"]]
    for place, row in enumerate(rows):
        y, share = EDGE + 34 + place * ROW * 1.3, row["macs_linear"] / row["macs_attention"]
        lines.append(text(left - 8, y + 10, row["name"].partition(" calls")[0].rpartition(", ")[0], anchor="end"))
        lines.append(bar(left, y, [(wide * share, "g"), (wide * (1 - share), "o")]))
        lines.append(text(left + wide + 8, y + 10, f"{1 - share:.0%} attention", kind="m"))
    lines.append(text(EDGE, EDGE + 12, "green: convolutions and linear layers; orange: attention"))
    return card(
        lines, height=EDGE + 34 + len(rows) * ROW * 1.3 + 8, what="What the products of attention add to the MACs of models"
    )


def psnr() -> str:
    """PSNR to the dense images beside the Fréchet distance to real ones, of the rows of both shears."""
    rows, lines, half = list(distances()), list[str](), 150
    for place, (name, near, far) in enumerate(rows):
        y = EDGE + 40 + place * ROW * 1.2
        lines += [text(204, y + 10, name, anchor="end"), bar(212, y, [(half * near / 45 if near else 0, "g")])]
        lines.append(
            text(
                216 + (half * near / 45 if near else 0), y + 10, f"{near:.0f} dB" if near else "the images themselves", kind="m"
            )
        )
        lines += [bar(400, y, [(110 * far / 26, "o")]), text(404 + 110 * far / 26, y + 10, f"{far:.0f}", kind="m")]
    lines += [text(212, EDGE + 14, "PSNR to dense"), text(400, EDGE + 14, "Fréchet distance")]
    return card(
        lines, height=EDGE + 40 + len(rows) * ROW * 1.2 + 8, what="PSNR to dense differs where the Fréchet distance does not"
    )


def distances() -> Iterator[tuple[str, float | None, float]]:
    """Name, PSNR and Fréchet distance of each row of emoji-sd, then of emoji-dit's dense teacher and student."""
    for pipe in zoo.NAMES[::-1]:
        for row in record_of(f"product-{pipe}")["rows"]:
            if pipe == "emoji-sd" or row["name"].endswith("dense"):
                named = row["name"].replace(", ", " ").replace("teacher ", "").replace("schedule", "searched")
                yield f"{pipe} {named}", row["psnr_db"]["mean"] if row.get("psnr_db") else None, row["frechet"]


DRAWINGS: tuple[Callable[[], str], ...] = (cells, table, holds, search, depth, distillation, macs, psnr)


@cache
def drawn() -> dict[str, str]:
    """Every drawing, by the name of its file in docs/images."""
    return {f"{draw.__name__}.svg": draw() for draw in DRAWINGS}
