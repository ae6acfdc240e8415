"""Both shears on one pipeline: prune in depth, distil, search a schedule for the student, and measure the product.

The student is made by the commands that a user gives, in the folder --work; a rerun goes on where one was stopped. Then the
teacher and the student, each dense, with a schedule of a fifth of the MACs, and plainly with a fifth of the steps: size on
disk, MACs and accuracy on captions that nothing was searched with. The study `product-times` adds how long they take to load
and, one image at a time and in turns, to draw: on an idle machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from subprocess import run as run_command
from typing import Any

import numpy as np

from bench import BATCH, FIRST_SEED
from secateur import zoo
from secateur.denoiser import macs
from secateur.measuring import compare, quality, timing
from secateur.pipeline import pipes
from secateur.pipeline.generate import generate
from secateur.pipeline.pipes import component
from secateur.pruning.surgery import parameters
from secateur.schedule.apply import apply
from secateur.schedule.schedule import load
from study import Job, Record, Row, Run, Study

STEPS, KEEP, REPEATS, CALIBRATION = 50, 0.2, 9, 64
DEPTH = {"emoji-sd": ("--keep", "0.5"), "emoji-dit": ("--keep", "0.504")}  # of the transformer that is six blocks of twelve
WAYS = {"dense": STEPS, "schedule": STEPS, "fewer steps": round(KEEP * STEPS)}  # steps of each


def secateur(*arguments: object) -> None:
    """A command as a user gives it; SystemExit if it fails."""
    print("secateur", *arguments, flush=True)
    if run_command([Path(sys.executable).with_name("secateur"), *map(str, arguments)]).returncode:
        raise SystemExit("that command failed: see above")


def folder_of(run: Run, kind: str) -> Path:
    """The folder of the teacher or of the student, made by commands if it is not there."""
    work, name, updates = run.work / run.pipe, run.pipe, run.options["updates"]
    prompts, teacher, student, taught = (work / part for part in ("prompts.txt", "teacher", "student", f"taught-{updates}"))
    work.mkdir(parents=True, exist_ok=True)
    prompts.write_text("\n".join(map(str, zoo.conditions(name, CALIBRATION, calibration=True)[0])), encoding="utf-8")
    if not teacher.exists():
        pipes.save(zoo.load(name), teacher)
    if kind == "student" and not student.exists():
        secateur("prune", teacher, *DEPTH[name], "--prompts", prompts, *guidance(name), "-o", student)
    if kind == "student" and not taught.exists():
        secateur("distil", student, "--teacher", name, "--data", "scenes", "--updates", updates, "--batch-size", 16, "--lr",
                 5e-4, "--set", "warmup=50", "--set", "lr_schedule=cosine", "--set", "ema=0.995", "-o", taught)  # fmt: skip
    return taught if kind == "student" else teacher


def guidance(name: str) -> tuple[str, float]:
    return "--guidance-scale", zoo.GUIDANCE[name]


def schedule_of(run: Run, folder: Path):
    """The schedule that a search finds for a folder's pipe."""
    path = folder.with_suffix(".json")
    if not path.exists():
        draft = path.with_name(f"searching-{path.name}")  # written at every improvement
        secateur("search", folder, "--prompts", folder.parent / "prompts.txt", "--keep", KEEP, *guidance(run.pipe), "-o", draft)
        draft.replace(path)
    return load(path)


def jobs(run: Run) -> Iterator[Job]:
    """A row for each way to make the images."""
    for kind in ("teacher", "student"):
        for way in WAYS:
            yield Job(f"{kind}, {way}", partial(rows, run, kind, way))


def rows(run: Run, kind: str, way: str) -> list[Row]:
    """What a way costs and what its images are worth; likeness is to the dense teacher's."""
    folder = folder_of(run, kind)
    pipe, schedule = pipes.load(str(folder)), schedule_of(run, folder) if way == "schedule" else None
    count = run.options["images"]
    conditions, captions = zoo.conditions(run.pipe, count)
    call = {"seeds": range(FIRST_SEED, FIRST_SEED + count), "batch_size": BATCH, "guidance_scale": zoo.GUIDANCE[run.pipe]}
    images = compare.draw(pipe, schedule, conditions, num_inference_steps=WAYS[way], **call)
    first, path = (kind, way) == ("teacher", "dense"), run.work / run.pipe / f"dense-{count}.npy"
    if first or not path.exists():
        teacher = pipes.load(str(folder_of(run, "teacher")))
        np.save(path, images if first else compare.draw(teacher, None, conditions, num_inference_steps=STEPS, **call))
    figures = quality.measured(images, None if first else np.load(path), captions=captions, renders=zoo.renders(captions))
    figures.pop("ssim")
    whole = macs.count(component(pipes.load(str(folder_of(run, "teacher"))))), STEPS
    return [
        {
            "name": f"{kind}, {way}",
            "group": "dense" if first else f"{kind}, {way}",
            "parameters": parameters(component(pipe)),
            "disk_bytes": disk_bytes(pipe, folder),
            **macs.count(component(pipe)).spent(schedule, WAYS[way], samples=2, whole=whole),
            **figures,
        }
    ]


def disk_bytes(pipe: Any, folder: Path) -> int:
    """Of the denoiser's files."""
    [name] = (name for name, part in pipe.components.items() if part is component(pipe))
    return sum(file.stat().st_size for file in (folder / name).iterdir())


def timing_jobs(run: Run) -> Iterator[Job]:
    """One job: all ways are timed in turns."""
    done = all("speedup" in row for row in run.record["rows"])
    yield Job("load and draw", lambda: timed(run), done=done)


def timed(run: Run) -> list[Row]:
    """What to add to each row: seconds to load and to draw, and the speed-up over the first way, round by round."""
    names, conditions = [row["name"] for row in run.record["rows"]], zoo.conditions(run.pipe, 1)[0]
    draw, folders = dict[str, Callable[[], Any]](), dict[str, Path]()
    call = {"seeds": [FIRST_SEED], "batch_size": 1, "guidance_scale": zoo.GUIDANCE[run.pipe]}
    with ExitStack() as applied:
        for name in names:
            kind, _, way = name.partition(", ")
            folders[name] = folder_of(run, kind)
            pipe, schedule = pipes.load(str(folders[name])), schedule_of(run, folders[name]) if way == "schedule" else None
            applied.enter_context(apply(pipe, schedule) if schedule else nullcontext())
            draw[name] = partial(generate, pipe, conditions, num_inference_steps=WAYS[way], **call)
        times = timing.time_together(draw, repeats=REPEATS)
    loads = timing.time_together({str(f): partial(pipes.load, str(f)) for f in folders.values()}, repeats=REPEATS)
    added = []
    for name in names:
        median, low, high = timing.speedup(times[names[0]], times[name])
        speedup = {"median": median, "low": low, "high": high, "repeats": REPEATS}
        seconds = {"load_s": loads[str(folders[name])].as_json(), "latency_s": times[name].as_json()}
        added.append({"name": name, **seconds, "speedup": speedup})
    return added


def settings(pipe: str, options: Mapping[str, Any]) -> Record:
    return {"options": {"steps": STEPS, "guidance_scale": zoo.GUIDANCE[pipe], **options}}


OPTIONS = {"updates": 2000, "images": 128}
STUDIES = (
    Study(
        "product",
        "Depth and time together on {pipe}: half of the layers, a fifth of the calls' MACs",
        jobs,
        options=OPTIONS,
        pipes=zoo.NAMES,
        settings=settings,
    ),
    Study(
        "product-times",
        "Seconds to load and to draw of the product on {pipe}",
        timing_jobs,
        options=OPTIONS,
        pipes=zoo.NAMES,
        settings=settings,
        file=lambda pipe, options: f"product-{pipe}",
        times=True,
    ),
)
