"""The samples of each update, decided by the seed and the number of a sample alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.distilling.settings import DistilSettings
from secateur.pipeline.examples import Examples, Question, question
from secateur.pipeline.noise import timesteps_at

if TYPE_CHECKING:
    from accelerate import Accelerator

ORDER, TIME, NOISE, DROPPED, SWAPPED, STRATA = range(6)  # what is drawn, each from a generator of its own


@dataclass(frozen=True, eq=False)
class Distillation:
    """What one distillation works on. sites: module of the student → of the teacher. null: the condition of no prompt.

    others: examples of prompts without pictures; swapped samples get their conditions, or those of `examples`.
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
class Batch:
    """A query for student and teacher. own: which of its n samples have the condition that belongs to them, bool (n,)."""

    question: Question
    own: Tensor


def draw_batch(distillation: Distillation, numbers: Sequence[int]) -> Batch:
    """The batch of the samples of these numbers; neither processes, nor batches, nor an interruption change a sample."""
    s, examples = distillation.settings, distillation.examples
    size = len(examples)
    count = size + len(distillation.others or ())
    places = [draw_example(n, size, seed=s.seed) for n in numbers]
    levels = [noise_level(n, s) for n in numbers]
    swapped = [generator_for(s.seed, SWAPPED, n).random() < s.swap_rate * u for n, u in zip(numbers, levels, strict=True)]
    others = [int(generator_for(s.seed, SWAPPED, n).integers(count)) for n in numbers]
    prompts = [other if swap else p for other, swap, p in zip(others, swapped, places, strict=True)]
    latents, conditions = examples.latents[torch.tensor(places)], pick_conditions(distillation, prompts)
    batch = replace(examples, latents=latents, conditions=conditions)
    batch = without_prompts(batch, distillation, numbers)
    noise = torch.stack([draw_noise(n, examples.latents.shape[1:], seed=s.seed) for n in numbers])
    timesteps = timesteps_at(torch.tensor(levels, dtype=torch.float64), distillation.scheduler, s.called)
    query = question(batch, distillation.scheduler, range(len(numbers)), timesteps=timesteps, noise=noise)
    return Batch(query, ~torch.tensor(swapped))


def pick_conditions(distillation: Distillation, places: Sequence[int]) -> dict[str, Any]:
    """The conditions at places, of the examples first and then of the others."""
    size, others = len(distillation.examples), distillation.others or distillation.examples

    def picked(own: Any, other: Any) -> Any:
        if not torch.is_tensor(own):
            return own
        return torch.stack([own[k] if k < size else other[k - size] for k in places])

    return tree_map(picked, dict(distillation.examples.conditions), dict(others.conditions))


def without_prompts(batch: Examples, distillation: Distillation, numbers: Sequence[int]) -> Examples:
    """The batch, with the null condition for some of its samples."""
    s = distillation.settings
    if distillation.null is None or not s.null_rate:
        return batch
    dropped = torch.tensor([generator_for(s.seed, DROPPED, n).random() < s.null_rate for n in numbers])

    def chosen(own: Any, none: Any) -> Any:
        if not torch.is_tensor(own):
            return own
        return torch.where(dropped.view(-1, *[1] * (own.ndim - 1)), none.to(own), own)

    none = {name: distillation.null[name] for name in batch.conditions}
    return replace(batch, conditions=tree_map(chosen, dict(batch.conditions), none))


def noise_level(number: int, settings: DistilSettings) -> float:
    """How noisy a sample is: the fraction of the training timesteps, in [0, 1)."""
    u = float(generator_for(settings.seed, TIME, number).random())
    if settings.timesteps == "uniform":
        return u
    update, position = divmod(number, settings.samples)
    return (int(shuffle(settings.samples, settings.seed, STRATA, update)[position]) + u) / settings.samples


def draw_example(number: int, size: int, *, seed: int) -> int:
    """The place of a sample among `size` examples: each of them once, in another order every time round."""
    epoch, position = divmod(number, size)
    return int(shuffle(size, seed, ORDER, epoch)[position])


@lru_cache(maxsize=4)  # a permutation of a million takes longer than all else that is drawn
def shuffle(size: int, *key: int) -> np.ndarray:
    """The numbers below `size` in the order of this key."""
    return generator_for(*key).permutation(size)


def generator_for(*key: int) -> np.random.Generator:
    """The random generator of a key: the seed, what is drawn, and a number."""
    return np.random.default_rng(key)


def draw_noise(number: int, shape: Sequence[int], *, seed: int) -> Tensor:
    """The noise of a sample, of this shape."""
    generator = torch.Generator().manual_seed(int(generator_for(seed, NOISE, number).integers(2**63)))
    return torch.randn(tuple(shape), generator=generator)
