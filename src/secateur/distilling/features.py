"""Features: outputs of the teacher's and the student's blocks, compared in pairs. LAPTOP-Diff (arXiv 2404.11098)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.denoiser.blocks import streams_by_name
from secateur.denoiser.families import bare, class_name, dummy_inputs, family
from secateur.denoiser.patch import Inputs, Patch, Run
from secateur.pruning.plan import Plan
from secateur.pruning.student import Passage
from secateur.pruning.surgery import alike

SIZE, TOKENS = 8, 8  # of the inputs whose shapes are compared
STREAM = "hidden_states"  # the stream to compare, among those that a block continues


def sites(teacher: nn.Module, student: nn.Module, *, plan: Plan | None = None) -> dict[str, str]:
    """Module of the student → module of the teacher; their outputs are compared.

    U-Nets are compared at every stage, down_blocks.*, mid_block and up_blocks.*, as in the paper. Stages between removed
    samplers are left out, because their features are larger than the teacher's (BK-SDM Tiny). Transformers are compared at
    every block of the student. A block stands for itself and for the removed blocks behind it, so its partner is the last
    of them (ours). Raises ValueError if the removed blocks are unknown, or if the plan is another student's.

    plan: says which blocks were removed; without it, an untrained student's blocks are known by their weights.
    """
    teacher, student = bare(teacher), bare(student)
    for name in family(teacher).depths or ("down_blocks", "up_blocks"):
        if not hasattr(student, name):
            raise ValueError(
                f"found a {class_name(student)} without {name} for a {class_name(teacher)} with it: give the teacher that the "
                "student was cut from"
            )
    if not family(teacher).depths:
        theirs = resolutions(teacher)
        return {name: name for name, level in resolutions(student).items() if theirs.get(name) == level}
    return {mine: theirs for name in family(teacher).depths for mine, theirs in partners(teacher, student, name, plan)}


def named_sites(text: str) -> dict[str, str]:
    """The sites in a text such as "mid_block, up_blocks.0 = up_blocks.1": the student's module, then the teacher's."""
    pairs = [[name.strip() for name in pair.split("=")] for pair in text.split(",")]
    if any(len(pair) > 2 or not all(pair) for pair in pairs) or len({pair[0] for pair in pairs}) < len(pairs):
        raise ValueError(f"found sites {text!r}: give each module of the student once, as NAME or NAME=TEACHER, with commas")
    return {pair[0]: pair[-1] for pair in pairs}


def stages(unet: nn.Module) -> list[str]:
    """The stages of a U-Net by name, in execution order."""
    lists = {
        name: [f"{name}.{k}" for k, _ in unet.get_submodule(name).named_children()] for name in ("down_blocks", "up_blocks")
    }
    middle = ["mid_block"] if isinstance(getattr(unet, "mid_block", None), nn.Module) else []
    return [*lists["down_blocks"], *middle, *lists["up_blocks"]]


def resolutions(unet: nn.Module) -> dict[str, int]:
    """Stage → how often its output was scaled down, minus how often up."""
    level, levels = 0, {}
    for name in stages(unet):
        for kind, step in (("downsamplers", 1), ("upsamplers", -1)):
            level += step * sum(not isinstance(m, Passage) for m in getattr(unet.get_submodule(name), kind, None) or ())
        levels[name] = level
    return levels


def partners(teacher: nn.Module, student: nn.Module, name: str, plan: Plan | None) -> list[tuple[str, str]]:
    """(block of the student, block of the teacher) for one list of blocks."""
    theirs, mine = (list(net.get_submodule(name).children()) for net in (teacher, student))
    if plan is not None or len(theirs) == len(mine):
        stays = [k for k in range(len(theirs)) if plan is None or f"{name}.{k}" not in plan.layers]
    else:
        stays = copied(theirs, mine)
    if len(stays) != len(mine):
        raise ValueError(
            f"the student has {len(mine)} {name} and {len(stays)} of the teacher's {len(theirs)} are known to stay: give the "
            "plan that the student was cut by, or the sites themselves"
        )
    ends = [after - 1 for after in (*stays[1:], len(theirs))]
    return [(f"{name}.{k}", f"{name}.{end}") for k, end in enumerate(ends)]


def copied(theirs: Sequence[nn.Module], mine: Sequence[nn.Module]) -> list[int]:
    """Indices of the teacher's blocks that an untrained student has, matched by their weights (ours)."""
    left = list(mine)
    return [k for k, block in enumerate(theirs) if left and alike(block, left[0]) and left.pop(0)]


@contextmanager
def captured(denoiser: nn.Module, names: list[str], *, place: int = 0) -> Iterator[dict[str, Tensor]]:
    """A mapping that each call of the denoiser fills: name of a module → its hidden states.

    The denoiser is as before afterwards. Raises ValueError if it lacks a module, or if a schedule is applied to it. place:
    see `stream_place`.
    """
    features: dict[str, Tensor] = {}

    def call(t: int, i: int, run: Run, inputs: Inputs) -> Any:
        out = run()
        features[names[i]] = hidden(out, place)
        return out

    with Patch(bare(denoiser), names, call):
        yield features


def stream_place(teacher: nn.Module) -> int:
    """The index of the hidden states among a block's outputs, the same for the student's blocks."""
    streams = next(iter(streams_by_name(teacher).values()))
    return streams.index(STREAM) if STREAM in streams else 0


def hidden(out: Any, place: int) -> Tensor:
    """The hidden states in a block's output; a U-Net's down stage gives them before its skips."""
    return out[place] if isinstance(out, tuple) else out


def check_inputs(teacher: nn.Module | Mapping, student: nn.Module | Mapping) -> None:
    """Raises ValueError if teacher and student, or their configurations, are of other kinds or read different inputs.

    Text embeddings of another width are such an input.
    """
    if family(teacher).inputs is not family(student).inputs:
        raise ValueError(
            f"the student is a {class_name(student)} and the teacher a {class_name(teacher)}: give the teacher that the "
            "student was cut from"
        )
    with torch.device("meta"):
        theirs, mine = (input_shapes(dummy_inputs(net, size=SIZE, tokens=TOKENS)) for net in (teacher, student))
    if wrong := [name for name in theirs | mine if theirs.get(name) != mine.get(name)]:
        name = wrong[0]
        raise ValueError(
            f"the teacher reads {name} of {theirs.get(name, 'no shape')} and the student of {mine.get(name, 'no shape')}: give "
            "the teacher that the student was cut from"
        )


def input_shapes(inputs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of nested tensors by dotted names."""
    shapes = {}
    for name, x in inputs.items():
        if isinstance(x, Mapping):
            shapes |= {f"{name}.{inner}": shape for inner, shape in input_shapes(x).items()}
        elif isinstance(x, Tensor):
            shapes[name] = tuple(x.shape)
    return shapes


def check_sites(teacher: nn.Module, student: nn.Module, pairs: Mapping[str, str]) -> None:
    """Raises ValueError if teacher or student lacks a site's module, with its name."""
    for net, names, which in ((student, pairs.keys(), "student"), (teacher, pairs.values(), "teacher")):
        there = {name for name, _ in bare(net).named_modules()}
        if missing := sorted(set(names) - there):
            raise ValueError(f"the {which} has no module {missing[0]} to take features of: name one that it has")
