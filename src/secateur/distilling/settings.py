"""How a student is distilled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import rich.repr
import torch

from secateur.artifact import check_word
from secateur.distilling.terms import NORMALIZE

PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # by accelerate's names
LR_SCHEDULES, TIMESTEPS = ("constant", "cosine"), ("uniform", "stratified")


@rich.repr.auto
@dataclass(frozen=True, kw_only=True)
class DistilSettings:
    """How to distil. The paper leaves most of it open, so the defaults are ours unless a source is named.

    updates: of the student. batch_size: samples at once, over all processes; accumulation: batches for one update.
    lr: highest learning rate, after `warmup` updates of linear growth; lr_schedule: "constant" (BK-SDM) or "cosine" to 0.
    weight_decay: AdamW's. clip: longest gradient, or None. ema: decay of the averaged weights, or None.
    task, output, feature: weights λ of the terms; a term of weight 0 is not computed. normalize: see `terms.scales`.
    timesteps: "uniform", or "stratified" so that those of an update spread evenly. called: those of a pipe of few steps, the
    only ones that are then learnt. null_rate: how often a sample gets the null condition, for classifier-free guidance.
    swap_rate: how often, at the noisiest timestep, a sample gets the condition of another one, or of a prompt without a picture
    (in proportion to the timestep, ours; Random Conditioning, CVPR 2025, arXiv 2504.02011); such a sample has no task term.
    mixed_precision: "no", "bf16" or "fp16". checkpointing: recompute activations on the way back, to save memory.
    seed: of the order of samples, timesteps, noise and conditions.
    """

    updates: int = 1000
    batch_size: int = 8
    accumulation: int = 1
    lr: float = 5e-5
    warmup: int = 0
    lr_schedule: str = "constant"
    weight_decay: float = 0.01
    clip: float | None = 1.0
    ema: float | None = 0.999
    task: float = 1.0
    output: float = 1.0
    feature: float = 0.1
    normalize: str = "mean_square"
    timesteps: str = "uniform"
    called: tuple[float, ...] | None = None
    null_rate: float = 0.0
    swap_rate: float = 0.0
    mixed_precision: str = "no"
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self):
        check_word("normalization", self.normalize, NORMALIZE)
        choices = {"lr_schedule": LR_SCHEDULES, "timesteps": TIMESTEPS, "mixed_precision": tuple(PRECISIONS)}
        for name, names in choices.items():
            if getattr(self, name) not in names:
                raise ValueError(f"found {name}={getattr(self, name)!r}: choose {' or '.join(map(repr, names))}")
        least: dict[str, int] = dict.fromkeys(("updates", "batch_size", "accumulation"), 1)
        least |= dict.fromkeys(("lr", "warmup", "weight_decay", "task", "output", "feature", "seed"), 0)
        if wrong := [name for name, limit in least.items() if not getattr(self, name) >= limit]:
            raise ValueError(f"found {wrong[0]}={getattr(self, wrong[0])}, wanted {least[wrong[0]]} or more: change it")
        if self.called is not None and not self.called:
            raise ValueError(
                "found called=(), no timesteps at all: give those that the pipe calls, or None for all of training"
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"found clip={self.clip}, wanted the length that gradients are cut to, or None: give more than 0")
        rates = {"null_rate": self.null_rate, "swap_rate": self.swap_rate, "ema": self.ema or 0.0}
        if wrong := [name for name, rate in rates.items() if not 0 <= rate <= 1]:
            raise ValueError(f"found {wrong[0]}={rates[wrong[0]]}, wanted a fraction from 0 to 1: change it")
        if not self.task + self.output + self.feature:
            raise ValueError("task, output and feature all weigh 0, so there is nothing to learn: give one of them a weight")

    def lasting(self) -> dict[str, Any]:
        """The settings that must stay if a distillation is to go on; with a constant rate it may get more updates."""
        gone = {"called", *(("updates",) if self.lr_schedule == "constant" else ())}
        return {name: value for name, value in asdict(self).items() if name not in gone}

    @property
    def samples(self) -> int:
        """Samples of one update."""
        return self.batch_size * self.accumulation
