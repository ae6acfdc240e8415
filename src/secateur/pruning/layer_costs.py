"""What the removal of each layer frees, in parameters, MACs or nanoseconds: the units of a Plan's budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.artifact import are_whole
from secateur.denoiser import macs, times
from secateur.denoiser.blocks import Blocks
from secateur.denoiser.families import bare, class_name
from secateur.denoiser.macs import Macs
from secateur.pruning.plan import KEEP_SHORTCUT
from secateur.pruning.surgery import freed, names_within, parameters, removals

Wholes = Mapping[str, tuple[str, ...]]  # transformer of a U-Net → all of its blocks, if each is a layer of its own


@dataclass(frozen=True)
class LayerCosts:
    """Costs in one unit, whole numbers. layers: what each frees, (L,). wholes: what a transformer of a U-Net frees beside its
    blocks when all of them go, (W,). rest: what no removal frees.
    """

    layers: tuple[int, ...]
    wholes: tuple[int, ...]
    rest: int

    def __post_init__(self):
        if not are_whole((*self.layers, *self.wholes, self.rest)) or not self.total:
            raise ValueError(f"found costs {self.layers[:3]} and so on: give whole numbers, 0 or more, not all of them 0")

    @property
    def total(self) -> int:
        """The cost of the whole denoiser."""
        return sum(self.layers) + sum(self.wholes) + self.rest


def wholes(denoiser: nn.Module, layers: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The transformers that go with the last of their blocks, with those; layers: name → how it goes."""
    layer_removals = removals(denoiser)
    inner = {outer: names_within(outer, layer_removals) for outer in layer_removals if outer not in layers}
    return {outer: tuple(n for n in layers if n in names) for outer, names in inner.items() if names and names <= set(layers)}


def count_costs(denoiser: nn.Module, layers: Mapping[str, str], wholes: Wholes) -> dict[str, LayerCosts]:
    """Costs by unit: "parameters", "macs" (convolutions and linear layers) and "macs_attention" (with its products).

    MACs are those of the size that the denoiser was made for; its configuration says so, and nothing is run.
    """
    own = freed(denoiser, layers)
    sizes = {name: parameters(bare(denoiser).get_submodule(name)) for part in wholes.items() for name in (part[0], *part[1])}
    around = tuple(sizes[outer] - sum(sizes[name] for name in inner) for outer, inner in wholes.items())
    weights = LayerCosts(own, around, parameters(bare(denoiser)) - sum(own) - sum(around))
    counts = macs.count(bare(denoiser), counted_parts(denoiser, layers, wholes))
    linear, attention = (from_macs(counts, layers, wholes, attention=kind) for kind in (False, True))
    return {"parameters": weights, "macs": linear, "macs_attention": attention}


def timed(denoiser: nn.Module, layers: Mapping[str, str], wholes: Wholes, *, run: Callable[[], Any]) -> LayerCosts:
    """Costs in nanoseconds on this device, medians over the calls of the denoiser that `run()` makes."""
    durations = times.block_times(bare(denoiser), counted_parts(denoiser, layers, wholes), run)
    return from_macs(durations, layers, wholes, attention=False)


def counted_parts(denoiser: nn.Module, layers: Mapping[str, str], wholes: Wholes) -> Blocks:
    """What must be counted: the layers, the shortcuts that stay, and what transformers have beside their blocks."""
    shortcuts = [shortcut(layer) for layer, how in layers.items() if how == KEEP_SHORTCUT]
    beside = [name for outer, inner in wholes.items() for name in siblings(denoiser, outer, inner)]
    names = (*layers, *shortcuts, *beside)
    return Blocks(class_name(denoiser), "parts", names, ("output",) * len(names), ((),) * len(names), (len(names) - 1,))


def shortcut(layer: str) -> str:
    return f"{layer}.conv_shortcut"


def siblings(denoiser: nn.Module, outer: str, blocks: tuple[str, ...]) -> list[str]:
    """Names of the modules with weights in a transformer that hold none of its blocks."""
    children = bare(denoiser).get_submodule(outer).named_children()
    names = [f"{outer}.{name}" for name, child in children if parameters(child)]
    return [name for name in names if not names_within(name, blocks)]


def from_macs(counts: Macs, layers: Mapping[str, str], wholes: Wholes, *, attention: bool) -> LayerCosts:
    """Costs out of the count of those `counted_parts`."""
    cells = dict(zip(counts.blocks.names, counts.cells(attention=attention), strict=True))
    own = tuple(max(cells[layer] - cells.get(shortcut(layer), 0), 0) for layer in layers)
    around = tuple(sum(cells[name] for name in names_within(outer, cells) - set(layers)) for outer in wholes)
    return LayerCosts(own, around, max(counts.call(attention=attention) - sum(own) - sum(around), 0))
