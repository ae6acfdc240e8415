"""Searches that only try: legal, reproducible, never the same twice, and they find what is planted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from random import Random

import pytest
import torch

import tiny_pipes
from grids import chain, counted
from random_and_genetic import genetic_search, random_search
from secateur.denoiser import macs
from secateur.denoiser.blocks import Blocks, live
from secateur.denoiser.macs import Macs
from secateur.pipeline.trajectory import record
from secateur.schedule import baselines
from secateur.schedule.schedule import Schedule
from secateur.searching.budget import Space, budget_macs, rows_of
from secateur.searching.local import Trial, local_search
from secateur.searching.moves import exchange, insert, rerun_block, shift, slide, stretch, swap_cells
from secateur.searching.objective import objective_for


def u_net() -> Blocks:
    """Two levels down, a middle, two levels up with their skips."""
    names = ("down.0", "down.1", "mid", "up.0", "up.1")
    return Blocks("Net", "stage", names, ("output",) * 5, ((), (0,), (1,), (2, 1), (3, 0)), (4,))


def even(macs: Macs, calls: int, keep: float) -> Schedule:
    """As many whole calls as the budget pays for, evenly spread."""
    return baselines.evenly(macs.blocks, calls, int(keep * calls))


SEARCHES: dict[str, Callable[..., Iterator[Trial]]] = {
    "random": random_search,
    "genetic": genetic_search,
    "local": lambda macs, calls, *, keep, **how: local_search(
        even(macs, calls, keep), macs=macs, calls=calls, keep=keep, **how
    ),
}
every_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


def weighted(values: list[list[float]]) -> Callable[[Schedule], float]:
    """The sum of the values of the cells that run, (T, L)."""
    return lambda schedule: sum(
        v for row, cells in zip(values, rows_of(schedule), strict=True) for v, run in zip(row, cells, strict=True) if run
    )


def scattered(T: int, L: int, seed: int = 0) -> list[list[float]]:
    rng = Random(seed)
    return [[rng.random() for _ in range(L)] for _ in range(T)]


def macs_of_cells(schedule: Schedule, counted: Macs, attention: bool) -> int:
    """Counted by hand: every cell that runs, and the rest where any does."""
    cells = [counted.cells(attention=attention)[i] for row in rows_of(schedule) for i, run in enumerate(row) if run]
    return sum(cells) + sum(map(any, rows_of(schedule))) * counted.rest(attention=attention)


# legal


@every_search
@pytest.mark.parametrize("blocks", [chain(3, "residual"), chain(4), u_net()], ids=["residual", "chain", "u_net"])
@pytest.mark.parametrize(("keep", "attention"), [(0.5, False), (0.31, True)])
def test_all_that_is_tried_is_closed_within_the_budget_and_new(search, blocks, keep, attention):
    T, macs = 10, counted(blocks)
    limit, asked = budget_macs(macs, T, keep=keep, attention=attention), []

    def objective(schedule: Schedule) -> float:
        asked.append(schedule)
        return weighted(scattered(T, len(blocks)))(schedule)

    how = {"keep": keep, "objective": objective, "attention": attention, "trials": 30, "seed": 1}
    trials = list(search(macs, T, **how))
    assert [trial.number for trial in trials] == list(range(1, 31))
    assert [trial.schedule for trial in trials] == asked
    assert len({schedule.grid for schedule in asked}) == 30
    for schedule in asked:
        assert macs.of(schedule, attention=attention) <= limit
        assert macs.of(schedule, attention=attention) == macs_of_cells(schedule, macs, attention)
        assert macs.keep(schedule, attention=attention) <= keep
        assert all(live(row, blocks) == row for row in rows_of(schedule))
    best = [trial.best_value for trial in trials]
    assert best == list(itertools.accumulate((trial.value for trial in trials), max))
    assert all(objective(trial.best) == trial.best_value for trial in trials[::10])
    assert [trial.improved for trial in trials] == [a != b for a, b in zip([None, *best], best, strict=False)]


@every_search
def test_one_seed_gives_one_sequence_of_trials(search):
    macs, objective = counted(u_net()), weighted(scattered(7, 5))
    run = partial(search, macs, 7, keep=0.5, objective=objective, trials=40)
    first, again, other = ([trial.schedule.grid for trial in run(seed=seed)] for seed in (5, 5, 6))
    assert first == again
    assert first != other


@every_search
def test_how_it_was_made_is_told_and_can_be_saved(search, tmp_path):
    macs = counted(u_net())
    *_, trial = search(macs, 6, keep=0.5, objective=weighted(scattered(6, 5)), trials=5, seed=3)
    trial.schedule.save(tmp_path / "schedule.json")
    assert Schedule.load(tmp_path / "schedule.json") == trial.schedule
    assert (trial.schedule.made["keep"], trial.schedule.made["seed"]) == (0.5, 3)


@pytest.mark.parametrize("search", [random_search, genetic_search])
def test_what_is_drawn_fills_the_budget_with_whole_calls_and_partial_ones(search):
    macs = counted(u_net())
    trials = list(search(macs, 12, keep=0.4, objective=weighted(scattered(12, 5)), trials=60, seed=0))
    limit = budget_macs(macs, 12, keep=0.4)
    assert all(macs.of(larger) > limit for trial in trials for larger in larger_ones(trial.schedule, macs.blocks))
    rows = [sum(row) for trial in trials for row in rows_of(trial.schedule)[1:]]
    assert min(rows.count(0), rows.count(5), len(rows) - rows.count(0) - rows.count(5)) > 0.1 * len(rows)


def larger_ones(schedule: Schedule, blocks: Blocks) -> Iterator[Schedule]:
    """The schedules with one cell more."""
    rows = rows_of(schedule)
    for t, i in itertools.product(range(schedule.calls), range(len(blocks))):
        more = [[*row[:i], True, *row[i + 1 :]] if s == t else row for s, row in enumerate(rows)]
        larger = baselines.closed(blocks, more, made={})
        if larger.grid != schedule.grid:
            yield larger


# finds


@every_search
def test_the_best_of_all_is_found_where_there_are_few(search):
    for seed in range(5):
        macs, values = counted(chain(2, "residual")), scattered(4, 2, seed)
        objective, limit = weighted(values), budget_macs(counted(chain(2)), 4, keep=0.6)
        rows = itertools.product(itertools.product((True, False), repeat=2), repeat=3)
        grids = (baselines.closed(macs.blocks, [None, *some], made={}) for some in rows)
        optimum = max(objective(schedule) for schedule in grids if macs.of(schedule) <= limit)
        *_, last = search(macs, 4, keep=0.6, objective=objective, trials=64, seed=seed)
        assert last.best_value == pytest.approx(optimum)


def test_genetic_and_local_search_are_worth_their_trouble():
    macs, objective = counted(u_net()), weighted(scattered(12, 5))
    found = {}
    for name, search in SEARCHES.items():
        runs = (search(macs, 12, keep=0.4, objective=objective, trials=200, seed=seed) for seed in range(3))
        found[name] = sum(list(run)[-1].best_value for run in runs) / 3
    assert found["genetic"] > found["random"] + 0.3
    assert found["local"] > found["random"] + 0.3


@every_search
def test_law_8_a_block_that_never_matters_is_reused_at_nearly_all_calls(search):
    T, blocks, planted = 6, chain(3, "residual"), 1
    values = [[0.0 if i == planted else 1 + value for i, value in enumerate(row)] for row in scattered(T, 3)]
    alike = Macs(blocks, (2, 2, 2), (0, 0, 0), 0, 0)
    for seed in range(3):
        *_, last = search(alike, T, keep=0.5, objective=weighted(values), trials=400, seed=seed)
        runs = [sum(column) for column in zip(*rows_of(last.best)[1:], strict=True)]
        assert runs[planted] <= 1
        assert runs[0] + runs[2] >= 4


@every_search
def test_law_8_a_real_block_that_does_nothing_is_reused_at_nearly_all_calls(search):
    pipe, _ = tiny_pipes.dit()
    planted = pipe.transformer.transformer_blocks[1]
    torch.nn.init.zeros_(planted.norm1.linear.weight)  # the gates of both of its branches
    torch.nn.init.zeros_(planted.norm1.linear.bias)
    found = macs.count(pipe.transformer)
    dense = record(pipe, [1], seeds=[0], guidance_scale=3.0, num_inference_steps=6)
    objective = objective_for(pipe, dense, target="dense", blocks=found.blocks)
    *_, last = search(found, 6, keep=0.6, objective=objective, trials=80, seed=0)
    runs = [sum(column) for column in zip(*rows_of(last.best)[1:], strict=True)]
    assert runs[1] <= 1
    assert min(runs[0], runs[2]) >= 2


def test_local_search_places_calls_where_they_are_worth_most():
    """Ten whole calls of fifty, worth what is near to them: the best is where the worth is, not evenly spread."""
    macs, best = counted(u_net()), (0, 1, 2, 3, 5, 8, 12, 17, 25, 37)

    def objective(schedule: Schedule) -> float:
        run = [t for t in range(50) if not schedule.held(t)]
        return -float(sum(min(abs(t - s) for t in run) for s in best))

    start = baselines.uniform(macs.blocks, 50, every=5)
    *_, last = local_search(start, macs=macs, calls=50, keep=0.2, objective=objective, trials=200, seed=0)
    assert objective(start) < -9
    assert last.best_value > -4


def test_local_search_never_tries_less_than_the_best_so_far_runs():
    macs = counted(u_net())
    start = baselines.closed(macs.blocks, [None, *[[True, True, False, True, True], [False] * 5] * 5], made={})
    how = {"macs": macs, "calls": 11, "keep": 0.6, "objective": weighted(scattered(11, 5)), "trials": 80}
    for before, trial in itertools.pairwise(local_search(start, seed=0, **how)):
        cells = zip("".join(trial.schedule.grid), "".join(before.best.grid), strict=True)
        assert ("#", ".") in cells


def test_local_search_leaves_the_rest_of_the_schedule_as_it_was():
    macs = counted(chain(3))
    start = replace(baselines.uniform(macs.blocks, 6, every=2), reuse=("residual",) * 3, hold="extrapolate", scheduler="Euler")
    how = {"macs": macs, "calls": 6, "keep": 0.5, "objective": weighted(scattered(6, 3)), "trials": 20}
    found = [trial.schedule for trial in local_search(start, seed=0, **how)]
    assert found[0] == start
    assert {(new.reuse, new.hold, new.scheduler) for new in found} == {(start.reuse, "extrapolate", "Euler")}
    assert any(row in {"#..", ".#.", "##."} for new in found for row in new.grid)  # of residuals, nothing is ever dead


TIMES = (999.0, 899.0, 799.0, 699.0, 599.0, 499.0, 399.0, 299.0, 199.0, 99.0)


def timed() -> Schedule:
    return replace(baselines.dense(u_net(), 10), timesteps=TIMES)


def test_local_search_shifts_timesteps_to_where_they_are_worth_most():
    wanted = (999.0, 880.0, 780.0, 680.0, 580.0, 460.0, 330.0, 210.0, 100.0, 20.0)

    def objective(schedule: Schedule) -> float:
        times = schedule.timesteps or ()
        return -sum(min(abs(s - t) for t in times) for s in wanted)

    how = {"macs": counted(u_net()), "calls": 50, "keep": 0.2, "objective": objective, "trials": 150}
    found = list(local_search(timed(), seed=0, **how))
    for trial in found:
        times = trial.schedule.timesteps
        assert times is not None
        assert all(t == int(t) for t in times)
        assert all(a > b for a, b in itertools.pairwise((1000, *times, -1)))
        assert len(times) == trial.schedule.calls
    assert found[0].value == objective(timed())
    assert found[-1].best_value > objective(timed()) / 3
    only = list(local_search(timed(), seed=0, moves=[shift], **how))
    assert {trial.schedule.calls for trial in only} == {10}


@pytest.mark.parametrize(("reach", "farthest"), [(1.0, 99), (0.3, 30), (0.001, 1)])
def test_a_shift_goes_as_far_as_its_reach(reach, farthest):
    space, rng = Space.of(counted(u_net()), 50, keep=0.2), Random(0)
    found = [new.timesteps or TIMES for _ in range(600) if (new := shift(timed(), space, rng, reach))]
    steps = [[abs(a - b) for a, b in zip(times, TIMES, strict=True) if a != b] for times in found]
    assert {len(moved) for moved in steps} == {1}
    assert farthest * 0.9 <= max(steps)[0] <= farthest
    assert min(steps)[0] >= 1
    assert max(times[0] for times in found) == 999
    assert min(times[-1] for times in found) >= 0


def test_a_stretch_takes_the_other_timesteps_along_and_leaves_the_first():
    space, rng = Space.of(counted(u_net()), 50, keep=0.2), Random(0)
    found = [new.timesteps or TIMES for _ in range(300) if (new := stretch(timed(), space, rng, 1.0))]
    for times in found:
        moves = [b - a for a, b in zip(TIMES, times, strict=True)]
        k = max(range(10), key=lambda k, moves=moves: abs(moves[k]))
        assert times[0] == 999
        for t, move in zip(TIMES, moves, strict=True) if abs(moves[k]) > 20 else ():  # more than what rounding does
            share = (999 - t) / (999 - TIMES[k]) if t > TIMES[k] else (t + 1) / (TIMES[k] + 1)
            assert move == pytest.approx(share * moves[k], abs=1)
    assert {sum(a > b for a, b in zip(TIMES, times, strict=True)) for times in found} >= {0, 9}
    assert len(set(found)) > 200


def test_a_call_inserted_is_paid_for():
    space, rng = Space.of(counted(u_net()), 50, keep=0.2), Random(0)
    found = [new for _ in range(200) if (new := insert(timed(), space, rng, 1.0))]
    assert {new.calls for new in found} >= {10, 11}
    for new in found:
        assert len(set(new.timesteps or ()) - set(TIMES)) == 1
        assert not any(new.held(t) for t in range(new.calls))
        assert space.room(rows_of(new)) >= 0


@pytest.mark.parametrize("move", [exchange, slide])
def test_moves_of_whole_calls_change_which_they_are_and_nothing_else(move):
    space, rng = Space.of(counted(u_net()), 20, keep=0.25), Random(0)
    start = baselines.uniform(u_net(), 20, every=4)
    for new in (move(start, space, rng, 1.0) for _ in range(200)):
        if new:
            assert sorted(new.grid) == sorted(start.grid)
            left, come = ({t for t in range(20) if not a.held(t) and b.held(t)} for a, b in ((start, new), (new, start)))
            assert len(left) == len(come) == 1
            assert move is exchange or abs(left.pop() - come.pop()) <= 3


def test_moves_of_cells_stay_within_the_budget():
    blocks = chain(4, "residual")
    space, rng = Space.of(counted(blocks), 8, keep=0.5), Random(0)
    rows = [None, *[[True, True, False, True], [True, False, True, False]] * 2, *[[False] * 4] * 3]
    start = baselines.closed(blocks, rows, made={})
    for move in (swap_cells, rerun_block):
        found = {new.grid for _ in range(300) if (new := move(start, space, rng, 1.0)) and space.room(rows_of(new)) >= 0}
        assert len(found) > 20
        assert start.grid not in found


def test_moves_that_helped_are_made_more_often():
    """The objective wants whole calls late, which one kind of move alone can bring about."""
    macs, start = counted(u_net()), baselines.uniform(u_net(), 40, every=4)

    def objective(schedule: Schedule) -> float:
        return sum(t for t in range(40) if all(schedule.runs(t)))

    how = {"macs": macs, "calls": 40, "keep": 0.25, "objective": objective, "trials": 60, "seed": 0}
    found = [trial.schedule for trial in local_search(start, moves=[exchange, rerun_block], **how)]
    exchanged = sum(sorted(schedule.grid) == sorted(start.grid) for schedule in found)
    assert exchanged > 2 * (60 - exchanged)


# refuses, and ends


@pytest.mark.parametrize("patience", [1, 5, None])
def test_a_local_search_ends_where_nothing_better_came_for_long(patience):
    macs, start = counted(u_net()), baselines.uniform(u_net(), 40, every=4)
    how = {"macs": macs, "calls": 40, "keep": 0.25, "trials": 60, "seed": 0}
    worth = weighted(scattered(40, 5))
    found = list(local_search(start, objective=worth, patience=patience, **how))
    waits = [len(list(run)) for better, run in itertools.groupby(found, key=lambda trial: trial.improved) if not better]
    assert max(waits[:-1], default=0) < (patience or 60)
    assert waits[-1] == patience if patience else len(found) == 60
    whole = list(local_search(start, objective=worth, **how))
    assert [trial.schedule for trial in whole[: len(found)]] == [trial.schedule for trial in found]
    with pytest.raises(ValueError, match="patience=0"):
        list(local_search(start, objective=worth, patience=0, **how))


@every_search
def test_a_search_ends_where_nothing_new_is_left(search):
    macs = counted(chain(2))  # one of three calls: only the first
    found = list(search(macs, 3, keep=0.34, objective=lambda schedule: 0.0, trials=9, seed=0))
    assert [trial.schedule.grid for trial in found] == [("##", "..", "..")]


@every_search
def test_an_objective_that_is_not_finite_is_refused(search):
    with pytest.raises(ValueError, match="trial 1 has the value nan"):
        list(search(counted(u_net()), 6, keep=0.5, objective=lambda schedule: float("nan"), trials=3, seed=0))


def test_budgets_that_cannot_be_met_are_refused():
    macs, how = counted(u_net()), {"objective": lambda schedule: 0.0, "trials": 3, "seed": 0}
    with pytest.raises(ValueError, match="the first call always runs"):
        list(random_search(macs, 50, keep=0.01, **how))
    with pytest.raises(ValueError, match="population of 1"):
        list(genetic_search(macs, 6, keep=0.5, population=1, **how))
    start = baselines.dense(macs.blocks, 6)
    with pytest.raises(ValueError, match="ask for a higher keep"):
        list(local_search(start, macs=macs, calls=6, keep=0.5, **how))
    with pytest.raises(ValueError, match="count them for the schedule's"):
        list(local_search(start, macs=counted(chain(3)), calls=6, keep=0.5, **how))
