"""MACs agree with the published figures, with torch's own counter, and with algebra."""

from __future__ import annotations

import functools
from math import prod

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.denoiser.families import dummy_inputs, meta_twin
from secateur.denoiser.macs import Macs, count, denoiser_config, meta_denoiser
from secateur.schedule.schedule import Schedule
from tiny import SIZE, TINY, TOKENS, tiny

# Per sample, 10⁹ MACs: (convolutions and linear layers, with attention products); DiP-GO's table among them.
PUBLISHED = {
    "sd15": (338.6, 401.6),
    "sd21": (760.5, 1074.6),
    "sdxl": (2988.7, 3380.6),
    "dit-xl-2": (114.4, 118.7),
    "pixart-alpha-1024": (2140.7, 3254.8),
}
SHARES = {  # of SD-1.5's nine stages, %
    False: (9.72, 9.24, 9.28, 1.12, 1.78, 3.81, 22.18, 23.35, 19.49),
    True: (13.64, 8.51, 7.94, 0.94, 1.51, 3.21, 18.87, 20.77, 24.60),
}
PARAMETERS = {  # of the published checkpoints as diffusers holds them
    "sd15": 859_520_964,
    "sd21": 865_910_724,
    "sdxl": 2_567_463_684,
    "dit-xl-2": 749_826_464,
    "pixart-alpha-1024": 611_349_152,
    "sd3-medium": 2_028_328_000,
    "flux-dev": 11_901_408_320,
    "wan-1.3b": 1_418_996_800,
    "pixart-sigma-1024": 610_856_096,
    "sd35-large": 8_056_627_520,
    "qwen-image": 20_430_401_088,
    "wan22-14b": 14_288_491_584,  # of each of the two
    "flux2-dev": 32_223_281_152,
}
GRAINS = [*((name, None) for name in TINY), ("sd15", "layer"), ("sdxl", "layer")]


@functools.cache
def counted(name: str) -> Macs:
    return count(denoiser_config(name))


@functools.cache
def tiny_macs(name: str, granularity: str | None = None) -> Macs:
    return count(tiny(name), granularity, size=SIZE, tokens=TOKENS)


def torch_count(denoiser: nn.Module, args: dict) -> int:
    """MACs of a whole denoiser by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser(**args)
    return counter.get_total_flops() // 2


def algebra(denoiser: nn.Module, args: dict) -> int:
    """MACs of every convolution and linear layer from weight and output shapes alone."""
    total = []

    def hook(module, inputs, out):
        positions = out.numel() // (module.out_features if isinstance(module, nn.Linear) else module.out_channels)
        total.append(positions * prod(module.weight.shape))

    for module in denoiser.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(hook)
    with torch.no_grad():
        denoiser(**args)
    return sum(total)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_macs(name):
    linear, whole = PUBLISHED[name]
    assert counted(name).call() == pytest.approx(linear * 1e9, rel=0.005)
    assert counted(name).call(attention=True) == pytest.approx(whole * 1e9, rel=0.005)


@pytest.mark.parametrize("attention", [False, True])
def test_shares_of_sd15(attention):
    macs = counted("sd15")
    shares = [100 * m / macs.call(attention=attention) for m in macs.cells(attention=attention)]
    assert shares == pytest.approx(SHARES[attention], abs=0.01)


@pytest.mark.parametrize("name", ["sd15", "dit-xl-2"])
def test_blocks_and_rest_are_the_whole_at_full_size(name):
    with torch.device("meta"):
        whole = torch_count(meta_denoiser(name), dummy_inputs(denoiser_config(name)))
    assert counted(name).call(attention=True) == whole


@pytest.mark.parametrize(("name", "granularity"), GRAINS)
def test_both_conventions_agree_with_torch_and_with_algebra(name, granularity):
    denoiser = tiny(name)
    macs = tiny_macs(name, granularity)
    assert macs.call() == algebra(denoiser, dummy_inputs(denoiser, size=SIZE, tokens=TOKENS))
    with torch.device("meta"):
        args = dummy_inputs(denoiser, size=SIZE, tokens=TOKENS)
    assert macs.call(attention=True) == torch_count(meta_twin(denoiser), args)
    assert all(m > 0 for m in macs.linear)


def test_attention_of_a_dit_is_two_products_of_tokens_and_width():
    tokens, width = (8 // 2) ** 2, 2 * 8
    assert tiny_macs("dit").attention == (2 * tokens**2 * width,) * 3
    assert tiny_macs("dit").rest_attention == 0


def test_what_runs_outside_the_blocks_forward_is_rest():
    # DiT conditions its output by block 0's own embedding, called from outside that block.
    width, patches = 16, 16
    embedding = 256 * width + width**2
    ends = patches * width * (4 * 4) * 2  # 2×2 patches of 4 channels in and out
    assert tiny_macs("dit").rest_linear == embedding + ends + width * 2 * width


def test_granularities_share_one_whole():
    stage, layer = tiny_macs("sdxl", "stage"), tiny_macs("sdxl", "layer")
    assert stage.call() == layer.call()
    assert stage.call(attention=True) == layer.call(attention=True)
    assert stage.rest_linear == layer.rest_linear


def test_macs_scale_with_batch():
    one, four = tiny_macs("dit"), count(tiny("dit"), batch=4)
    assert four.linear == tuple(4 * m for m in one.linear)
    assert four.call(attention=True) == 4 * one.call(attention=True)


def test_size_is_heard():
    assert count(tiny("dit"), size=16).attention[0] == 4**2 * tiny_macs("dit").attention[0]
    assert count(tiny("sd15"), size=(8, 16)).linear[0] > tiny_macs("sd15").linear[0]


def schedule(macs: Macs, *rows: str, **changes) -> Schedule:
    blocks = macs.blocks
    given = {"blocks": blocks.names, "grid": rows, "reuse": blocks.reuse, "denoiser": blocks.denoiser}
    return Schedule(**given | changes)


@pytest.mark.parametrize("attention", [False, True])
def test_a_schedule_costs_its_live_cells_and_the_rest_of_calls_that_run(attention):
    macs = counted("sd15")
    dense = macs.call(attention=attention)
    cells, rest = macs.cells(attention=attention), macs.rest(attention=attention)
    assert macs.of(schedule(macs, "#" * 9, "#" * 9), attention=attention) == 2 * dense
    held = schedule(macs, "#" * 9, "." * 9, "." * 9, "." * 9)
    assert macs.of(held, attention=attention) == dense
    assert macs.keep(held, attention=attention) == 0.25
    outer = schedule(macs, "#" * 9, "#.......#")  # the first and the last stage
    assert macs.of(outer, attention=attention) == dense + cells[0] + cells[8] + rest


@pytest.mark.parametrize("attention", [False, True])
def test_what_an_image_takes_is_both_conventions_times_its_samples_and_a_fraction_of_the_dense_calls(attention):
    macs, other = counted("sd15"), counted("dit-xl-2")
    word, half = ("attention" if attention else "linear"), schedule(macs, "#" * 9, "." * 9)
    pruned, fewer = macs.spent(half, 2, samples=2), macs.spent(None, 5, whole=(other, 20))
    assert pruned[f"macs_{word}"] == 2 * macs.of(half, attention=attention)
    assert pruned[f"keep_{word}"] == macs.keep(half, attention=attention)
    assert fewer[f"macs_{word}"] == 5 * macs.call(attention=attention)
    assert fewer[f"keep_{word}"] == 5 * macs.call(attention=attention) / (20 * other.call(attention=attention))


def test_cells_that_nobody_reads_cost_nothing_unless_they_feed_a_residual():
    macs = counted("sd15")
    grid = ("#" * 9, "#######.#")  # up_blocks.2 reused: what feeds only it goes too
    assert macs.of(schedule(macs, *grid)) == macs.call() + macs.linear[0] + macs.linear[8] + macs.rest_linear
    residual = schedule(macs, *grid, reuse=("residual",) * 9)
    assert macs.of(residual) == 2 * macs.call() - macs.linear[7]


def test_a_schedule_for_other_blocks_is_refused():
    other = schedule(tiny_macs("dit"), "###", denoiser="PixArtTransformer2DModel")
    with pytest.raises(ValueError, match=r"the schedule is for 3 blocks of PixArt.* and the MACs are of 3 blocks of DiT"):
        tiny_macs("dit").of(other)
    with pytest.raises(ValueError, match=r"the schedule is for 7 blocks .* and the MACs are of 32 blocks"):
        tiny_macs("sdxl", "layer").of(schedule(tiny_macs("sdxl", "stage"), "#" * 7))


def test_frames_and_tokens_are_heard():
    def attention(positions: int, tokens: int) -> int:
        return 2 * 24 * positions * (positions + tokens)  # of itself and of the text, at width 24

    for frames, tokens in ((1, 5), (3, 7)):
        assert count(tiny("wan"), size=(frames, 8, 8), tokens=tokens).attention[0] == attention(frames * 16, tokens)


def test_a_configuration_counts_like_its_denoiser():
    assert count(TINY["dit"]) == tiny_macs("dit")


def test_full_size_configurations_are_listed_in_the_refusal():
    with pytest.raises(ValueError, match="no full-size configuration is called 'sd9', so choose one of") as error:
        denoiser_config("sd9")
    assert all(name in str(error.value) for name in PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_meta_denoisers_have_the_published_parameters_and_no_weights(name):
    parameters = list(meta_denoiser(name).parameters())
    assert sum(p.numel() for p in parameters) == PARAMETERS[name]
    assert all(p.is_meta for p in parameters)
