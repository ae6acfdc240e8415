"""What partial calls say and cost, against the denoiser run by hand and the pipelines themselves."""

from __future__ import annotations

import torch

from secateur.denoiser import macs
from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.of_pipe import denoiser_of
from secateur.denoiser.patch import intercept
from secateur.pipeline.trajectory import record
from secateur.schedule.apply import follow
from secateur.schedule.baselines import closed
from secateur.searching import paths, refresh
from trajectories import conditions_of


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
        schedule = closed(blocks, [None, row], made={})
        with torch.no_grad(), follow(net, schedule, blocks=blocks):
            for k in (s - gap, s):
                step = torch.full((len(trajectory.seeds),), int(trajectory.timesteps[k]))
                out = net(trajectory.latents[k], timestep=step, **conditions_of(pipe, trajectory), return_dict=False)[0]
        wanted = out[:, : trajectory.outputs.shape[2]]
        torch.testing.assert_close(found[s, gap], wanted, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(wanted, trajectory.outputs[s], atol=1e-5)


def test_a_path_is_a_schedule_of_its_calls(told):
    pipe, trajectory = told
    blocks = find_blocks(denoiser_of(pipe))
    row, path = half(blocks), paths.Path((0, 2, 3), (True, False, True), 0.5)
    found = refresh.path_schedule(path, trajectory.timesteps, blocks, row, weights="even")
    assert found.timesteps == tuple(trajectory.timesteps[t] for t in (0, 2, 3))
    assert [found.runs(t) for t in range(3)] == [(True,) * len(blocks), row, (True,) * len(blocks)]
    assert dict(found.made) == {"method": "refresh", "predicted_error": 0.5, "weights": "even"}


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
