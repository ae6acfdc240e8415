"""The MACs in DiP-GO's tables, from configurations alone, and the convention in which each of them holds.

python benchmarks/paper_macs.py      writes results/paper-macs.json
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from secateur.denoiser import macs
from secateur.measuring import report
from secateur.measuring.hardware import hardware
from secateur.schedule import baselines

RESULTS = Path(__file__).parents[1] / "results"
CLOSE = 0.01


@dataclass(frozen=True)
class Figure:
    """A figure of the paper in T (10¹² MACs), and how to count it."""

    name: str
    denoiser: str
    calls: int
    paper_t: float
    samples: int = 1
    published: bool = False
    command: str = ""


FIGURES = (
    Figure("SD-1.5, 50 calls", "sd15", 50, 16.94),
    Figure("SD-1.5, published DiP-GO schedule", "sd15", 50, 3.38, published=True),
    Figure("SD-2.1, 768 px, 50 calls", "sd21", 50, 38.04),
    Figure("DiT-XL/2, 256 px, 250 calls", "dit-xl-2", 250, 29.66),
    Figure("SDXL, 4 calls", "sdxl", 4, 11.95),
    Figure("PixArt-α, 1024 px, 20 calls, guidance", "pixart-alpha-1024", 20, 85.65, samples=2),
)


def row(figure: Figure) -> dict:
    """Both conventions, and which of them is the paper's."""
    counted = macs.count(macs.denoiser_config(figure.denoiser))
    plan = baselines.published_dip_go(counted.blocks) if figure.published else baselines.dense(counted.blocks, figure.calls)
    found = {a: figure.samples * counted.of(plan, attention=a) for a in (False, True)}
    off = {a: found[a] / (figure.paper_t * 1e12) - 1 for a in found}
    nearest = min(off, key=lambda a: abs(off[a]))
    return {
        "name": figure.name,
        "calls": figure.calls,
        "macs_linear": found[False],
        "macs_attention": found[True],
        "paper": f"{figure.paper_t} T",
        "convention": "with attention" if nearest else "conv + linear",
        "off_percent": round(100 * off[nearest], 2),
        "command": command(figure),
    }


def command(figure: Figure) -> str:
    """What shows the figure on the command line."""
    if figure.published:
        return "secateur schedule sd15 --method dip-go-published -o s.json; secateur macs sd15 --schedule s.json"
    return f"secateur macs {figure.denoiser} --calls {figure.calls}" + " --guidance" * (figure.samples == 2)


def main() -> None:
    record = {
        "format": 1,
        "title": "The MACs in DiP-GO's tables",
        "command": "python benchmarks/paper_macs.py",
        "pipe": "full-size configurations (meta)",
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "rows": [row(figure) for figure in FIGURES],
    }
    report.save(record, RESULTS / "paper-macs.json")
    Console(width=160).print(report.table(record))
    if wrong := [found["name"] for found in record["rows"] if abs(found["off_percent"]) > 100 * CLOSE]:
        raise SystemExit(f"{', '.join(wrong)}: more than {CLOSE:.0%} from the paper")


if __name__ == "__main__":
    main()
