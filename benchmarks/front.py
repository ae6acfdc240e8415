"""The front: fidelity and accuracy against compute, of every rival and of what the search finds, on a pipeline of the zoo.

    python benchmarks/front.py [emoji-sd|emoji-dit] [--images 128] [--minutes 60]     writes results/front-PIPE.json
    python benchmarks/front.py [emoji-sd|emoji-dit] --time                            adds paired speed-ups to its rows

Every row is saved when it is done, and a rerun goes on with those that are missing, also on another day. Calibration captions
and noises are others than those measured. Budgets are in dense calls of 50; plain steps and held calls are rounded down to
whole ones. Rows are timed one after the other, beside whatever else the machine does: for speed see what `--time` adds.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from secateur import zoo
from secateur.denoiser import macs
from secateur.measuring import quality, records, report, timing
from secateur.measuring.hardware import hardware
from secateur.measuring.variants import EVEN
from secateur.pipeline import schedulers
from secateur.pipeline.generate import generate
from secateur.pipeline.pipes import component
from secateur.pipeline.trajectory import Trajectory, first, record
from secateur.schedule import baselines
from secateur.schedule.allocate import allocate
from secateur.schedule.apply import apply
from secateur.schedule.fold import fold
from secateur.schedule.schedule import Schedule, load
from secateur.schedule.scores import Scores
from secateur.searching import objective
from secateur.searching.dip_go.gradient import search
from secateur.searching.dip_go.updates import Settings
from secateur.searching.paired_gain import PairedGain
from secateur.searching.rivals import genetic_search, random_search
from secateur.searching.settings import SearchSettings
from secateur.searching.stages import run_stages
from secateur.searching.task import Search
from secateur.zoo import judge

RESULTS = Path(__file__).parents[1] / "results"
STEPS, BATCH = 50, 8
BUDGETS = (10, 5, 17, 7.5, 25, 12.5)  # dense calls; the most interesting first
AGAIN = (5,)  # the closest: here rivals that search do so from every seed
SEARCH_SEEDS = (40_000, 41_000, 42_000)
CALIBRATION, MORE, TRIALS = 16, 48, 40  # images of a search, further ones where a gain is in doubt, schedules tried
GLANCE, FINALISTS = 4, 6  # images on which every setting of a static cache is measured, and how many then on all of them
UPDATES, LR = 60, 1.7  # the paper: 1000 updates from 0.1; the sum of the steps is the same
FIRST_SEED, MOST_IMAGES = 50_000, 192
MANY_REPEATS, REPEATS, FEW_REPEATS = 25, 9, 3
DOUBT = 1.2  # a speed-up so many times the MACs reduction, or so many times less, is timed again
DPM = "DPMSolverMultistepScheduler"
LINSPACE = {"timestep_spacing": "linspace"}
PLAIN = {  # fewer steps: name → scheduler and its options
    "DDIM, leading": ("DDIMScheduler", {"timestep_spacing": "leading"}),
    "DDIM, trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "DPM-Solver++, linspace": (DPM, LINSPACE),
    "DPM-Solver++, trailing": (DPM, {"timestep_spacing": "trailing"}),
    "DPM-Solver++, Karras": (DPM, LINSPACE | {"use_karras_sigmas": True}),
    "UniPC, linspace": ("UniPCMultistepScheduler", LINSPACE),
    "UniPC, trailing": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
    "UniPC, Karras": ("UniPCMultistepScheduler", LINSPACE | {"use_karras_sigmas": True}),
}


@dataclass(frozen=True)
class Job:
    """One row: a way to make the images. make: gives the Schedule, searching for it if need be; None for plain steps."""

    name: str
    group: str
    budget: float
    steps: int
    scheduler: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    make: Callable[[], tuple[Schedule, dict[str, Any]]] | None = None


class NothingFits(Exception):
    """No setting of a rival fits the budget."""


class Bench:
    """A pipe, what it is searched with, and what it is measured on."""

    def __init__(self, name: str, images: int, folder: Path):
        self.name, self.folder, self.pipe = name, folder, zoo.load(name)
        self.pipe.set_progress_bar_config(disable=True)
        self.call = {"guidance_scale": zoo.GUIDANCE[name], "batch_size": BATCH}
        self.conditions, self.captions = zoo.conditions(name, images)
        self.seeds = range(FIRST_SEED, FIRST_SEED + images)
        self.macs = macs.count(component(self.pipe))
        self.layers = macs.count(component(self.pipe), list_last(self.macs))
        self.recorded: dict[Any, Trajectory] = {}
        self.targets: dict[tuple[int, str], Any] = {}
        self.glanced: dict[Schedule, float] = {}

    @cached_property
    def other(self) -> Any:
        """The same pipe again, for what is timed in turns with it."""
        pipe = zoo.load(self.name)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def images(self, steps: int, **more: Any) -> np.ndarray:
        return generate(self.pipe, self.conditions, seeds=self.seeds, num_inference_steps=steps, **self.call, **more)

    @cached_property
    def dense(self) -> np.ndarray:
        return self.cached("dense", lambda: self.images(STEPS))

    @cached_property
    def converged(self) -> np.ndarray:
        def make():
            with schedulers.scheduled(self.pipe, DPM, LINSPACE):
                return self.images(100)

        return self.cached("converged", make)

    def cached(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Images kept between runs, as they take minutes."""
        path = self.folder / f"{self.name}-{name}-{len(self.seeds)}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npy")
            np.save(part, make())
            part.replace(path)
        return np.load(path)

    @cached_property
    def renders(self) -> np.ndarray:
        return zoo.renders(self.captions)

    def trajectory(self, seed: int) -> Trajectory:
        """The dense calibration trajectory of one search, with the scheduler that the pipe has; recorded once."""
        key = seed, str(sorted(self.pipe.scheduler.config.items(), key=str))
        if key not in self.recorded:
            asked = zoo.conditions(self.name, CALIBRATION, calibration=True)[0]
            seeds = range(seed, seed + CALIBRATION)
            self.recorded[key] = record(self.pipe, asked, seeds=seeds, num_inference_steps=STEPS, **self.call)
        return self.recorded[key]

    def objective(self, seed: int, target: str) -> tuple[objective.Objective, list[Callable[[], objective.Objective]]]:
        """What one search raises, and the same on images that it may draw where in doubt; their targets are made once."""
        if (seed, target) not in self.targets:
            value = objective.objective_for(self.pipe, self.trajectory(seed), target=target, blocks=self.macs.blocks)
            asked = zoo.conditions(self.name, CALIBRATION + MORE, calibration=True)[0][CALIBRATION:]
            more = objective.more_for(value, asked, range(seed + CALIBRATION, seed + CALIBRATION + MORE), target=target)
            self.targets[seed, target] = value, [cache(make) for make in more]
        return self.targets[seed, target]


def list_last(counted: macs.Macs) -> str:
    """The finest granularity of a denoiser."""
    from secateur.denoiser.families import FAMILIES

    return list(FAMILIES[counted.blocks.denoiser].granularities)[-1]


def jobs(bench: Bench) -> Iterator[Job]:
    """Every row, the ones that others build on first."""
    yield Job("dense", "dense", STEPS, STEPS)
    for budget in BUDGETS:
        yield from plain(budget)
        yield from static(bench, budget)
        yield from ours(bench, budget, SEARCH_SEEDS[0])
    for budget in BUDGETS:
        yield from learned(bench, budget)
        yield from tried(bench, budget)
    for seed in SEARCH_SEEDS[1:]:
        for budget in BUDGETS:
            yield from ours(bench, budget, seed)
        for budget in AGAIN:
            yield from learned(bench, budget, seed)
            yield from tried(bench, budget, seed)


def plain(budget: float) -> Iterator[Job]:
    for name, (scheduler, options) in PLAIN.items():
        yield Job(f"{name}, {int(budget)} steps", name, budget, int(budget), scheduler, options)


def static(bench: Bench, budget: float) -> Iterator[Job]:
    """Uniform hold in three ways; DeepCache or FORA at the best setting; the published pattern."""
    for group, schedule in evenly_held(bench, budget).items():
        yield held(f"{group}, {int(budget)} calls", group, budget, schedule)
    yield Job(f"static cache, {budget:g}", "static cache, best setting", budget, STEPS, make=lambda: best_cache(bench, budget))
    if budget == 10 and len(bench.macs.blocks) == 9:
        yield held("DiP-GO, published pattern", "DiP-GO, published", budget, baselines.published_dip_go(bench.macs.blocks))


def evenly_held(bench: Bench, budget: float) -> dict[str, Schedule]:
    """As many evenly spaced calls as fit, held in every way."""
    count = int(budget)
    return {group: baselines.evenly(bench.macs.blocks, STEPS, count, hold=hold) for group, hold in EVEN.items()}


def held(name: str, group: str, budget: float, schedule: Schedule) -> Job:
    return Job(name, group, budget, STEPS, make=lambda: (schedule, {}))


def best_cache(bench: Bench, budget: float) -> tuple[Schedule, dict[str, Any]]:
    """The setting of DeepCache (FORA, Δ-DiT for a transformer) that is best on the calibration images within the budget.

    All that fit are measured on a few of them, the best of these on all.
    """
    counted, trajectory = bench.layers, bench.trajectory(SEARCH_SEEDS[0])
    limit = budget * counted.call()
    found = (schedule for interval in range(2, STEPS + 1) for schedule in settings(counted, interval))
    fits = [schedule for schedule in found if counted.of(schedule) <= limit]
    if not fits:
        raise NothingFits(f"no static cache costs at most {budget:g} calls")
    glance = objective.to_dense(bench.pipe, first(trajectory, GLANCE), blocks=counted.blocks)
    for schedule in fits:
        if schedule not in bench.glanced:
            bench.glanced[schedule] = glance(schedule)
    last = sorted(fits, key=lambda schedule: bench.glanced[schedule])[-FINALISTS:]
    best = max(last, key=objective.to_dense(bench.pipe, trajectory, blocks=counted.blocks))
    return best, {"setting": dict(best.made), "settings": len(fits)}


def settings(counted: macs.Macs, interval: int) -> list[Schedule]:
    blocks = counted.blocks
    if "residual" in blocks.reuse:
        depths = [len(blocks) * quarters // 4 for quarters in (1, 2, 3)]
        cut = [baselines.delta_dit(blocks, STEPS, interval=interval, depth=depth) for depth in depths]
        return [baselines.fora(blocks, STEPS, interval=interval), *cut]
    depths = range(1, sum(len(producers) > 1 for producers in blocks.producers) + 1)
    return [baselines.deepcache(blocks, STEPS, interval=interval, depth=depth) for depth in depths]


def ours(bench: Bench, budget: float, seed: int) -> Iterator[Job]:
    """What `secateur search` finds: under DDIM near the dense images, under two solvers of second order near the converged."""
    solvers = (
        ("DDIM", None, {}, "dense"),
        ("DPM-Solver++", DPM, LINSPACE, "converged"),
        ("UniPC", "UniPCMultistepScheduler", LINSPACE, "converged"),
    )
    for solver, scheduler, options, target in solvers:
        name = f"Secateur, {solver}, {budget:g}, seed {seed}"
        make = searched(bench, budget, seed, scheduler, options, target, name)
        yield Job(name, f"Secateur, {solver}", budget, STEPS, scheduler, options, make)


def searched(bench, budget, seed, scheduler, options, target, name) -> Callable[[], tuple[Schedule, dict[str, Any]]]:
    def make():
        path = RESULTS / "schedules" / f"{bench.name} {name}.json".replace(", ", "-").replace(" ", "-").lower()
        start, stages = time.perf_counter(), {}
        with schedulers.scheduled(bench.pipe, scheduler, options):
            trajectory = bench.trajectory(seed)
            value, more = bench.objective(seed, target)
            settings, gain = SearchSettings(trials=TRIALS), PairedGain(value, more)
            for found in run_stages(Search(bench.pipe, trajectory, bench.macs, budget / STEPS, gain, settings, seed=seed)):
                stages[found.stage] = {"psnr_db": found.value_db, "seconds": found.seconds, "measured": found.measured}
        path.parent.mkdir(exist_ok=True)
        best = replace(found.schedule, made={**found.schedule.made, "stages": stages})
        best.save(path)
        return load(path), {"search_s": time.perf_counter() - start, "stages": stages}

    return make


def tried(bench: Bench, budget: float, seed: int = SEARCH_SEEDS[0]) -> Iterator[Job]:
    """Random and genetic search, holding as is best for evenly held calls: with those 51 evaluations, ours takes 61 at most."""
    for group, look in (("random search", random_search), ("genetic search", genetic_search)):

        def make(look=look):
            start, most = time.perf_counter(), TRIALS + 8
            value = objective.to_dense(bench.pipe, bench.trajectory(seed), blocks=bench.macs.blocks)
            hold = max(evenly_held(bench, budget).values(), key=value).hold
            holding = lambda schedule: value(replace(schedule, hold=hold))  # noqa: E731
            number, keep = SEARCH_SEEDS.index(seed), budget / STEPS
            *_, last = look(bench.macs, STEPS, keep=keep, objective=holding, trials=most, seed=number)
            return replace(last.best, hold=hold), {"search_s": time.perf_counter() - start}

        yield Job(f"{group}, {budget:g}{seeded(seed)}", group, budget, STEPS, make=make)


def seeded(seed: int) -> str:
    """What the name of a rival's row says of its seed: nothing of the first."""
    return f", seed {seed}" if seed != SEARCH_SEEDS[0] else ""


def learned(bench: Bench, budget: float, seed: int = SEARCH_SEEDS[0]) -> Iterator[Job]:
    """DiP-GO with fewer updates than the paper's 1000: one search at keep 0.2, its scores allocated for every budget."""
    folder = bench.folder / f"{bench.name}-dip-go{seeded(seed).replace(', seed ', '-')}"
    for method in ("bisection", "greedy"):

        def make(method=method):
            path = folder.with_suffix(".safetensors")
            start, known = time.perf_counter(), path.exists()
            if not known:
                settings = Settings(steps=UPDATES, lr=LR, seed=SEARCH_SEEDS.index(seed))
                looked = search(bench.pipe, bench.trajectory(seed), keep=0.2, macs=bench.macs, settings=settings, folder=folder)
                *_, last = looked
                last.scores.save(path)
            found = allocate(Scores.load(path), keep=budget / STEPS, method=method)
            return found, {} if known else {"search_s": time.perf_counter() - start}

        name = f"DiP-GO ({UPDATES} updates), {method}"
        yield Job(f"{name}, {budget:g}{seeded(seed)}", name, budget, STEPS, make=make)


def row(bench: Bench, job: Job) -> dict[str, Any]:
    """A job done and measured."""
    schedule, more = job.make() if job.make else (None, {})
    with schedulers.scheduled(bench.pipe, job.scheduler, job.options):
        steps = schedule.calls if schedule and schedule.timesteps else job.steps
        images, seconds = drawn(bench, schedule, steps)
        calls = len(bench.pipe.scheduler.timesteps)
    counted = bench.macs if schedule is None or schedule.blocks == bench.macs.blocks.names else bench.layers
    spent = {a: counted.of(schedule, attention=a) if schedule else calls * counted.call(attention=a) for a in (False, True)}
    right = quality.prompt_accuracy(images, bench.captions, judge)
    return {
        "name": job.name,
        "group": job.group,
        "keep": job.budget / STEPS,
        "calls": calls,
        "steps": steps,
        "scheduler": job.scheduler,
        "options": job.options,
        "macs_linear": 2 * spent[False],
        "macs_attention": 2 * spent[True],
        "keep_linear": spent[False] / (STEPS * counted.call()),
        "keep_attention": spent[True] / (STEPS * counted.call(attention=True)),
        "latency_s": timing.Timing(job.name, seconds).as_json(),
        "cpu": hardware()["cpu"],
        **nearness(images, bench.dense, ""),
        **nearness(images, bench.converged, "converged_"),
        "accuracy": {"mean": float(right.mean()), "ci95": list(quality.wilson(int(right.sum()), len(right)))},
        "frechet": quality.judge_frechet(images, bench.renders, judge),
        **whole_or_partial(counted, schedule),
        ("grid" if counted is bench.macs else "layer_grid"): list(schedule.grid) if schedule else None,
        "timesteps": list(schedule.timesteps) if schedule and schedule.timesteps else None,
        "hold": schedule.hold if schedule else None,
        "reuse": list(schedule.reuse) if schedule else None,
        **more,
    }


def drawn(bench: Bench, schedule: Schedule | None, steps: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """The images, and the seconds that one took in each batch."""
    parts, seconds = [], []
    with apply(bench.pipe, schedule) if schedule else nullcontext():
        for start in range(0, len(bench.seeds), BATCH):
            part, begun = slice(start, start + BATCH), time.perf_counter()
            call = {"seeds": bench.seeds[part], "num_inference_steps": steps, **bench.call}
            parts.append(generate(bench.pipe, bench.conditions[part], **call))
            seconds.append((time.perf_counter() - begun) / len(parts[-1]))
    return np.concatenate(parts), tuple(seconds)


def nearness(images: np.ndarray, target: np.ndarray, prefix: str) -> dict[str, Any]:
    """PSNR and SSIM to a target; nothing where an image equals its own, as the dense ones do."""
    found = {}
    for name, values in (("psnr_db", quality.psnr(images, target)), ("ssim", quality.ssim(images, target))):
        same = not np.isfinite(values).all()
        found[prefix + name] = None if same else {"mean": float(values.mean()), "ci95": list(quality.mean_interval(values))}
    return found


def time_rows(bench: Bench, document: dict[str, Any], path: Path, until: float) -> None:
    """Add speed-ups to the rows that lack them: of one image at a time, and at a fifth of the MACs of a batch too."""
    if "outside" not in document:
        document["outside"] = outside(bench)
    if "outside_macs" not in document:
        document["outside_macs"] = outside_macs(bench)
    report.save(document, path)
    for found in sorted(document["rows"], key=timed_first):
        for key, images, repeats in wanted(document, found):
            if found.get(key, {}).get("repeats", 0) >= repeats:
                continue
            if time.monotonic() > until:
                return
            found[key] = timed(bench, found, images=images, repeats=repeats, folded=key.startswith("folded"))
            report.save(document, path)
            print(f"{found['name']:48s} {key}, {images} at a time: {found[key]['median']:.2f}", flush=True)


def wanted(document: dict[str, Any], found: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """What is timed of a row: as what, how many images at a time, and in how many pairs at least."""
    fifth, ours = found["keep"] == 0.2, found["group"].startswith("Secateur")
    many = MANY_REPEATS if found["group"] == "DDIM, leading" else REPEATS  # a folded schedule's speed is compared with these
    yield "speedup", 1, many if fifth else FEW_REPEATS
    if fifth:
        yield "speedup_batch", BATCH, REPEATS if ours or many > REPEATS else FEW_REPEATS
    if fifth and ours and not found["timesteps"]:
        yield "folded_speedup", 1, MANY_REPEATS
        yield "folded_speedup_batch", BATCH, REPEATS
    if doubtful(document, found):
        yield "speedup", 1, REPEATS


def doubtful(document: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether a speed-up is far from the MACs reduction of all that is timed: few pairs may have met a burst of noise."""
    dense, rest = next(row for row in document["rows"] if row["group"] == "dense"), document["outside_macs"]
    fewer = (dense["macs_attention"] + rest) / (found["macs_attention"] + rest)
    return not 1 / DOUBT < found["speedup"]["median"] / fewer < DOUBT


def timed_first(found: dict[str, Any]) -> tuple[bool, bool]:
    """What matters most: a fifth of the MACs, what the search found, and as many steps of the same sampler."""
    return found["keep"] != 0.2, not found["group"].startswith(("Secateur", "DDIM, leading"))


def timed(bench: Bench, found: dict[str, Any], *, images: int, repeats: int, folded: bool = False) -> dict[str, float]:
    """How many times faster than dense calls a row's are, so many images at a time. folded: its held calls left out."""
    counted = bench.macs if found.get("grid") else bench.layers
    schedule, steps = rebuilt(bench, found), found["steps"]
    with schedulers.scheduled(bench.other, found["scheduler"], found.get("options") or {}):
        if folded:  # `scheduled` takes the other scheduler away again
            schedule, bench.other.scheduler = fold(schedule, bench.other.scheduler)
            steps = schedule.calls
        times = in_turns(bench, schedule, counted, steps=steps, images=images, repeats=repeats)
    median, low, high = timing.speedup(times["dense"], times["row"])
    return spread(median, low, high, repeats=repeats)


def spread(median: float, low: float, high: float, *, repeats: int) -> dict[str, Any]:
    """What was timed, with its quartiles and the processor."""
    told = {"median": float(median), "low": float(low), "high": float(high), "repeats": repeats}
    return {**told, "cpu": hardware()["cpu"]}


def outside(bench: Bench) -> dict[str, float]:
    """The fraction of a dense image's time that no schedule saves: what is not its denoiser's, and what holding calls takes."""
    once = baselines.chosen(bench.macs.blocks, STEPS, run=[0])
    times = in_turns(bench, once, bench.macs, steps=STEPS, images=1, repeats=REPEATS)
    saved = 1 - np.divide(times["row"].seconds, times["dense"].seconds)
    low, median, high = np.percentile(1 - saved * STEPS / (STEPS - 1), (25, 50, 75))
    return spread(median, low, high, repeats=REPEATS)


def outside_macs(bench: Bench) -> int:
    """MACs of one image that are not its denoiser's, attention counted: the text encoder's and the decoder's."""
    counts = []
    for steps in (1, 2):
        with FlopCounterMode(display=False) as counter:
            generate(bench.pipe, bench.conditions[:1], seeds=bench.seeds[:1], num_inference_steps=steps, **bench.call)
        counts.append(counter.get_total_flops() // 2)
    return 2 * counts[0] - counts[1]


def in_turns(bench: Bench, schedule: Schedule | None, counted: macs.Macs, *, steps: int, images: int, repeats: int):
    """Timings of dense calls and of a schedule, which is applied once, as users do; one batch of each in turns."""
    call = {"seeds": bench.seeds[:images], **bench.call, "batch_size": images}
    draw = partial(generate, conditions=bench.conditions[:images], **call)
    with apply(bench.other, schedule, blocks=counted.blocks) if schedule else nullcontext():
        runs = {
            "dense": lambda: draw(bench.pipe, num_inference_steps=STEPS),
            "row": lambda: draw(bench.other, num_inference_steps=steps),
        }
        return timing.time_together(runs, repeats=repeats)


def rebuilt(bench: Bench, found: dict[str, Any]) -> Schedule | None:
    """The schedule of a row; None for plain steps."""
    counted, grid = (bench.macs, found.get("grid")) if found.get("grid") else (bench.layers, found.get("layer_grid"))
    if grid is None:
        return None
    blocks, timesteps = counted.blocks, found["timesteps"]
    reuse = tuple(found.get("reuse") or blocks.reuse)
    return Schedule(
        blocks.names, tuple(grid), reuse, blocks.denoiser, timesteps=timesteps and tuple(timesteps), hold=found["hold"]
    )


def whole_or_partial(counted: macs.Macs, schedule: Schedule | None) -> dict[str, float]:
    """Which share of the saved MACs comes from calls that are not made or held whole, and which from blocks of the others."""
    if schedule is None:
        return {}
    entered = sum(not schedule.held(t) for t in range(schedule.calls))
    saved = STEPS * counted.call() - counted.of(schedule)
    return {"saved_by_calls": (STEPS - entered) * counted.call() / saved if saved else 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipe", nargs="?", default="emoji-sd", choices=zoo.NAMES)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no row after so many, and time none")
    parser.add_argument("--time", action="store_true", help="time the rows there are, on an idle machine, and make no others")
    parser.add_argument("--work", type=Path, default=Path("front-work"), help="folder for what a rerun takes up again")
    args = parser.parse_args()
    if args.images > MOST_IMAGES:
        parser.error(f"more than {MOST_IMAGES} images would be of classes that were searched with")
    until, bench = time.monotonic() + 60 * args.minutes, Bench(args.pipe, args.images, args.work)
    path = RESULTS / f"front-{args.pipe}.json"
    document, fresh = records.load(path) if path.exists() else blank(args), blank(args)
    if any(document[key] != fresh[key] for key in ("seeds", "options", "command")):
        raise SystemExit(f"{path.name} was made by other settings: move it away, or run {document['command']}")
    document["blocks"] = list(bench.macs.blocks.names)
    if args.time:
        time_rows(bench, document, path, until)
        return
    done = {found["name"] for found in document["rows"]}
    for job in jobs(bench):
        if job.name in done:
            continue
        if time.monotonic() > until:
            print("out of time: run it again to go on")
            return
        try:
            found = row(bench, job)
        except NothingFits as error:
            print(f"{job.name}: {error}", flush=True)
            continue
        document["rows"].append(found)
        document["made"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        report.save(document, path)
        psnr = [found[key] and round(found[key]["mean"], 2) for key in ("psnr_db", "converged_psnr_db")]
        print(f"{job.name:48s} {found['keep_linear']:.3f} {psnr} {found['accuracy']['mean']:.3f}", flush=True)


def blank(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "format": 1,
        "title": f"The front on {args.pipe}: {STEPS} dense DDIM calls and less",
        "command": f"python benchmarks/front.py {args.pipe} --images {args.images}",
        "pipe": args.pipe,
        "made": "",
        "hardware": hardware(),
        "seeds": list(range(FIRST_SEED, FIRST_SEED + args.images)),
        "options": {
            "guidance_scale": zoo.GUIDANCE[args.pipe],
            "samples_an_image": 2,
            "batch_size": BATCH,
            "calibration_images": CALIBRATION,
            "calibration_images_in_doubt": CALIBRATION + MORE,
            "search_seeds": list(SEARCH_SEEDS),
            "trials": TRIALS,
            "gradient_updates": UPDATES,
            "gradient_lr": LR,
        },
        "rows": [],
    }


if __name__ == "__main__":
    main()
