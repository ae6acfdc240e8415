"""How additive are the errors of calls? The sum of local errors, in the latents and weighted by what shows in the images,
against the measured error, over random sets of calls and over the exact solutions, for each way of holding."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from random import Random
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import pearsonr, spearmanr

from bench import SEARCH_SEED, Bench
from secateur import Trajectory, apply, dense, record, zoo
from secateur.measuring.hardware import hardware
from secateur.pipeline import schedulers
from secateur.pipeline.generate import generate
from secateur.searching import additive, paths, refresh
from secateur.searching import ladder as ladders
from secateur.searching.sensitivity import sensitivity
from study import Job, Row, Run, Study

PIPE, STEPS, CALLS, LEVELS, SETS, IMAGES = "emoji-sd", 50, (5, 10, 17), 40, 40, 4
KINDS: dict[str, tuple[str | None, Mapping[str, Any], str]] = {  # scheduler, its options, and what held calls give
    "DDIM, held": (None, {}, "output"),
    "DDIM, extrapolated": (None, {}, "extrapolate"),
    "DDIM, Adams–Bashforth": (None, {}, "adams_bashforth"),
    "DPM-Solver++ 2M": (*schedulers.SOLVERS["DPM-Solver++"], "output"),
}


class Model(NamedTuple):
    """What one way of holding predicts: the ladder of levels, and local errors by how they are weighted."""

    trajectory: Trajectory
    ladder: ladders.Ladder
    errors: dict[str, np.ndarray]


def jobs(run: Run) -> Iterator[Job]:
    """A row for each way of holding and number of calls."""
    bench = Bench(PIPE, images=1, calibration=IMAGES, more=0)
    model = cache(partial(model_of, bench))
    for kind in KINDS:
        for calls in CALLS:
            yield Job(f"{kind}, {calls} calls", partial(row, bench, model, kind=kind, calls=calls))


def model_of(bench: Bench, kind: str) -> Model:
    """The ladder of a kind and its errors, of the pipe with that kind's scheduler."""
    scheduler, _, hold = KINDS[kind]
    pipe, blocks = bench.pipe, bench.macs.blocks
    steps = ladders.levels(pipe.scheduler, LEVELS) if scheduler else None
    with apply(pipe, replace(dense(blocks, len(steps) if steps else STEPS), timesteps=steps), blocks=blocks):
        whole = record(pipe, bench.calibration_conditions(), **call(bench))
    ladder = ladders.free(whole, pipe.scheduler) if steps else ladders.held(whole, pipe.scheduler, hold=hold)
    shown = sensitivity(pipe, whole, ladder, blocks=blocks, gap=len(ladder) // 10)
    errors = {"latents": additive.local_errors(ladder), "images": additive.local_errors(ladder, weights=shown)}
    return Model(whole, ladder, errors)


def call(bench: Bench) -> dict[str, Any]:
    seeds = range(SEARCH_SEED, SEARCH_SEED + bench.calibration)
    return {"seeds": seeds, "num_inference_steps": STEPS, **bench.call}


def row(bench: Bench, model: Callable[[str], Model], *, kind: str, calls: int) -> Row:
    """Correlations of the logarithms, and how far off the prediction is."""
    scheduler, options, hold = KINDS[kind]
    with bench.scheduled(scheduler, options):
        known = model(kind)
        best = {f"best by {w}": additive.solve(errors, calls=calls)[-1].levels for w, errors in known.errors.items()}
        random = {f"random {k}": levels for k, levels in enumerate(spread(len(known.ladder), calls))}
        points = [point(bench, known, levels, hold) | {"set": label} for label, levels in {**random, **best}.items()]
    return {"calls": calls, "cpu": hardware()["cpu"], **correlations(points), "points": points}


def point(bench: Bench, model: Model, levels: tuple[int, ...], hold: str) -> Row:
    """The measured and the predicted error of a set of calls: the sum of local errors along it."""
    path = paths.of_whole_calls(levels, 0.0)
    schedule = refresh.schedule_of(path, model.ladder, bench.macs.blocks, hold=hold, made={})
    with apply(bench.pipe, schedule, blocks=bench.macs.blocks):
        images = generate(bench.pipe, bench.calibration_conditions(), **call(bench))
    ways = list(zip((levels[0], *levels[:-1]), levels, (*levels[1:], len(model.ladder)), strict=True))
    predicted = {weights: float(sum(errors[way] for way in ways)) for weights, errors in model.errors.items()}
    return {"measured": float(((images - model.trajectory.images) ** 2).mean()), **predicted}


def spread(levels: int, calls: int) -> list[tuple[int, ...]]:
    """Sets of calls at random that leave no gap longer than three times the mean one: others nobody would try."""
    rng, found = Random(0), []
    while len(found) < SETS:
        chosen = (0, *sorted(rng.sample(range(1, levels), calls - 1)))
        if max(np.diff((*chosen, levels))) <= 3 * levels / calls:
            found.append(chosen)
    return found


def correlations(points: list[Row]) -> dict[str, float]:
    """Over the random sets, of log errors: Pearson, Spearman, slope; and predicted minus measured in dB, by images."""
    random, found = points[:SETS], dict[str, float]()
    logs = {key: np.log([p[key] for p in random]) for key in ("measured", "latents", "images")}
    for weights in ("latents", "images"):
        pair = logs[weights], logs["measured"]
        values = pearsonr(*pair).statistic, spearmanr(*pair).statistic, np.polyfit(*pair, 1)[0]
        found |= {f"{n}_{weights}": float(v) for n, v in zip(("pearson", "spearman", "slope"), values, strict=True)}
    over = np.median(logs["measured"] - logs["images"])
    found["measured_over_predicted_db"] = float(10 * np.log10(np.e) * over)
    for p in points[SETS:]:
        beaten = [p["measured"] < other["measured"] for other in random]
        found[f"{p['set']}_beats_percent".replace(" ", "_")] = 100 * float(np.mean(beaten))
    return found


OPTIONS = {"steps": STEPS, "guidance_scale": zoo.GUIDANCE[PIPE], "sets": SETS}
HEAD = {"pipe": PIPE, "seeds": range(SEARCH_SEED, SEARCH_SEED + IMAGES), "options": OPTIONS}
TITLE = f"Predicted and measured error of sets of calls on {PIPE}"
STUDIES = (Study("additivity", TITLE, jobs, head=HEAD),)
