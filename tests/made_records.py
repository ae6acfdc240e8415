"""Records made up as the commands write them, with small drawn pictures; and a page that is read back."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

from PIL import Image, ImageDraw, ImageFilter

STAGES = [f"down_blocks.{i}" for i in range(4)] + ["mid_block"] + [f"up_blocks.{i}" for i in range(4)]
PROMPTS = [
    "a red apple on a blue background",
    "a green frog on a yellow background",
    "a cat left of a star",
    "a rocket above a pizza",
    "an orange on a purple background",
    "a <b>bold</b> & curious owl",
]
KEEPS = {0.5: 2, 0.33: 3, 0.2: 5}


def layers() -> list[str]:
    """The 44 layers of SD-1.5's U-Net: resnets, attentions, samplers, in execution order."""
    names = [f"down_blocks.{i}.{kind}.{j}" for i in range(3) for j in range(2) for kind in ("resnets", "attentions")]
    names = [*names[:4], "down_blocks.0.downsamplers.0", *names[4:8], "down_blocks.1.downsamplers.0", *names[8:]]
    names += ["down_blocks.2.downsamplers.0", "down_blocks.3.resnets.0", "down_blocks.3.resnets.1"]
    names += ["mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"]
    names += [f"up_blocks.0.resnets.{j}" for j in range(3)] + ["up_blocks.0.upsamplers.0"]
    for i in (1, 2, 3):
        names += [f"up_blocks.{i}.{kind}.{j}" for j in range(3) for kind in ("resnets", "attentions")]
        names += [f"up_blocks.{i}.upsamplers.0"] * (i < 3)
    return names


def picture(seed: int, wear: float) -> str:
    """A data URI: a 64 px PNG of a shape on a ground, the blurrier and further off the more it is worn."""
    ground, body = ("#8cb4e8", "#f2d36b", "#cfe3c8", "#b7a3d9")[seed % 4], ("#c93a3a", "#3c9a4e", "#e08a2c", "#7a4a2a")
    image = Image.new("RGB", (64, 64), ground)
    left = 14 + 4 * (seed % 3) + round(4 * wear)
    draw = ImageDraw.Draw(image)
    draw.ellipse((left, 16, left + 32, 50), fill=body[seed % 4])
    draw.ellipse((left + 8, 22, left + 14, 28), fill="#fff7ee")
    raw = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(2.5 * wear)).save(raw, "PNG")
    return "data:image/png;base64," + base64.b64encode(raw.getvalue()).decode()


def row(name: str, group: str, keep: float, *, calls: int, wear: float, grid: list[str] | None) -> dict:
    """A row as `compare` writes it, its quality falling with wear."""
    linear, attention, accuracy = 5.4e10, 6.5e10, 0.952 - 0.3 * wear**1.5
    return {
        "name": name, "group": group, "keep": keep, "calls": calls, "steps": calls,
        "scheduler": "DPMSolverMultistepScheduler" if "DPM" in group else "DDIMScheduler",
        "macs_linear": round(linear * keep), "macs_attention": round(attention * keep),
        "keep_linear": keep, "keep_attention": keep * (1.01 if keep < 1 else 1),
        "latency_s": {"median": 1.04 * keep + 0.02, "low": 1.02 * keep + 0.02, "high": 1.1 * keep + 0.02, "repeats": 5},
        "speedup": {"median": 0.96 / keep, "low": 0.92 / keep, "high": 0.98 / keep},
        "psnr_db": {"mean": 31 - 14 * wear, "ci95": [30.4 - 14 * wear, 31.6 - 14 * wear]},
        "ssim": {"mean": 0.97 - 0.3 * wear, "ci95": [0.96 - 0.3 * wear, 0.98 - 0.3 * wear]},
        "accuracy": {"mean": accuracy, "ci95": [accuracy - 0.03, min(1.0, accuracy + 0.025)]},
        "frechet": 1.2 + 9 * wear, "grid": grid, "images": [picture(i, wear) for i in range(len(PROMPTS))],
    }  # fmt: skip


def comparison(blocks: list[str]) -> dict:
    """A record of dense and 3 keeps × 4 variants at 50 calls, as the demo makes it."""
    width = len(blocks)
    dense = row("dense, DDIM 50 steps", "dense", 1.0, calls=50, wear=0.0, grid=["#" * width] * 50)
    rows = [dense | {"keep": None, "psnr_db": None, "ssim": None, "frechet": 1.18}]
    kept = "".join("#" if name.startswith(("down_blocks.0", "up_blocks.3")) else "." for name in blocks)
    for keep, every in KEEPS.items():
        held = ["#" * width if t % every == 0 else "." * width for t in range(50)]
        shallow = ["#" * width if t % (every + 1) == 0 else kept for t in range(50)]
        few, wear = round(50 * keep), (1 - keep) ** 2
        rows += [
            row(f"uniform hold, every {every}", "uniform", keep, calls=50, wear=1.35 * wear, grid=held),
            row(f"DeepCache, interval {every + 1}", "DeepCache", keep, calls=50, wear=0.7 * wear, grid=shallow),
            row(f"DDIM, {few} steps", "fewer steps, DDIM", keep, calls=few, wear=wear, grid=None),
            row(f"DPM-Solver++, {few} steps", "fewer steps, DPM-Solver++", keep, calls=few, wear=0.25 * wear, grid=None),
        ]
    return {
        "format": 1, "title": "Twelve ways to draw emoji for less", "pipe": "emoji-sd", "made": "2026-01-15T10:02:11",
        "command": "secateur demo --pipe emoji-sd --keep 0.5 --keep 0.33 --keep 0.2 --seeds 64",
        "hardware": {"cpu": "Xeon Platinum 8481C", "cores": 2, "ram": "8 GiB", "gpu": None, "torch": "2.13.0"},
        "seeds": list(range(64)), "conditions": PROMPTS, "options": {"guidance_scale": 5.0, "batch_size": 8},
        "blocks": blocks, "rows": rows,
    }  # fmt: skip


def benchmark() -> dict:
    """A record of running time alone."""
    dense = {"name": "dense", "group": "dense", "calls": 50, "macs_linear": 33_860_000_000_000, "keep_linear": 1.0}
    dense["latency_s"] = {"median": 141.2, "low": 139.8, "high": 143.0, "repeats": 5}
    fast = {"name": "DiP-GO, published", "group": "DiP-GO", "keep": 0.2, "calls": 50, "macs_linear": 6_772_000_000_000}
    fast |= {"keep_linear": 0.2, "keep_attention": 0.2, "speedup": {"median": 4.8, "low": 4.7, "high": 4.9}}
    fast |= {"latency_s": {"median": 29.4, "low": 29.0, "high": 30.1, "repeats": 5}}
    return {"format": 1, "title": "Running time on SD-1.5's architecture", "rows": [dense, fast]}


def memory() -> dict:
    """A record of figures that the report does not know."""
    rows = [
        {"name": "SD-1.5, stage", "denoiser": "UNet2DConditionModel", "peak_cached_bytes": 5_242_880, "held_ms": 1.5},
        {"name": "SDXL, layer", "denoiser": "UNet2DConditionModel", "peak_cached_bytes": 36_700_160, "held_ms": None},
    ]
    return {"format": 1, "title": "Peak bytes cached", "rows": rows}


class Page(HTMLParser):
    """Tags of a page with their attributes, and its text; every tag that was opened must be closed in order."""

    VOID = frozenset(("meta", "img", "br", "hr", "link", "input", "wbr"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [have for name, have in self.tags if name == tag and attributes.items() <= have.items()]
