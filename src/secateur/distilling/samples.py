"""Lessons: what the student is asked at each update, by the number of a sample and the seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.distilling.terms import check_normalize
from secateur.pipeline.examples import Examples, Question, question, timesteps_at

if TYPE_CHECKING:
    from accelerate import Accelerator

PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # by accelerate's names
SCHEDULES, TIMESTEPS = ("constant", "cosine"), ("uniform", "stratified")
ORDER, TIME, NOISE, DROPPED, SWAPPED, STRATA = range(6)  # what is drawn, each from a generator of its own


@dataclass(frozen=True, kw_only=True)
class DistilSettings:
    """How to distil; the paper leaves most of it open, so that the defaults are ours unless a source is named.

    steps: updates. batch_size: samples at once, over all processes; accumulation: batches for one update.
    lr: highest learning rate, after `warmup` updates of linear growth; schedule: "constant" (BK-SDM) or "cosine" to 0.
    weight_decay: AdamW's. clip: longest gradient, or None. ema: decay of the averaged weights, or None.
    task, output, feature: weights λ of the terms; a term of weight 0 is not computed. normalize: see `distil_loss.scales`.
    timesteps: "uniform", or "stratified" so that those of an update spread evenly. called: those of a pipe of few steps, the
    only ones that are then learnt. null_rate: how often a sample gets the null condition, for classifier-free guidance.
    swap_rate: how often, at the noisiest timestep, a sample gets the condition of another one, or of a prompt without a picture
    (in proportion to the timestep, ours; Random Conditioning, CVPR 2025, arXiv 2504.02011); such a sample has no task term.
    mixed_precision: "no", "bf16" or "fp16". checkpointing: recompute activations on the way back, to save memory.
    seed: of the order of samples, timesteps, noise and conditions.
    """

    steps: int = 1000
    batch_size: int = 8
    accumulation: int = 1
    lr: float = 5e-5
    warmup: int = 0
    schedule: str = "constant"
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
        check_normalize(self.normalize)
        choices = {"schedule": SCHEDULES, "timesteps": TIMESTEPS, "mixed_precision": tuple(PRECISIONS)}
        for name, names in choices.items():
            if getattr(self, name) not in names:
                raise ValueError(f"found {name}={getattr(self, name)!r}: choose {' or '.join(map(repr, names))}")
        least: dict[str, int] = dict.fromkeys(("steps", "batch_size", "accumulation"), 1)
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

    @property
    def samples(self) -> int:
        """Samples of one update."""
        return self.batch_size * self.accumulation


@dataclass(frozen=True, eq=False)
class Course:
    """What one distillation works on. sites: module of the student → of the teacher. null: the condition of no prompt.

    others: for their conditions alone, which swapped samples get besides those of `examples`.
    """

    teacher: nn.Module
    student: nn.Module
    examples: Examples
    scheduler: Any
    settings: DistilSettings
    sites: Mapping[str, str]
    null: Mapping[str, Any] | None
    accelerator: Accelerator | None
    others: Examples | None = None


@dataclass(frozen=True, eq=False)
class Lesson:
    """A question to student and teacher, and which of its n samples have the condition that belongs to them, bool (n,)."""

    question: Question
    own: Tensor


def lesson(course: Course, numbers: Sequence[int]) -> Lesson:
    """The lesson of samples by number: neither processes, nor batches, nor an interruption change a sample."""
    s, examples = course.settings, course.examples
    size = len(examples)
    heard = size + len(course.others or ())
    places = [place(n, size, seed=s.seed) for n in numbers]
    levels = [level(n, s) for n in numbers]
    swapped = [drawn(s.seed, SWAPPED, n).random() < s.swap_rate * u for n, u in zip(numbers, levels, strict=True)]
    others = [int(drawn(s.seed, SWAPPED, n).integers(heard)) for n in numbers]
    told = [other if swap else p for other, swap, p in zip(others, swapped, places, strict=True)]
    batch = replace(examples, latents=examples.latents[torch.tensor(places)], conditions=conditions_of(course, told))
    batch = without_prompts(batch, course, numbers)
    noise = torch.stack([noise_of(n, examples.latents.shape[1:], seed=s.seed) for n in numbers])
    timesteps = timesteps_at(torch.tensor(levels, dtype=torch.float64), course.scheduler, s.called)
    asked = question(batch, course.scheduler, range(len(numbers)), timesteps=timesteps, noise=noise)
    return Lesson(asked, ~torch.tensor(swapped))


def conditions_of(course: Course, places: Sequence[int]) -> dict[str, Any]:
    """The conditions at places, of the examples first and then of the others."""
    size, others = len(course.examples), course.others or course.examples

    def picked(own: Any, other: Any) -> Any:
        if not torch.is_tensor(own):
            return own
        return torch.stack([own[k] if k < size else other[k - size] for k in places])

    return tree_map(picked, dict(course.examples.conditions), dict(others.conditions))


def without_prompts(batch: Examples, course: Course, numbers: Sequence[int]) -> Examples:
    """The batch, some of whose samples have got the null condition."""
    s = course.settings
    if course.null is None or not s.null_rate:
        return batch
    dropped = torch.tensor([drawn(s.seed, DROPPED, n).random() < s.null_rate for n in numbers])

    def chosen(own: Any, none: Any) -> Any:
        if not torch.is_tensor(own):
            return own
        return torch.where(dropped.view(-1, *[1] * (own.ndim - 1)), none.to(own), own)

    none = {name: course.null[name] for name in batch.conditions}
    return replace(batch, conditions=tree_map(chosen, dict(batch.conditions), none))


def level(number: int, settings: DistilSettings) -> float:
    """How noisy a sample is, in [0, 1) of the timesteps of training."""
    u = float(drawn(settings.seed, TIME, number).random())
    if settings.timesteps == "uniform":
        return u
    update, position = divmod(number, settings.samples)
    return (int(shuffled(settings.samples, settings.seed, STRATA, update)[position]) + u) / settings.samples


def place(number: int, size: int, *, seed: int) -> int:
    """Which of `size` examples a sample is of: each of them once, in an order of its own every time round."""
    epoch, position = divmod(number, size)
    return int(shuffled(size, seed, ORDER, epoch)[position])


@lru_cache(maxsize=4)  # a permutation of a million takes longer than all else that is drawn
def shuffled(size: int, *key: int) -> np.ndarray:
    """The numbers below `size` in the order of this key."""
    return drawn(*key).permutation(size)


def drawn(*key: int) -> np.random.Generator:
    """The generator of a seed, of what is drawn, and of a number."""
    return np.random.default_rng(key)


def noise_of(number: int, shape: Sequence[int], *, seed: int) -> Tensor:
    """The noise of a sample, of this shape."""
    generator = torch.Generator().manual_seed(int(drawn(seed, NOISE, number).integers(2**63)))
    return torch.randn(tuple(shape), generator=generator)
