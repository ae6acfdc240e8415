"""A progress bar on stderr for any of the long jobs, whose steps pass through it unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

S = TypeVar("S")


@dataclass(frozen=True)
class View:
    """How far a job is: what it is doing, how many steps are done, and of how many, or None."""

    doing: str
    done: int
    total: int | None = None


def bar(*, show: bool = True) -> Progress:
    """A bar on stderr that vanishes when the work is done; none in a file, where it would leave an empty line."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:40.80s}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    seen = console.is_interactive or console.is_jupyter
    return Progress(*columns, console=console, transient=True, disable=not (show and seen))


def watched(steps: Iterator[S], view: Callable[[S], View], *, first: str, show: bool = True) -> Iterator[S]:
    """The same steps, while a bar shows the view of the last one. first: what the bar says before the first step."""
    with bar(show=show) as shown:
        line = shown.add_task(first, total=None)
        for step in steps:
            now = view(step)
            shown.update(line, description=now.doing, completed=now.done, total=now.total)
            yield step
