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

from secateur.distilling.settings import DistilSettings
from secateur.pipeline.examples import Examples, Question, question
from secateur.pipeline.noise import timesteps_at

if TYPE_CHECKING:
    from accelerate import Accelerator

ORDER, TIME, NOISE, DROPPED, SWAPPED, STRATA = range(6)  # what is drawn, each from a generator of its own


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
