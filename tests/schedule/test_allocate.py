"""Allocating: the exact way against brute force, DiP-GO's ways against their own words, and what all of them promise."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from itertools import product

import numpy as np
import pytest

from commands import last_json, refused
from secateur.denoiser import macs
from secateur.denoiser.blocks import Blocks, live
from secateur.denoiser.macs import Macs
from secateur.schedule import baselines
from secateur.schedule.allocate import METHODS, allocate, closure
from secateur.schedule.schedule import RUN, Schedule
from secateur.schedule.scores import Scores
from tiny import tiny

allocating = import_module("secateur.schedule.allocate")  # the package has a function of that name

PAIR = Macs(Blocks("Pair", "layer", ("a", "b"), ("output",) * 2, ((), (0,)), (1,)), (3, 1), (0, 2), 1, 0)


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch):
    """The exact method may take its time, so that no result depends on how busy the machine is."""
    monkeypatch.setattr(allocating, "SECONDS", 600.0)


@pytest.fixture(scope="module")
def real() -> dict[str, Macs]:
    """Real graphs: a U-Net's stages and layers, which close over one another, and a transformer's residuals."""
    wanted = (("sd15", "stage"), ("sd15", "layer"), ("dit", "layer"))
    return {f"{name} {granularity}": macs.count(tiny(name), granularity) for name, granularity in wanted}


def random_scores(counted: Macs, calls: int, seed: int = 0) -> Scores:
    values = np.random.default_rng(seed).random((calls, len(counted.blocks)))
    return Scores(values, counted, "DDIMScheduler", "0123456789abcdef", {"method": "random", "seed": seed})


def total(scores: Scores, schedule: Schedule) -> float:
    """Summed scores of what runs after call 0."""
    grid = np.array([schedule.runs(t) for t in range(schedule.calls)])
    return float(scores.values[1:][grid[1:]].astype(float).sum())


def rows_of(blocks: Blocks):
    """Every row there is, closed or not."""
    return product((False, True), repeat=len(blocks))


def every_closed_grid(counted: Macs, calls: int):
    """Each closed Schedule of so many calls, once: the rows that `live` leaves as they are."""
    rows = [row for row in rows_of(counted.blocks) if live(row, counted.blocks) == row]
    for later in product(rows, repeat=calls - 1):
        yield baselines.closed(counted.blocks, [None, *later], made={})


def best_of_all(scores: Scores, keep: float, *, attention: bool) -> float:
    fits = (s for s in every_closed_grid(scores.macs, scores.calls) if scores.macs.keep(s, attention=attention) <= keep)
    return max(total(scores, s) for s in fits)


def random_graph(seed: int) -> Macs:
    """Four blocks, edges, reuse, sinks and MACs by chance; what no block reads is a sink."""
    rng = np.random.default_rng(seed)
    producers = tuple(tuple(k for k in range(i) if rng.random() < 0.6) for i in range(4))
    reuse = tuple(rng.choice(["output", "residual", "extrapolate"], 4).tolist())
    extra = rng.integers(4)
    sinks = tuple(i for i in range(4) if i == extra or not any(i in read for read in producers))
    blocks = Blocks("Random", "layer", ("a", "b", "c", "d"), reuse, producers, sinks)
    linear, attention = (tuple(rng.integers(1, 10**9, 4).tolist()) for _ in range(2))
    return Macs(blocks, linear, attention, int(rng.integers(10**8)), 0)


def test_a_row_meets_the_inequalities_where_the_closure_leaves_it(real):
    for blocks in (real["sd15 stage"].blocks, real["dit layer"].blocks, *(random_graph(seed).blocks for seed in range(40))):
        matrix = closure(blocks)
        for row in rows_of(blocks):
            assert (matrix @ (*row, any(row)) <= 0).all() == (live(row, blocks) == row)


@pytest.mark.parametrize("seed", range(12))
def test_exact_equals_brute_force_on_any_graph(seed):
    scores = random_scores(random_graph(seed), 3, seed)
    if seed % 3 == 2:  # some below 0, which run only where others need them
        scores = Scores(scores.values - 0.3, scores.macs)
    for keep, attention in ((0.4, False), (0.6, True), (0.8, False)):
        found = total(scores, allocate(scores, keep=keep, attention=attention))
        assert found == pytest.approx(best_of_all(scores, keep, attention=attention), rel=allocating.GAP, abs=1e-9)


@pytest.mark.parametrize(("name", "calls"), [("sd15 stage", 2), ("dit layer", 4)])
def test_exact_equals_brute_force_on_real_graphs(real, name, calls):
    for seed, keep in enumerate((0.51, 0.7, 0.9)):
        scores = random_scores(real[name], calls, seed)
        found = total(scores, allocate(scores, keep=keep))
        assert found == pytest.approx(best_of_all(scores, keep, attention=False), rel=allocating.GAP)


@pytest.mark.parametrize("name", ["sd15 stage", "sd15 layer", "dit layer"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("keep", "attention"), [(0.13, False), (0.5, False), (0.5, True), (0.9, False)])
def test_every_schedule_is_closed_within_the_budget_and_says_how_it_was_made(real, name, method, keep, attention):
    scores = random_scores(real[name], 8)
    made = allocate(scores, keep=keep, method=method, attention=attention)
    assert keep - 0.1 < scores.macs.keep(made, attention=attention) <= keep
    assert made.grid[0] == RUN * len(made.blocks)
    assert all(live(made.runs(t), scores.macs.blocks) == made.runs(t) for t in range(made.calls))
    assert (made.scheduler, made.scheduler_hash) == ("DDIMScheduler", "0123456789abcdef")
    assert made.made == {"method": method, "keep": keep, "unit": "macs", "attention": attention, "scores": scores.made}


@pytest.mark.parametrize(("name", "more"), [("sd15 stage", 1.1), ("sd15 layer", 1.1), ("dit layer", 1)])
def test_exact_keeps_more_than_the_others(real, name, more):
    """Blocks of equal cost that nobody needs but the sum are taken best first by all of them: a transformer's."""
    scores = random_scores(real[name], 8)
    exact, bisection, greedy = (total(scores, allocate(scores, keep=0.4, method=method)) for method in METHODS)
    assert exact >= more * max(bisection, greedy)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["sd15 layer", "dit layer"])
def test_keep_1_is_dense_and_the_least_keep_is_call_0(real, method, name):
    scores = random_scores(real[name], 4)
    assert allocate(scores, keep=1.0, method=method).grid == baselines.dense(scores.macs.blocks, 4).grid
    assert allocate(scores, keep=0.25, method=method).grid == baselines.chosen(scores.macs.blocks, 4, run=[0]).grid
    assert allocate(random_scores(real[name], 1), keep=1.0, method=method).calls == 1


def test_bisection_is_the_largest_of_all_thresholds_within_the_budget(real):
    scores = random_scores(real["sd15 layer"], 5)
    blocks = scores.macs.blocks
    rows = ([None, *(scores.values[1:] >= c).tolist()] for c in (*scores.values[1:].ravel(), 2.0))
    grids = [baselines.closed(blocks, row, made={}) for row in rows]
    for keep in (0.3, 0.5, 0.8):
        largest = max(cost for cost in map(scores.macs.keep, grids) if cost <= keep)
        assert scores.macs.keep(allocate(scores, keep=keep, method="bisection")) == largest


def test_bisection_asks_for_the_order_of_the_scores_alone(real):
    scores = random_scores(real["dit layer"], 8)
    other = Scores(np.exp(3 * scores.values) - 7, scores.macs)
    assert allocate(other, keep=0.5, method="bisection").grid == allocate(scores, keep=0.5, method="bisection").grid


@pytest.mark.parametrize(
    ("keep", "grid"),
    [
        (0.75, ("##", "##", "##", "..")),  # of 20 MACs 5 go: b at call 3, and a with it
        (0.6, ("##", "##", ".#", "..")),  # and a at call 2: 8
        (0.55, ("##", "##", "..", "..")),  # 9 must go: of the removals that pass the budget b at call 2 leaves most
        (0.5, ("##", "##", "..", "..")),  # b at call 1 would pass it and b at call 2 just meets it
    ],
)
def test_greedy_worked_by_hand(keep, grid):
    keeps = np.array([[1, 1], [0.9, 0.5], [0.02, 0.9], [0.5, 0.03]])
    assert allocate(Scores(keeps, PAIR), keep=keep, method="greedy").grid == grid


def test_greedy_holds_whole_calls_where_calls_differ_more_than_blocks(real):
    """The known fault: the same scores with the sink's a little lower are whole calls."""
    calls = np.array([1, 0.9, 0.1, 0.6, 0.2, 0.7, 0.3, 0.02])
    scores = Scores(np.repeat(calls[:, None], len(real["sd15 layer"].blocks), axis=1), real["sd15 layer"])
    made = allocate(scores, keep=0.5, method="greedy")
    assert made.grid == baselines.chosen(scores.macs.blocks, 8, run=[0, 1, 3, 5]).grid


def test_greedy_takes_scores_of_any_range_by_rank():
    keeps = np.array([[1, 1], [0.9, 0.5], [0.02, 0.9], [0.5, 0.03]])
    assert allocate(Scores(keeps * 100 - 50, PAIR), keep=0.6, method="greedy").grid == ("##", "##", ".#", "..")
    assert allocate(Scores(np.full((3, 2), 7), PAIR), keep=0.7, method="greedy").calls == 3


def test_what_matters_not_at_all_goes_first(real):
    counted = real["dit layer"]
    values = np.ones((4, len(counted.blocks)))
    values[:, 1] = 0
    without = [None, *[[i != 1 for i in range(len(counted.blocks))]] * 3]
    wanted = baselines.closed(counted.blocks, without, made={})
    for method in METHODS:
        assert allocate(Scores(values, counted), keep=counted.keep(wanted) + 1e-9, method=method).grid == wanted.grid


def test_a_search_that_had_no_time_says_so_and_gives_bisections(real, monkeypatch):
    monkeypatch.setattr(allocating, "SECONDS", 1e-9)
    scores = random_scores(real["sd15 layer"], 8)
    made, other = (allocate(scores, keep=0.37, method=method) for method in ("exact", "bisection"))
    assert made.grid == other.grid
    assert made.made["gap"] is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep": 0}, "above 0 and at most 1; got 0"),
        ({"keep": 1.5}, "above 0 and at most 1; got 1.5"),
        ({"keep": float("nan")}, "above 0 and at most 1; got nan"),
        ({"keep": 0.2}, "0.25 stays whatever is removed, so keep=0.2 is out of reach: ask for more"),
        ({"keep": 0.5, "method": "magic"}, "no method 'magic' to allocate by: choose exact, bisection, greedy"),
        ({"keep": 0.5, "attention": True, "unit": "ns"}, "costs are of time, as it was measured on one device, in which"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options, says):
    counted = replace(PAIR, unit=options.pop("unit", "macs"))
    with pytest.raises(ValueError, match=says) as caught:
        allocate(Scores(np.ones((4, 2)), counted), **options)
    assert "\n" not in str(caught.value)


def test_retarget_writes_the_schedule_of_another_budget(run, real):
    random_scores(real["sd15 stage"], 6).save("s.safetensors")
    for words in ((), ("--method", "greedy"), ("--attention",)):
        code, out, error = run("retarget", "s.safetensors", "--keep", "0.5", *words, "-o", "s.json", "--force", "--json")
        assert code == 0, error
        assert last_json(out)["grid"] == list(Schedule.load("s.json").grid)
    assert Schedule.load("s.json").made["attention"]
    assert real["sd15 stage"].keep(Schedule.load("s.json"), attention=True) <= 0.5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("s.safetensors", "--keep", "0.1"), "stays whatever is removed, so keep=0.1 is out of reach"),
        (("s.safetensors", "--keep", "2"), "at most 1; got 2.0"),
        (("s.safetensors", "--keep", "0.5", "--method", "magic"), "no method 'magic'"),
        (("s.safetensors", "--keep", "0.5", "-o", "no/where.json"), "there is no folder no"),
        (("nowhere.safetensors", "--keep", "0.5"), "nowhere.safetensors does not exist"),
        (("cut.safetensors", "--keep", "0.5"), "cut.safetensors is no whole scores file"),
    ],
)
def test_retarget_refuses_in_one_sentence(run, real, tmp_path, words, says):
    random_scores(real["sd15 stage"], 4).save("s.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "s.safetensors").read_bytes()[:-9])
    refused(run("retarget", *words), says)
    assert not (tmp_path / "schedule.json").exists()
