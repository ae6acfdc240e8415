"""What can be found about a denoiser class without a row: where its blocks are, and what one call of it takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from secateur.denoiser.arguments import Arguments, find_arguments, sides_of
from secateur.denoiser.graph import trace
from secateur.denoiser.rows import Family, architecture, class_name, hollow, unet_granularities

SIDE = 16  # of the latent on which arguments and blocks are looked for, unless the configuration says its own
FOUND: dict[str, Family] = {}  # by class
ARGUMENTS: dict[tuple[Any, str], Arguments] = {}  # by class and configuration


def found_family(denoiser: nn.Module | Mapping | str) -> Family:
    """What is found about a denoiser's class. Raises ValueError with the row to write if that is not enough."""
    name = class_name(denoiser)
    if name not in FOUND:
        try:
            with warnings.catch_warnings(action="ignore"):  # of trials that nobody asked for
                FOUND[name] = look_into({"_class_name": name} if isinstance(denoiser, str) else denoiser)
        except Exception as error:  # whatever a class raises on the meta device
            why = " ".join(str(error).split())
            raise ValueError(
                f"{name} is not among the denoisers that are known or can be found out about ({why:.200}), so declare it: "
                f'secateur.FAMILIES["{name}"] = secateur.Family(granularities={{"layer": ("<pattern of block names>",)}}, '
                'reuse="residual" or "output", inputs=<function that returns the keyword arguments of one forward>)'
            ) from error
    return FOUND[name]


def look_into(denoiser: nn.Module | Mapping) -> Family:
    """The family of a denoiser: its stages and layers if it is a U-Net, else its lists of blocks."""
    cls, config = architecture(denoiser)
    twin, inputs = hollow(cls, config), partial(found_inputs, cls)
    given = inputs(config, batch=1, side=SIDE)
    if layers := stage_lists(twin):
        return Family(granularities=unet_granularities(layers), reuse="output", inputs=inputs)
    lists = block_lists(twin, given)
    return Family(granularities={"layer": tuple(f"{name}.*" for name in lists)}, reuse="residual", inputs=inputs)


def found_inputs(
    cls: Callable[..., nn.Module], config: Mapping, *, batch: int, size: Any = None, tokens: int | None = None, side: int = 64
) -> dict[str, Any]:
    """Keyword arguments of one forward of a class whose inputs nobody declared, on the default device."""
    key = cls, repr(config)
    if key not in ARGUMENTS:
        twin = hollow(cls, config)
        with warnings.catch_warnings(action="ignore"):
            ARGUMENTS[key] = find_arguments(twin, sides_of(config, batch=1, side=SIDE))
    sides = sides_of(config, batch=batch, size=size, tokens=tokens, side=side)
    return {argument.name: argument.make(sides) for argument in ARGUMENTS[key]}


def stage_lists(twin: nn.Module) -> list[str]:
    """Names of the lists of layers in the stages of a U-Net; none if it has no stages."""
    stages = [stage for name in ("down_blocks", "up_blocks") for stage in getattr(twin, name, ())]
    return list(dict.fromkeys(name for stage in stages for name in outer_lists(stage) if "." not in name))


def block_lists(twin: nn.Module, inputs: Mapping[str, Any]) -> list[str]:
    """Names of the lists of modules that run once each and add to what they are given. Raises ValueError if there are none."""
    lists = {name: [f"{name}.{k}" for k, _ in twin.get_submodule(name).named_children()] for name in outer_lists(twin)}
    names = [name for items in lists.values() for name in items]
    graph = trace(twin, names, inputs)
    adding = {names[i] for i, streams in zip(graph.order, graph.streams, strict=True) if streams} - {
        names[i] for i in graph.repeated()
    }
    if not (blocks := [name for name, items in lists.items() if items and adding.issuperset(items)]):
        raise ValueError("none of its lists of modules are blocks that run once and add to what they are given")
    return blocks


def outer_lists(twin: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the module lists that are in no other one."""
    for name, child in twin.named_children():
        if isinstance(child, nn.ModuleList):
            yield prefix + name
        else:
            yield from outer_lists(child, f"{prefix}{name}.")
