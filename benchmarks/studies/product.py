"""Both shears on one pipeline: prune in depth, distil, search a schedule for the student, and measure the product.

The student is made by the commands that a user gives. Teacher and student are each measured dense, with a schedule of a fifth
of the MACs, and with a fifth of the steps; `product-times` adds how long they take to load and to draw, on an idle machine."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bench import DENOISERS, DEVICE, FIRST_SEED, Bench, faster
from secateur import Schedule, apply, count, load, zoo
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring import quality
from secateur.measuring.timing import time_together
from secateur.pipeline import pipes
from secateur.pipeline.generate import generate
from secateur.pruning.surgery import parameters
from study import Job, Row, Run, Study

STEPS, KEEP, REPEATS, CALIBRATION = 50, 0.2, 9, 64
DEPTH = {"emoji-sd": 0.5, "emoji-dit": 0.504}  # of the transformer that is six blocks of twelve
WAYS = {"dense": STEPS, "schedule": STEPS, "fewer steps": round(KEEP * STEPS)}  # steps of each
DISTIL = ("--data", "scenes", "--batch-size", 16, "--lr", 5e-4)
DISTIL += tuple(x for word in ("warmup=50", "lr_schedule=cosine", "ema=0.995") for x in ("--set", word))


def once(path: Path, *arguments: object) -> None:
    """Run a command as a user gives it, if what it writes is not there yet."""
    if not path.exists():
        draft = path.with_name(f"draft-{path.name}")
        command = ["secateur", *map(str, arguments), "-o", str(draft)]
        print(*command, flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)
        draft.replace(path)


def loaded(run: Run, kind: str, way: str) -> tuple[Path, Any, Schedule | None]:
    """The folder and pipe of teacher or student, and the schedule of a way that has one; commands make what is not there."""
    work, name, updates = run.work / run.pipe, run.pipe, run.options["updates"]
    prompts, teacher, student, taught = (work / part for part in ("prompts.txt", "teacher", "student", f"taught-{updates}"))
    drawing, folder = ("--prompts", prompts, "--guidance-scale", zoo.GUIDANCE[name]), taught if kind == "student" else teacher
    if not teacher.exists():
        work.mkdir(parents=True, exist_ok=True)
        prompts.write_text("\n".join(map(str, zoo.conditions(name, CALIBRATION, calibration=True)[0])), encoding="utf-8")
        pipes.save(zoo.load(name), teacher)
    if kind == "student":
        once(student, "prune", teacher, "--keep", DEPTH[name], *drawing)
        once(taught, "distil", student, "--teacher", name, *DISTIL, "--updates", updates)
    if way == "schedule":
        once(folder.with_suffix(".json"), "search", folder, "--keep", KEEP, *drawing)
    return folder, pipes.load(str(folder), device=DEVICE), load(folder.with_suffix(".json")) if way == "schedule" else None


def jobs(run: Run) -> Iterator[Job]:
    """A row for each way to make the images."""
    bench = Bench(run.pipe, steps=STEPS, images=run.options["images"])
    for kind in ("teacher", "student"):
        for way in WAYS:
            yield Job(f"{kind}, {way}", partial(row, run, bench, kind=kind, way=way))


def row(run: Run, bench: Bench, *, kind: str, way: str) -> Row:
    """What a way costs and what its images are worth; likeness is to the dense teacher's."""
    (folder, pipe, schedule), first = loaded(run, kind, way), (kind, way) == ("teacher", "dense")
    images, net = bench.draw(schedule, steps=WAYS[way], pipe=pipe), denoiser_of(pipe)
    figures = quality.measured(images, None if first else bench.dense, captions=bench.captions, features=bench.features)
    size = sum(file.stat().st_size for file in (folder / DENOISERS[run.pipe]).iterdir())
    spent = count(net).spent(schedule, WAYS[way], samples=2, whole=(bench.macs, STEPS))
    sizes = {"parameters": parameters(net), "disk_bytes": size}
    return {"group": "dense" if first else f"{kind}, {way}", **sizes, **spent, **figures}


def timing_jobs(run: Run) -> Iterator[Job]:
    """One job: all ways are timed in turns."""
    yield Job("load and draw", partial(timed, run), done=all("speedup" in row for row in run.record["rows"]))


def timed(run: Run) -> Iterator[Row]:
    """What to add to each row: seconds to load and to draw, and the speed-up over the first way, round by round."""
    names, draw, folders = [row["name"] for row in run.record["rows"]], {}, {}
    call = {"seeds": [FIRST_SEED], "batch_size": 1, "guidance_scale": zoo.GUIDANCE[run.pipe]}
    with ExitStack() as applied:
        for name in names:
            kind, _, way = name.partition(", ")
            folders[name], pipe, schedule = loaded(run, kind, way)
            if schedule:
                applied.enter_context(apply(pipe, schedule))
            draw[name] = partial(generate, pipe, zoo.conditions(run.pipe, 1)[0], num_inference_steps=WAYS[way], **call)
        times = time_together(draw, repeats=REPEATS)
    loads = time_together({str(f): partial(pipes.load, str(f)) for f in folders.values()}, repeats=REPEATS)
    for name in names:
        seconds = {"load_s": loads[str(folders[name])].as_json(), "latency_s": times[name].as_json()}
        yield {"name": name, **seconds, "speedup": faster(times[names[0]], times[name], repeats=REPEATS)}


TITLE = "Depth and time together on {pipe}: half of the layers, a fifth of the calls' MACs"
HOW: dict[str, Any] = {"options": {"updates": 2000, "images": 128}, "pipes": zoo.NAMES}
HOW["head"] = lambda pipe, options: {"options": {"steps": STEPS, "guidance_scale": zoo.GUIDANCE[pipe], **options}}
HOW["file"] = lambda pipe, options: f"product-{pipe}"
STUDIES = (
    Study("product", TITLE, jobs, **HOW),
    Study("product-times", "Seconds to load and to draw of the product on {pipe}", timing_jobs, times=True, **HOW),
)
