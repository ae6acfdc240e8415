"""Latents with noise, as a scheduler adds it, and what a denoiser should predict from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def corrupted(scheduler: Any, clean: Tensor, noise: Tensor, *, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents and the target of the denoiser's answer, both like `clean`."""
    signal, spread = rates(scheduler, timesteps)
    signal, spread = (x.to(clean).view(-1, *[1] * (clean.ndim - 1)) for x in (signal, spread))
    targets: dict[str, Callable[[], Tensor]] = {
        "epsilon": lambda: noise,
        "sample": lambda: clean,
        "v_prediction": lambda: signal * noise - spread * clean,
        "flow_prediction": lambda: noise - clean,
    }
    return signal * clean + spread * noise, targets[prediction(scheduler)]()


def rates(scheduler: Any, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """What clean latents and noise are multiplied by at these timesteps, (n,) each."""
    last = scheduler.config["num_train_timesteps"]
    low, high = float(timesteps.min()), float(timesteps.max())
    if low < 0 or high >= last:
        raise ValueError(f"found timesteps from {low:g} to {high:g}: give those of training, from 0 to below {last}")
    if prediction(scheduler) == "flow_prediction":
        sigma = timesteps.float() / last
        return 1 - sigma, sigma
    alphas = scheduler.alphas_cumprod.to(timesteps.device)[timesteps.long()].float()
    return alphas.sqrt(), (1 - alphas).sqrt()


def timesteps_at(levels: Tensor, scheduler: Any, called: Sequence[float] | None = None) -> Tensor:
    """The timestep at each level in [0, 1): of all of training, or of those that a pipe of few steps calls."""
    last = scheduler.config["num_train_timesteps"]
    if called is None:
        return (levels * last).long()
    at = torch.tensor(sorted(min(t, last - 1) for t in called))  # flow matching begins at `last` itself, all noise
    timesteps = at[(levels * len(at)).long().clamp(max=len(at) - 1)]
    return timesteps if prediction(scheduler) == "flow_prediction" else timesteps.long()


def prediction(scheduler: Any) -> str:
    """What the denoiser predicts: "epsilon", "sample", "v_prediction" or "flow_prediction". Raises ValueError if it is none."""
    name, config = type(scheduler).__name__, scheduler.config
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
        return "flow_prediction"
    kind = config.get("prediction_type")
    if kind not in ("epsilon", "sample", "v_prediction") or not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"{name} trains by another noise ({kind}) than alphas_cumprod or flow matching: give the pipe a DDIMScheduler or a "
            "FlowMatchEulerDiscreteScheduler of its configuration"
        )
    return kind
