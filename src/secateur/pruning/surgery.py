"""Surgery: a teacher and a Plan give a thinner student. The teacher stays as it is, and removed layers are never copied.

U-Nets keep their skeleton: a small module stands where a layer was, under the same name, so that diffusers' own forward runs
and the skip connections stay paired. Transformers lose whole blocks, and their configuration counts the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.families import architecture, bare, class_name, family
from secateur.pruning.plan import DROP_SKIP, IDENTITY, KEEP_SHORTCUT, Plan
from secateur.pruning.student import Passage, Shortcut, as_student, replacement


def drop_layers(denoiser: nn.Module, plan: Plan) -> nn.Module:
    """The student: a copy of the denoiser without the plan's layers; nothing is shared with the teacher.

    Raises ValueError if the plan is for another denoiser, or if a layer is missing or cannot be removed.
    """
    denoiser = bare(denoiser)
    check_fits(denoiser, plan)
    return without_blocks(denoiser, plan.layers) if family(denoiser).depths else with_passages(denoiser, plan)


def removals(denoiser: nn.Module) -> dict[str, str]:
    """Every layer that a plan may name → how it goes: "identity", "drop_skip" or "keep_shortcut".

    In execution order; a Transformer2DModel comes before its blocks. Samplers may go too, but only both of one resolution. A
    transformer's blocks are those that may go one at a time, so that stock diffusers can still build it. Nothing is run, so a
    denoiser on the meta device will do.
    """
    denoiser = bare(denoiser)
    if not (depths := family(denoiser).depths):
        return unet_removals(denoiser)
    return {layer: IDENTITY for name in depths for layer in single_removals(denoiser, name)}


def candidates(denoiser: nn.Module) -> dict[str, str]:
    """The layers to score → how each goes: `removals` without samplers, and no layer within another.

    A U-Net's transformers are cut at their blocks (ours for SDXL, whose largest one is 14 % of the net). A transformer with
    a single block goes whole, with its norm and projections.
    """
    layer_removals = {name: how for name, how in removals(denoiser).items() if not is_sampler(name)}
    outer = {name: inner for name in layer_removals if (inner := names_within(name, layer_removals))}
    left_out = {n for name, inner in outer.items() for n in (inner if len(inner) == 1 else {name})}
    return {name: how for name, how in layer_removals.items() if name not in left_out}


def freed(denoiser: nn.Module, layers: Mapping[str, str]) -> tuple[int, ...]:
    """Number of parameters that each removal frees, (L,). layers: as `candidates` gives them."""
    modules = [bare(denoiser).get_submodule(name) for name in layers]
    return tuple(
        parameters(module) - (parameters(module.get_submodule("conv_shortcut")) if how == KEEP_SHORTCUT else 0)
        for module, how in zip(modules, layers.values(), strict=True)
    )


def parameters(module: nn.Module) -> int:
    """How many parameters a module has."""
    return sum(p.numel() for p in module.parameters())


def plan_without(denoiser: nn.Module, layers: Collection[str], *, made: Mapping[str, Any] | None = None) -> Plan:
    """The plan that removes these layers; a Transformer2DModel goes whole if all of its blocks go."""
    layer_removals, gone = removals(denoiser), set(layers)
    check_known(denoiser, gone, layer_removals)
    gone |= {outer for outer in layer_removals if (inner := names_within(outer, layer_removals)) and inner <= gone}
    gone -= {inner for outer in gone for inner in names_within(outer, layer_removals)}
    removed = {name: how for name, how in layer_removals.items() if name in gone}
    return Plan(tuple(removed), tuple(removed.values()), class_name(denoiser), made=made or {})


def names_within(outer: str, names: Collection[str]) -> set[str]:
    """The names of modules inside the module `outer`."""
    return {name for name in names if name.startswith(f"{outer}.")}


def check_fits(denoiser: nn.Module, plan: Plan, *, removable: Mapping[str, str] | None = None) -> None:
    """Raises ValueError if a plan does not fit this denoiser. removable: its `cuttable` layers, if known."""
    if (name := class_name(denoiser)) != plan.denoiser:
        raise ValueError(f"the plan is for a {plan.denoiser} and this is a {name}: give the denoiser it was made for")
    if replaced := [name for name, module in denoiser.named_modules() if "forward" in vars(module)]:
        raise ValueError(
            f"the forward of {replaced[0] or name} is replaced (by a schedule, a compiler or an offload hook) and cannot be "
            "copied: remove that first"
        )
    if adapters := getattr(denoiser, "peft_config", None):
        raise ValueError(
            f"adapters are loaded ({', '.join(adapters)}), and a saved student would lose them: call pipe.fuse_lora() and "
            "pipe.unload_lora_weights() first, or load them into the student"
        )
    removable = removable or cuttable(denoiser)
    if missing := [layer for layer in plan.layers if layer not in removable]:
        others = f", nor {len(missing) - 1} more of the plan's {len(plan.layers)}" if len(missing) > 1 else ""
        advice = f"the plan is for {plan.made['of']}" if "of" in plan.made else "take a plan that was made for this model"
        raise ValueError(f"this {name} has no layer {missing[0]} that can go{others}: {advice}")
    if wrong := [(layer, how) for layer, how in plan.items() if removable[layer] != how]:
        layer, how = wrong[0]
        raise ValueError(f"the plan removes {layer} by {how!r} and here it goes by {removable[layer]!r}: make the plan again")


def cuttable(denoiser: nn.Module) -> dict[str, str]:
    """Layers that some plan may name → how each goes; a transformer's include those that can go only with others."""
    if not (depths := family(denoiser).depths):
        return unet_removals(denoiser)
    return {f"{name}.{k}": IDENTITY for name in depths for k, _ in denoiser.get_submodule(name).named_children()}


def check_known(denoiser: nn.Module, layers: Collection[str], removable: Collection[str]) -> None:
    """Raises ValueError if any of the layers is not removable, with its name."""
    if missing := sorted(set(layers) - set(removable)):
        raise ValueError(
            f"{class_name(denoiser)} has no layer {', '.join(missing[:3])}{', …' * (len(missing) > 3)} that can go: choose "
            "among those of secateur.pruning.surgery.removals"
        )


# U-Nets


def unet_removals(denoiser: nn.Module) -> dict[str, str]:
    """A U-Net's resnets, attentions and samplers → how each goes, in execution order, without those already removed."""
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    if not isinstance(denoiser, UNet2DConditionModel):
        name = class_name(denoiser)
        raise ValueError(
            f"{name} is no U-Net and its Family has no `depths`: name there the lists of blocks that its config counts"
        )
    layer_removals: dict[str, str] = {}
    width = denoiser.conv_in.out_channels  # of the hidden stream, which samplers and attentions keep
    for name in find_blocks(denoiser, "layer").names:
        module = denoiser.get_submodule(name)
        layer_removals |= unet_removal(name, module, width)
        if isinstance(module, (ResnetBlock2D, Shortcut)):
            width = module.out_channels
    return layer_removals


def unet_removal(name: str, module: nn.Module, width: int) -> dict[str, str]:
    """This layer and the transformer blocks in it → how they go; empty for other kinds. width: of the hidden stream."""
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    if isinstance(module, Transformer2DModel):
        blocks = module.transformer_blocks.named_children()
        left = [f"{name}.transformer_blocks.{k}" for k, block in blocks if not isinstance(block, Passage)]
        return dict.fromkeys([name, *left], IDENTITY)
    if is_sampler(name):
        return {} if isinstance(module, Passage) else {name: IDENTITY}
    return {name: resnet_removal(module, width)} if isinstance(module, ResnetBlock2D) else {}


def resnet_removal(resnet: Any, width: int) -> str:
    """How a resnet goes. width: of its hidden stream; its input's other channels are the skip."""
    if resnet.out_channels != width:
        return KEEP_SHORTCUT
    return IDENTITY if resnet.in_channels == width else DROP_SKIP


def is_sampler(name: str) -> bool:
    return not {"downsamplers", "upsamplers"}.isdisjoint(name.split("."))


def check_samplers(denoiser: nn.Module, layers: Sequence[str]) -> None:
    """Raises ValueError if a U-Net would shrink without growing back, or the other way round."""
    innermost = len(list(denoiser.get_submodule("down_blocks").children())) - 1
    stages = {layer: int(layer.split(".")[1]) for layer in layers if is_sampler(layer)}
    down = {stage: layer for layer, stage in stages.items() if layer.startswith("down_blocks.")}
    up = {innermost - 1 - stage: layer for layer, stage in stages.items() if layer.startswith("up_blocks.")}
    if alone := set(down) ^ set(up):
        layer = (down | up)[min(alone)]
        raise ValueError(f"the plan removes {layer} and not the sampler that undoes it: remove both or neither")


def with_passages(denoiser: nn.Module, plan: Plan) -> nn.Module:
    """A copy of a U-Net with a small module in place of each removed layer."""
    check_samplers(denoiser, plan.layers)
    pairs = [(denoiser.get_submodule(layer), how) for layer, how in plan.items()]
    # deepcopy takes modules in its memo for copied already.
    student = deepcopy(denoiser, {id(module): replacement(module, how).train(module.training) for module, how in pairs})
    return as_student(student, dict(plan.items()))


# Transformers


def without_blocks(denoiser: Any, layers: Collection[str]) -> nn.Module:
    """A copy of a transformer without these blocks; its configuration builds the same lists."""
    lists = {name: kept_blocks(denoiser, name, layers) for name in family(denoiser).depths}
    for name, blocks in lists.items():
        check_list(denoiser, name, blocks, wanted=built(denoiser, name, len(blocks)))
    memo: dict[int, Any] = {}
    for name, blocks in lists.items():
        memo[id(denoiser.get_submodule(name))] = nn.ModuleList(deepcopy(block, memo) for block in blocks)
    student = deepcopy(denoiser, memo)
    student.register_to_config(**{key: len(lists[name]) for name, key in family(denoiser).depths.items()})
    return student


def kept_blocks(denoiser: nn.Module, name: str, layers: Collection[str]) -> list[nn.Module]:
    """The blocks of one list that stay, in order."""
    return [block for k, block in denoiser.get_submodule(name).named_children() if f"{name}.{k}" not in layers]


def single_removals(denoiser: nn.Module, name: str) -> Iterator[str]:
    """Names of the blocks of one list that may be removed one at a time."""
    count = len(kept_blocks(denoiser, name, ()))
    stock = built(denoiser, name, count - 1) if count > 1 else []
    for k in range(count):
        with suppress(ValueError):
            check_list(denoiser, name, kept_blocks(denoiser, name, [f"{name}.{k}"]), wanted=stock)
            yield f"{name}.{k}"


def check_list(denoiser: nn.Module, name: str, blocks: Sequence[nn.Module], *, wanted: Sequence[nn.Module]) -> None:
    """Raises ValueError if these cannot be all the blocks of a list. wanted: the blocks that diffusers builds.

    A block's place decides its shape: SD3's last block is unlike the rest, and so are SD3.5's first ones.
    """
    if not blocks:
        raise ValueError(f"the plan removes all {name}: keep one block or more")
    for k, (block, other) in enumerate(zip(blocks, wanted, strict=True)):
        if weight_shapes(block) != weight_shapes(other):
            raise ValueError(
                f"block {k} of the student's {name} would be unlike the block that diffusers builds there: keep the "
                "blocks that differ from the rest, such as SD3's last one"
            )
    first, path = denoiser.get_submodule(f"{name}.0"), family(denoiser).reads
    if path and not alike(first.get_submodule(path), blocks[0].get_submodule(path)):
        raise ValueError(
            f"{class_name(denoiser)} reads {name}.0.{path}, and the student would have another one there: keep {name}.0"
        )


def built(denoiser: nn.Module, name: str, count: int) -> list[nn.Module]:
    """The list of `count` blocks that diffusers builds for this transformer, on the meta device."""
    cls, arguments = architecture(denoiser)
    with torch.device("meta"):
        return list(cls(**arguments | {family(denoiser).depths[name]: count}).get_submodule(name).children())


def weight_shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def alike(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules hold the same values, in the first one's dtype; False for two on the meta device."""
    ours, theirs = a.state_dict(), b.state_dict()
    same = ours.keys() == theirs.keys()
    return a is b or (same and all(not x.is_meta and torch.equal(x, theirs[name].to(x)) for name, x in ours.items()))
