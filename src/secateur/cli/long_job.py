"""A long job seen from the terminal: how far it is, and where the same command goes on after an interrupt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live

from secateur.cli.terminal import console
from secateur.pipeline.progress import View, bar

INTERRUPTED = 130
S = TypeVar("S")


def last_step(
    steps: Iterator[S],
    view: Callable[[S], View],
    *,
    first: str,
    resume: str,
    stopped: Callable[[S | None], str],
    above: Callable[[S], RenderableType] = lambda _: "",
    shown: bool = True,
) -> S:
    """The last step of a job; each is shown as it comes.

    first: what the bar says before the first step. above: what stands above the bar. shown: False in processes that print
    nothing. An interrupt ends the command with exit code 130; it says how far the job is, by `stopped` of the last step, and
    what the same command goes on from, `resume`.
    """
    last, progress = None, bar()
    line = progress.add_task(first, total=None)
    try:
        with Live(progress, console=Console(stderr=True, quiet=not shown), transient=True, refresh_per_second=2) as live:
            for last in steps:
                now = view(last)
                progress.update(line, description=now.doing, completed=now.done, total=now.total)
                live.update(Group(above(last), progress))
    except KeyboardInterrupt:
        console.print(f"stopped {stopped(last)}; the same command goes on from {resume}", soft_wrap=True)
        raise SystemExit(INTERRUPTED) from None
    assert last is not None  # every job has a step or refuses before
    return last
