"""What each block of a denoiser takes on this device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.denoiser.blocks import Blocks
from secateur.denoiser.macs import Macs
from secateur.denoiser.patch import Patch


def synchronize() -> None:
    if torch.cuda.is_initialized():  # asking a GPU that nobody uses would start it up
        torch.cuda.synchronize()


def block_times(
    denoiser: nn.Module, blocks: Blocks, run: Callable[[], Any], *, clock: Callable[[], float] | None = None
) -> Macs:
    """What each block costs on this device, as a Macs of nanoseconds: whatever takes a budget in MACs then takes one in time.

    run: makes the denoiser calls to be timed, one of them at least; the median counts, and what a call takes beside its
    blocks is its rest. There is one convention of time: with the attention products or without is the same.
    """
    now, inside, whole = clock or time.perf_counter, [[] for _ in blocks.names], []

    def timed(seconds: list[float], make: Callable[[], Any]) -> Any:
        synchronize()
        start = now()
        out = make()
        synchronize()
        seconds.append(now() - start)
        return out

    with Patch(denoiser, blocks.names, lambda t, i, make, inputs: timed(inside[i], make),
               root=lambda t, make, inputs: timed(whole, make)):  # fmt: skip
        run()
    if not whole:
        raise ValueError("the denoiser was not called while its blocks were to be timed: pass a run that makes images")
    cells = tuple(round(1e9 * float(np.median(seconds))) for seconds in inside)
    rest = max(0, round(1e9 * float(np.median(whole))) - sum(cells))
    return Macs(blocks, cells, (0,) * len(cells), rest, 0, unit="ns")
