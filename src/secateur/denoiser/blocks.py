"""The blocks of a denoiser: their names in execution order, what each reuses, and who reads whom, traced on the meta device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from secateur.denoiser.families import Family, architecture, bare, class_name, dummy_inputs, family, meta_twin
from secateur.denoiser.graph import Streams, trace
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


def find_blocks(denoiser: nn.Module | Mapping, granularity: str | None = None) -> Blocks:
    """The blocks of a denoiser (or of its configuration) and the edges between them, at a granularity of its family.

    Class and configuration are enough: nothing of the denoiser is run, moved or changed, wherever its weights lie.
    """
    row = family(denoiser)
    granularity = next(iter(row.granularities)) if granularity is None else granularity
    key = key_of(denoiser, row, granularity)
    if key not in TRACED:
        TRACED[key] = traced(denoiser, row, granularity)
    blocks, _ = TRACED[key]
    if isinstance(denoiser, nn.Module):
        check_present(denoiser, blocks.names)
    return blocks


def streams_by_name(denoiser: nn.Module | Mapping, granularity: str | None = None) -> dict[str, Streams]:
    """The arguments that each block's outputs continue; none if not all of them do."""
    blocks = find_blocks(denoiser, granularity)
    return TRACED[key_of(denoiser, family(denoiser), blocks.granularity)][1]


TRACED: dict[
    tuple[Any, str], tuple[Blocks, dict[str, Streams]]
] = {}  # of each architecture and granularity: tracing takes a second, and they are small


def key_of(denoiser: nn.Module | Mapping, row: Family, granularity: str) -> tuple[Any, str]:
    """What the blocks of a denoiser depend on: its class, its configuration, its family, the granularity."""
    cls, arguments = architecture(denoiser)
    return cls, repr((arguments, row, granularity))


def traced(denoiser: nn.Module | Mapping, row: Family, granularity: str) -> tuple[Blocks, dict[str, Streams]]:
    """The blocks of an architecture, by an evaluation on the meta device, and their streams."""
    twin = meta_twin(denoiser)
    names = block_names(twin, row, granularity)
    graph = trace(twin, names, dummy_inputs(denoiser))
    ordered = tuple(names[i] for i in graph.order)
    if repeated := graph.repeated():
        raise ValueError(
            f"{names[min(repeated)]} runs twice in one call and cannot be one block, so choose another granularity"
        )
    reuse = (row.reuse,) * len(ordered)
    blocks = Blocks(class_name(denoiser), granularity, ordered, reuse, graph.producers, graph.sinks)
    return blocks, dict(zip(ordered, graph.streams, strict=True))


def matching(denoiser: nn.Module | Mapping, names: Sequence[str]) -> Blocks:
    """The blocks of a denoiser (or configuration) at the granularity that has exactly these. Raises ValueError if none has."""
    row = family(denoiser)
    for granularity in row.granularities:  # traced before, which is cheap to look up
        known = TRACED.get(key_of(denoiser, row, granularity))
        if known and set(known[0].names) == set(names):
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
