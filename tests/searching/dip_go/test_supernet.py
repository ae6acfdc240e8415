"""The SuperNet against the SubNet, the plain reference and finite differences, on real diffusers classes of tiny size."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from nets import inputs, outputs, traces
from reference import lined_rows, random_rows, reference
from secateur.denoiser.blocks import Blocks, find_blocks, live, needed, streams_by_name
from secateur.denoiser.patch import patch_of
from secateur.schedule.apply import follow
from secateur.schedule.holds import LINES
from secateur.schedule.schedule import Schedule
from secateur.searching.dip_go.supernet import cell_gates, closed, entered, supernet
from tiny import tiny
from tiny_pipes import STEPS, noise, stable_diffusion

CALLS = 6
NETS = [("sd15", "stage"), ("sd15", "layer"), ("dit", "layer"), ("sd3", "layer"), ("flux", "layer")]


@cache
def blocks_of(name: str, granularity: str, reuse: str | None = None) -> Blocks:
    blocks = find_blocks(tiny(name), granularity)
    return replace(blocks, reuse=(reuse,) * len(blocks)) if reuse else blocks


def schedule_of(blocks: Blocks, rows: list[list[bool]]) -> Schedule:
    grid = tuple("".join(".#"[run] for run in row) for row in rows)
    return Schedule(blocks=blocks.names, grid=grid, reuse=blocks.reuse, denoiser=blocks.denoiser)


def gates_of(rows) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def together(net, blocks: Blocks, rows: list[list[bool]], *, hold: str = "output") -> tuple[list[Tensor], list[Tensor]]:
    """What the SuperNet gives for a grid, and what the SubNet gives."""
    with torch.no_grad(), supernet(net, gates_of(rows), blocks, hold=hold):
        soft = outputs(net)
    with torch.no_grad(), follow(net, replace(schedule_of(blocks, rows), hold=hold), blocks=blocks):
        return soft, outputs(net)


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize(("name", "granularity", "reuse"), [*((*net, None) for net in NETS), ("dit", "layer", "output")])
def test_law_3_the_supernet_with_gates_of_0_and_1_is_the_subnet(name, granularity, reuse, closing):
    net, blocks = tiny(name), blocks_of(name, granularity, reuse)
    for seed, share in enumerate((0.35, 0.6, 0.85)):
        rows = random_rows(len(blocks), CALLS, seed=seed, share=share)
        if closing:
            rows = [list(live(row, blocks)) for row in rows]
        soft, hard = together(net, blocks, rows)
        torch.testing.assert_close(soft, hard, rtol=1e-5, atol=1e-5)
        assert torch.equal(soft[2], soft[1])  # the row without '#'
        assert all(x.isfinite().all() for x in soft)


@pytest.mark.parametrize("hold", LINES)
@pytest.mark.parametrize(("name", "granularity"), NETS)
def test_law_3_holds_where_blocks_and_held_calls_extrapolate(name, granularity, hold):
    net, blocks = tiny(name), blocks_of(name, granularity, "extrapolate")
    rows = [list(live(row, blocks)) for row in lined_rows(len(blocks))]
    soft, hard = together(net, blocks, rows, hold=hold)
    level, _ = together(net, replace(blocks, reuse=("output",) * len(blocks)), rows)
    torch.testing.assert_close(soft, hard, rtol=1e-4, atol=1e-4)
    for t in (2, 3, 5):
        assert (soft[t] - level[t]).abs().max() > 1e-3


def test_law_3_needs_the_closure():
    """A block that is told to run while nobody reads it must not renew what it gives later: the grids above have such cells."""
    net, blocks = tiny("sd15"), blocks_of("sd15", "stage")
    rows = random_rows(len(blocks), 5, seed=0)
    dead = [list(row) for row in rows]
    mid, up = blocks.index("mid_block"), blocks.index("up_blocks.0")
    dead[1] = [i != up for i in range(len(blocks))]  # mid_block runs for nobody
    dead[3] = [i != mid for i in range(len(blocks))]  # and is reused here
    rows[1], rows[3] = list(live(dead[1], blocks)), dead[3]
    assert rows[1] != dead[1]
    with torch.no_grad(), supernet(net, gates_of(dead), blocks):
        found = outputs(net, 5)
    unread = replace(blocks, sinks=tuple(range(len(blocks))))  # every block is read for ever: no closure
    with torch.no_grad(), supernet(net, gates_of(dead), unread):
        without = outputs(net, 5)
    with torch.no_grad(), follow(net, schedule_of(blocks, rows), blocks=blocks):
        wanted = outputs(net, 5)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (without[3] - wanted[3]).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "granularity"), NETS)
def test_gates_of_1_are_the_denoiser_bit_for_bit_and_the_first_row_does_not_count(name, granularity):
    net, blocks = tiny(name), blocks_of(name, granularity)
    gates = torch.ones(3, len(blocks))
    gates[0] = torch.rand(len(blocks), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), supernet(net, gates, blocks):
        found = outputs(net, 3)
    with torch.no_grad():
        assert all(map(torch.equal, found, outputs(net, 3)))


def test_a_gate_mixes_what_the_block_gives_and_the_mixture_is_what_is_reused():
    """DiP-GO's equation written out for mid_block, whose inputs do not depend on its own gate."""
    net, blocks = tiny("sd15"), blocks_of("sd15", "stage")
    gates = torch.ones(3, len(blocks))
    gates[1:, blocks.index("mid_block")] = torch.tensor([0.5, 0.25])
    given = []
    handle = net.mid_block.register_forward_hook(lambda module, args, out: given.append(out))
    with torch.no_grad():
        outputs(net, 3)
        with supernet(net, gates, blocks):
            outputs(net, 3)
    handle.remove()
    first = (given[0] + given[1]) / 2
    for found, wanted in zip(given[3:], (given[0], first, 0.25 * given[2] + 0.75 * first), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


# Gradients


def toward(found: list[Tensor]) -> Tensor:
    """One number that every element of every call matters to."""
    return sum((x * noise(50 + n, *x.shape).to(x)).sum() for n, x in enumerate(found))


@pytest.mark.parametrize(("name", "granularity", "checkpoint"), [("sd15", "stage", False), ("dit", "layer", True)])
def test_gradients_of_every_gate_are_the_finite_differences(name, granularity, checkpoint):
    net, blocks, step = tiny(name).double(), blocks_of(name, granularity), 1e-6
    gates = 0.2 + 0.6 * torch.rand(3, len(blocks), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gates.requires_grad_()
    with supernet(net, gates, blocks, checkpoint=checkpoint) as handle:
        toward(outputs(net, 3)).backward()

        @torch.no_grad()
        def loss(moved: Tensor) -> float:
            handle.gates = moved
            handle.restart()
            return toward(outputs(net, 3)).item()

        wanted = torch.zeros_like(gates)
        for cell in torch.eye(gates.numel(), dtype=torch.float64).view(-1, *gates.shape) * step:
            wanted += cell / step * (loss(gates + cell) - loss(gates - cell)) / (2 * step)
    torch.testing.assert_close(gates.grad, wanted, rtol=1e-5, atol=1e-7)
    assert not gates.grad[0].any()  # call 0 runs everything
    own = closed(gates, blocks) == gates  # not bounded by who reads the cell
    assert gates.grad[1:][own[1:]].all()


@pytest.mark.parametrize(("name", "granularity"), NETS)
def test_gates_of_0_and_1_are_reached_too(name, granularity):
    """At the corners, where a straight-through pruner stands: gates of cells that somebody reads have a gradient."""
    net, blocks = tiny(name), blocks_of(name, granularity)
    rows = random_rows(len(blocks), 4, seed=0)
    gates = gates_of(rows).requires_grad_()
    with supernet(net, gates, blocks):
        toward(outputs(net, 4)).backward()
    assert gates.grad.isfinite().all()
    for row, grad in list(zip(rows, gates.grad, strict=True))[1:]:
        assert not any(row) or grad[torch.tensor(needed(row, blocks))].all()


def test_a_held_call_has_the_gradient_of_one_that_is_entered_with_nothing_to_run():
    """A gate that nobody reads enters the call without running anything."""
    net, blocks = tiny("sd15"), blocks_of("sd15", "stage")
    held, entered = torch.ones(3, len(blocks)), torch.ones(3, len(blocks))
    held[1:], entered[1:, 1:] = 0, 0
    grads, given = [], []
    for gates in (held, entered):
        with supernet(net, gates.requires_grad_(), blocks):
            given.append(outputs(net, 3))
            toward(given[-1]).backward()
        grads.append(gates.grad)
    assert all(map(torch.equal, *given))
    torch.testing.assert_close(grads[0][1:, 2:], grads[1][1:, 2:])
    assert grads[0][1:, -1].all()


def test_the_closure_at_0_and_1_is_live_and_its_gradient_goes_to_who_left_last():
    blocks = Blocks("Net", "layer", tuple("abcd"), ("output",) * 4, ((), (0,), (0, 1), (2,)), (3,))
    for bits in range(16):
        row = [bool(bits >> i & 1) for i in range(4)]
        assert closed(gates_of([row]), blocks)[0].bool().tolist() == list(live(row, blocks))
    gates = torch.tensor([[1.0, 0.3, 0.6, 1.0]]).requires_grad_()
    cells = cell_gates(gates, blocks)
    # a is read by b (0.3) and c (0.6): it takes the gate of c, which would be the last to leave
    torch.testing.assert_close(cells, torch.tensor([[0.6, 0.3, 0.6, 1.0, 1.0]]))
    (found,) = torch.autograd.grad(cells[0, 0], gates)
    assert found.tolist() == [[0.0, 0.0, 1.0, 0.0]]
    ones = torch.ones(1, 4, requires_grad=True)  # ties, where each cell has all of its own gradient
    assert torch.equal(torch.autograd.grad(closed(ones, blocks).sum(), ones)[0], ones)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ([1.0, 1.0, 0.0], [0.0, 0.0, 0.0]),  # without either the call is still entered
        ([0.0, 1.0, 0.0], [0.0, 1.0, 0.0]),
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
        ([0.25, 0.0, 0.75], [0.0, 0.0, 1.0]),
    ],
)
def test_a_call_is_entered_by_the_largest_gate_and_for_the_sake_of_those_that_decide_it(row, wanted):
    gates = torch.tensor([row], requires_grad=True)
    found = entered(gates)
    assert found.tolist() == [max(row)]
    assert torch.autograd.grad(found.sum(), gates)[0].tolist() == [wanted]


def test_a_block_that_does_nothing_has_no_gradient():
    """Also at a call that others enter, and that is worth entering."""
    net = tiny("dit")
    blocks = find_blocks(net)
    planted = net.transformer_blocks[1].norm1.linear
    for parameter in (planted.weight, planted.bias):
        parameter.data.zero_()
    gates = gates_of([[True] * 3, [True] * 3, [True, True, False]]).requires_grad_()
    with supernet(net, gates, blocks):
        toward(outputs(net, 3)).backward()
    assert gates.grad[1:, 1].abs().max() < 1e-4 * gates.grad.abs().max()


def test_a_block_that_reuses_a_residual_still_reads():
    blocks = Blocks("Net", "layer", tuple("abc"), ("residual",) * 3, ((), (0,), (1,)), (2,))
    gates = torch.tensor([[0.2, 0.0, 0.7]])
    torch.testing.assert_close(cell_gates(gates, blocks), torch.tensor([[0.2, 0.0, 0.7, 0.7]]))


# Images


def test_gradients_flow_through_a_stock_pipeline_and_checkpointing_changes_none():
    """The pipeline's own loop without its no_grad; a second image after restart() is the first one again."""
    pipe, call = stable_diffusion()
    blocks = blocks_of("sd15", "stage")
    gates = torch.rand(STEPS, len(blocks), generator=torch.Generator().manual_seed(0)).requires_grad_()
    found, entered = [], []
    count = pipe.unet.conv_in.register_forward_hook(lambda *_: entered.append(1))
    for checkpoint in (False, True):
        with supernet(pipe.unet, gates, blocks, checkpoint=checkpoint) as handle:
            for _ in range(2):
                handle.restart()
                image = type(pipe).__call__.__wrapped__(pipe, **call).images
                found.append((image.detach(), *torch.autograd.grad(toward([image]), gates)))
    count.remove()
    own = closed(gates, blocks) == gates
    assert found[0][1][1:][own[1:]].all()
    assert all(torch.equal(image, found[0][0]) for image, _ in found)
    for _, grad in found:
        torch.testing.assert_close(grad, found[0][1], rtol=1e-5, atol=1e-6)
    assert len(entered) == 2 * STEPS + 2 * (2 * STEPS - 1)  # twice under checkpoint, but for call 0, which no gate touches


def test_calls_that_are_checkpointed_leave_next_to_nothing_for_the_way_back():
    """What autograd keeps grows with the calls by less than a tenth of what it would."""
    net, blocks = tiny("sd15"), blocks_of("sd15", "stage")
    grown = {
        checkpoint: kept_bytes(net, blocks, 8, checkpoint) - kept_bytes(net, blocks, 4, checkpoint) for checkpoint in (0, 1)
    }
    assert 0 < grown[1] < grown[0] / 10


def kept_bytes(net, blocks, calls: int, checkpoint: bool) -> int:
    """Bytes of the tensors that so many gated calls save for their gradients."""
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor):
        saved[tensor.data_ptr()] = tensor
        return tensor

    gates = torch.full((calls, len(blocks)), 0.5, requires_grad=True)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        supernet(net, gates, blocks, checkpoint=checkpoint),
    ):
        toward(outputs(net, calls))
    return sum(tensor.nbytes for tensor in saved.values())


def test_guidance_in_two_calls_reuses_each_its_own():
    """Two branches in one loop are two loops of one."""
    net, blocks = tiny("wan"), find_blocks(tiny("wan"))
    rows = random_rows(len(blocks), 4, seed=3)
    order = [n for t in range(4) for n in (t, 10 + t)]
    with torch.no_grad(), supernet(net, gates_of(rows), blocks, branches=2):
        both = [net(**inputs(net, n)).sample for n in order]
    schedule = schedule_of(blocks, rows)
    with torch.no_grad():
        for branch, start in enumerate((0, 10)):
            with reference(net, schedule, streams=streams_by_name(net)):
                torch.testing.assert_close(both[branch::2], outputs(net, 4, start=start), rtol=1e-5, atol=1e-5)


def test_bfloat16_residuals_do_not_drift():
    """Reused for long, in a dtype of 8 bits, what a block adds is the very same thing as in the SubNet."""
    net, blocks = tiny("dit").bfloat16(), blocks_of("dit", "layer")
    rows = [[True] * len(blocks)] + 11 * [[True] + [False] * (len(blocks) - 1)]
    with torch.no_grad(), supernet(net, gates_of(rows), blocks):
        soft = outputs(net, 12)
    with torch.no_grad(), follow(net, schedule_of(blocks, rows), blocks=blocks):
        assert all(map(torch.equal, soft, outputs(net, 12)))


# Leaving


@pytest.mark.parametrize("fails", [False, True])
def test_remove_leaves_no_trace_also_after_an_exception(fails):
    net, blocks = tiny("sd15"), blocks_of("sd15", "layer")
    dense = outputs(net, 2)
    try:
        with supernet(net, torch.ones(2, len(blocks)), blocks) as handle:
            assert len(traces(net)) == len(blocks) + 1
            outputs(net, 1)
            if fails:
                net(**inputs(net, 0) | {"encoder_hidden_states": noise(0, 1, 5, 3)})
    except RuntimeError:
        assert fails
    handle.remove()
    assert not traces(net)
    assert patch_of(net) is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(map(torch.equal, outputs(net, 2), dense))


def test_restart_after_an_image_that_failed_starts_afresh():
    net, blocks = tiny("dit"), blocks_of("dit", "layer")
    gates = torch.full((3, len(blocks)), 0.5)
    with torch.no_grad(), supernet(net, gates, blocks) as handle:
        fresh = outputs(net, 3)
        with pytest.raises(ValueError, match="found call 4 and gates for 3 calls"):
            outputs(net, 1)
        handle.restart()
        outputs(net, 2, start=7)
        handle.restart()
        assert all(map(torch.equal, outputs(net, 3), fresh))


# What is refused


def refused(gates=None, blocks: Blocks | None = None, **options):
    net = tiny("dit")
    blocks = blocks or blocks_of("dit", "layer")
    supernet(net, torch.ones(2, len(blocks)) if gates is None else gates, blocks, **options)


@pytest.mark.parametrize(
    ("gates", "says"),
    [
        (torch.ones(2, 4), r"shape \(2, 4\), wanted floats of shape \(T, 3\)"),
        (torch.ones(3), r"shape \(3,\)"),
        (torch.ones(0, 3), r"shape \(0, 3\)"),
        (torch.ones(2, 3, dtype=torch.bool), "torch.bool gates"),
        (torch.full((2, 3), 1.5), "from 1.5 to 1.5"),
        (torch.full((2, 3), float("nan")), "from nan"),
    ],
)
def test_gates_that_do_not_fit_are_refused(gates, says):
    with pytest.raises(ValueError, match=says):
        refused(gates)


def test_other_blocks_and_no_branches_are_refused():
    with pytest.raises(ValueError, match="of a UNet2DConditionModel for a DiTTransformer2DModel"):
        refused(blocks=blocks_of("sd15", "stage"))
    with pytest.raises(ValueError, match="branches=0"):
        refused(branches=0)


def test_other_shapes_without_a_restart_are_refused():
    net, blocks = tiny("dit"), blocks_of("dit", "layer")
    with torch.no_grad(), supernet(net, torch.full((3, len(blocks)), 0.5), blocks):
        net(**inputs(net, 0))
        with pytest.raises(ValueError, match="restart"):
            net(**inputs(net, 1, batch=2))


def test_what_was_changed_in_place_is_refused():
    net, blocks = tiny("sd15"), blocks_of("sd15", "stage")

    def spoil(module, args, kwargs):
        kwargs["hidden_states"].add_(1)

    handle = net.up_blocks[0].register_forward_pre_hook(spoil, with_kwargs=True)
    half = torch.full((2, len(blocks)), 0.5)
    with (
        torch.no_grad(),
        supernet(net, half, blocks),
        pytest.raises(RuntimeError, match="the output of mid_block was changed in place"),
    ):
        outputs(net, 2)
    handle.remove()


def test_removing_before_a_recomputation_is_refused():
    net, blocks = tiny("dit"), blocks_of("dit", "layer")
    gates = torch.full((2, len(blocks)), 0.5, requires_grad=True)
    with supernet(net, gates, blocks, checkpoint=True):
        loss = toward(outputs(net, 2))
    with pytest.raises(RuntimeError, match=r"call backward\(\) first"):
        loss.backward()
