"""How good the zoo is: the judge on unseen renders, prompt accuracy of both pipelines at 50 DDIM steps, a sheet of samples.

python benchmarks/zoo.py [IMAGES]      writes results/zoo.json, results/emoji-sd.png and results/emoji-dit.png
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from secateur import zoo
from secateur.measuring import quality
from secateur.measuring.hardware import hardware
from secateur.pipeline.generate import generate_batches
from secateur.zoo import judge, scenes

RESULTS = Path(__file__).parents[1] / "results"
STEPS, SEED, COLUMNS, ROWS = 50, 10_000, 12, 4


def rate(right: np.ndarray) -> dict:
    """A success rate with its 95 % interval (Wilson)."""
    return {"mean": float(right.mean()), "ci95": list(quality.wilson(int(right.sum()), len(right))), "images": len(right)}


def judge_accuracy(count: int = 1000) -> dict:
    """On unseen renders: one object or two, in combinations trained on or held out of training."""
    found = {}
    for pairs, number in ((0.0, "one object"), (1.0, "two objects")):
        for held_out, kind in ((False, "seen combinations"), (True, "held-out combinations")):
            rng = np.random.default_rng((7, int(pairs), int(held_out)))
            drawn = [scenes.sample(rng, pairs=pairs, held_out=held_out) for _ in range(count)]
            pictures = np.stack([scenes.render(s, rng) for s in drawn]).astype(np.float32) / 255
            found[f"{number}, {kind}"] = rate(quality.prompt_accuracy(pictures, [s.caption for s in drawn], judge))
    return found


def draw(name: str, conditions, label: str) -> tuple[np.ndarray, float]:
    """Images of `conditions`, and the median seconds an image took, whole pipeline, batch 8, guidance on."""
    pipe, seconds, made = zoo.load(name), [], []
    seeds = range(SEED, SEED + len(conditions))
    batches = generate_batches(
        pipe, conditions, seeds=seeds, batch_size=8, num_inference_steps=STEPS, guidance_scale=zoo.GUIDANCE[name]
    )
    start = time.perf_counter()
    for images in track(batches, description=label, total=-(-len(conditions) // 8)):
        seconds.append((time.perf_counter() - start) / len(images))
        made.append(images)
        start = time.perf_counter()
    return np.concatenate(made), float(np.median(seconds))


def sheet(images: np.ndarray, path: Path) -> None:
    """The first images on one picture, each at twice its size."""
    rows = images[: COLUMNS * ROWS].reshape(ROWS, COLUMNS, *images.shape[1:])
    tiled = rows.transpose(0, 2, 1, 3, 4).reshape(ROWS * 64, COLUMNS * 64, 3)
    picture = Image.fromarray((tiled * 255).round().astype(np.uint8))
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.LANCZOS).save(path, optimize=True)


def pairs(count: int) -> list[str]:
    rng = np.random.default_rng(11)
    return [scenes.sample(rng, pairs=1.0).caption for _ in range(count)]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    found: dict = {"judge": judge_accuracy(), "pipelines": {}}
    asked = {
        "emoji-sd, one object, held-out combinations": ("emoji-sd", *zoo.conditions("emoji-sd", count)),
        "emoji-sd, two objects": ("emoji-sd", pairs(count // 2), pairs(count // 2)),
        "emoji-dit, every class": ("emoji-dit", *zoo.conditions("emoji-dit", count)),
    }
    for label, (name, conditions, captions) in asked.items():
        images, seconds = draw(name, conditions, label)
        found["pipelines"][label] = rate(quality.prompt_accuracy(images, captions, judge)) | {"seconds_per_image": seconds}
        if "two" not in label:
            sheet(images, RESULTS / f"{name}.png")
    options = {
        "steps": STEPS,
        "scheduler": "DDIM, leading",
        "guidance_scale": zoo.GUIDANCE,
        "first_seed": SEED,
        "batch_size": 8,
    }
    found |= {
        "command": f"python benchmarks/zoo.py {count}",
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "options": options,
    }
    (RESULTS / "zoo.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["judge"] | found["pipelines"], indent=1))


if __name__ == "__main__":
    main()
