"""Both shears on one pipeline: prune in depth, distil, search a schedule for the student, and measure the product.

    python benchmarks/product.py [emoji-sd|emoji-dit] [--updates 2000] [--images 128]     writes results/product-PIPE.json
    python benchmarks/product.py [emoji-sd|emoji-dit] --time          adds times to it, on an idle machine

The student is made by the commands that a user gives, in product-work/; a rerun goes on where one was stopped. Then the
teacher and the student, each dense, with a schedule of a fifth of the MACs, and plainly with a fifth of the steps: size on
disk, MACs and accuracy on captions that nothing was searched with; by `--time`, how long they take to load and, one image at
a time and in turns, to draw.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np
from rich.console import Console

from secateur import zoo
from secateur.denoiser import macs
from secateur.measuring import quality, records, report, timing
from secateur.measuring.hardware import hardware
from secateur.pipeline import pipes
from secateur.pipeline.generate import generate
from secateur.pipeline.pipes import component
from secateur.pruning.surgery import parameters
from secateur.schedule.apply import apply
from secateur.schedule.schedule import Schedule, load
from secateur.zoo import judge

RESULTS = Path(__file__).parents[1] / "results"
STEPS, KEEP, BATCH, FIRST_SEED, REPEATS = 50, 0.2, 8, 50_000, 9
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
    prompts, teacher, student, taught = (work / part for part in ("prompts.txt", "teacher", "student", f"taught-{updates}"))
    guidance = "--guidance-scale", zoo.GUIDANCE[name]
    work.mkdir(parents=True, exist_ok=True)
    prompts.write_text("\n".join(map(str, zoo.conditions(name, CALIBRATION, calibration=True)[0])), encoding="utf-8")
    if not teacher.exists():
        pipes.save(zoo.load(name), teacher)
    if not student.exists():
        secateur("prune", teacher, *DEPTH[name], "--prompts", prompts, *guidance, "-o", student)
    if not taught.exists():
        secateur("distil", student, "--teacher", name, "--data", "scenes", "--updates", updates, "--batch-size", 16, "--lr",
                 5e-4, "--warmup", 50, "--lr-schedule", "cosine", "--ema", 0.995, "-o", taught)  # fmt: skip
    for label, folder in (("teacher", teacher), ("student", taught)):
        found = work / f"{folder.name}.json"
        if not found.exists():
            draft = found.with_name(f"searching-{found.name}")  # written at every improvement
            secateur("search", folder, "--prompts", prompts, "--keep", KEEP, *guidance, "-o", draft)
            draft.replace(found)
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

    def images(self, pipe: Any, steps: int, *, count: int, batch_size: int) -> np.ndarray:
        """The first few images."""
        call = {"seeds": self.seeds[:count], "batch_size": batch_size, "num_inference_steps": steps, **self.call}
        return generate(pipe, self.conditions[:count], **call)

    def row(self, way: Way) -> dict[str, Any]:
        """What a way costs and what its images are worth; likeness is to the dense teacher's, which comes first."""
        pipe = pipes.load(str(way.folder))
        counted = macs.count(component(pipe))
        with following(pipe, way.schedule):
            images = self.images(pipe, way.steps, count=len(self.seeds), batch_size=BATCH)
        right = quality.prompt_accuracy(images, self.captions, judge)
        spent = {a: cost(counted, way, attention=a) for a in (False, True)}
        near = None if self.dense is None else quality.psnr(images, self.dense)
        self.dense = images if self.dense is None else self.dense
        return {
            "name": way.name,
            "group": "dense" if near is None else way.name,
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


def following(pipe: Any, schedule: Schedule | None) -> AbstractContextManager[Any]:
    """The pipe with a schedule applied, if there is one."""
    return apply(pipe, schedule) if schedule else nullcontext()


def measured(bench: Bench, ways: list[Way]) -> list[dict[str, Any]]:
    """A row for each way."""
    rows = [bench.row(way) for way in ways]
    for row in rows:
        row |= {f"keep_{kind}": row[f"macs_{kind}"] / rows[0][f"macs_{kind}"] for kind in ("linear", "attention")}
    return rows


def timed(bench: Bench, ways: list[Way]) -> list[dict[str, Any]]:
    """What to add to each row: seconds to load and to draw, and the speed-up over the first way, round by round."""
    with ExitStack() as applied:
        draw: dict[str, Callable[[], Any]] = {}
        for way in ways:
            pipe = pipes.load(str(way.folder))
            applied.enter_context(following(pipe, way.schedule))
            draw[way.name] = partial(bench.images, pipe, way.steps, count=1, batch_size=1)
        times = timing.time_together(draw, repeats=REPEATS)
    folders = {str(way.folder): partial(pipes.load, str(way.folder)) for way in ways}
    loads = timing.time_together(folders, repeats=REPEATS)
    found = []
    for way in ways:
        median, low, high = timing.speedup(times[ways[0].name], times[way.name])
        speedup = {"median": median, "low": low, "high": high, "repeats": REPEATS}
        found.append({"load_s": loads[str(way.folder)].as_json(), "latency_s": times[way.name].as_json(), "speedup": speedup})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipe", nargs="?", default="emoji-sd", choices=zoo.NAMES)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--work", type=Path, default=Path("product-work"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--time", action="store_true", help="time what is measured already, on an idle machine")
    args = parser.parse_args()
    path = args.results / f"product-{args.pipe}.json"
    known = records.load(path) if args.time else None
    if known:
        args.updates, args.images = known["options"]["updates"], known["options"]["images"]
    ways = list(made(args.pipe, args.updates, args.work / args.pipe))
    bench = Bench(args.pipe, args.images)
    record = known or {
        "format": 1,
        "title": f"Depth and time together on {args.pipe}: half of the layers, a fifth of the calls' MACs",
        "command": f"python benchmarks/product.py {args.pipe} --updates {args.updates} --images {args.images}",
        "pipe": args.pipe,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "options": {"steps": STEPS, "guidance_scale": zoo.GUIDANCE[args.pipe], "updates": args.updates, "images": args.images},
        "rows": measured(bench, ways),
    }
    if args.time:
        record["rows"] = [row | more for row, more in zip(record["rows"], timed(bench, ways), strict=True)]
    report.save(record, path)
    Console(width=140).print(report.table(record))


if __name__ == "__main__":
    main()
