"""Which denoiser classes of diffusers follow schedules: each one, shallow and with random weights, is tried."""

import importlib
import inspect
import pkgutil
import re
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import diffusers
import torch
from diffusers.models import transformers, unets
from diffusers.utils import logging
from torch.utils._pytree import tree_leaves, tree_map_only

from secateur.denoiser.blocks import Blocks, find_blocks
from secateur.denoiser.families import FAMILIES, dummy_inputs
from secateur.schedule.apply import follow
from secateur.schedule.baselines import chosen, dense
from study import Job, Row, Run, Study

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
SIZE, TOKENS, CALLS = (2, 8, 8), 6, 4


def denoiser_classes() -> Iterator[str]:
    """Names of all denoiser classes: of the models in diffusers' transformers and U-Nets."""
    for package in (transformers, unets):
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            for name, cls in list(vars(module).items()):
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
    given, generator = (
        dummy_inputs(net, size=SIZE[-1] if type(net).__name__ in FAMILIES else SIZE, tokens=TOKENS),
        torch.Generator().manual_seed(1),
    )

    def noise(x):
        return torch.randn(x.shape, generator=generator) if x.is_floating_point() and x.dim() > 1 else x

    return [tree_map_only(torch.Tensor, noise, given) for _ in range(CALLS)]


def drawn(net: torch.nn.Module, calls: list[dict[str, Any]]) -> list[torch.Tensor]:
    outputs = [net(**inputs, return_dict=False) for inputs in calls]
    return [x for x in tree_leaves(outputs) if isinstance(x, torch.Tensor)]


def jobs(run: Run) -> Iterator[Job]:
    """A row for each denoiser class."""
    logging.set_verbosity_error()
    for name in denoiser_classes():
        yield Job(name, partial(row, name))


@torch.no_grad()
def row(name: str) -> Row:
    """How many blocks are found, and what following them does to a net's outputs; or why that is refused."""
    found: Row = {"declared": name in FAMILIES}
    with warnings.catch_warnings(action="ignore"):
        try:
            blocks = find_blocks(shallow(name))
        except Exception as error:  # whatever a class raises
            return found | {"why": short(error)}
        if not len(blocks):
            return found | {"why": "it has no blocks"}
        found |= {"blocks": len(blocks), "reuse": blocks.reuse[0]}
        try:
            return found | followed(name, blocks)
        except Exception as error:
            return found | {"untried": short(error)}


def followed(name: str, blocks: Blocks) -> Row:
    """Whether a dense schedule changes no bit, and whether one that leaves out half of the calls is finite and another."""
    net = built(shallow(name))
    calls, outputs = calls_of(net), []
    plain = drawn(net, calls)
    for schedule in (dense(blocks, CALLS), chosen(blocks, CALLS, run=range(0, CALLS, 2))):
        with follow(net, schedule):
            outputs.append(drawn(net, calls))
    exact, held = (all(map(torch.equal, found, plain)) for found in outputs)
    return {"exact": exact, "holds": not held and all(bool(x.isfinite().all()) for x in outputs[1])}


def short(error: Exception) -> str:
    """The reason in an error, in a line."""
    text = " ".join(str(error).split())
    return (re.search(r"can be found out about \((.*)\), so declare", text) or re.search("(.*)", text))[1][:160]


STUDIES = (Study("families", "Which denoiser classes of diffusers follow schedules", jobs, head={"options": {"calls": CALLS}}),)
