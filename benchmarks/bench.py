"""A pipe of the zoo, what it is searched with, and the images that it is measured on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from secateur import zoo
from secateur.denoiser import macs
from secateur.denoiser.families import FAMILIES
from secateur.measuring import compare, quality
from secateur.pipeline import schedulers
from secateur.pipeline.trajectory import Trajectory, record
from secateur.schedule.schedule import Schedule
from secateur.searching import objective
from secateur.searching.paired_gain import PairedGain
from secateur.searching.settings import SearchSettings
from secateur.searching.stages import BestSoFar, run_stages
from secateur.searching.task import Search

BATCH, FIRST_SEED, SEARCH_SEED = 8, 50_000, 40_000
CONVERGED = 100, *schedulers.SOLVERS["DPM-Solver++"]
Targets = tuple[objective.Objective, list[Callable[[], objective.Objective]]]
DENOISERS = {"emoji-sd": "unet", "emoji-dit": "transformer"}


@cache
def counted(name: str, granularity: str | None = None) -> macs.Macs:
    """MACs of a pipe's denoiser, from its configuration alone."""
    return macs.count(json.loads((zoo.folder(name) / DENOISERS[name] / "config.json").read_text()), granularity)


class Bench:
    """A pipe with so many dense steps. Weights, images and trajectories are loaded or made when they are first needed.

    images: that a row is measured on. calibration: captions and noises that searches see, others than those; more: further
    ones where a gain is in doubt. folder: where images are kept between runs.
    """

    def __init__(
        self,
        name: str,
        *,
        steps: int = 50,
        images: int = 128,
        calibration: int = 16,
        more: int = 48,
        folder: Path | None = None,
    ):
        self.name, self.steps, self.calibration, self.more, self.folder = name, steps, calibration, more, folder
        self.conditions, self.captions = zoo.conditions(name, images)
        self.seeds = range(FIRST_SEED, FIRST_SEED + images)
        self.call = {"guidance_scale": zoo.GUIDANCE[name], "batch_size": BATCH}
        self.recorded, self.targets, self.plain = cache(self._recorded), cache(self._targets), cache(self._plain)

    @cached_property
    def pipe(self) -> Any:
        return self.another()

    def another(self) -> Any:
        """The pipe, loaded anew."""
        pipe = zoo.load(self.name)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def macs(self) -> macs.Macs:
        return counted(self.name)

    @property
    def layers(self) -> macs.Macs:
        """MACs at the finest granularity, at which caches choose."""
        return counted(self.name, list(FAMILIES[self.macs.blocks.denoiser].granularities)[-1])

    def counted(self, schedule: Schedule | None) -> macs.Macs:
        """The MACs at the granularity of a schedule."""
        return self.macs if schedule is None or schedule.blocks == self.macs.blocks.names else self.layers

    @cached_property
    def renders(self) -> np.ndarray:
        return zoo.renders(self.captions)

    def draw(self, schedule: Schedule | None = None, *, steps: int | None = None) -> np.ndarray:
        """(N, H, W, 3) images of the measured conditions, with the scheduler that the pipe has."""
        call = {"seeds": self.seeds, "num_inference_steps": steps or self.steps, **self.call}
        return compare.draw(self.pipe, schedule, self.conditions, **call)

    def scheduled(self, scheduler: str | None, options: Mapping[str, Any]) -> AbstractContextManager[None]:
        return schedulers.scheduled(self.pipe, scheduler, options)

    @property
    def dense(self) -> np.ndarray:
        return self.plain(self.steps)

    @property
    def converged(self) -> np.ndarray:
        """Images of so many steps that more would not change them."""
        steps, scheduler, options = CONVERGED
        return self.plain(steps, scheduler, tuple(options.items()))

    def _plain(self, steps: int, scheduler: str | None = None, options: Sequence[tuple[str, Any]] = ()) -> np.ndarray:
        """Images of plain steps, kept on disk as they take minutes."""
        with self.scheduled(scheduler, dict(options)):
            return self.kept(f"{self.scheduler}-{steps}-{len(self.seeds)}", lambda: self.draw(steps=steps))

    @property
    def scheduler(self) -> str:
        return "-".join(schedulers.scheduler_signature(self.pipe.scheduler))

    def kept(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """An array in a file of this bench's folder, made if it is not there."""
        if self.folder is None:
            return make()
        path = self.folder / f"{self.name}-{name}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npy")
            np.save(part, make())
            part.replace(path)
        return np.load(path)

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

    def search(self, seed: int, *, keep: float, target: str = "dense", number: int = 0, **how: Any) -> Iterator[BestSoFar]:
        """What `secateur search` finds with the scheduler that the pipe has. number: its seed; how: its SearchSettings."""
        gain = PairedGain(*self.objective(seed, target))
        return run_stages(Search(self.pipe, self.trajectory(seed), self.macs, keep, gain, SearchSettings(**how), seed=number))

    def spent(self, schedule: Schedule | None, *, calls: int | None = None, dense_calls: int | None = None) -> dict[str, Any]:
        """The four cost fields of a row; fractions are of so many dense calls."""
        counted, whole = self.counted(schedule), dense_calls or self.steps
        return dict(counted.spent(schedule, calls or self.steps, samples=2, whole=(counted, whole)))

    def judged(self, images: np.ndarray, *, dense: np.ndarray | None = None, fully: bool = False) -> dict[str, Any]:
        """How near images come to the dense ones, and what the judge reads; fully: to the converged ones too, and Fréchet."""
        more = {"converged": self.converged, "renders": self.renders} if fully else {}
        return quality.measured(images, self.dense if dense is None else dense, captions=self.captions, **more)
