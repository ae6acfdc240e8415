"""Both shears on one pipeline: prune in depth, distil, search a schedule for the student, and measure the product.

    python benchmarks/product.py [emoji-sd|emoji-dit] [--updates 2000] [--images 128]     writes results/product-PIPE.json

The student is made by the commands that a user gives, in product-work/; a rerun goes on where one was stopped. Then the
teacher and the student, each dense, with a schedule of a fifth of the MACs, and plainly with a fifth of the steps: size on
disk, time to load, MACs, accuracy on captions that nothing was searched with, and latency, one image at a time, in turns.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np
from rich.console import Console

from secateur import macs, measure, pipes, quality, report, zoo
from secateur.calibration import generate
from secateur.schedule import Schedule, load
from secateur.subnet import apply, component
from secateur.surgery import parameters
from secateur.zoo import judge

RESULTS = Path(__file__).parents[1] / "results"
STEPS, KEEP, BATCH, FIRST_SEED, REPEATS = 50, 0.2, 8, 50_000, 5
DEPTH = {"emoji-sd": ("--keep", "0.5"), "emoji-dit": ("--keep", "0.504")}  # of the transformer that is six blocks of twelve
CALIBRATION = 64  # prompts or labels to search a schedule with


@dataclass(frozen=True)
class Way:
    """A pipe from a folder of its own, with a schedule or plain steps."""

    name: str
    folder: Path
    steps: int
    schedule: Schedule | None = None


def secateur(*arguments: object) -> None:
    """A command as a user gives it; SystemExit where it fails."""
    print("secateur", *arguments, flush=True)
    if run([Path(sys.executable).with_name("secateur"), *map(str, arguments)]).returncode:
        raise SystemExit("that command failed: see above")


def made(name: str, updates: int, work: Path) -> Iterator[Way]:
    """Every way to make the images; the student and both schedules are made where they are not there yet."""
    prompts, teacher, student, taught = (work / part for part in ("prompts.txt", "teacher", "student", "taught"))
    work.mkdir(parents=True, exist_ok=True)
    prompts.write_text("\n".join(map(str, zoo.conditions(name, CALIBRATION, calibration=True)[0])), encoding="utf-8")
    if not teacher.exists():
        pipes.save(zoo.load(name), teacher)
    if not student.exists():
        secateur("prune", teacher, *DEPTH[name], "--prompts", prompts, "-o", student)
    if not taught.exists():
        secateur("distil", student, "--teacher", name, "--data", "scenes", "--updates", updates, "--batch-size", 16, "--lr",
                 5e-4, "--warmup", 50, "--schedule", "cosine", "--ema", 0.995, "-o", taught)  # fmt: skip
    for label, folder in (("teacher", teacher), ("student", taught)):
        found = work / f"{label}.json"
        if not found.exists():
            guidance = "--guidance-scale", zoo.GUIDANCE[name]
            secateur("search", folder, "--prompts", prompts, "--keep", KEEP, *guidance, "-o", found)
        yield Way(f"{label}, dense", folder, STEPS)
        yield Way(f"{label}, schedule", folder, STEPS, load(found))
        yield Way(f"{label}, fewer steps", folder, round(KEEP * STEPS))


class Bench:
    """What every way is measured on."""

    def __init__(self, name: str, images: int):
        self.conditions, self.captions = zoo.conditions(name, images)
        self.seeds = range(FIRST_SEED, FIRST_SEED + images)
        self.call = {"guidance_scale": zoo.GUIDANCE[name]}
        self.renders = zoo.renders(self.captions)
        self.dense: np.ndarray | None = None

    def images(self, pipe: Any, way: Way, *, count: int, batch_size: int = BATCH) -> np.ndarray:
        """The first few images of a way."""
        with apply(pipe, way.schedule) if way.schedule else nullcontext():
            return generate(pipe, self.conditions[:count], seeds=self.seeds[:count], batch_size=batch_size,
                            num_inference_steps=way.steps, **self.call)  # fmt: skip

    def row(self, pipe: Any, way: Way) -> dict[str, Any]:
        """What a way costs and what its images are worth; likeness is to the dense teacher's, which comes first."""
        counted = macs.count(component(pipe))
        images = self.images(pipe, way, count=len(self.seeds))
        right = quality.prompt_accuracy(images, self.captions, judge)
        spent = {a: cost(counted, way, attention=a) for a in (False, True)}
        near = None if self.dense is None else quality.psnr(images, self.dense)
        self.dense = images if self.dense is None else self.dense
        return {
            "name": way.name,
            "parameters": parameters(component(pipe)),
            "disk_bytes": disk_bytes(pipe, way.folder),
            "macs_linear": 2 * spent[False],
            "macs_attention": 2 * spent[True],
            "psnr_db": None if near is None else {"mean": float(near.mean()), "ci95": list(quality.mean_interval(near))},
            "accuracy": {"mean": float(right.mean()), "ci95": list(quality.wilson(int(right.sum()), len(right)))},
            "frechet": quality.judge_frechet(images, self.renders, judge),
        }


def cost(counted: macs.Macs, way: Way, *, attention: bool) -> int:
    """MACs of all calls for one sample."""
    if way.schedule:
        return counted.of(way.schedule, attention=attention)
    return way.steps * counted.call(attention=attention)


def disk_bytes(pipe: Any, folder: Path) -> int:
    """Of the denoiser's files."""
    [name] = (name for name, part in pipe.components.items() if part is component(pipe))
    return sum(file.stat().st_size for file in (folder / name).iterdir())


def measured(bench: Bench, ways: list[Way]) -> list[dict[str, Any]]:
    """A row for each way, its speed-up over the first paired round by round."""
    loaded = {way.folder: pipes.load(str(way.folder)) for way in ways}
    for pipe in loaded.values():
        pipe.set_progress_bar_config(disable=True)
    rows = [bench.row(loaded[way.folder], way) for way in ways]
    once: dict[str, Callable[[], Any]] = {
        way.name: partial(bench.images, loaded[way.folder], way, count=1, batch_size=1) for way in ways
    }
    times = measure.time_together(once, repeats=REPEATS)
    loads = measure.time_together({str(f): partial(pipes.load, str(f)) for f in loaded}, repeats=REPEATS)
    for way, row in zip(ways, rows, strict=True):
        median, low, high = measure.speedup(times[ways[0].name], times[way.name])
        row |= {"keep_linear": row["macs_linear"] / rows[0]["macs_linear"], "load_s": loads[str(way.folder)].record()}
        row |= {"keep_attention": row["macs_attention"] / rows[0]["macs_attention"]}
        row |= {"latency_s": times[way.name].record()}
        row |= {"speedup": {"median": median, "low": low, "high": high, "repeats": REPEATS}}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipe", nargs="?", default="emoji-sd", choices=zoo.NAMES)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--work", type=Path, default=Path("product-work"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    begun = time.perf_counter()
    ways = list(made(args.pipe, args.updates, args.work / args.pipe))
    record = {
        "format": 1,
        "title": f"Depth and time together on {args.pipe}: half of the layers, a fifth of the calls' MACs",
        "command": f"python benchmarks/product.py {args.pipe} --updates {args.updates} --images {args.images}",
        "pipe": args.pipe,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": measure.hardware(),
        "options": {"steps": STEPS, "guidance_scale": zoo.GUIDANCE[args.pipe], "updates": args.updates, "images": args.images},
        "rows": measured(Bench(args.pipe, args.images), ways),
    }
    report.save(record, args.results / f"product-{args.pipe}.json")
    Console(width=140).print(report.table(record))
    print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
