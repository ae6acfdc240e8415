"""Every rival of a search as a way to make a schedule: held calls, caches, DiP-GO, random and genetic search."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bench import Bench
from secateur import Macs, Schedule, Scores, allocate
from secateur.measuring.variants import EVEN
from secateur.pipeline.trajectory import first
from secateur.schedule import baselines
from secateur.searching.dip_go.gradient import search
from secateur.searching.dip_go.updates import Settings
from secateur.searching.objective import to_dense
from secateur.searching.random_and_genetic import genetic_search, random_search

GLANCE, FINALISTS = 4, 6  # images on which every setting of a cache is measured, and how many are then measured on all
UPDATES, LR, LEARNED_KEEP = 60, 1.7, 0.2  # the paper: 1000 updates from 0.1; the sum of the steps is the same
TRIALS = {"random search": random_search, "genetic search": genetic_search}
Made = tuple[Schedule, dict[str, Any]]  # a schedule, and what its row says of the search


def evenly(bench: Bench, calls: int) -> dict[str, Schedule]:
    """So many evenly spaced calls, held in every way."""
    return {group: baselines.evenly(bench.macs.blocks, bench.steps, calls, hold=hold) for group, hold in EVEN.items()}


class Caches:
    """DeepCache, or FORA and Δ-DiT for a transformer, at every interval and depth."""

    def __init__(self, bench: Bench, seed: int):
        self.bench, self.seed, self.glance = bench, seed, cache(self._glance)
        self.every = [s for n in range(2, bench.steps + 1) for s in settings(bench.layers, bench.steps, interval=n)]

    def fits(self, budget: float) -> list[Schedule]:
        """The settings that cost at most so many dense calls."""
        layers = self.bench.layers
        return [schedule for schedule in self.every if layers.of(schedule) <= budget * layers.call()]

    def _glance(self, schedule: Schedule) -> float:
        few = first(self.bench.trajectory(self.seed), GLANCE)
        return to_dense(self.bench.pipe, few, blocks=self.bench.layers.blocks)(schedule)

    def best(self, budget: float) -> Made:
        """The setting that is best on the calibration images: all are measured on a few of them, the best on all."""
        fits = self.fits(budget)
        value = to_dense(self.bench.pipe, self.bench.trajectory(self.seed), blocks=self.bench.layers.blocks)
        best = max(sorted(fits, key=self.glance)[-FINALISTS:], key=value)
        return best, {"setting": dict(best.made), "settings": len(fits)}


def settings(counted: Macs, steps: int, *, interval: int) -> Iterator[Schedule]:
    """The caches of one interval."""
    blocks = counted.blocks
    if "residual" in blocks.reuse:
        yield baselines.fora(blocks, steps, interval=interval)
        for quarters in (1, 2, 3):
            yield baselines.delta_dit(blocks, steps, interval=interval, depth=len(blocks) * quarters // 4)
    else:
        for depth in range(1, sum(len(producers) > 1 for producers in blocks.producers) + 1):
            yield baselines.deepcache(blocks, steps, interval=interval, depth=depth)


def tried(bench: Bench, name: str, *, budget: float, seed: int, number: int, trials: int) -> Made:
    """Random or genetic search, holding as is best for evenly held calls."""
    start, (value, _) = time.perf_counter(), bench.objective(seed)
    hold = max(evenly(bench, int(budget)).values(), key=value).hold
    keep, holding = budget / bench.steps, lambda schedule: value(replace(schedule, hold=hold))
    *_, last = TRIALS[name](bench.macs, bench.steps, keep=keep, objective=holding, trials=trials, seed=number)
    return replace(last.best, hold=hold), {"search_s": time.perf_counter() - start}


def learned(bench: Bench, path: Path, *, method: str, budget: float, seed: int, number: int) -> Made:
    """DiP-GO with fewer updates than the paper's: one search whose scores, in a file, are allocated for every budget."""
    start, known = time.perf_counter(), path.exists()
    if not known:
        how, folder = Settings(steps=UPDATES, lr=LR, seed=number), path.with_suffix("")
        *_, last = search(bench.pipe, bench.trajectory(seed), keep=LEARNED_KEEP, macs=bench.macs, settings=how, folder=folder)
        last.scores.save(path)
    schedule = allocate(Scores.load(path), keep=budget / bench.steps, method=method)
    return schedule, {} if known else {"search_s": time.perf_counter() - start}
