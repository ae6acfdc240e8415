"""What partial calls say and cost, against the denoiser run by hand and the pipelines themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from secateur.denoiser import macs
from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.of_pipe import denoiser_of
from secateur.denoiser.patch import intercept
from secateur.pipeline.trajectory import record
from secateur.schedule.apply import apply, follow
from secateur.schedule.baselines import closed
from secateur.schedule.holds import HOLDS
from secateur.searching import additive, paths, refresh
from secateur.searching import ladder as ladders
from tiny_pipes import stable_diffusion
from trajectories import after, conditions_of, recorded

T = 8


def half(blocks) -> tuple[bool, ...]:
    """A closed row of some blocks."""
    wanted = [k < len(blocks) / 3 or k >= len(blocks) * 2 / 3 for k in range(len(blocks))]
    return closed(blocks, [None, wanted], made={}).runs(1)


def test_a_partial_call_says_what_a_loop_by_hand_says(told):
    pipe, trajectory = told
    net = denoiser_of(pipe)
    blocks = find_blocks(net)
    row = half(blocks)
    found = refresh.partial_outputs(pipe, trajectory, blocks, row, reach=2)
    assert torch.equal(found[:, 0], trajectory.outputs)
    assert found[1, 2].isnan().all()
    for s, gap in ((1, 1), (4, 1), (2, 2), (4, 2)):
        schedule = refresh.mixed(blocks, 2, whole=[0], partial=[1], row=row)
        with torch.no_grad(), follow(net, schedule, blocks=blocks):
            for k in (s - gap, s):
                step = torch.full((len(trajectory.seeds),), int(trajectory.timesteps[k]))
                out = net(trajectory.latents[k], timestep=step, **conditions_of(pipe, trajectory), return_dict=False)[0]
        wanted = out[:, : trajectory.outputs.shape[2]]
        torch.testing.assert_close(found[s, gap], wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(wanted, trajectory.outputs[s], atol=1e-5)


@pytest.mark.parametrize("hold", HOLDS)
def test_an_update_from_a_partial_call_lands_where_the_pipeline_does(hold):
    """Whole but for a call that is partial, and held after it: that far the latents are dense, and so the error is exact."""
    pipe, call = stable_diffusion()
    trajectory, blocks, s, t = recorded(pipe, call, T), find_blocks(pipe.unet), 4, 7
    row, ladder = half(blocks), ladders.held(trajectory, pipe.scheduler, hold=hold)
    predictions = outputs_by_run(pipe, call, blocks, row, s)
    whole = refresh.mixed(blocks, T, whole=[*range(s), *range(t, T)], partial=[s], row=row)
    landed = after(pipe, call, replace(whole, hold=hold), T)[t - 1].double().flatten()
    told_by = torch.full((T, 2, ladder.x.shape[1]), torch.nan, dtype=torch.float64)
    told_by[:, 0], told_by[s, 1] = ladder.y, predictions.double().flatten()
    weights = np.ones(T + 1)
    found = refresh.updates(ladder, told_by, weights=weights)
    error = found.partial[s][found.states[s].index((s - 1, s - 1)), t - s - 1]
    assert error == pytest.approx(float((landed - ladder.x[t]).pow(2).mean()), rel=1e-3)


def outputs_by_run(pipe, call, blocks, row, s):
    """What the scheduler is told at call s where it alone is partial."""
    schedule = refresh.mixed(blocks, T, whole=[k for k in range(T) if k != s], partial=[s], row=row)
    with apply(pipe, schedule):
        return recorded(pipe, call, T).outputs[s]


def test_with_whole_calls_alone_the_updates_are_those_of_the_additive_search():
    pipe, call = stable_diffusion()
    ladder = ladders.held(recorded(pipe, call, T), pipe.scheduler, hold="extrapolate")
    predictions = torch.full((T, 1, ladder.x.shape[1]), torch.nan, dtype=torch.float64)
    predictions[:, 0] = ladder.y
    weights = ladders.in_latents(ladder)
    found = paths.best(refresh.updates(ladder, predictions, weights=weights), costs=(1, 1), limit=4)
    wanted = min(additive.solve(additive.local_errors(ladder), calls=4), key=lambda solution: solution.error)
    assert found.levels == wanted.levels
    assert found.error == pytest.approx(wanted.error)


def by_hand(ladder, path, weights) -> float:
    """The mean square of the errors of a path of whole calls, added up as vectors."""
    before, then = (0, *path.levels[:-1]), (*path.levels[1:], len(ladder))
    total = torch.zeros_like(ladder.x[0])
    for u, s, t in zip(before, path.levels, then, strict=True):
        landed = ladder.carry[s, t] * ladder.x[s] + ladder.gain[s, t] * ladder.y[s]
        landed = landed + ladder.bend[u, s, t] * (ladder.y[s] - ladder.y[u])
        total = total + (landed - ladder.x[t]) * weights[t] ** 0.5
    return float(total.pow(2).mean())


@pytest.mark.parametrize("hold", HOLDS)
def test_a_polished_path_is_one_that_no_small_move_betters(hold):
    pipe, call = stable_diffusion()
    ladder = ladders.held(recorded(pipe, call, T), pipe.scheduler, hold=hold)
    weights = ladders.in_latents(ladder) * np.linspace(1, 2, T + 1)
    start = paths.of_whole_calls((0, 4, 6, 7), 0.0)
    found = refresh.polished(ladder, start, weights=weights)
    assert found.error == pytest.approx(by_hand(ladder, found, weights))
    assert found.error < by_hand(ladder, start, weights)
    around = paths.neighbours(found, levels=T)
    assert found.error <= min(by_hand(ladder, path, weights) for path in around) * (1 + 1e-5)


def test_rows_of_partial_calls_are_closed_and_within_their_share(told):
    pipe, trajectory = told
    counted = macs.count(denoiser_of(pipe))
    found = refresh.partial_rows(pipe, trajectory, counted)
    assert found
    for row in found:
        assert closed(counted.blocks, [None, row], made={}).runs(1) == row
        assert macs.row_macs(row, counted.cells(), counted.rest()) <= max(refresh.SHARES) * counted.call()


def test_law_8_a_block_that_does_nothing_is_left_out_of_partial_calls(told):
    pipe, trajectory = told
    net, asked = denoiser_of(pipe), trajectory.conditions
    blocks = find_blocks(net)
    i = 0 if "output" in blocks.reuse else len(blocks) // 2  # of those that run otherwise

    def constant(original, *args, **kwargs):
        out = original(*args, **kwargs)
        still = {"residual": args[0] if args else kwargs["hidden_states"], "output": None}[blocks.reuse[i]]
        return zeros_like(out) if still is None else still

    handle = intercept(net.get_submodule(blocks.names[i]), "forward", constant)
    try:
        planted = record(pipe, asked, seeds=trajectory.seeds, num_inference_steps=5, guidance_scale=1.0)
        found = refresh.partial_rows(pipe, planted, macs.count(net))
    finally:
        handle.remove()
    assert found
    assert not any(row[i] for row in found)
    assert any(row[i] for row in refresh.partial_rows(pipe, trajectory, macs.count(net)))  # as it is, it does something


def zeros_like(nest):
    """Zeros of the same nest of tensors."""
    return torch.utils._pytree.tree_map(torch.zeros_like, nest)
