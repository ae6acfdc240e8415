"""Do fitted rows overfit, and when should a user search again?

Schedules are found at home, under the pipe's own guidance, size and weights, from 4 to 64 samples; those of 16 are carried to
other conditions. Beside them: the same calls with stock rows, as many plain steps, and what a search finds there. All
rows are measured to the condition's own dense images, on captions and seeds that no search saw."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from bench import FIRST_SEED, NONE, SEARCH_SEED, Bench
from published import DPM2, stepped
from secateur import DistilSettings, Schedule, load, record, zoo
from secateur.denoiser.of_pipe import denoiser_of
from secateur.distilling import encoded, pictures
from secateur.distilling.distil import pipe_steps
from secateur.measuring import quality
from secateur.measuring.variants import EVEN
from secateur.pipeline.examples import concatenate
from secateur.pipeline.schedulers import SOLVERS
from secateur.pipeline.trajectory import Trajectory
from secateur.schedule.fold import fold, stock_table, with_table
from secateur.searching.objective import more_for, objective_for
from secateur.searching.paired_gain import PairedGain
from secateur.searching.settings import DEFAULT
from secateur.searching.stages import run_stages
from secateur.searching.task import Search
from secateur.searching.teacher import nearest
from secateur.zoo import judge
from study import Job, Record, Row, Run, Study

STEPS, CALLS, SEEDS = 50, (10, 5), (SEARCH_SEED, 41_000)
SAMPLES = (16, 4, 8, 32, 64)  # that a search sees and fits rows to; the first of them for what is carried
HOME, WEIGHTS = "home", "weights trained further"
FOUND, AGAIN, PLAIN = "found at home", "searched again there", "plain steps"
LINES = tuple(name for name, hold in EVEN.items() if hold != "output")  # ways of holding calls along lines
SAME = {"same calls, DPM-Solver++ rows": "", **{f"same calls, rows of a {name}": EVEN[name] for name in LINES}}
PICTURES = 1024  # to train further on
FURTHER = DistilSettings(updates=300, batch_size=16, lr=3e-4, warmup=20, lr_schedule="cosine", ema=None, timesteps="stratified",
                         null_rate=0.1, task=1.0, output=0.0, feature=0.0, seed=1)  # fmt: skip


class Condition(NamedTuple):
    """How a pipe is used: arguments of its call other than at home, and whether its weights were trained further."""

    name: str
    call: Mapping[str, Any] = NONE
    further: bool = False


CONDITIONS = {
    "emoji-sd": (
        Condition(HOME),
        Condition("guidance 3", {"guidance_scale": 3.0}),
        Condition("guidance 7", {"guidance_scale": 7.0}),
        Condition("96 px", {"height": 96, "width": 96}),
        Condition(WEIGHTS, further=True),
    ),
    "emoji-dit": (
        Condition(HOME),
        Condition("guidance 1.5", {"guidance_scale": 1.5}),
        Condition("guidance 3", {"guidance_scale": 3.0}),
        Condition(WEIGHTS, further=True),
    ),
}


class Place(Bench):
    """A Bench under a condition. work: where schedules and weights are kept; what is there already is taken from there."""

    def __init__(self, name: str, condition: Condition, *, images: int, work: Path):
        super().__init__(name, steps=STEPS, images=images)
        self.condition, self.work, self.known = condition, work, dict[tuple[int, int], Trajectory]()
        self.call |= condition.call

    @cached_property
    def pipe(self) -> Any:
        """The pipe with the condition's weights."""
        pipe = super().pipe
        if self.condition.further:
            path = once(self.work / f"{self.name}-further.safetensors", partial(train_further, pipe, self.name))
            denoiser_of(pipe).load_state_dict(load_file(path, device=str(pipe.device)))
        return pipe

    def seen(self, samples: int, seed: int) -> Trajectory:
        """The dense trajectory of what a search sees; recorded once."""
        if (samples, seed) not in self.known:
            conditions, _ = zoo.conditions(self.name, samples, calibration=True)
            call = {"num_inference_steps": STEPS, **self.call}
            self.known[samples, seed] = record(self.pipe, conditions, seeds=range(seed, seed + samples), **call)
        return self.known[samples, seed]

    def found(self, calls: int, samples: int, seed: int) -> Schedule:
        """What the default stages find here, with rows fitted to all samples; searched for once."""
        name = f"{self.name} {self.condition.name} {calls} calls {samples} samples {seed}.json".replace(" ", "-")
        return load(once(self.work / name, lambda path: self.search(calls, samples, seed).save(path)))

    def search(self, calls: int, samples: int, seed: int) -> Schedule:
        """What the default stages of `secateur search` find here: its parts, as it takes no size of images."""
        start, seen, blocks = time.perf_counter(), self.seen(samples, seed), self.macs.blocks
        near = objective_for(self.pipe, seen, target="dense", blocks=blocks, batch_size=self.call["batch_size"])
        whole = samples + DEFAULT.more_images
        further = zoo.conditions(self.name, whole, calibration=True)[0][samples:], range(seed + samples, seed + whole)
        gain = PairedGain(near, more_for(near, *further, target="dense"))
        search = Search(self.pipe, seen, self.macs, calls / STEPS, gain, seed=seed, batch_size=samples)
        *_, best = run_stages(search)
        facts = {"dense_calls": STEPS, "psnr_db": best.value_db, "s": time.perf_counter() - start}
        return replace(best.schedule, made={**best.schedule.made, **facts})

    def with_stock_rows(self, schedule: Schedule, hold: str) -> Schedule:
        """The same calls with rows that nobody fitted: of the dense sampler's calls, held along a line, or DPM-Solver++'s."""
        scheduler, blocks, times = self.pipe.scheduler, schedule.blocks, np.array(schedule.timesteps)
        if not hold:
            return with_table(schedule, stepped(scheduler, DPM2, timesteps=times.tolist()).unscaled())
        every = replace(schedule, grid=("#" * len(blocks),) * STEPS, timesteps=None, table=None)
        levels = np.array(stock_table(every, scheduler).timesteps)
        runs = {0, *nearest(times[1:], levels[1:])}
        grid = tuple(("#" if t in runs else ".") * len(blocks) for t in range(STEPS))
        held = fold(replace(every, grid=grid, hold=hold), scheduler)
        return replace(schedule, timesteps=held.timesteps, table=held.table)

    def row(self, budget: int, group: str, images: np.ndarray, schedule: Schedule | None = None, *, dense: Any = None) -> Row:
        """Images measured to the condition's dense ones, or to others; the judge reads other sizes shrunk to its own."""
        calls = schedule.calls if schedule else budget
        right = quality.prompt_accuracy(shrunk(images), self.captions, judge)
        return {
            "condition": self.condition.name,
            "entered": budget,
            "group": group,
            **self.counted(schedule).spent(schedule, calls, samples=2, whole=(self.macs, STEPS)),
            **quality.measured(images, self.dense if dense is None else dense),
            "accuracy": quality.rate_of(right),
        }


def once(path: Path, make: Callable[[Path], Any]) -> Path:
    """A file, made if it is not there. If several processes make it, the first one's stays, and all of them take that."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{os.getpid()}-{path.name}")
        make(part)
        with suppress(FileExistsError):
            os.link(part, path)
        part.unlink()
    return path


def train_further(student: Any, name: str, path: Path) -> None:
    """Write a pipe's denoiser after some updates on new pictures, by the loss that it was trained with but for its weights."""
    teacher = Bench(name).pipe  # encodes the pictures
    pairs = pictures.scenes(name, seed=FURTHER.seed)
    examples = concatenate(encoded.encoded(teacher, pairs, limit=PICTURES, batch_size=64))
    for _ in pipe_steps(student, teacher, examples, call={}, settings=FURTHER):
        pass
    save_file({key: value.cpu().contiguous() for key, value in denoiser_of(student).state_dict().items()}, path)


def shrunk(images: np.ndarray, side: int = zoo.scenes.IMAGE_PX) -> np.ndarray:
    """Images of the side that the judge reads."""
    if images.shape[1] == side:
        return images
    pixels = F.interpolate(torch.from_numpy(images).permute(0, 3, 1, 2), size=(side, side), mode="bilinear", antialias=True)
    return pixels.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def jobs(run: Run) -> Iterator[Job]:
    """Home with every number of samples; then each condition: dense, carried, plain steps, searched again."""
    places = [Place(run.pipe, one, images=run.options["images"], work=run.work) for one in CONDITIONS[run.pipe]]
    home = places[0]
    for place in places:
        name = place.condition.name
        yield Job(f"{name}: dense", partial(dense, place, home))
        for calls in CALLS:
            for samples in SAMPLES if place is home else SAMPLES[:1]:
                for seed in SEEDS:
                    for group in (FOUND, *SAME, *([] if place is home else [AGAIN])):
                        make = partial(searched, place, home, group, calls=calls, samples=samples, seed=seed)
                        yield Job(f"{name}, {calls} calls: {group}, {samples} samples, seed {seed}", make)
            for solver in SOLVERS:
                yield Job(f"{name}, {calls} calls: {PLAIN}, {solver}", partial(plain, place, solver, calls))


def dense(place: Place, home: Place) -> Row:
    """The dense images of a condition, measured to those at home if they have one size: how far the condition is from home."""
    images = place.dense
    same = images.shape == home.dense.shape
    return place.row(STEPS, "dense", images, dense=home.dense if same else images)


def plain(place: Place, solver: str, calls: int) -> Row:
    """As many plain steps of a stock solver."""
    return place.row(calls, f"{PLAIN}, {solver}", place.plain(calls, *SOLVERS[solver]))


def searched(place: Place, home: Place, group: str, *, calls: int, samples: int, seed: int) -> Row:
    """A schedule of one search, drawn in a condition."""
    schedule = (place if group == AGAIN else home).found(calls, samples, seed)
    search = {"samples": samples, "seed": seed, "calibration_psnr_db": schedule.made["psnr_db"], "search_s": schedule.made["s"]}
    if group in SAME:
        schedule = home.with_stock_rows(schedule, SAME[group])
    images = place.draw(schedule, steps=schedule.calls)
    return place.row(calls, group, images, schedule) | search | {"timesteps": schedule.timesteps}


def head(pipe: str, options: Mapping[str, Any]) -> Record:
    measured = {"guidance_scale": zoo.GUIDANCE[pipe], "samples_an_image": 2, "search_seeds": SEEDS, "dense_calls": STEPS}
    measured |= {"calibration_images_in_doubt": DEFAULT.more_images, "trained_further": f"{FURTHER.updates} × {FURTHER.lr:g}"}
    return {"seeds": range(FIRST_SEED, FIRST_SEED + options["images"]), "options": measured}


TITLE = f"Samplers of {{pipe}} for {STEPS} DDIM calls: by samples they were found with, and carried to other conditions"
STUDIES = (Study("carried", TITLE, jobs, options={"images": 64}, pipes=zoo.NAMES, head=head),)
