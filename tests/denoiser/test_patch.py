"""Patch, intercept and compile_blocks on small real modules."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from nets import NAMES, Net, traces
from secateur.denoiser.patch import Patch, compile_blocks, intercept, patch_of

X = torch.ones(2, 4)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().requires_grad_(False)


def just_run(t, i, run, inputs):
    return run()


def test_call_sees_every_block_and_what_it_was_given(net):
    seen = []

    def call(t, i, run, inputs):
        (x,), kwargs = inputs
        out = run()
        seen.append((t, i, x.shape, kwargs, torch.equal(out, net.layers[i].weight @ x[0] + net.layers[i].bias)))
        return out

    with Patch(net, NAMES, call) as patch:
        net(X[:1])
        net(X[:1])
        patch.restart()
        net(X[:1])
    assert [s[:2] for s in seen] == [(t, i) for t in (0, 1, 0) for i in range(3)]
    assert all(shape == (1, 4) and kwargs == {} for *_, shape, kwargs, _ in seen)


def test_what_call_returns_is_what_the_denoiser_sees(net):
    with Patch(net, NAMES[2:], lambda t, i, run, inputs: torch.full((2, 4), 7.0)):
        assert torch.equal(net(X), torch.full((2, 4), 7.0))


def test_root_can_leave_the_denoiser_unentered(net):
    entered = []
    net.layers[0].register_forward_pre_hook(lambda *_: entered.append(1))
    with Patch(net, NAMES, just_run, root=lambda t, run, inputs: "held" if t else run()):
        net(X)
        assert net(X, scale=2.0) == "held"
    assert len(entered) == 1


def test_remove_leaves_no_trace_and_may_be_repeated(net):
    before = net(X)
    patch = Patch(net, NAMES, just_run)
    assert len(traces(net)) == 4
    patch.remove()
    patch.remove()
    assert not traces(net)
    assert torch.equal(net(X), before)


def test_nothing_stays_after_an_error_inside(net):
    def fail(t, i, run, inputs):
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), Patch(net, NAMES, fail):
        net(X)
    assert not traces(net)
    assert patch_of(net) is None


def test_nothing_stays_after_an_error_while_patching(net):
    class Stubborn(nn.Linear):
        def __setattr__(self, name, value):
            if name == "forward":
                raise RuntimeError("I stay as I am")
            super().__setattr__(name, value)

    net.layers[2] = Stubborn(4, 4)
    with pytest.raises(RuntimeError, match="stay"):
        Patch(net, NAMES, just_run)
    assert not traces(net)


def test_a_forward_on_the_instance_comes_back_as_the_very_object(net):
    mine = net.layers[1].forward = lambda x: x + 1
    with Patch(net, NAMES, just_run):
        assert net.layers[1].forward is not mine
    assert net.layers[1].forward is mine


def test_a_second_patch_is_refused_and_the_first_one_stays(net):
    with Patch(net, NAMES, just_run) as patch:
        with pytest.raises(ValueError, match=r"already patched.*remove\(\)"):
            Patch(net, NAMES[:1], just_run)
        assert patch_of(net) is patch
    with Patch(net, NAMES, just_run):
        pass


def test_an_unknown_block_is_refused_before_anything_is_touched(net):
    with pytest.raises(ValueError, match=r"Net has no block named layers\.9"):
        Patch(net, ("layers.0", "layers.9"), just_run)
    assert not traces(net)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_it_survives_accelerates_hooks_and_restores_theirs(net, moment):
    """Model offload takes its hook off and puts it on again after every image."""
    from accelerate.hooks import CpuOffload, add_hook_to_module, remove_hook_from_module

    if moment == "before":
        add_hook_to_module(net, CpuOffload(execution_device="cpu"))
    theirs = vars(net).get("forward")
    seen = []
    patch = Patch(net, NAMES[:1], lambda t, i, run, inputs: seen.append(t) or run())
    for _ in range(2):
        net(X)
        remove_hook_from_module(net, recurse=True)
        net(X)
        add_hook_to_module(net, CpuOffload(execution_device="cpu"))
    assert seen == [0, 1, 2, 3]
    patch.remove()
    net(X)
    assert len(seen) == 4
    remove_hook_from_module(net, recurse=True)
    assert net.forward.__func__ is Net.forward
    assert theirs is None or moment == "before"


def test_intercept_is_for_one_instance_and_keeps_the_signature():
    class Clock:
        def step(self, by: int, *, twice: bool = False) -> int:
            return by * (1 + twice)

    mine, other = Clock(), Clock()
    handle = intercept(mine, "step", lambda original, *args, **kwargs: -original(*args, **kwargs))
    assert (mine.step(2, twice=True), other.step(2)) == (-4, 2)
    assert inspect.signature(mine.step) == inspect.signature(other.step)
    handle.remove()
    handle.remove()
    assert mine.step(2) == 2
    assert vars(mine) == {}


def test_compiled_blocks_compute_the_same_and_come_off_again(net):
    torch._dynamo.reset()
    before = net(X)
    with compile_blocks(net, NAMES, backend="eager"):
        assert torch.allclose(net(X), before)
    assert not traces(net)


def test_compiling_under_a_patch_is_refused(net):
    with Patch(net, NAMES, just_run), pytest.raises(ValueError, match="compile the blocks first"):
        compile_blocks(net, NAMES, backend="eager")
