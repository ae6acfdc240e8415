"""Gates that begin where they should, with the straight-through gradient, from an encoder that works."""

from __future__ import annotations

import pytest
import torch

from secateur.schedule.schedule import Schedule
from secateur.searching.dip_go.pruner import Attention, Pruner

T, L, D = 5, 3, 16


def pruner(**options) -> Pruner:
    return Pruner(T, L, **({"width": D} | options))


def stirred(**options) -> Pruner:
    """A Pruner whose last layers have weights, as after some updates."""
    found = pruner(**options)
    torch.nn.init.normal_(found.heads.last_weight, generator=torch.Generator().manual_seed(1))
    return found


def schedule(*rows: str) -> Schedule:
    return Schedule(blocks=tuple("abc"), grid=rows, reuse=("output",) * 3, denoiser="Net")


START = schedule("###", "#.#", "...", "##.", "###")


@pytest.mark.parametrize("encoder", ["attention", "linear"])
def test_every_gate_keeps_at_the_start(encoder):
    found = pruner(encoder=encoder)
    assert torch.equal(found.gates(), torch.ones(T, L))
    keep = torch.sigmoid(torch.tensor(1.0)).item()  # softmax of (0, 1)
    torch.testing.assert_close(found.importance(), torch.cat((torch.ones(1, L), torch.full((T - 1, L), keep))))
    assert found.queries.shape == (T - 1, L, D)


def test_the_gates_begin_at_a_schedule_and_the_cells_it_reuses_have_a_gradient():
    found = pruner(start=START)
    assert ["".join(".#"[int(g)] for g in row) for row in found.gates()] == list(START.grid)
    found.gates().sum().backward()
    assert found.heads.last_bias.grad.all()


def test_the_gradient_of_a_gate_is_that_of_its_score_and_call_0_has_none():
    weights = torch.randn(T, L, generator=torch.Generator().manual_seed(0))
    hard, soft = stirred(), stirred()
    gates = hard.gates()
    assert set(gates.flatten().tolist()) == {0.0, 1.0}  # without any rounding
    (gates * weights).sum().backward()
    (soft.scores()[..., 1] * weights[1:]).sum().backward()
    for one, other in zip(hard.parameters(), soft.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    moved = (gates.detach()[1:] == (soft.scores()[..., 1] >= 0.5)).all()
    assert moved


@pytest.mark.parametrize("encoder", ["attention", "linear"])
def test_what_a_cell_depends_on(encoder):
    """With attention on every query of its own call, else on its own alone; never on another call's."""
    found = stirred(encoder=encoder, width=64)  # wide enough that no cell's layers are dead
    for t in range(T - 1):
        for i in range(L):
            (grad,) = torch.autograd.grad(found.scores()[t, i, 1], found.queries)
            seen = grad.abs().amax(dim=-1) > 0
            wanted = torch.zeros(T - 1, L, dtype=torch.bool)
            wanted[t, :] = encoder == "attention"
            wanted[t, i] = True
            assert torch.equal(seen, wanted)


def test_attention_is_softmax_over_the_blocks_of_one_call():
    net, x = Attention(D), torch.randn(T, L, D, generator=torch.Generator().manual_seed(0))
    weights = (net.query(x) @ net.key(x).mT / (D // 4) ** 0.5).softmax(dim=-1)
    middle = torch.nn.functional.layer_norm(x + weights @ net.value(x), (D,))
    wanted = torch.nn.functional.layer_norm(middle + net.feed_forward(middle), (D,))
    torch.testing.assert_close(net(x), wanted)


def test_every_cell_has_a_head_of_its_own():
    found = stirred()
    (grad,) = torch.autograd.grad(found.scores()[2, 1, 1], found.heads.weight)
    touched = grad.flatten(2).any(dim=2)
    assert touched[2, 1]
    assert touched.sum() == 1


def test_a_seed_is_a_pruner_and_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = pruner(seed=1), pruner(seed=1), pruner(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.queries, same.queries)
    assert not torch.equal(one.queries, other.queries)


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((1, L), {}, "found 1 calls of 3 blocks"),
        ((T, 0), {}, "5 calls of 0 blocks"),
        ((T, L), {"encoder": "lstm"}, "encoder 'lstm' and width 512"),
        ((T, L), {"width": 2}, "width 2"),
        ((T + 1, L), {"start": START}, "5 calls of 3 blocks and the search 6 of 3"),
    ],
)
def test_what_makes_no_pruner_is_refused(arguments, options, says):
    with pytest.raises(ValueError, match=says):
        Pruner(*arguments, **options)
