"""How long, how much memory, and on what: measured side by side, synchronised, with the spread."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.denoiser.blocks import Blocks
from secateur.denoiser.macs import Macs
from secateur.denoiser.patch import Patch

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def hardware() -> dict[str, Any]:
    """What a figure was measured on: processor, cores, threads, RAM, GPU, versions; nothing that names the machine."""
    return {
        "cpu": _cpu_name(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "ram_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    """The cores this process may use, where the system tells; all of them elsewhere."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Timing:
    """Wall times of one thing done several times, in the order in which they were measured."""

    name: str
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError(f"the timing of {self.name!r} is empty: repeat at least once")

    @property
    def median_s(self) -> float:
        return float(np.median(self.seconds))

    @property
    def quartiles_s(self) -> tuple[float, float]:
        low, high = np.percentile(self.seconds, (25, 75))
        return float(low), float(high)

    @property
    def spread(self) -> float:
        """Interquartile range over median: 0.05 means that half of the repeats lie within 5 % of each other."""
        low, high = self.quartiles_s
        return (high - low) / self.median_s

    def record(self) -> dict[str, float]:
        """Median and quartiles in seconds, and how many repeats: one entry of a results file."""
        low, high = self.quartiles_s
        return {"median": self.median_s, "low": low, "high": high, "repeats": len(self.seconds)}


def time_together(
    runs: Mapping[str, Callable[[], Any]], *, repeats: int = 5, warmup: int = 1, clock: Callable[[], float] | None = None
) -> dict[str, Timing]:
    """A Timing for each of `runs`, measured in turns (A B A B), so that a machine that slows down slows all of them.

    `warmup` rounds go before and are not counted. GPU work is waited for before the clock is read.
    """
    rounds = list(time_rounds(runs, repeats=repeats, warmup=warmup, clock=clock))
    return {name: Timing(name, tuple(r[name] for r in rounds)) for name in runs}


def time_rounds(
    runs: Mapping[str, Callable[[], Any]], *, repeats: int = 5, warmup: int = 1, clock: Callable[[], float] | None = None
) -> Iterator[dict[str, float]]:
    """Seconds by name, round by round as they are measured, for a caller who shows progress; see `time_together`."""
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats is at least 1 and warmup at least 0; got {repeats} and {warmup}")
    now = clock or time.perf_counter
    for k in range(warmup + repeats):
        seconds = {name: _seconds(run, now) for name, run in runs.items()}
        if k >= warmup:
            yield seconds


def _seconds(run: Callable[[], Any], now: Callable[[], float]) -> float:
    _synchronize()
    start = now()
    run()
    _synchronize()
    return now() - start


def _synchronize() -> None:
    if torch.cuda.is_initialized():  # asking a GPU that nobody uses would start it up
        torch.cuda.synchronize()


def speedup(slow: Timing, fast: Timing) -> tuple[float, float, float]:
    """How many times faster `fast` is: median and quartiles of the ratios taken round by round.

    Both must come from one `time_together`: neighbours in time share what the machine was doing.
    """
    if len(slow.seconds) != len(fast.seconds):
        found = f"{len(slow.seconds)} of {slow.name!r} and {len(fast.seconds)} of {fast.name!r}"
        raise ValueError(f"a speed-up pairs the rounds of one measurement, but there are {found}: time them together")
    low, median, high = np.percentile(np.divide(slow.seconds, fast.seconds), (25, 50, 75))
    return float(median), float(low), float(high)


def block_times(
    denoiser: nn.Module, blocks: Blocks, run: Callable[[], Any], *, clock: Callable[[], float] | None = None
) -> Macs:
    """What each block costs on this device, as a Macs of nanoseconds: whatever takes a budget in MACs then takes one in time.

    run: makes the denoiser calls to be timed, one of them at least; the median counts, and what a call takes beside its
    blocks is its rest. There is one convention of time: with the attention products or without is the same.
    """
    now, inside, whole = clock or time.perf_counter, [[] for _ in blocks.names], []

    def timed(found: list[float], make: Callable[[], Any]) -> Any:
        _synchronize()
        start = now()
        out = make()
        _synchronize()
        found.append(now() - start)
        return out

    with Patch(denoiser, blocks.names, lambda t, i, make, inputs: timed(inside[i], make),
               root=lambda t, make, inputs: timed(whole, make)):  # fmt: skip
        run()
    if not whole:
        raise ValueError("the denoiser was not called while its blocks were to be timed: pass a run that makes images")
    cells = tuple(round(1e9 * float(np.median(found))) for found in inside)
    rest = max(0, round(1e9 * float(np.median(whole))) - sum(cells))
    return Macs(blocks, cells, (0,) * len(cells), rest, 0, unit="ns")


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
    """A lower bound, where the system keeps only the peak of the process's whole life."""
    from resource import RUSAGE_SELF, getrusage

    unit = 1 if platform.system() == "Darwin" else 1024
    before = getrusage(RUSAGE_SELF).ru_maxrss
    run()
    grown = (getrusage(RUSAGE_SELF).ru_maxrss - before) * unit
    return Peak(grown, "growth of the process's lifetime peak (ru_maxrss): a lower bound")
