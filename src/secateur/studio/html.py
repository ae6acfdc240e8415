"""What the page shows, as HTML: pictures with their figures, progress, noise levels, and how a search goes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from secateur.measuring.columns import Row, columns
from secateur.measuring.levels import levels_svg
from secateur.measuring.svg import Axis, Point, plot_svg, swatch_svg
from secateur.pipeline.progress import View
from secateur.schedule.drawing import grid_svg
from secateur.searching.settings import ALL_STAGES
from secateur.searching.stages import BestSoFar
from secateur.studio.work import Drawn

TITLES = ("All calls", "Plain steps", "Secateur")
FIGURES = ("calls", "MACs", "latency", "PSNR")
GREENS = "#f1f6f3 #dfeae4 #c3d8cc #9dbfac #6a9c80 #2e6b4a #285f41 #225138 #1c432f #163626 #10281c"
CSS = """
.gradio-container, .gradio-container > main {max-width: 1160px !important; width: 100% !important; margin: 0 auto !important}
.html-container:has(> * > .studio), .html-container:empty {padding: 0 !important}
.studio {--ink: var(--body-text-color); --muted: #66706a; --line: var(--border-color-primary);
  --paper: var(--background-fill-primary); color: var(--ink)}
.dark .studio {--muted: #9aa59f; --run: #5fb38a}
.studio svg {width: 100%; height: auto; display: block; max-width: 540px}
.studio .three {display: grid; grid-template-columns: repeat(3, 1fr); gap: 12px}
.studio figure {margin: 0; min-width: 0}
.studio img, .studio .empty {width: 100%; aspect-ratio: 1; border-radius: 4px; display: block; object-fit: contain;
  background: var(--block-background-fill); border: 1px solid var(--line); box-sizing: border-box; margin: 0}
.studio figcaption {padding-top: 8px; font-size: 13px; line-height: 1.45; color: var(--muted)}
.studio figcaption b {display: block; color: var(--ink); font-size: 14px; font-weight: 600}
.studio figcaption i {font-style: normal; display: inline-block; margin-right: 10px; white-space: nowrap; color: var(--ink)}
.studio progress {width: 100%; height: 4px; display: block; margin-top: 4px; accent-color: #2e6b4a}
.studio .said {min-height: 1.6em; font-size: 14px; color: var(--muted); overflow-wrap: anywhere}
.studio .fault {border-left: 3px solid #b3261e; padding-left: 10px; color: var(--ink)}
.studio table {border-collapse: collapse; font-size: 14px; width: 100%; max-width: 540px; margin: 0 0 16px}
.studio th {font-weight: 400; color: var(--muted)}
.studio :is(th, td) {text-align: right; padding: 3px 8px; font-variant-numeric: tabular-nums}
.studio :is(table, tr, th, td) {border: 0 !important}
.studio :is(td, th):first-child {text-align: left; padding-left: 0}
.studio .legend span {margin-right: 14px; font-size: 13px; white-space: nowrap; color: var(--muted)}
.studio .legend svg {display: inline; width: 26px; vertical-align: middle}
@media (max-width: 767px) {.block:has(.said) {order: -1}}
footer {display: none !important}
"""


def figures(drawn: Sequence[Drawn]) -> str:
    """The pictures that there are, side by side, and empty places for the others."""
    rows = [one.row for one in drawn]
    filled = [figure(title, one, rows) for title, one in zip(TITLES, drawn, strict=False)]
    empty = [f'<figure><div class="empty"></div><figcaption><b>{t}</b></figcaption></figure>' for t in TITLES[len(drawn) :]]
    return f'<div class="studio"><div class="three">{"".join(filled + empty)}</div></div>'


def figure(title: str, drawn: Drawn, rows: Sequence[Row]) -> str:
    """A picture, how it was drawn, and its figures."""
    name = escape(drawn.variant.name)
    cells = [(column, column.cell(drawn.row)) for column in columns({"rows": list(rows)}) if column.title in FIGURES]
    texts = [f"{cell.text} {unit_of(column.title, column.unit)}" for column, cell in cells if cell]
    return (
        f'<figure><img src="{drawn.image}" alt="{name}"><figcaption><b>{title}</b>{name}<br>'
        f"{''.join(f'<i>{escape(text)}</i>' for text in texts)}</figcaption></figure>"
    )


def unit_of(title: str, unit: str) -> str:
    """What stands after a figure: "MACs" are told by their name, a time by its unit alone."""
    return {"calls": "calls", "MACs": f"{unit} MACs", "PSNR": "dB PSNR"}.get(title, unit)


def said(text: str = "") -> str:
    """A quiet line."""
    return f'<div class="studio"><div class="said" role="status">{escape(text)}</div></div>'


def fault(error: Exception) -> str:
    """What was wrong: a sentence of Secateur's, or what else was raised with its name."""
    known = isinstance(error, ValueError | OSError | ModuleNotFoundError)
    text = " ".join(str(error).split()) if known else f"{type(error).__name__}: {error}"
    return f'<div class="studio"><div class="said fault" role="alert">{escape(text)}</div></div>'


def progress(view: View) -> str:
    """What is done, how much of it, and a bar if it is known of how much."""
    of = f" of {view.total}" if view.total else ""
    bar = f'<progress value="{view.done}" max="{view.total}"></progress>' if view.total else ""
    return f'<div class="studio"><div class="said" role="status">{escape(view.doing)}: call {view.done}{of}{bar}</div></div>'


def schedules(drawn: Sequence[Drawn]) -> str:
    """At which noise levels each picture's calls are made, and the grid of a schedule that runs parts of calls."""
    lines = [(f"{title}: {one.variant.name}", one.calls) for title, one in zip(TITLES, drawn, strict=False) if one.calls]
    grids = [s for one in drawn if (s := one.variant.schedule) and not s.whole]
    parts = [levels_svg(lines) if lines else "", *(grid_svg(s.grid, s.blocks) for s in grids)]
    return f'<div class="studio">{"".join(parts)}</div>'


def stages(steps: Sequence[BestSoFar]) -> str:
    """What each stage of a search added: the last step of each."""
    rows = (
        f"<tr><td>{escape(s.stage)}</td><td>{s.measured} of {s.most}</td><td>{s.value_db:.2f}</td><td>{s.seconds:.0f}</td></tr>"
        for s in steps
    )
    head = "<tr><th>stage</th><th>measured</th><th>best, dB</th><th>s</th></tr>"
    return f'<div class="studio"><table>{head}{"".join(rows)}</table></div>' if steps else ""


def front(steps: Sequence[BestSoFar]) -> str:
    """The best that each stage found against what it keeps, over all searches so far."""
    names = [name for name in reversed(ALL_STAGES) if any(step.stage == name for step in steps)]
    series = [[Point(s.kept, s.value_db, None, s.stage) for s in steps if s.stage == name] for name in names]
    if not series:
        return ""
    plot = plot_svg(
        series, Axis("PSNR to the dense images, dB", ".1f"), ticks=sorted({1.0, *(round(s.kept, 2) for s in steps)})
    )
    legend = "".join(f"<span>{swatch_svg(k)} {name}</span>" for k, name in enumerate(names))
    return f'<div class="studio">{plot}<div class="legend">{legend}</div></div>'
