"""What can be done with a scheduler: place its calls at chosen timesteps, or hold them on its own grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from secateur.pipeline.schedulers import begun

TRIED_STEPS = 10  # to see what a scheduler does
WHOLE, SHIFTED = "UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"
BY_SIGMAS = (WHOLE, SHIFTED)  # diffusers takes no timesteps for WHOLE and shifts SHIFTED's, but their steps read the sigmas
REPLACED = {"num_inference_steps", "timesteps", "sigmas"}


def unholdable(scheduler: Any) -> str | None:
    """Why a scheduler's calls cannot be held; None if they can."""
    name = type(scheduler).__name__
    default = 4 if hasattr(scheduler, "ets") or hasattr(scheduler, "derivatives") else 1
    memory = scheduler.config.get("solver_order", scheduler.config.get("predictor_order", default))
    if memory > 1:
        return f"{name} combines the last {memory} predictions in every step and would take a held one for a new one"
    if (calls := len(begun(scheduler, TRIED_STEPS).timesteps)) != TRIED_STEPS:
        return f"{name} makes {calls} calls in {TRIED_STEPS} steps, wanted one call a step"
    return None


def takes_timesteps(scheduler: Any) -> bool:
    """Whether timesteps can be chosen for a scheduler."""
    return type(scheduler).__name__ in BY_SIGMAS or "timesteps" in signature(scheduler.set_timesteps).parameters


def place_timesteps(
    scheduler: Any, set_timesteps: Callable[..., None], timesteps: Sequence[float], *, arguments: Mapping[str, Any]
) -> None:
    """Set a scheduler to these timesteps, noisiest first, by its own `set_timesteps`.

    UniPC's timesteps are rounded to whole numbers; flow matching's are taken as already shifted. arguments: the other
    arguments of `set_timesteps`.
    """
    others = {name: value for name, value in arguments.items() if name not in REPLACED}
    if type(scheduler).__name__ not in BY_SIGMAS:
        return set_timesteps(**others, timesteps=list(timesteps))
    placed = [round(t) if type(scheduler).__name__ == WHOLE else t for t in timesteps]
    set_timesteps(len(placed), **others)
    scheduler.timesteps = torch.tensor(placed).to(scheduler.timesteps)
    scheduler.sigmas = torch.cat((sigmas_at(scheduler, placed).to(scheduler.sigmas), scheduler.sigmas[-1:]))


def sigmas_at(scheduler: Any, timesteps: Sequence[float]) -> Tensor:
    """σ/α of x = α·data + σ·noise at these timesteps, (T,), float64; for flow matching, σ itself."""
    t = torch.tensor(timesteps, dtype=torch.float64)
    if scheduler.config.get("use_flow_sigmas") or not hasattr(scheduler, "alphas_cumprod"):
        return t / scheduler.config.num_train_timesteps
    alphas = scheduler.alphas_cumprod.double().cpu()
    table = ((1 - alphas) / alphas).sqrt()
    low = t.floor().long().clamp(max=len(table) - 1)
    return torch.lerp(table[low], table[t.ceil().long().clamp(max=len(table) - 1)], t - low)


def shifts(scheduler: Any) -> bool:
    """Whether a flow-matching scheduler would shift chosen timesteps and cannot be kept from it."""
    if type(scheduler).__name__ in BY_SIGMAS:
        return False
    return bool(scheduler.config.get("use_dynamic_shifting")) or scheduler.config.get("shift", 1.0) not in (None, 1.0)
