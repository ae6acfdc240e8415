"""Blocks and MACs as terminal tables and as JSON documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from secateur.denoiser.blocks import Blocks
    from secateur.denoiser.macs import Macs
    from secateur.schedule.schedule import Schedule

GIGA = 1e9
CONVENTIONS = {False: "linear", True: "with_attention"}  # whether attention products are counted; in the names of fields


def blocks(traced: Blocks) -> Table:
    """A line per block: its index, name, what it reuses, and the blocks it reads."""
    title = f"{traced.denoiser}: {len(traced)} blocks at granularity {traced.granularity}"
    table = _table(title, "", "block", "reuses", "reads")
    for i, (name, reuse, producers) in enumerate(zip(traced.names, traced.reuse, traced.producers, strict=True)):
        table.add_row(str(i), name, reuse, ", ".join(traced.names[p] for p in producers) or "–")
    table.add_row("", "(the denoiser's output)", "", ", ".join(traced.names[s] for s in traced.sinks))
    return table


def macs(costs: Macs, schedule: Schedule | None = None, *, calls: int | None = None, batch: int = 1) -> Table:
    """A line per block with its MACs in both conventions; then the rest, one call, `calls` calls, and the schedule.

    batch: samples that were counted, two with guidance.
    """
    per = {1: "per sample", 2: "with guidance"}.get(batch, f"batch {batch}")
    title = f"{costs.blocks.denoiser}: 10⁹ multiply-accumulates of one call, {per}"
    table = _table(title, "block", "conv + linear", "%", "with attention products", "%")
    lines = [
        *zip(costs.blocks.names, *(costs.cells(attention=a) for a in CONVENTIONS), strict=True),
        ("outside the blocks", *(costs.rest(attention=a) for a in CONVENTIONS)),
    ]
    call = [costs.call(attention=a) for a in CONVENTIONS]
    for name, *amounts in lines:
        table.add_row(name, *_shares(amounts, call))
    table.add_section()
    table.add_row("one dense call", *_shares(call, call))
    if calls is not None:
        dense = [calls * cost for cost in call]
        table.add_row(f"{calls} dense calls", *_shares(dense, dense))
    if schedule is not None:
        dense = [(calls or schedule.dense_calls) * cost for cost in call]
        spent = [costs.of(schedule, attention=a) for a in CONVENTIONS]
        table.add_row(f"{schedule.calls} calls scheduled", *_shares(spent, dense))
    return table


def macs_document(costs: Macs, schedule: Schedule | None = None, *, calls: int | None = None) -> dict[str, Any]:
    """The figures of `macs` as whole numbers, for JSON."""
    blocks = costs.blocks
    document: dict[str, Any] = {"denoiser": blocks.denoiser, "granularity": blocks.granularity, "blocks": blocks.names}
    for prefix, amount in (("", costs.cells), ("rest_", costs.rest), ("call_", costs.call)):
        document |= {f"{prefix}{name}_macs": amount(attention=a) for a, name in CONVENTIONS.items()}
    if calls is not None:
        document |= {"calls": calls}
        document |= {f"calls_{name}_macs": calls * costs.call(attention=a) for a, name in CONVENTIONS.items()}
    if schedule is None:
        return document
    spent = costs.spent(schedule, calls or schedule.dense_calls)
    document |= {"schedule_linear_macs": spent["macs_linear"], "schedule_with_attention_macs": spent["macs_attention"]}
    if schedule.timesteps and calls is None and schedule.dense_calls == schedule.calls:
        return document  # the dense calls that it is a share of are not known
    keeps = {"schedule_keep_linear": spent["keep_linear"], "schedule_keep_with_attention": spent["keep_attention"]}
    return document | keeps


def of_shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    """The names of tensors with their shapes."""
    return ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in shapes.items())


def _shares(amounts: Iterable[int], wholes: Iterable[int]) -> Iterator[str]:
    """Each amount in 10⁹, and as a percentage of its whole."""
    for macs, whole in zip(amounts, wholes, strict=True):
        yield f"{macs / GIGA:.3f}" if whole < 100 * GIGA else f"{macs / GIGA:.1f}"
        yield f"{100 * macs / whole:.2f}"


def _table(title: str, *names: str) -> Table:
    from rich.table import Table, box

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in names:
        table.add_column(name, justify="left" if name in ("block", "reuses", "reads") else "right", overflow="fold")
    return table
