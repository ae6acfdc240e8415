"""The blocks of a denoiser: their names in execution order, what each reuses, and who reads whom, traced on the meta device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from secateur.denoiser.families import Family, architecture, bare, class_name, dummy_inputs, family
from secateur.denoiser.patch import Patch
from secateur.denoiser.reuse import KINDS

Row = tuple[bool, ...]  # (L,) which blocks run


@dataclass(frozen=True)
class Blocks:
    """L blocks in execution order and the edges between them, as indices into `names`.

    reuse: what a block that does not run gives: its last "output", its input plus its last "residual" (output − input), or
    "extrapolate", the line through its last two outputs.
    producers: direct producers of each block's inputs. sinks: blocks that the denoiser's output is made of.
    """

    denoiser: str
    granularity: str
    names: tuple[str, ...]
    reuse: tuple[str, ...]
    producers: tuple[tuple[int, ...], ...]
    sinks: tuple[int, ...]

    def __post_init__(self):
        if not len(self.names) == len(self.reuse) == len(self.producers):
            raise ValueError(
                f"found {len(self.names)} names, {len(self.reuse)} reuses and {len(self.producers)} lists of producers: "
                "give one of each per block"
            )
        if unknown := set(self.reuse) - set(KINDS):
            raise ValueError(f"found reuse {sorted(unknown)}, wanted {' or '.join(KINDS)}: change it for each block")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of a block. Raises ValueError if there is none of this name."""
        if name not in self.names:
            raise ValueError(f"{self.denoiser} has no block {name!r} at granularity {self.granularity!r}: see find_blocks")
        return self.names.index(name)


def kinds(blocks: Blocks) -> tuple[str, ...]:
    """What a block of this denoiser can give when it does not run, its family's own kind first."""
    own = family(blocks.denoiser).reuse
    return (own, *(kind for kind in KINDS if kind != own and (kind != "residual" or own == "residual")))


def needed(run: Sequence[bool], blocks: Blocks) -> tuple[bool, ...]:
    """Which blocks somebody reads, (L,): from the sinks up through every block that runs or adds to its input."""
    numbers: set[int] = set()
    stack = list(blocks.sinks)
    while stack:
        i = stack.pop()
        if i not in numbers:
            numbers.add(i)
            stack.extend(blocks.producers[i] if run[i] or blocks.reuse[i] == "residual" else ())
    return tuple(i in numbers for i in range(len(blocks)))


def live(run: Sequence[bool], blocks: Blocks) -> Row:
    """Which blocks really run, (L,): those told to whose output somebody reads (DiP-GO, arXiv 2410.16942: the cascade)."""
    return tuple(r and n for r, n in zip(run, needed(run, blocks), strict=True))


def without(row: Sequence[bool], i: int, blocks: Blocks) -> Row:
    """A row without block i and without its closure, the blocks that only it reads."""
    return live((*row[:i], False, *row[i + 1 :]), blocks)


def matches(name: str, pattern: str) -> bool:
    """Whether a module name fits a pattern component by component: "down_blocks.*" fits "down_blocks.0", not what is in it."""
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(fnmatchcase(a, b) for a, b in zip(parts, patterns, strict=True))


def meta_twin(denoiser: nn.Module | Mapping) -> nn.Module:
    """The denoiser's architecture without its weights, on the meta device, from class and configuration alone."""
    cls, arguments = architecture(denoiser)
    with torch.device("meta"), torch.inference_mode(False):
        return cls(**arguments).eval().requires_grad_(False)


def block_names(denoiser: nn.Module, row: Family, granularity: str) -> tuple[str, ...]:
    """Names of the sub-modules that are blocks, in the order they were registered. Raises ValueError with the granularities."""
    if granularity not in row.granularities:
        raise ValueError(
            f"{class_name(denoiser)} has no granularity {granularity!r}, so choose {' or '.join(row.granularities)}"
        )
    patterns = row.granularities[granularity]
    fitting = ((n, module) for n, module in denoiser.named_modules() if any(matches(n, p) for p in patterns))
    names = tuple(n for n, module in fitting if any(True for _ in module.parameters()))  # what replaces a layer may have none
    if not names:
        raise ValueError(
            f"no module of {class_name(denoiser)} fits {', '.join(patterns)}, "
            f"so correct its granularity {granularity!r} in secateur.FAMILIES"
        )
    return names


def sources(nest: Any, leaves: Sequence[Tensor]) -> tuple[int, ...]:
    """Which of the leaves the tensors of a nest depend on, as autograd sees it."""
    total = sum(x.sum() for x in tree_leaves(nest) if torch.is_tensor(x) and x.requires_grad)
    if not torch.is_tensor(total):
        return ()
    grads = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
    return tuple(k for k, g in enumerate(grads) if g is not None)


@dataclass(frozen=True)
class Trace:
    """Blocks in execution order as indices into the names traced; producers and sinks as indices into that order."""

    order: tuple[int, ...]
    producers: tuple[tuple[int, ...], ...]
    sinks: tuple[int, ...]


def trace(twin: nn.Module, names: Sequence[str], inputs: Mapping[str, Any]) -> Trace:
    """The graph between the named blocks, read off one evaluation on the meta device.

    Each block's output is cut off from its past and given a fresh leaf: the leaves that a later input still depends on
    are exactly its direct producers.
    """
    order: list[int] = []
    leaves: list[Tensor] = []
    producers: list[tuple[int, ...]] = []

    def call(t, i, run, inputs):
        if i in order:
            raise ValueError(f"{names[i]} runs twice in one call and cannot be one block, so choose another granularity")
        producers.append(sources(inputs, leaves))
        order.append(i)
        out, leaf = run(), torch.zeros((), device="meta", requires_grad=True)
        leaves.append(leaf)
        return tree_map_only(Tensor, lambda x: x.detach() + leaf, out)

    # A caller's no_grad or inference_mode must not blind autograd here.
    with torch.inference_mode(False), torch.enable_grad(), Patch(twin, tuple(names), call):
        out = twin(**inputs)
        return Trace(tuple(order), tuple(producers), sources(out, leaves))


def find_blocks(denoiser: nn.Module | Mapping, granularity: str | None = None) -> Blocks:
    """The blocks of a denoiser (or of its configuration) and the edges between them, at a granularity of its family.

    Class and configuration are enough: nothing of the denoiser is run, moved or changed, wherever its weights lie.
    """
    row = family(denoiser)
    granularity = next(iter(row.granularities)) if granularity is None else granularity
    key = key_of(denoiser, row, granularity)
    if key not in TRACED:
        TRACED[key] = traced(denoiser, row, granularity)
    if isinstance(denoiser, nn.Module):
        check_present(denoiser, TRACED[key].names)
    return TRACED[key]


TRACED: dict[tuple[Any, str], Blocks] = {}  # of each architecture and granularity: tracing takes a second, and they are small


def key_of(denoiser: nn.Module | Mapping, row: Family, granularity: str) -> tuple[Any, str]:
    """What the blocks of a denoiser depend on: its class, its configuration, its family, the granularity."""
    cls, arguments = architecture(denoiser)
    return cls, repr((arguments, row, granularity))


def traced(denoiser: nn.Module | Mapping, row: Family, granularity: str) -> Blocks:
    """The blocks of an architecture, by an evaluation on the meta device."""
    twin = meta_twin(denoiser)
    names = block_names(twin, row, granularity)
    with torch.device("meta"), torch.inference_mode(False):
        graph = trace(twin, names, dummy_inputs(denoiser))
    ordered = tuple(names[i] for i in graph.order)
    return Blocks(class_name(denoiser), granularity, ordered, (row.reuse,) * len(ordered), graph.producers, graph.sinks)


def matching(denoiser: nn.Module | Mapping, names: Sequence[str]) -> Blocks:
    """The blocks of a denoiser (or configuration) at the granularity that has exactly these. Raises ValueError if none has."""
    row = family(denoiser)
    for granularity in row.granularities:  # traced before, which is cheap to look up
        blocks = TRACED.get(key_of(denoiser, row, granularity))
        if blocks and set(blocks.names) == set(names):
            return find_blocks(denoiser, granularity)
    twin = meta_twin(denoiser)
    for granularity in row.granularities:
        if set(block_names(twin, row, granularity)) == set(names):
            return find_blocks(denoiser, granularity)
    raise ValueError(
        f"the schedule's {len(names)} blocks are not those of {class_name(denoiser)} at granularity "
        f"{' or '.join(row.granularities)}: give the denoiser that it was made for, or its blocks"
    )


def check_present(denoiser: nn.Module, names: Sequence[str]) -> None:
    """Raises ValueError if the denoiser lacks blocks that its configuration describes."""
    present = {name for name, _ in bare(denoiser).named_modules()}
    if missing := [name for name in names if name not in present]:
        raise ValueError(
            f"{class_name(denoiser)} lacks {', '.join(missing)}, which its configuration describes, "
            "so pass a denoiser that was not altered after it was built"
        )
