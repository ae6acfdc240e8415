"""What reusing one cell costs, against running the whole denoiser by hand on the trajectory's latents."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_map

from secateur.denoiser import macs
from secateur.denoiser.blocks import find_blocks, without
from secateur.denoiser.of_pipe import denoiser_of
from secateur.pipeline.trajectory import record
from secateur.schedule.apply import follow
from secateur.searching import cells
from trajectories import conditions_of

CALLS = 5


def test_a_cell_costs_what_a_loop_by_hand_says(told):
    pipe, trajectory = told
    net = denoiser_of(pipe)
    blocks = find_blocks(net)
    found = cells.reuse_losses(pipe, trajectory, blocks)
    assert found.shape == (CALLS, len(blocks))
    assert not found[0].any()
    i, t = len(blocks) // 2, 3
    prediction = by_hand(net, pipe, trajectory, blocks, i, t)
    wanted = float((prediction - trajectory.outputs[t]).double().pow(2).mean())
    assert found[t, i] == pytest.approx(wanted, rel=1e-3)
    assert wanted > 0


def by_hand(net, pipe, trajectory, blocks, i, t):
    """The denoiser's output at call t when block i alone gives what it gave at call t − 1."""
    schedule = cells.reusing(blocks, i, calls=2, cells=range(1, 2))
    conditions = conditions_of(pipe, trajectory)
    with torch.no_grad(), follow(net, schedule, blocks=blocks):
        for k in (t - 1, t):
            step = torch.full((len(trajectory.seeds),), int(trajectory.timesteps[k]))
            out = net(trajectory.latents[k], timestep=step, **conditions, return_dict=False)[0]
    return out[:, : trajectory.outputs.shape[2]]


def test_scores_make_every_closure_cost_what_its_head_does(told):
    pipe, trajectory = told
    counted = macs.count(denoiser_of(pipe))
    losses = cells.reuse_losses(pipe, trajectory, counted.blocks)
    scores = cells.cell_scores(pipe, trajectory, counted, losses=losses)
    assert scores.values.shape == (CALLS, len(counted.blocks))
    for i, loss in enumerate(losses[3]):
        row = without((True,) * len(counted.blocks), i, counted.blocks)
        closure = [k for k, runs in enumerate(row) if not runs]
        assert i in closure
        assert scores.values[3, closure].sum() == pytest.approx(loss, rel=1e-3, abs=1e-9)


def test_law_8_a_block_that_says_the_same_at_every_call_costs_nothing(told):
    pipe, trajectory = told
    net = denoiser_of(pipe)
    blocks = find_blocks(net)
    planted = net.get_submodule(blocks.names[1])
    before = planted.forward
    planted.forward = lambda *args, **kwargs: still(before(*args, **kwargs), args if "residual" in blocks.reuse else ())
    try:
        again = record(pipe, trajectory.conditions, seeds=trajectory.seeds, **trajectory.options)
        losses = cells.reuse_losses(pipe, again, blocks).max(axis=0)
        counted, kinds = macs.count(net), cells.kind_losses(pipe, again, blocks)
        without = 1 - (CALLS - 1) / CALLS * counted.linear[1] / counted.call() + 1e-6
        [made, *_] = cells.choices(pipe, again, counted, losses=kinds, keep=without)
    finally:
        del planted.forward
    assert losses[1] < 1e-3 * sorted(losses)[1]
    assert [row[1] for row in made.schedule.grid[1:]] == ["."] * (CALLS - 1)


def still(out, inputs: tuple):
    """Ones of the shape of what a block gives, added to its input where it reuses a residual."""
    ones = tree_map(lambda x: torch.ones_like(x) if torch.is_tensor(x) else x, out)
    return ones + inputs[0] if inputs else ones
