"""Blocks are found in execution order with the edges that really exist, and the denoiser is left alone."""

from __future__ import annotations

import functools
import random

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from secateur.denoiser import blocks as finding
from secateur.denoiser.blocks import Blocks, find_blocks, live, matches, needed, trace
from secateur.denoiser.families import dummy_inputs
from secateur.denoiser.macs import Macs, count, denoiser_config
from secateur.denoiser.patch import Patch
from tiny import SIZE, TINY, TOKENS, tiny

# SD-1.5's nine stages: DiP-GO (arXiv 2410.16942), numbered as in diffusers.
D0, D1, D2, D3, MID, U0, U1, U2, U3 = range(9)
EDGES = {D1: {D0}, D2: {D1}, D3: {D2}, MID: {D3}, U0: {MID, D3, D2}, U1: {U0, D2, D1}, U2: {U1, D1, D0}, U3: {U2, D0}}
CLOSURE = {
    U3: set(range(9)),
    U2: {U2, U1, U0, MID, D3, D2, D1},
    U1: {U1, U0, MID, D3, D2},
    U0: {U0, MID, D3},
    **{b: {b} for b in (MID, D3, D2, D1, D0)},
}
GRAINS = [*((name, None) for name in TINY), ("sd15", "layer"), ("sdxl", "layer")]


@functools.cache
def blocks_of(name: str, granularity: str | None = None) -> Blocks:
    return find_blocks(tiny(name), granularity)


@functools.cache
def published(name: str, granularity: str) -> Blocks:
    return find_blocks(denoiser_config(name), granularity)


@functools.cache
def macs_of(name: str) -> Macs:
    return count(tiny(name), blocks_of(name))


def readers(denoiser: nn.Module, blocks: Blocks) -> list[set[int]]:
    """Producers by brute force: freeze every block's output, disturb one at a time, see whose inputs move."""
    args = dummy_inputs(denoiser, size=SIZE, tokens=TOKENS)
    outputs, calm, seen = {}, {}, {}

    def record(t, i, run, inputs):
        calm[i] = [x.clone() for x in tree_leaves(inputs) if torch.is_tensor(x)]
        outputs[i] = run()
        return outputs[i]

    with Patch(denoiser, blocks.names, record):
        denoiser(**args)

    def disturbed(j: int) -> set[int]:
        def replay(t, i, run, inputs):
            seen[i] = [x for x in tree_leaves(inputs) if torch.is_tensor(x)]
            return tree_map_only(torch.Tensor, lambda x: x + 1, outputs[i]) if i == j else outputs[i]

        with Patch(denoiser, blocks.names, replay):
            denoiser(**args)
        return {i for i in seen if not all(torch.equal(a, b) for a, b in zip(calm[i], seen[i], strict=True))}

    moved = [disturbed(j) for j in range(len(blocks))]
    return [{j for j in range(len(blocks)) if i in moved[j]} for i in range(len(blocks))]


@pytest.mark.parametrize(("name", "granularity"), GRAINS)
def test_edges_are_those_that_carry_a_disturbance(name, granularity):
    blocks = blocks_of(name, granularity)
    assert [set(p) for p in blocks.producers] == readers(tiny(name), blocks)
    assert blocks.sinks == (len(blocks) - 1,)


def test_stages_of_sd15_are_the_papers_nine():
    blocks = published("sd15", "stage")
    assert blocks.names == (*(f"down_blocks.{k}" for k in range(4)), "mid_block", *(f"up_blocks.{k}" for k in range(4)))
    assert {i: set(p) for i, p in enumerate(blocks.producers) if p} == EDGES
    assert blocks.sinks == (U3,)
    assert set(blocks.reuse) == {"output"}


@pytest.mark.parametrize("reused", range(9))
def test_closure_of_sd15_is_the_papers(reused):
    run = [i != reused for i in range(9)]
    assert {i for i, runs in enumerate(live(run, published("sd15", "stage"))) if not runs} == CLOSURE[reused]


def test_layers_of_sd15_are_44_with_every_skip():
    blocks = published("sd15", "layer")
    assert len(blocks) == 44

    def producers(name):
        return {blocks.names[j] for j in blocks.producers[blocks.index(name)]}

    assert producers("up_blocks.3.resnets.1") == {"down_blocks.0.attentions.0", "up_blocks.3.attentions.0"}
    assert producers("up_blocks.3.resnets.2") == {"up_blocks.3.attentions.1"}  # and conv_in, which is no block
    assert producers("up_blocks.0.resnets.2") == {"down_blocks.2.downsamplers.0", "up_blocks.0.resnets.1"}
    assert producers("mid_block.resnets.0") == {"down_blocks.3.resnets.1"}
    assert blocks.names[0] == "down_blocks.0.resnets.0"
    assert blocks.names[blocks.sinks[0]] == "up_blocks.3.attentions.2"


@pytest.mark.parametrize(
    ("name", "granularity", "length"),
    [("sdxl", "layer", 32), ("sd3-medium", "layer", 24), ("flux-dev", "layer", 57), ("wan-1.3b", "layer", 30)],
)
def test_full_size_denoisers_have_as_many_blocks(name, granularity, length):
    assert len(published(name, granularity)) == length


@pytest.mark.parametrize("name", ["dit", "pixart", "sd3", "flux", "wan"])
def test_transformers_are_chains_of_residuals(name):
    blocks = blocks_of(name)
    assert set(blocks.reuse) == {"residual"}
    assert all(i - 1 in p for i, p in enumerate(blocks.producers) if i)


def test_first_granularity_is_the_default():
    assert blocks_of("sd15").granularity == "stage"
    assert blocks_of("dit").granularity == "layer"


def cascade(run: tuple[bool, ...], blocks: Blocks) -> tuple[bool, ...]:
    """The closure as DiP-GO words it: a block without a consumer left goes, until nothing changes."""
    going = {i for i, r in enumerate(run) if not r}
    reads = {i: set(p) for i, p in enumerate(blocks.producers)}
    while True:
        kept = [i for i in range(len(blocks)) if i not in going]
        unread = {i for i in kept if i not in blocks.sinks and not any(i in reads[k] for k in kept)}
        if not unread:
            return tuple(i not in going for i in range(len(blocks)))
        going |= unread


@pytest.mark.parametrize("granularity", ["stage", "layer"])
def test_live_is_the_cascade(granularity):
    blocks, rng = blocks_of("sdxl", granularity), random.Random(0)
    for share in (0.1, 0.5, 0.9) * 20:
        run = tuple(rng.random() < share for _ in range(len(blocks)))
        assert live(run, blocks) == cascade(run, blocks)
        assert live(live(run, blocks), blocks) == live(run, blocks)


def test_reused_residuals_still_read_what_is_before_them():
    blocks = blocks_of("dit")
    assert needed((True, False, False), blocks) == (True, True, True)
    assert live((True, False, False), blocks) == (True, False, False)


def test_a_reused_output_that_nobody_reads_is_not_needed():
    blocks = published("sd15", "stage")
    run = [i != U2 for i in range(9)]
    assert {i for i, n in enumerate(needed(run, blocks)) if n} == {U3, U2, D0}


def fingerprint(denoiser: nn.Module) -> list:
    """All that tracing could leave behind: attributes, hooks, modes, weights and their places."""
    modules = [
        (n, sorted(m.__dict__), m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
        for n, m in denoiser.named_modules()
    ]
    weights = [(n, p.data_ptr(), p._version, p.requires_grad, p.device) for n, p in denoiser.named_parameters()]
    return [modules, weights, dict(denoiser.config), torch.get_rng_state().tolist(), torch.is_grad_enabled()]


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_the_denoiser_is_left_alone(name):
    denoiser = tiny(name).train().requires_grad_(True)
    before = fingerprint(denoiser)
    blocks = find_blocks(denoiser)
    count(denoiser, blocks)
    assert fingerprint(denoiser) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_grad_mode_does_not_matter(mode):
    with mode():
        assert find_blocks(tiny("sd15")) == blocks_of("sd15")


def compiled(denoiser: nn.Module) -> nn.Module:
    return torch.compile(denoiser, backend="eager")


def offloaded(denoiser: nn.Module) -> nn.Module:
    from accelerate import cpu_offload

    return cpu_offload(denoiser, execution_device=torch.device("cpu"))


def with_lora(denoiser: nn.Module) -> nn.Module:
    peft = pytest.importorskip("peft")
    denoiser.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "conv1", "proj_in"]))
    assert any("lora" in name for name, _ in denoiser.named_parameters())
    return denoiser


def with_ip_adapter(denoiser: nn.Module) -> nn.Module:
    denoiser.config.encoder_hid_dim_type = "ip_image_proj"  # what diffusers leaves behind when it loads one
    return denoiser


def in_half(denoiser: nn.Module) -> nn.Module:
    return denoiser.to(torch.bfloat16)


@pytest.mark.parametrize("dress", [compiled, offloaded, with_lora, with_ip_adapter, in_half])
def test_a_dressed_denoiser_has_the_same_blocks(dress):
    denoiser = dress(tiny("sd15"))
    assert find_blocks(denoiser) == blocks_of("sd15")
    assert count(denoiser, blocks_of("sd15")) == macs_of("sd15")


def test_blocks_are_checked_when_built():
    with pytest.raises(ValueError, match="found 2 names, 1 reuses and 2 lists of producers"):
        Blocks("Net", "layer", ("a", "b"), ("output",), ((), ()), (1,))
    with pytest.raises(ValueError, match=r"found reuse \['delta'\], wanted output or residual"):
        Blocks("Net", "layer", ("a",), ("delta",), ((),), (0,))
    with pytest.raises(ValueError, match=r"UNet2DConditionModel has no block 'up_blocks\.9' at granularity 'stage'"):
        blocks_of("sd15").index("up_blocks.9")


def test_stars_stay_within_one_component():
    assert matches("down_blocks.0", "down_blocks.*")
    assert not matches("down_blocks.0.resnets.1", "down_blocks.*")
    assert not matches("down_blocks", "down_blocks.*")


def test_an_architecture_is_traced_once_and_another_anew(monkeypatch):
    traced = []
    monkeypatch.setattr("secateur.denoiser.blocks.TRACED", {})
    monkeypatch.setattr("secateur.denoiser.blocks.trace", lambda *asked: traced.append(asked) or trace(*asked))
    assert find_blocks(tiny("dit")) == find_blocks(tiny("dit"))
    assert len(traced) == 1
    assert len(find_blocks(tiny("dit", num_layers=4))) == 4
    assert len(traced) == 2


def test_blocks_found_once_are_matched_without_building_the_architecture_again(monkeypatch):
    found = find_blocks(tiny("sdxl"), "layer")

    def build(*_):
        raise AssertionError("it was built again")

    monkeypatch.setattr(finding, "meta_twin", build)
    assert finding.matching(tiny("sdxl"), found.names) is found
    with pytest.raises(AssertionError):
        finding.matching(tiny("sdxl"), ("other",))
