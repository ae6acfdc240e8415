"""Every denoiser class of diffusers, with two layers in each list: its blocks are found, and it follows schedules of them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models import transformers, unets
from torch.utils._pytree import tree_leaves, tree_map_only

from reference import random_rows, reference
from secateur.denoiser.blocks import find_blocks, streams_by_name
from secateur.denoiser.families import FAMILIES, dummy_inputs
from secateur.schedule.apply import follow
from secateur.schedule.baselines import closed

COUNTS = re.compile(r"num_(\w+_)?(layers|blocks)|n_layers|num_attention_heads|num_heads|heads_num")
"""Arguments that say how many layers and heads there are; all else stays as the class has it."""
CHANGES: dict[str, dict[str, Any]] = {
    "LatteTransformer3DModel": {
        "in_channels": 4,
        "sample_size": 16,
        "caption_channels": 12,
        "patch_size": 2,
        "video_length": 2,
    },
    "ConsisIDTransformer3DModel": {
        "max_text_seq_length": 6,
        "sample_height": 8,
        "sample_width": 8,
        "sample_frames": 5,
    },
    "WanVACETransformer3DModel": {"vace_layers": [0, 1]},
    "AuraFlowTransformer2DModel": {"caption_projection_dim": 512},
    "SD3Transformer2DModel": {"caption_projection_dim": 128},
    "LTXVideoTransformer3DModel": {"cross_attention_dim": 128},
    "Lumina2Transformer2DModel": {"hidden_size": 192, "num_kv_heads": 1},
    "SanaTransformer2DModel": {"cross_attention_dim": 64, "num_cross_attention_heads": 2, "cross_attention_head_dim": 32},
    "ZImageTransformer2DModel": {"dim": 256, "n_heads": 2, "n_kv_heads": 2},
    "CogVideoXTransformer3DModel": {"max_text_seq_length": 6, "sample_height": 8, "sample_width": 8, "sample_frames": 5},
}
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
SIZE, TOKENS, CALLS = (2, 8, 8), 6, 4


def denoiser_classes() -> Iterator[str]:
    """Names of all denoiser classes: of the models in diffusers' transformers and U-Nets."""
    for package in (transformers, unets):
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            for name, cls in vars(module).items():
                if inspect.isclass(cls) and issubclass(cls, diffusers.ModelMixin) and cls.__module__ == module.__name__:
                    yield name


def shallow(name: str) -> dict[str, Any]:
    """A configuration of the class with two layers and two heads, and otherwise with its own defaults."""
    counts = {
        key: 2
        for key, p in inspect.signature(getattr(diffusers, name).__init__).parameters.items()
        if isinstance(p.default, int) and not isinstance(p.default, bool) and p.default > 2 and COUNTS.fullmatch(key)
    }
    return {"_class_name": name, **counts, **CHANGES.get(name, {})}


def built(config: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    net = getattr(diffusers, config["_class_name"]).from_config(config).eval().requires_grad_(False)
    for x in (*net.parameters(), *net.buffers()):
        if x.is_floating_point() and not x.any():  # gates that begin at zero would hide what a block adds
            x.normal_(std=0.02)
    return net


def calls_of(net: torch.nn.Module) -> list[dict[str, Any]]:
    """The inputs of each call, all floats at random."""
    given, generator = dummy_inputs(net, size=SIZE, tokens=TOKENS), torch.Generator().manual_seed(1)

    def noise(x):
        return torch.randn(x.shape, generator=generator) if x.is_floating_point() and x.dim() > 1 else x

    return [tree_map_only(torch.Tensor, noise, given) for _ in range(CALLS)]


def drawn(net: torch.nn.Module, calls: list[dict[str, Any]]) -> list[torch.Tensor]:
    outputs = [net(**inputs, return_dict=False) for inputs in calls]
    return [x for x in tree_leaves(outputs) if isinstance(x, torch.Tensor)]


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
