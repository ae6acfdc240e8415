"""SingleProcess: training in one process, under the names of `accelerate.Accelerator`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class SingleProcess:
    """The part of `accelerate.Accelerator` that training uses, for one process and without its global state."""

    num_processes, process_index, is_main_process = 1, 0, True

    def __init__(self, device: torch.device, mixed_precision: str, gradient_accumulation_steps: int):
        self.device, self.mixed_precision = device, mixed_precision
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.scaler = torch.amp.GradScaler(device.type) if mixed_precision == "fp16" else None

    def accumulate(self, model: nn.Module) -> nullcontext:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss = loss / self.gradient_accumulation_steps
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def clip_grad_norm_(self, parameters: Any, most: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, most)

    def reduce(self, x: Tensor, reduction: str) -> Tensor:
        return x

    def log(self, values: Mapping[str, float], step: int) -> None:
        pass
