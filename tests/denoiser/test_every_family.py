"""Every denoiser class of diffusers, with two layers in each list: its blocks are found, and it follows schedules of them."""

from __future__ import annotations

import re

import pytest
import torch

from reference import random_rows, reference
from secateur.denoiser.blocks import find_blocks, streams_by_name
from secateur.denoiser.families import FAMILIES
from secateur.schedule.apply import follow
from secateur.schedule.baselines import closed
from studies.families import CALLS, built, calls_of, denoiser_classes, drawn, shallow

SAMPLE = (
    "AuraFlowTransformer2DModel",
    "Flux2Transformer2DModel",
    "HunyuanVideoTransformer3DModel",
    "LTXVideoTransformer3DModel",
    "Lumina2Transformer2DModel",
    "MochiTransformer3DModel",
    "QwenImageTransformer2DModel",
    "SanaTransformer2DModel",
    "ZImageTransformer2DModel",
)


def check(name: str) -> None:
    config = shallow(name)
    blocks = find_blocks(config)
    net = built(config)
    calls, full = calls_of(net), [[True] * len(blocks)] * CALLS
    plain = drawn(net, calls)
    assert all(x.isfinite().all() for x in plain)
    dense, schedule = (closed(blocks, rows, made={}) for rows in (full, random_rows(len(blocks), CALLS, seed=2, share=0.5)))
    streams = streams_by_name(config)
    with follow(net, dense):
        assert all(map(torch.equal, drawn(net, calls), plain))
    with follow(net, schedule):
        ours = drawn(net, calls)
    with reference(net, schedule, streams=streams):
        theirs = drawn(net, calls)
    torch.testing.assert_close(ours, theirs)
    assert not all(map(torch.equal, ours, plain))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:In CPU autocast")  # of diffusers' own code
@pytest.mark.parametrize("name", SAMPLE)
def test_a_class_without_a_row_follows_schedules(name):
    check(name)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in denoiser_classes() if name not in {*SAMPLE, *FAMILIES}])
def test_every_class_follows_schedules_or_is_refused_by_name(name):
    try:
        find_blocks(shallow(name))
    except ValueError as error:
        assert re.match(rf"{name} .*FAMILIES\[\"{name}\"\] = secateur\.Family", str(error))  # noqa: PT017
    else:
        check(name)


@pytest.mark.parametrize("name", ["T5FilmDecoder", "Cosmos3OmniTransformer"])
def test_what_is_not_found_out_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name} is not among .*nothing is known of the argument.*FAMILIES\[.{name}.\]"):
        find_blocks(shallow(name))


STREAMS = {
    "SD3Transformer2DModel": {("encoder_hidden_states", "hidden_states"), (None, "hidden_states")},
    "FluxTransformer2DModel": {("encoder_hidden_states", "hidden_states")},
    "AuraFlowTransformer2DModel": {("encoder_hidden_states", "hidden_states"), ("hidden_states",)},
    "MochiTransformer3DModel": {("hidden_states", "encoder_hidden_states")},
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_what_the_blocks_return(name):
    assert set(streams_by_name(shallow(name)).values()) == STREAMS[name]
