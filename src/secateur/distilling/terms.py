"""The terms of distillation: task, output, and a normalized one for each feature site. LAPTOP-Diff (arXiv 2404.11098).

L = λ_task ‖ε − ε_S‖² + λ_out ‖ε_T − ε_S‖² + λ_feat Σ_i ‖f_T^i − f_S^i‖² / α_i, every norm a mean over elements. Without α_i
a few numerically large sites drown the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

NORMALIZE: Mapping[str, Callable[[Tensor], Tensor]] = {  # α of the teacher's mean square m
    "mean_square": lambda m: m,
    "norm": torch.sqrt,
    "running": lambda m: m,
    "none": torch.ones_like,
}
MEMORY = 0.99  # of the running mean, which begins at its first value (ours)
LEAST = 1e-12  # a teacher whose feature is zero must not make a division by zero


def task(prediction: Tensor, target: Tensor, own: Tensor) -> Tensor:
    """Mean square error to the true target, over the samples that have their `own` condition, bool (n,)."""
    error = (prediction - target.float()).square().flatten(1).mean(1)
    return (error * own).mean()


def output(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean square error to the teacher's prediction."""
    return (prediction - target.float()).square().mean()


def features(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], sites: Mapping[str, str]) -> dict[str, Tensor]:
    """Mean square error at each site, by the student's name of it. Raises ValueError if shapes differ."""
    for own, other in sites.items():
        if mine[own].shape != theirs[other].shape:
            raise ValueError(
                f"{own} of the student gives {tuple(mine[own].shape)} and {other} of the teacher {tuple(theirs[other].shape)}: "
                "give sites where both give the same shape"
            )
    return {own: (mine[own].float() - theirs[other].float()).square().mean() for own, other in sites.items()}


def mean_squares(theirs: Mapping[str, Tensor], sites: Sequence[str]) -> Tensor:
    """Mean square of the teacher's features, (sites,), no gradient."""
    if not sites:
        return torch.zeros(0)
    return torch.stack([theirs[name].detach().float().square().mean() for name in sites])


def scales(means: Tensor, before: Sequence[float], *, normalize: str) -> Tensor:
    """α of each site from the mean squares of this batch, and for "running" also from the scales before it, if any.

    "mean_square" (ours): the mean of f_T² over the batch, so that a term is a relative error. "norm": its root, the teacher's
    L2 norm an element. "running": the mean square, averaged over the updates. "none": 1.
    """
    if normalize == "running" and len(before):
        means = torch.lerp(means.new_tensor(before), means, 1 - MEMORY)
    return NORMALIZE[normalize](means).clamp(min=LEAST)
