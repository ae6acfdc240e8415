"""A progress bar on stderr for any of the long jobs, whose steps pass through it unchanged; in a file, a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Thread
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn

EVERY = 30.0  # seconds from one line to the next, where no terminal shows the bar (ours)
S = TypeVar("S")


@dataclass(frozen=True)
class View:
    """How far a job is: what it is doing, how many steps are done, and of how many, or None."""

    doing: str
    done: int
    total: int | None = None


class Bar(Progress):
    """The bar of a job's tasks, under what the job shows above it."""

    above: RenderableType | None = None

    def get_renderables(self) -> Iterator[RenderableType]:
        if self.above is not None:
            yield self.above
        yield from super().get_renderables()


@contextmanager
def bar(*, show: bool = True) -> Iterator[Bar]:
    """A bar on stderr that vanishes when the work is done. Where stderr is a file, lines that say how far the work is."""
    columns = (TextColumn("{task.description:40.80s}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    seen = console.is_interactive or console.is_jupyter
    progress = Bar(*columns, console=console, transient=True, disable=not (show and seen))
    with progress, lines(progress) if show and not seen else nullcontext():
        yield progress


@contextmanager
def lines(progress: Progress) -> Iterator[None]:
    """Every so many seconds, a line on stderr for each task of a bar that nobody sees; none for work that is done by then."""
    ended = Event()

    def tell() -> None:
        while not ended.wait(EVERY):
            for task in progress.tasks:
                print(told(task), file=sys.stderr, flush=True)

    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def told(task: Task) -> str:
    """How far a task is, in a line."""
    of = "" if task.total is None else f", {task.completed:g} of {task.total:g}"
    left = task.time_remaining
    return f"{task.description}{of}" + (f", {timedelta(seconds=round(left))} left" if left else "")


def watched(
    steps: Iterator[S],
    view: Callable[[S], View],
    *,
    first: str,
    show: bool = True,
    above: Callable[[S], RenderableType] | None = None,
) -> Iterator[S]:
    """The same steps, while a bar shows the view of the last one. first: what the bar says before the first step.

    above: what stands above the bar.
    """
    with bar(show=show) as shown:
        line = shown.add_task(first, total=None)
        for step in steps:
            now = view(step)
            shown.update(line, description=now.doing, completed=now.done, total=now.total)
            shown.above = above and above(step)
            yield step
