"""A long job seen from outside: its results as they come, and in between how far the denoiser is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import Any, TypeVar

from torch import nn

S = TypeVar("S")
CALLED, DONE = object(), object()
PACE_S = 0.1  # between two counts, at least


def live(denoiser: nn.Module, steps: Iterator[S]) -> Iterator[S | int]:
    """The same steps, made in a thread of their own; between them the calls of the denoiser since the last one, as they grow.

    As with any generator, the job waits at each step until the next one is wanted, and an error of the job is raised here. If
    this generator is closed, the job ends at the denoiser's next call.
    """
    news, wanted, closed = SimpleQueue[Any](), Semaphore(0), Event()

    def called(*_: Any) -> None:
        if closed.is_set():
            raise KeyboardInterrupt  # which every job takes without leaving a trace
        news.put(CALLED)

    def work() -> None:
        try:
            for step in steps:
                news.put((step,))
                wanted.acquire()
                if closed.is_set():
                    break
            news.put(DONE)
        except BaseException as error:
            news.put(error)

    hook, worker = denoiser.register_forward_pre_hook(called), Thread(target=work, daemon=True)
    worker.start()
    try:
        for item in heard(news):
            yield item
            if not isinstance(item, int):
                wanted.release()
    finally:
        closed.set()
        wanted.release()
        worker.join()
        hook.remove()


def heard(news: SimpleQueue[Any]) -> Iterator[Any]:
    """The steps that a job tells, and how many calls there were since, not too often."""
    calls, last = 0, 0.0
    while (item := news.get()) is not DONE:
        if isinstance(item, BaseException):
            raise item
        if item is not CALLED:
            calls = 0
            yield item[0]
            continue
        calls += 1
        if time.monotonic() - last >= PACE_S:
            last = time.monotonic()
            yield calls
