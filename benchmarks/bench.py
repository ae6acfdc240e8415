"""A pipe of the zoo, what it is searched with, and the images that it is measured on; `Bench.measured` makes rows."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from secateur import FAMILIES, Macs, Schedule, SearchSettings, Trajectory, apply, count, record, zoo
from secateur.measuring import quality, timing
from secateur.pipeline import schedulers
from secateur.pipeline.generate import generate_batches
from secateur.searching import objective
from secateur.searching.paired_gain import PairedGain
from secateur.searching.stages import BestSoFar, run_stages
from secateur.searching.task import Search
from study import Row

BATCH, FIRST_SEED, SEARCH_SEED = 8, 50_000, 40_000
CONVERGED = 100, *schedulers.SOLVERS["DPM-Solver++"]
Targets = tuple[objective.Objective, list[Callable[[], objective.Objective]]]
NONE: Mapping[str, Any] = MappingProxyType({})
DENOISERS = {"emoji-sd": "unet", "emoji-dit": "transformer"}


@cache
def counted(name: str, granularity: str | None = None) -> Macs:
    """MACs of a pipe's denoiser, from its configuration alone."""
    return count(json.loads((zoo.folder(name) / DENOISERS[name] / "config.json").read_text()), granularity)


def faster(slow: timing.Timing, fast: timing.Timing, **more: Any) -> Row:
    """A speed-up as a row has it."""
    return dict(zip(("median", "low", "high"), timing.speedup(slow, fast), strict=True)) | more


class Bench:
    """A pipe with so many dense steps. Weights, images and trajectories are loaded or made when they are first needed.

    images: that a row is measured on, of these seeds on. calibration: captions and noises that searches see, others than those;
    more: further ones where a gain is in doubt. folder: where images are kept between runs.
    """

    def __init__(
        self, name: str, *, steps=50, images=128, calibration=16, more=48, seed=FIRST_SEED, folder: Path | None = None
    ):
        self.name, self.steps, self.calibration, self.more, self.folder = name, steps, calibration, more, folder
        self.conditions, self.captions = zoo.conditions(name, images)
        self.seeds = range(seed, seed + images)
        self.call: dict[str, Any] = {"guidance_scale": zoo.GUIDANCE[name], "batch_size": BATCH}
        self.recorded, self.targets, self.drawn = cache(self._recorded), cache(self._targets), dict[str, np.ndarray]()
        self.macs = counted(name)

    @cached_property
    def pipe(self) -> Any:
        """The pipe, loaded when it is first needed."""
        pipe = zoo.load(self.name)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def layers(self) -> Macs:
        """MACs at the finest granularity, at which caches choose."""
        return counted(self.name, list(FAMILIES[self.macs.blocks.denoiser].granularities)[-1])

    def counted(self, schedule: Schedule | None) -> Macs:
        """The MACs at the granularity of a schedule."""
        return self.macs if schedule is None or schedule.blocks == self.macs.blocks.names else self.layers

    # Images

    @cached_property
    def renders(self) -> np.ndarray:
        return zoo.renders(self.captions)

    def clocked(self, schedule: Schedule | None = None, *, steps: int = 0, pipe: Any = None) -> tuple[np.ndarray, list[float]]:
        """(N, H, W, 3) images of the measured conditions, and the seconds that one took in each batch."""
        pipe, parts, seconds, call = pipe or self.pipe, [], [], {"num_inference_steps": steps or self.steps, **self.call}
        with apply(pipe, schedule) if schedule else nullcontext():
            start = time.perf_counter()
            for images in generate_batches(pipe, self.conditions, seeds=self.seeds, **call):
                seconds.append((time.perf_counter() - start) / len(images))
                parts.append(images)
                start = time.perf_counter()
        quality.check_finite(images := np.concatenate(parts), "the images")
        return images, seconds

    def draw(self, schedule: Schedule | None = None, **how: Any) -> np.ndarray:
        """The images alone."""
        return self.clocked(schedule, **how)[0]

    def scheduled(self, scheduler: str | None, options: Mapping[str, Any]) -> AbstractContextManager[None]:
        return schedulers.scheduled(self.pipe, scheduler, options)

    @property
    def dense(self) -> np.ndarray:
        return self.plain(self.steps)

    @property
    def converged(self) -> np.ndarray:
        """Images of so many steps that more would not change them."""
        return self.plain(*CONVERGED)

    def plain(self, steps: int, scheduler: str | None = None, options: Mapping[str, Any] = NONE) -> np.ndarray:
        """Images of plain steps, drawn once; also kept on disk, as they take minutes, if the bench has a folder."""
        with self.scheduled(scheduler, options):
            name = f"{self.name}-{self.scheduler}-{steps}-{len(self.seeds)}"
            path = self.folder / f"{name}.npy" if self.folder else None
            if name not in self.drawn:
                self.drawn[name] = np.load(path) if path and path.exists() else self.draw(steps=steps)
            if path and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(part := path.with_suffix(".part.npy"), self.drawn[name])
                part.replace(path)
            return self.drawn[name]

    @property
    def scheduler(self) -> str:
        return "-".join(schedulers.scheduler_signature(self.pipe.scheduler))

    # Searches

    def calibration_conditions(self, more: int = 0) -> Sequence[Any]:
        return zoo.conditions(self.name, self.calibration + more, calibration=True)[0]

    def trajectory(self, seed: int) -> Trajectory:
        """The dense calibration trajectory of one search, with the scheduler that the pipe has; recorded once."""
        return self.recorded(seed, self.scheduler)

    def _recorded(self, seed: int, scheduler: str) -> Trajectory:
        seeds = range(seed, seed + self.calibration)
        return record(self.pipe, self.calibration_conditions(), seeds=seeds, num_inference_steps=self.steps, **self.call)

    def objective(self, seed: int, target: str = "dense") -> Targets:
        """What one search raises, and the same on images that it may draw where in doubt; their targets are made once."""
        return self.targets(seed, target, self.scheduler)

    def _targets(self, seed: int, target: str, scheduler: str) -> Targets:
        value = objective.objective_for(self.pipe, self.recorded(seed, scheduler), target=target, blocks=self.macs.blocks)
        conditions = self.calibration_conditions(self.more)[self.calibration :]
        seeds = range(seed + self.calibration, seed + self.calibration + self.more)
        return value, [cache(make) for make in objective.more_for(value, conditions, seeds, target=target)]

    def task(self, seed: int, *, keep: float, target: str = "dense", number: int = 0, **how: Any) -> Search:
        """What a search works on, with the scheduler that the pipe has. number: its seed; how: its SearchSettings."""
        gain = PairedGain(*self.objective(seed, target))
        return Search(self.pipe, self.trajectory(seed), self.macs, keep, gain, SearchSettings(**how), seed=number)

    def search(self, seed: int, **how: Any) -> Iterator[BestSoFar]:
        """What `secateur search` finds; arguments as for `task`."""
        return run_stages(self.task(seed, **how))

    # Rows

    def measured(
        self, images: np.ndarray, schedule: Schedule | None = None, *, calls=0, dense_calls=0, dense=None, fully=False
    ) -> Row:
        """The cost fields of a row, fractions of so many dense calls; how near images come, and what the judge reads.

        dense: the images of the dense calls, if they are others than the bench's. fully: how near the converged ones, and
        Fréchet, too.
        """
        macs, more = self.counted(schedule), {"converged": self.converged, "renders": self.renders} if fully else {}
        spent = macs.spent(schedule, calls or self.steps, samples=2, whole=(macs, dense_calls or self.steps))
        return {**spent, **quality.measured(images, self.dense if dense is None else dense, captions=self.captions, **more)}
