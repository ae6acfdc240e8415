"""The most memory in use at once."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class Peak:
    """The most memory in use at once, and what was counted."""

    peak_bytes: int
    how: str


def peak_memory(run: Callable[[], Any], *, device: str | torch.device = "cpu") -> Peak:
    """The Peak of `run` on `device`: all that torch allocated on a GPU, growth of the process's resident memory on a CPU."""
    if torch.device(device).type == "cuda":
        return _peak_cuda(run, torch.device(device))
    return _peak_linux(run) if CLEAR_REFS.exists() else _peak_lifetime(run)


def _peak_cuda(run: Callable[[], Any], device: torch.device) -> Peak:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return Peak(torch.cuda.max_memory_allocated(device), "torch.cuda.max_memory_allocated, weights included")


def _peak_linux(run: Callable[[], Any]) -> Peak:
    CLEAR_REFS.write_text("5")  # sets the high-water mark back to what is resident now (man 5 proc)
    before = _status_bytes("VmRSS")
    run()
    return Peak(max(_status_bytes("VmHWM") - before, 0), "growth of the process's peak resident memory (VmHWM)")


def _status_bytes(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def _peak_lifetime(run: Callable[[], Any]) -> Peak:
    """A lower bound, for systems that keep only the peak of the process's whole life."""
    from resource import RUSAGE_SELF, getrusage

    unit = 1 if platform.system() == "Darwin" else 1024
    before = getrusage(RUSAGE_SELF).ru_maxrss
    run()
    growth = (getrusage(RUSAGE_SELF).ru_maxrss - before) * unit
    return Peak(growth, "growth of the process's lifetime peak (ru_maxrss): a lower bound")
