"""Placement: a scheduler at the timesteps that a schedule chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

WHOLE, SHIFTED = "UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"
BY_SIGMAS = (WHOLE, SHIFTED)  # diffusers takes no timesteps for the one and shifts the other's, but their steps read the sigmas
REPLACED = {"num_inference_steps", "timesteps", "sigmas"}


def takes_timesteps(scheduler: Any) -> bool:
    """Whether timesteps can be chosen for a scheduler."""
    return type(scheduler).__name__ in BY_SIGMAS or "timesteps" in signature(scheduler.set_timesteps).parameters


def place(scheduler: Any, set_timesteps: Callable[..., None], timesteps: Sequence[float], *, asked: Mapping[str, Any]) -> None:
    """Set a scheduler, by its own `set_timesteps` with what else was `asked`, to these timesteps, noisiest first.

    Of UniPC they are rounded to whole ones; of flow matching they are those after any shift.
    """
    kept = {name: value for name, value in asked.items() if name not in REPLACED}
    if type(scheduler).__name__ not in BY_SIGMAS:
        return set_timesteps(**kept, timesteps=list(timesteps))
    placed = [round(t) if type(scheduler).__name__ == WHOLE else t for t in timesteps]
    set_timesteps(len(placed), **kept)
    scheduler.timesteps = torch.tensor(placed).to(scheduler.timesteps)
    scheduler.sigmas = torch.cat((sigmas_at(scheduler, placed).to(scheduler.sigmas), scheduler.sigmas[-1:]))


def sigmas_at(scheduler: Any, timesteps: Sequence[float]) -> Tensor:
    """σ/α of x = α·data + σ·noise at these timesteps, (T,), float64; of flow matching, σ itself."""
    t = torch.tensor(timesteps, dtype=torch.float64)
    if scheduler.config.get("use_flow_sigmas") or not hasattr(scheduler, "alphas_cumprod"):
        return t / scheduler.config.num_train_timesteps
    kept = scheduler.alphas_cumprod.double().cpu()
    table = ((1 - kept) / kept).sqrt()
    low = t.floor().long().clamp(max=len(table) - 1)
    return torch.lerp(table[low], table[t.ceil().long().clamp(max=len(table) - 1)], t - low)
