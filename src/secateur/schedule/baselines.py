"""Schedules that need no search, to compare with: evenly held calls, DeepCache, FORA, Δ-DiT, and DiP-GO's published one.

Every grid here is closed: a `#` in it really runs, since somebody reads what it gives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from importlib.resources import files
from numbers import Real
from typing import TYPE_CHECKING, Any

from secateur.denoiser.blocks import Blocks, live
from secateur.schedule.schedule import REUSE, RUN, Schedule

if TYPE_CHECKING:
    from secateur.denoiser.macs import Macs

LONG_LINES = 0.3  # keep from which a held call is best read off the line itself, see `hold_for`


def dense(blocks: Blocks, calls: int) -> Schedule:
    """Everything runs at every call."""
    return whole_calls(blocks, calls, run=range(calls), made={"method": "dense"})


def uniform(
    blocks: Blocks, calls: int, *, every: int | None = None, keep: float | None = None, hold: str = "output"
) -> Schedule:
    """A Schedule, without a search, of evenly spread calls that run whole, while the others are held.

        blocks = secateur.find_blocks(pipe.unet)
        with secateur.apply(pipe, secateur.uniform(blocks, 50, keep=0.2, hold="extrapolate")):
            image = pipe("an owl at night", num_inference_steps=50).images[0]

    `secateur.apply(pipe, keep=0.2)` makes one for any number of steps, with the better hold for its budget.

    Raises ValueError unless one of `every` and `keep` is given, and in its range.

    blocks: of the denoiser, as `find_blocks` gives them. calls: of the denoiser in one image, for most schedulers the steps.
    every: one call in this many runs. keep: or the fraction of calls that run, in (0, 1].
    hold: what a held call gives. "output": the last prediction again. "extrapolate": the line through the last two, read at the
        held call. "adams_bashforth": that line, read further ahead, so that a call and its held ones step by the line's mean.
    """
    if (every is None) == (keep is None):
        raise ValueError(f"found every={every} and keep={keep}: give one of the two")
    if every is not None:
        made = {"method": "uniform", "every": every}
        return whole_calls(blocks, calls, run=range(0, calls, interval_of(every)), made=made, hold=hold)
    count = max(1, round(check_keep(keep) * calls))
    return replace(evenly(blocks, calls, count, hold=hold), made={"method": "uniform", "keep": keep})


def hold_for(keep: float) -> str:
    """The hold by which evenly held calls come nearest to the dense images at this budget, of the two along a line."""
    # PSNR to dense, mean of results/front-emoji-sd.json and front-emoji-dit.json (DDIM, 50 calls): "extrapolate" leads by
    # 0.3 dB at 17 calls, "adams_bashforth" by 0.9 dB at 10; at 5 they are 0.1 dB apart.
    return "extrapolate" if keep >= LONG_LINES else "adams_bashforth"


def evenly(blocks: Blocks, calls: int, count: int, *, hold: str = "output") -> Schedule:
    """`count` of the calls run whole, as evenly spread as whole numbers are, and the others are held."""
    if not 1 <= count <= calls:
        raise ValueError(f"found {count} calls that run of {calls}: give 1 … {calls}")
    made = {"method": "evenly", "count": count}
    return whole_calls(blocks, calls, run=[k * calls // count for k in range(count)], made=made, hold=hold)


def chosen(blocks: Blocks, calls: int, *, run: Collection[int], hold: str = "output") -> Schedule:
    """Exactly these calls run, whole, and the others are held."""
    if 0 not in run or (wrong := [t for t in run if not 0 <= t < calls]):
        problem = "call 0 is missing" if 0 not in run else f"found call {wrong[0]}"
        raise ValueError(f"{problem}: choose among 0 … {calls - 1}, with call 0, which has nothing to reuse")
    return whole_calls(blocks, calls, run=run, made={"method": "chosen", "run": sorted(set(run))}, hold=hold)


def deepcache(blocks: Blocks, calls: int, *, interval: int, depth: int = 1) -> Schedule:
    """DeepCache (arXiv 2312.00858): between full calls only the outermost `depth` skip connections are fresh.

    What the up path hands to the outermost readers of a skip is reused; the closure then finds what need not run. The
    nearest thing at whole blocks to the paper's cached features; SD-1.5's outermost skip, conv_in's, is always fresh.
    """
    check_traced(blocks)
    readers = [i for i, producers in enumerate(blocks.producers) if len(producers) > 1]
    if not readers or "residual" in blocks.reuse:
        raise ValueError(
            f"{blocks.denoiser} has no skip connections whose readers reuse outputs: DeepCache is for U-Nets, try fora"
        )
    if not 1 <= depth <= len(readers):
        raise ValueError(f"found depth {depth}: choose 1 … {len(readers)}, the blocks that read a skip connection")
    deep = max(blocks.producers[readers[-depth]])
    partial = [i != deep for i in range(len(blocks))]
    return periodic(blocks, calls, interval, partial, made={"method": "deepcache", "interval": interval, "depth": depth})


def fora(blocks: Blocks, calls: int, *, interval: int) -> Schedule:
    """FORA (arXiv 2407.01425), at whole blocks: between full calls every block reuses.

    Ours: the last block runs at every call, since a call in which nothing runs is held whole.
    """
    check_traced(blocks)
    partial = [i == len(blocks) - 1 for i in range(len(blocks))]
    return periodic(blocks, calls, interval, partial, made={"method": "fora", "interval": interval})


def delta_dit(blocks: Blocks, calls: int, *, interval: int, depth: int | None = None, boundary: int | None = None) -> Schedule:
    """Δ-DiT (arXiv 2406.01125): between full calls the last `depth` blocks reuse before call `boundary`, the first after it.

    Early calls draw outlines, the front blocks' work, late ones details. Half the blocks and half the calls by default (ours).
    """
    check_traced(blocks)
    if "output" in blocks.reuse:
        raise ValueError(f"Δ-DiT reuses residuals and {blocks.denoiser} reuses outputs: it is for transformers, try deepcache")
    depth = len(blocks) // 2 if depth is None else depth
    boundary = calls // 2 if boundary is None else boundary
    if not 1 <= depth < len(blocks) or not 0 <= boundary <= calls:
        raise ValueError(
            f"found depth {depth} and boundary {boundary}: choose 1 … {len(blocks) - 1} blocks and a call in 0 … {calls}"
        )
    rear = [i < len(blocks) - depth for i in range(len(blocks))]
    front = [i >= depth for i in range(len(blocks))]
    every = interval_of(interval)
    rows = [None if t % every == 0 else rear if t < boundary else front for t in range(calls)]
    made = {"method": "delta_dit", "interval": interval, "depth": depth, "boundary": boundary}
    return closed(blocks, rows, made=made)


def published_dip_go(blocks: Blocks) -> Schedule:
    """The schedule published with DiP-GO (arXiv 2410.16942) for SD-1.5, 50 DDIM calls, keep 0.2: ten calls run."""
    document = json.loads((files("secateur.schedule") / "published" / "dip-go-sd15-0.80.json").read_text(encoding="utf-8"))
    check_traced(blocks)
    if blocks.names != tuple(document["blocks"]):
        raise ValueError(
            f"the published schedule is for SD-1.5's {len(document['blocks'])} stages and {blocks.denoiser} has other blocks "
            f"({len(blocks)}, from {blocks.names[0]} on): find a U-Net's blocks at granularity 'stage'"
        )
    grid = tuple(document["running"].get(str(t), REUSE * len(blocks)) for t in range(document["calls"]))
    made = {"method": "dip_go", **{key: document[key] for key in ("about", "source", "model", "sampler")}}
    return Schedule(blocks.names, grid, blocks.reuse, blocks.denoiser, scheduler="DDIMScheduler", made=made)


def check_traced(blocks: Any) -> None:
    """Raises TypeError if it is no Blocks."""
    if not isinstance(blocks, Blocks):
        raise TypeError(f"found a {type(blocks).__name__} for blocks: give what find_blocks(pipe.unet) returns")


def interval_of(interval: int) -> int:
    """The interval, if it is one: from 1 up."""
    if interval < 1:
        raise ValueError(f"found interval {interval}: give 1 or more, the calls from one full call to the next")
    return interval


def whole_calls(blocks: Blocks, calls: int, *, run: Collection[int], made: dict[str, Any], hold: str = "output") -> Schedule:
    """These calls run everything, the others nothing."""
    check_traced(blocks)
    if calls < 1:
        raise ValueError(f"found calls={calls}: a schedule is for 1 call or more")
    rows = [None if t in run else [False] * len(blocks) for t in range(calls)]
    return closed(blocks, rows, made=made, hold=hold)


def periodic(blocks: Blocks, calls: int, interval: int, partial: Sequence[bool], *, made: dict[str, Any]) -> Schedule:
    """A full call at every multiple of `interval`, and `partial`, as far as it is read, at all others."""
    every = interval_of(interval)
    return closed(blocks, [partial if t % every else None for t in range(calls)], made=made)


def closed(blocks: Blocks, rows: Iterable[Sequence[bool] | None], *, made: dict[str, Any], hold: str = "output") -> Schedule:
    """The Schedule of rows of what should run, None for everything; a cell that nobody reads does not run."""
    texts = ((True,) * len(blocks) if row is None else live(row, blocks) for row in rows)
    grid = tuple("".join(RUN if cell else REUSE for cell in row) for row in texts)
    return Schedule(blocks.names, grid, blocks.reuse, blocks.denoiser, made=made, hold=hold)


INTERVAL_METHODS: dict[str, Callable[[Blocks, int, int], Schedule]] = {
    "uniform": lambda blocks, calls, interval: uniform(blocks, calls, every=interval),
    "deepcache": lambda blocks, calls, interval: deepcache(blocks, calls, interval=interval),
    "fora": lambda blocks, calls, interval: fora(blocks, calls, interval=interval),
    "delta-dit": lambda blocks, calls, interval: delta_dit(blocks, calls, interval=interval),
}


def make(method: str, costs: Macs, *, calls: int, keep: float | None = None, interval: int | None = None) -> Schedule:
    """The schedule of a method at `interval`, or at the interval whose MACs (conv + linear) come nearest to `keep`.

    method: "dense", "dip-go-published", or one of INTERVAL_METHODS. Raises ValueError if it is another one, if keep is outside
    (0, 1], or if not exactly one of keep and interval is given.
    """
    if method == "dense":
        return dense(costs.blocks, calls)
    if method == "dip-go-published":
        return published_dip_go(costs.blocks)
    if method not in INTERVAL_METHODS:
        raise ValueError(f"there is no static method {method!r}: choose dense, dip-go-published, {', '.join(INTERVAL_METHODS)}")
    if (keep is None) == (interval is None):
        raise ValueError(f"{method} needs either keep or interval, got keep={keep} and interval={interval}: give one of them")
    if interval is not None:
        return INTERVAL_METHODS[method](costs.blocks, calls, interval)
    budget = check_keep(keep)
    schedules = (INTERVAL_METHODS[method](costs.blocks, calls, n) for n in range(1, calls + 1))
    return min(schedules, key=lambda schedule: abs(costs.keep(schedule) - budget))


def check_keep(keep: float | None) -> float:
    """`keep` itself. Raises ValueError if it is not in (0, 1]."""
    if not isinstance(keep, Real) or not 0 < keep <= 1:
        raise ValueError(f"keep is the fraction of the cost kept, above 0 and at most 1; got {keep!r}: try 0.2")
    return keep
