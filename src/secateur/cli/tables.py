"""Blocks and MACs as terminal tables and as JSON documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from secateur.denoiser.blocks import Blocks
    from secateur.denoiser.macs import Macs
    from secateur.schedule.schedule import Schedule

GIGA = 1e9


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
    linear, whole = costs.cells(), costs.cells(attention=True)
    lines = [
        *zip(costs.blocks.names, linear, whole, strict=True),
        ("outside the blocks", costs.rest(), costs.rest(attention=True)),
    ]
    for name, plain, full in lines:
        table.add_row(name, *_pair(plain, costs.call()), *_pair(full, costs.call(attention=True)))
    table.add_section()
    table.add_row("one dense call", *_pair(costs.call(), costs.call()), *_pair(*[costs.call(attention=True)] * 2))
    if calls is not None:
        table.add_row(
            f"{calls} dense calls", *(part for a in (False, True) for part in _pair(*[calls * costs.call(attention=a)] * 2))
        )
    if schedule is not None:
        dense = calls or schedule.dense_calls
        spent = [(costs.of(schedule, attention=a), dense * costs.call(attention=a)) for a in (False, True)]
        table.add_row(f"{schedule.calls} calls scheduled", *_pair(*spent[0]), *_pair(*spent[1]))
    return table


def macs_document(costs: Macs, schedule: Schedule | None = None, *, calls: int | None = None) -> dict[str, Any]:
    """The figures of `macs` as whole numbers, for JSON."""
    document = {
        "denoiser": costs.blocks.denoiser,
        "granularity": costs.blocks.granularity,
        "blocks": costs.blocks.names,
        "linear_macs": costs.cells(),
        "with_attention_macs": costs.cells(attention=True),
        "rest_linear_macs": costs.rest(),
        "rest_with_attention_macs": costs.rest(attention=True),
        "call_linear_macs": costs.call(),
        "call_with_attention_macs": costs.call(attention=True),
    }
    if calls is not None:
        document |= {"calls": calls, "calls_linear_macs": calls * costs.call()}
        document |= {"calls_with_attention_macs": calls * costs.call(attention=True)}
    if schedule is None:
        return document
    spent = costs.spent(schedule, calls or schedule.dense_calls)
    document |= {"schedule_linear_macs": spent["macs_linear"], "schedule_with_attention_macs": spent["macs_attention"]}
    if (
        schedule.timesteps and calls is None and schedule.dense_calls == schedule.calls
    ):  # the dense calls that it is a share of are not known
        return document
    return document | {
        "schedule_keep_linear": spent["keep_linear"],
        "schedule_keep_with_attention": spent["keep_attention"],
    }


def _pair(macs: int, whole: int) -> tuple[str, str]:
    return f"{macs / GIGA:.3f}" if whole < 100 * GIGA else f"{macs / GIGA:.1f}", f"{100 * macs / whole:.2f}"


def _table(title: str, *names: str) -> Table:
    from rich.table import Table, box

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in names:
        table.add_column(name, justify="left" if name in ("block", "reuses", "reads") else "right", overflow="fold")
    return table
