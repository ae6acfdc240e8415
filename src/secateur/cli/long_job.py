"""A long job seen from the terminal: how far it is, and where the same command goes on after an interrupt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from rich.console import RenderableType

from secateur.cli.terminal import console
from secateur.pipeline.progress import View, watched

INTERRUPTED = 130
S = TypeVar("S")


def last_step(
    steps: Iterator[S],
    view: Callable[[S], View],
    *,
    first: str,
    resume: str,
    stopped: Callable[[S | None], str],
    above: Callable[[S], RenderableType] | None = None,
    shown: bool = True,
) -> S:
    """The last step of a job; each is shown as it comes.

    first: what the bar says before the first step. above: what stands above the bar. shown: False in processes that print
    nothing. An interrupt ends the command with exit code 130; it says how far the job is, by `stopped` of the last step, and
    what the same command goes on from, `resume`.
    """
    last = None
    try:
        for last in watched(steps, view, first=first, show=shown, above=above):  # noqa: B007
            pass
    except KeyboardInterrupt:
        console.print(f"stopped {stopped(last)}; the same command goes on from {resume}", soft_wrap=True)
        raise SystemExit(INTERRUPTED) from None
    assert last is not None  # every job has a step or refuses before
    return last
