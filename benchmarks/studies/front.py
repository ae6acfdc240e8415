"""The front: fidelity and accuracy against compute, of every rival and of what the search finds.

Budgets are in dense calls of 50; plain steps and held calls are rounded down. `timing` adds how many times faster each row is
than dense calls: one image at a time, in turns with them, on an idle machine."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from bench import FIRST_SEED, NONE, SEARCH_SEED, Bench, faster
from published import SAMPLERS, as_schedule, gits_settings, stock
from random_and_genetic import genetic_search, random_search
from secateur import Macs, Schedule, Scores, SearchSettings, allocate, apply, dip_go, load, search_steps, zoo
from secateur.artifact import thawed
from secateur.measuring.hardware import hardware
from secateur.measuring.timing import time_together
from secateur.measuring.variants import EVEN
from secateur.pipeline.generate import generate
from secateur.pipeline.schedulers import SOLVERS
from secateur.pipeline.trajectory import Trajectory, first, record
from secateur.schedule import baselines
from secateur.searching import gradient_steps
from secateur.searching.local import local_search
from secateur.searching.memo import memo_in
from secateur.searching.moves import exchange, slide
from secateur.searching.objective import objective_for
from study import Job, Record, Row, Run, Study

STEPS, CALLS, TRIALS, MOST_IMAGES = 50, 10, 40, 192
MANY, FEW = 9, 3  # pairs in which a row at a fifth of the MACs, or another one, is timed
BUDGETS = (10, 5, 17, 7.5, 25, 12.5)  # dense calls; the most interesting first
MORE = (8, 14, 20, 30, 40, 60)  # further plain steps, to tell how many come as near as a schedule
BEST = ("DDIM leading", "DPM-Solver++ Karras", "UniPC Karras")  # the solvers that are worth it
AGAIN = (5,)  # the closest: here rivals that search do so from every seed
SEEDS = (SEARCH_SEED, 41_000, 42_000)
SEARCHED = {  # solvers: scheduler, options, and what the search comes near to
    "DDIM": (None, {}, "dense"),
    "DPM-Solver++": (*SOLVERS["DPM-Solver++"], "converged"),
    "UniPC": (*SOLVERS["UniPC"], "converged"),
}
STAGES = ("stock", "additive", "local", "gradient-steps")  # all for whole calls, to tell what each adds
FEWEST = (10, 5)  # dense calls at which that is asked
GLANCE, FINALISTS = 4, 6  # images on which every setting of a cache is measured, and how many are then measured on all
TEACHERS = {"even": (60, *SOLVERS["DPM-Solver++"]), "Karras": (40, *SOLVERS["DPM-Solver++ Karras"])}  # of GITS
UPDATES, LR, LEARNED_KEEP = 60, 1.7, 0.2  # the paper: 1000 updates from 0.1; the sum of the steps is the same
Made = tuple[Schedule, dict[str, Any]]  # a schedule, and what its row says of the search


class Way(NamedTuple):
    """How a row draws its images: a scheduler, with so many plain steps or with the schedule that `make` gives.

    budget: in dense calls; None for a row that competes at none.
    """

    name: str
    group: str
    budget: float | None
    make: Callable[[], Made] | None = None
    steps: int = STEPS
    scheduler: str | None = None
    options: Mapping[str, Any] = NONE


def bench_of(run: Run) -> Bench:
    if (images := run.options["images"]) > MOST_IMAGES:
        raise SystemExit(f"found --images {images}: give at most {MOST_IMAGES}, as further classes are searched with")
    return Bench(run.pipe, steps=STEPS, images=images)


def jobs(run: Run) -> Iterator[Job]:
    """A row for each way; one job for all that DiP-GO finds from one seed."""
    bench = bench_of(run)
    yield from (Job(way.name, partial(row, bench, way)) for way in ways(bench, run.results / "schedules"))
    for number in range(len(SEEDS)):
        learnt = list(learning_rivals(bench, number, run.work))
        yield Job(f"DiP-GO, seed {SEEDS[number]}", partial(rows, bench, learnt), last=learnt[-1].name)


def ways(bench: Bench, folder: Path) -> Iterator[Way]:
    """Every way, the ones that others build on first."""
    yield Way("dense", "dense", STEPS)
    for budget in BUDGETS:
        for name, solver in SOLVERS.items():
            yield Way(f"{name}, {int(budget)} steps", name, budget, None, int(budget), *solver)
        for group, make in published(bench, int(budget)):
            yield Way(f"{group}, {int(budget)} calls", group, budget, make)
        yield from static(bench, budget)
        yield from ours(bench, budget, SEEDS[0], folder)
    for number, seed in enumerate(SEEDS):
        for budget in BUDGETS if number else ():
            yield from ours(bench, budget, seed, folder)
        for budget in at(number):
            yield from searching_rivals(bench, budget, number)
    for name in BEST:
        yield from (Way(f"{name}, {steps} steps", name, None, None, steps, *SOLVERS[name]) for steps in MORE)
    for budget in FEWEST:
        yield from ours(bench, budget, SEEDS[0], folder, stages=STAGES)


def at(number: int) -> tuple[float, ...]:
    """The budgets of rivals that search, with one of the seeds."""
    return AGAIN if number else BUDGETS


def published(bench: Bench, calls: int) -> Iterator[tuple[str, Callable[[], Made]]]:
    """Stock solvers that are seldom the best, and published samplers, each as the table of at most so many calls."""
    for group, table in SAMPLERS.items():
        yield group, lambda t=table: (as_schedule(bench.macs.blocks, t(bench.pipe.scheduler, calls)), {})
    yield "GITS", lambda: (gits_schedules(bench, calls)["even, DPM-Solver++, 1.15"], {})
    yield "GITS, best setting", partial(best_gits, bench, calls)
    for target in ("dense", "converged") if calls <= FEWEST[0] else ():
        yield f"stock, moved by gradients to {target}", partial(by_gradients, bench, calls, target)


def best_gits(bench: Bench, calls: int) -> Made:
    """GITS with the trajectory, solver and coefficient that come nearest to the converged calibration images."""
    found, value = gits_schedules(bench, calls), bench.objective(SEEDS[0], "converged")
    best = max(found, key=lambda name: value(found[name]))
    return found[best], {"setting": best, "settings": len(found)}


def by_gradients(bench: Bench, calls: int, target: str) -> Made:
    """The stock solver nearest to the calibration images, its rows and timesteps moved by gradients; the best on the way."""
    value, like = bench.objective(SEEDS[0], target), bench.pipe.scheduler
    known = {name: as_schedule(bench.macs.blocks, stock(solver, like, calls)) for name, solver in SOLVERS.items()}
    start = max(known, key=lambda name: value(known[name]))
    found = [known[start], *gradient_steps.moved(bench.pipe, known[start], value, batch_size=8)]
    return max(found, key=value), {"setting": start}


def gits_schedules(bench: Bench, calls: int) -> dict[str, Schedule]:
    """GITS with every setting, by name."""
    tables = {name: dict(gits_settings(teacher(bench, name), bench.pipe.scheduler, calls)) for name in TEACHERS}
    return {f"{name}, {how}": as_schedule(bench.macs.blocks, table) for name in tables for how, table in tables[name].items()}


@cache
def teacher(bench: Bench, name: str) -> Trajectory:
    """A trajectory of the calibration captions from which GITS chooses timesteps."""
    known, (steps, *solver) = bench.trajectory(SEEDS[0]), TEACHERS[name]
    with bench.scheduled(*solver):
        return record(bench.pipe, known.conditions, seeds=known.seeds, **known.options | {"num_inference_steps": steps})


def static(bench: Bench, budget: float) -> Iterator[Way]:
    """Evenly held calls in three ways; the best setting of DeepCache or FORA; the published pattern."""
    for group in EVEN:
        yield Way(f"{group}, {int(budget)} calls", group, budget, lambda g=group: (evenly(bench, budget)[g], {}))
    if caches(bench.layers, budget):
        yield Way(f"static cache, {budget:g}", "static cache, best setting", budget, partial(best_cache, bench, budget))
    if budget == 10 and len(blocks := bench.macs.blocks) == 9:
        published = lambda: (baselines.published_dip_go(blocks), {})  # noqa: E731
        yield Way("DiP-GO, published pattern", "DiP-GO, published", budget, published)


def evenly(bench: Bench, budget: float) -> dict[str, Schedule]:
    """So many evenly spaced calls, held in every way."""
    return {group: baselines.evenly(bench.macs.blocks, STEPS, int(budget), hold=hold) for group, hold in EVEN.items()}


def caches(counted: Macs, budget: float) -> list[Schedule]:
    """DeepCache, or FORA and Δ-DiT for a transformer, at every interval and depth that costs at most so many dense calls."""
    blocks, found = counted.blocks, list[Schedule]()
    for interval in range(2, STEPS + 1):
        if "residual" in blocks.reuse:
            found.append(baselines.fora(blocks, STEPS, interval=interval))
            method, depths = baselines.delta_dit, [len(blocks) * quarters // 4 for quarters in (1, 2, 3)]
        else:
            method, depths = baselines.deepcache, range(1, 1 + sum(len(producers) > 1 for producers in blocks.producers))
        found += [method(blocks, STEPS, interval=interval, depth=depth) for depth in depths]
    return [schedule for schedule in found if counted.of(schedule) <= budget * counted.call()]


def best_cache(bench: Bench, budget: float) -> Made:
    """The cache that is best on the calibration images: all are measured on a few of them, the best on all."""
    fits, seen = caches(bench.layers, budget), bench.trajectory(SEEDS[0])
    near = partial(objective_for, bench.pipe, target="dense", blocks=bench.layers.blocks)
    few, value = map(near, (first(seen, GLANCE), seen))
    best = max(sorted(fits, key=few)[-FINALISTS:], key=value)
    return best, {"setting": dict(best.made), "settings": len(fits)}


def ours(bench: Bench, budget: float, seed: int, folder: Path, *, stages: tuple[str, ...] | None = None) -> Iterator[Way]:
    """What `secateur search` finds: under DDIM near the dense images, under two solvers of second order near the converged.

    stages: by these instead of the search's own, as a row that competes at no budget.
    """
    settings = SearchSettings(trials=TRIALS, stages=stages)
    for solver, (scheduler, options, target) in SEARCHED.items():
        group = f"Secateur, {solver}" + (", every stage" if stages else "")
        name = f"{group}, {budget:g}, seed {seed}"
        path = folder / f"{bench.name} {name}.json".replace(", ", "-").replace(" ", "-").lower()
        make = partial(searched, bench, path, keep=budget / STEPS, target=target, seed=seed, settings=settings)
        yield Way(name, group, None if stages else budget, make, STEPS, scheduler, options)


def searched(bench: Bench, path: Path, **how: Any) -> Made:
    """The schedule of one search, saved beside the records too."""
    stages = {}
    for found in search_steps(bench.pipe, **how):
        stages[found.stage] = {"psnr_db": found.value_db, "seconds": found.seconds, "measured": found.measured}
    schedule = replace(found.schedule, made={**found.schedule.made, "stages": stages})
    path.parent.mkdir(parents=True, exist_ok=True)
    schedule.save(path)
    return schedule, {"stages": stages}


def searching_rivals(bench: Bench, budget: float, number: int) -> Iterator[Way]:
    """Random, genetic and local search; their evaluations are 51, ours 61 at most. number: of the search seed."""
    searches = {"random search": random_search, "genetic search": genetic_search, "BudCache-like": whole_calls_search}
    for group, search in searches.items():
        yield Way(named(group, budget, number), group, budget, partial(tried, bench, budget, number, search))


def learning_rivals(bench: Bench, number: int, work: Path) -> Iterator[Way]:
    """DiP-GO with its two ways to allocate what it has learnt from one seed."""
    folder = work / f"{bench.name}-dip-go-{number}-gradients"
    for budget in at(number):
        for method in ("bisection", "greedy"):
            group = f"DiP-GO ({UPDATES} updates), {method}"
            make = lambda b=budget, m=method: (allocate(learned(bench, folder, number), keep=b / STEPS, method=m), {})  # noqa: E731
            yield Way(named(group, budget, number), group, budget, make)


def named(group: str, budget: float, number: int) -> str:
    """The name of a row of a rival that searches."""
    return f"{group}, {budget:g}" + (f", seed {SEEDS[number]}" if number else "")


def tried(bench: Bench, budget: float, number: int, search: Callable[..., Iterator[Any]]) -> Made:
    """Random or genetic search, holding as is best for evenly held calls."""
    value, how = bench.objective(SEEDS[number]), {"keep": budget / STEPS, "trials": TRIALS + 8, "seed": number}
    hold = max(evenly(bench, budget).values(), key=value).hold
    *_, last = search(bench.macs, STEPS, objective=lambda schedule: value(replace(schedule, hold=hold)), **how)
    return replace(last.best, hold=hold), {}


def whole_calls_search(macs: Macs, calls: int, *, keep: float, **how: Any) -> Iterator[Any]:
    """Local search by the images over which calls run, whole, as many as the budget has; they begin evenly spread.

    BudCache (arXiv 2606.13496) goes by simulated annealing and hill climbing, and then moves the timesteps too.
    """
    count = int(keep * calls + 1e-9)
    start = baselines.evenly(macs.blocks, calls, count)
    yield from local_search(start, macs=macs, calls=calls, keep=count / calls, moves=(exchange, slide), **how)


@cache
def learned(bench: Bench, folder: Path, number: int) -> Scores:
    """The scores of DiP-GO with fewer updates than the paper's, for every budget; a rerun goes on from the folder."""
    how, seen = dip_go.Settings(steps=UPDATES, lr=LR, seed=number), bench.trajectory(SEEDS[number])
    kept = memo_in(folder, {"keep": LEARNED_KEEP, **asdict(how)})
    *_, last = dip_go.search(bench.pipe, seen, keep=LEARNED_KEEP, macs=bench.macs, settings=how, memo=kept)
    return last.scores


def rows(bench: Bench, ways: Iterable[Way]) -> Iterator[Row]:
    """A row for each of several ways."""
    yield from ({"name": way.name, **row(bench, way)} for way in ways)


def row(bench: Bench, way: Way) -> Row:
    """A way measured: what it costs, how near its images come, and its schedule."""
    with bench.scheduled(way.scheduler, way.options):
        schedule, more = way.make() if way.make else (None, {})
        steps = schedule.calls if schedule and schedule.timesteps else way.steps
        images, calls = bench.draw(schedule, steps=steps), schedule.calls if schedule else steps
    row = {"group": way.group, "keep": way.budget and way.budget / STEPS, "calls": calls, "steps": steps}
    row |= {"scheduler": way.scheduler, "options": dict(way.options), "grid": None, "timesteps": None, "hold": None}
    if schedule:
        row["grid" if bench.counted(schedule) is bench.macs else "layer_grid"] = list(schedule.grid)
        row |= {"timesteps": schedule.timesteps, "hold": schedule.hold, "reuse": list(schedule.reuse)}
        row |= {"table": thawed(schedule.table)}
    return row | bench.measured(images, schedule, calls=calls, fully=True) | more


def timing_jobs(run: Run) -> Iterator[Job]:
    """The speed-up of each row, those at a fifth of the MACs first and in more pairs."""
    bench, other = bench_of(run), bench_of(run)  # the same pipe again, for what is timed in turns with it
    for row in sorted(filter(itemgetter("keep"), run.record["rows"]), key=lambda row: row["keep"] != 0.2):
        pairs = MANY if row["keep"] == 0.2 else FEW
        done = row.get("speedup", {}).get("repeats", 0) >= pairs
        make = partial(timed, bench, other, row, pairs, schedule=rebuilt(bench, row))
        yield Job(f"{row['name']}: speedup, {pairs} pairs", make, done=done)


def sampler_jobs(run: Run) -> Iterator[Job]:
    """The schedules of the zoo, which run ten calls, in turns with ten plain steps of the pipe's own scheduler."""
    for name in zoo.NAMES:
        row, found = {"name": name, "scheduler": None, "steps": CALLS}, load(zoo.schedule(name))
        yield Job(name, partial(timed, Bench(name), Bench(name), row, run.options["pairs"], schedule=found, steps=CALLS))


def timed(bench: Bench, other: Bench, row: Row, pairs: int, *, schedule: Schedule | None, steps: int = STEPS) -> Row:
    """How many times faster than plain steps a row's are; its schedule is applied once, as users do."""
    draw = partial(generate, conditions=bench.conditions[:1], seeds=bench.seeds[:1], **bench.call)
    with ExitStack() as applied:
        applied.enter_context(other.scheduled(row["scheduler"], row.get("options") or {}))
        if schedule:
            applied.enter_context(apply(other.pipe, schedule, blocks=bench.counted(schedule).blocks))
        runs = {"plain": partial(draw, bench.pipe, num_inference_steps=steps)}
        runs["row"] = partial(draw, other.pipe, num_inference_steps=row["steps"])
        times = time_together(runs, repeats=pairs)
    return {"name": row["name"], "speedup": faster(times["plain"], times["row"], repeats=pairs, cpu=hardware()["cpu"])}


def rebuilt(bench: Bench, row: Row) -> Schedule | None:
    """The schedule of a row; None for plain steps."""
    blocks, grid = (bench.macs.blocks, row["grid"]) if row.get("grid") else (bench.layers.blocks, row.get("layer_grid"))
    if grid is None:
        return None
    timesteps, reuse = row["timesteps"] and tuple(row["timesteps"]), tuple(row.get("reuse") or blocks.reuse)
    how = {"timesteps": timesteps, "hold": row["hold"], "table": row.get("table")}
    return Schedule(blocks.names, tuple(grid), reuse, blocks.denoiser, **how)


def head(pipe: str, options: Mapping[str, Any]) -> Record:
    measured = {"guidance_scale": zoo.GUIDANCE[pipe], "samples_an_image": 2, "calibration_images": 16}
    measured |= {"calibration_images_in_doubt": 64, "search_seeds": SEEDS, "trials": TRIALS}
    measured |= {"gradient_updates": UPDATES, "gradient_lr": LR}
    return {"seeds": range(FIRST_SEED, FIRST_SEED + options["images"]), "options": measured}


TITLE = "The front on {pipe}: 50 dense DDIM calls and less"
BLOCKS = lambda run: run.record.update(blocks=list(bench_of(run).macs.blocks.names))  # noqa: E731
FRONT: dict[str, Any] = {"options": {"images": 128}, "pipes": zoo.NAMES, "head": head}
FRONT["file"] = lambda pipe, options: f"front-{pipe}"
STUDIES = (
    Study("front", TITLE, jobs, finish=BLOCKS, **FRONT),
    Study("timing", "Paired speed-ups of the front on {pipe}", timing_jobs, times=True, **FRONT),
    Study("sampler-latency", f"Samplers of {CALLS} calls and as many plain steps", sampler_jobs, {"pairs": 60}),
)
