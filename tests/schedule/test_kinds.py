"""Kinds of reuse that differ from block to block: applied, counted and saved, and chosen where they are best."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

from grids import chain, counted
from nets import executed, outputs
from reference import random_rows, reference
from secateur.denoiser import macs
from secateur.denoiser.blocks import Blocks, find_blocks, kinds, live, streams_by_name
from secateur.denoiser.of_pipe import denoiser_of
from secateur.pipeline.trajectory import record
from secateur.schedule import baselines
from secateur.schedule.allocate import allocate
from secateur.schedule.apply import apply, follow
from secateur.schedule.holds import leads
from secateur.schedule.schedule import Schedule
from secateur.schedule.scores import Scores
from secateur.searching.budget import Space, rows_of
from secateur.searching.cells import Choice, choices, kind_losses, least
from secateur.searching.local import local_search
from secateur.searching.moves import another_kind
from tiny import tiny
from tiny_pipes import PIPES, STEPS


def mixed(blocks: Blocks) -> Blocks:
    """Each block reuses by another kind than the one before it."""
    some = kinds(blocks)
    return replace(blocks, reuse=tuple(some[i % len(some)] for i in range(len(blocks))))


def test_what_blocks_can_reuse():
    assert kinds(find_blocks(tiny("sd15"), "stage")) == ("output", "extrapolate")
    assert kinds(find_blocks(tiny("flux"))) == ("residual", "output", "extrapolate")


# Applied, counted and saved


@pytest.mark.parametrize(("name", "granularity"), [("sd15", "stage"), ("dit", "layer"), ("flux", "layer")])
def test_each_block_reuses_in_its_own_way(name, granularity, tmp_path):
    net = tiny(name)
    blocks = mixed(find_blocks(net, granularity))
    for seed in range(3):
        rows = random_rows(len(blocks), STEPS, seed=seed)
        baselines.closed(blocks, rows, made={}).save(tmp_path / "s.json")
        schedule = Schedule.load(tmp_path / "s.json")
        assert schedule.reuse == blocks.reuse
        with torch.no_grad(), follow(net, schedule):
            found = outputs(net, STEPS)
        with torch.no_grad(), reference(net, schedule, streams=streams_by_name(net)):
            wanted = outputs(net, STEPS)
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["sd", "dit", "flux"])
def test_law_7_the_macs_that_executed_are_the_macs_that_were_counted(name):
    pipe, call = PIPES[name]()
    blocks = mixed(find_blocks(denoiser_of(pipe)))
    costs = macs.count(denoiser_of(pipe), size=8, tokens=5)
    schedule = baselines.closed(blocks, random_rows(len(blocks), STEPS, seed=1, share=0.8), made={})
    samples = {"sd": 2, "dit": 4, "flux": 1}[name]  # with guidance
    assert executed(pipe, call, schedule, blocks) == samples * costs.of(schedule)


# Chosen


LINEAR, JUMPING = "mid_block", "down_blocks.0"


@pytest.fixture
def planted(sd):
    """A U-Net in which one block's output grows evenly over the calls, and another's has no direction."""
    net, now = sd.unet, {}
    hook = net.register_forward_pre_hook(lambda net, args, kwargs: now.update(t=float(args[1])), with_kwargs=True)
    values = {LINEAR: lambda t: t / 100, JUMPING: lambda t: 0.3 * math.sin(t * t)}
    for name, value in values.items():
        module = net.get_submodule(name)
        module.forward = constant(module.forward, value, now)
    yield sd, record(sd, ["a fox", "blue"], seeds=[1, 2], num_inference_steps=8, guidance_scale=1.0)
    hook.remove()
    for name in values:
        del net.get_submodule(name).forward


def constant(forward, value, now):
    """A forward that gives one value all over, of the denoiser's timestep, in the shapes of another's."""
    return lambda *args, **kwargs: tree_map(lambda x: torch.full_like(x, value(now["t"])), forward(*args, **kwargs))


def test_a_planted_block_is_extrapolated_and_another_one_held(planted, tmp_path):
    pipe, trajectory = planted
    costs = macs.count(pipe.unet)
    losses = kind_losses(pipe, trajectory, costs.blocks)
    linear, jumping = map(costs.blocks.index, (LINEAR, JUMPING))
    assert losses["extrapolate"][2:, linear].sum() < 1e-3 * losses["output"][2:, linear].sum()
    assert losses["output"][:, jumping].sum() < losses["extrapolate"][:, jumping].sum()
    held, extrapolated, best = choices(pipe, trajectory, costs, losses=losses, keep=0.5)
    assert best.loss < min(held.loss, extrapolated.loss)
    reuse = dict(zip(best.schedule.blocks, best.schedule.reuse, strict=True))
    assert (reuse[LINEAR], reuse[JUMPING]) == ("extrapolate", "output")
    assert costs.keep(best.schedule) <= 0.5
    best.schedule.save(tmp_path / "s.json")
    best.scores.save(tmp_path / "s.safetensors")
    assert Schedule.load(tmp_path / "s.json") == best.schedule
    again = allocate(Scores.load(tmp_path / "s.safetensors"), keep=0.5)
    assert (again.reuse, again.grid, again.hold) == (best.schedule.reuse, best.schedule.grid, best.schedule.hold)
    with apply(pipe, Schedule.load(tmp_path / "s.json")):
        record(pipe, trajectory.conditions, seeds=trajectory.seeds, **trajectory.options)


def test_what_counts_is_what_is_reused_and_read():
    """b is reused at call 1 alone; a is dead there, since b gives its output, and runs at call 2."""
    blocks = chain(2)
    schedule = baselines.closed(blocks, [None, [False, False], [True, True]], made={})
    choice = Choice(Scores(np.zeros((3, 2)), counted(blocks)), schedule, 0.0)
    losses = {
        "output": np.array([(0.0, 0.0), (9.0, 2.0), (9.0, 0.0)]),
        "extrapolate": np.array([(0.0, 0.0), (1.0, 1.0), (1.0, 8.0)]),
    }
    assert least(losses, choice) == ("output", "extrapolate")


@pytest.mark.parametrize("start", ["output", "residual", "extrapolate"])
def test_a_move_changes_one_kind_and_stays_closed_within_the_budget(start):
    space, rng = replace(Space.of(counted(chain(4, start)), 8, keep=0.5), kinds=("residual", "output")), Random(0)
    rows = [[True] * 4, *[[True, False, True, True], [False] * 4] * 3, [True] * 4]
    before = replace(baselines.closed(space.blocks, rows, made={}), hold="extrapolate")
    found = [new for _ in range(100) if (new := another_kind(before, space, rng, 1.0))]
    assert {new.reuse.count(start) for new in found} == {3}
    changed = {i for new in found for i, kind in enumerate(new.reuse) if kind != start}
    assert changed == ({1} if start == "residual" else {0, 1})  # the others run whenever the call is entered
    for new in found:
        blocks = replace(space.blocks, reuse=new.reuse)
        assert all(live(row, blocks) == row for row in rows_of(new))
        assert space.room(rows_of(new)) >= 0
        assert new.hold == "extrapolate"
    assert not any(another_kind(before, replace(space, kinds=(start,)), rng, 1.0) for _ in range(20))
    whole = baselines.chosen(space.blocks, 8, run=[0, 3])
    assert not any(another_kind(whole, space, rng, 1.0) for _ in range(20))


def test_local_search_finds_the_kinds_that_are_worth_most():
    costs = counted(chain(4, "residual"))
    wanted = ("residual", "output", "extrapolate", "residual")
    rows = [[True] * 4, *[[False, True, False, True], [True, False, True, False]] * 3]
    start = baselines.closed(costs.blocks, rows, made={})

    def objective(schedule: Schedule) -> float:
        return sum(a == b for a, b in zip(schedule.reuse, wanted, strict=True))

    how = {"macs": costs, "calls": 7, "keep": 0.7, "objective": objective, "trials": 200, "seed": 0}
    trials = list(local_search(start, kinds=("residual", "output", "extrapolate"), **how))
    assert trials[-1].best.reuse == wanted
    for trial in trials:
        assert costs.keep(trial.schedule) <= 0.7
        blocks = replace(costs.blocks, reuse=trial.schedule.reuse)
        assert all(live(row, blocks) == row for row in rows_of(trial.schedule))
    assert {trial.schedule.reuse for trial in local_search(start, **how)} == {start.reuse}


@pytest.mark.parametrize("steps", [(3, 2, 1, 4), (1, 1, 5), (6,)])
def test_adams_bashforth_steps_by_the_mean_of_the_line(steps):
    """A line of slope 1 from each call on, of whose n steps the mean is n / 2."""
    held = [k > 0 for n in steps for k in range(n)]
    found = leads(held, "adams_bashforth")
    assert not any(leads(held, "extrapolate"))
    for start, n in zip(np.cumsum((0, *steps[:-1])), steps, strict=True):
        assert found[start] == 0
        assert n == 1 or np.mean([k + found[start + k] for k in range(n)]) == pytest.approx(n / 2)
