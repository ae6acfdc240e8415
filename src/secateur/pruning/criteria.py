"""What a layer's absence costs: LAPTOP-Diff's output loss (arXiv 2404.11098) and the criteria that it is compared with.

Each criterion gives the losses of every plan, (K,): one for each of K tuples (latents, timestep, noise, condition). All plans
share the tuples, so that differences are sharp. All criteria but the first two take plans of one layer each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from secateur.denoiser.families import bare, class_name
from secateur.denoiser.patch import Patch
from secateur.pipeline.examples import Examples, Question, answer, question, tensors
from secateur.pipeline.noise import timesteps_at
from secateur.pruning.bypass import bypassed, stand_ins
from secateur.pruning.plan import KEEP_SHORTCUT, Plan
from secateur.pruning.surgery import cuttable

Losses = Iterator[Tensor]  # (K,) for each plan
Criterion = Callable[[nn.Module, Any, Sequence[Plan]], Losses]  # teacher, Tuples, plans


@dataclass(frozen=True, eq=False)
class Tuples:
    """K tuples (sample, timestep, noise) to query a denoiser with, all drawn from one seed. numbers: (K,), one for each."""

    examples: Examples
    scheduler: Any
    places: Tensor
    timesteps: Tensor
    numbers: Tensor
    seed: int
    batch_size: int

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, part: slice) -> Tuples:
        picked = {name: getattr(self, name)[part] for name in ("places", "timesteps", "numbers")}
        return replace(self, **picked)

    def questions(self, denoiser: nn.Module) -> Iterator[Question]:
        """The queries, `batch_size` tuples at a time, on the denoiser's device and in its dtype."""
        weight = next(denoiser.parameters())
        for start in range(0, len(self), self.batch_size):
            part = self[start : start + self.batch_size]
            noise = torch.stack([self.noise(k) for k in part.numbers.tolist()])
            query = question(self.examples, self.scheduler, part.places, timesteps=part.timesteps, noise=noise)
            yield query.to(weight.device, weight.dtype)

    def noise(self, k: int) -> Tensor:
        """Noise of tuple k, (C, H, W), from its own generator, so that neither batches nor processes change it."""
        entropy = int(np.random.SeedSequence([self.seed, k]).generate_state(1)[0])
        return torch.randn(self.examples.latents.shape[1:], generator=torch.Generator().manual_seed(entropy))


def draw_tuples(
    examples: Examples,
    scheduler: Any,
    *,
    samples: int = 64,
    seed: int = 0,
    batch_size: int = 8,
    called: Sequence[float] | None = None,
) -> Tuples:
    """Tuples whose timesteps are stratified: one in each of `samples` equal parts of the scheduler's training range (ours).

    Examples are used equally often, give or take one. called: the only timesteps to use, in place of the whole range.
    """
    if samples < 1 or batch_size < 1:
        raise ValueError(f"found {samples} samples in batches of {batch_size}: ask for one of each or more")
    generator = torch.Generator().manual_seed(seed)
    rounds = [torch.randperm(len(examples), generator=generator) for _ in range(-(-samples // len(examples)))]
    within = torch.rand(samples, generator=generator)
    timesteps = timesteps_at((torch.arange(samples) + within) / samples, scheduler, called)
    return Tuples(examples, scheduler, torch.cat(rounds)[:samples], timesteps, torch.arange(samples), seed, batch_size)


@torch.no_grad()
def output_losses(teacher: nn.Module, tuples: Tuples, plans: Iterable[Plan]) -> Losses:
    """‖ε(without) − ε_ori‖² for each plan, mean over C, H, W: LAPTOP-Diff's output loss, for one layer or many at once."""
    predictions = [answer(teacher, query).float() for query in tuples.questions(teacher)]
    for changed in answers_without(teacher, tuples, plans):
        yield torch.cat([mean_squares(a - b) for a, b in zip(predictions, changed, strict=True)])


@torch.no_grad()
def task_losses(teacher: nn.Module, tuples: Tuples, plans: Iterable[Plan]) -> Losses:
    """For each plan, how far the training loss ‖ε(without) − ε‖² is above the teacher's."""
    query = list(tuples.questions(teacher))
    own = torch.cat([mean_squares(answer(teacher, one) - one.target) for one in query])
    for changed in answers_without(teacher, tuples, plans):
        yield torch.cat([mean_squares(prediction - one.target) for prediction, one in zip(changed, query, strict=True)]) - own


def answers_without(teacher: nn.Module, tuples: Tuples, plans: Iterable[Plan]) -> Iterator[list[Tensor]]:
    """For each plan, the predictions of the teacher without its layers, batch by batch; the teacher is whole again by then."""
    removable = cuttable(bare(teacher))
    for plan in plans:
        with bypassed(teacher, plan, removable=removable):
            predictions = [answer(teacher, query).float() for query in tuples.questions(teacher)]
        yield predictions


def mean_squares(x: Tensor) -> Tensor:
    """Mean square of each sample, (n,) float32."""
    return x.float().square().flatten(1).mean(dim=1)


@torch.no_grad()
def cosine_losses(teacher: nn.Module, tuples: Tuples, plans: Sequence[Plan]) -> Losses:
    """1 − the cosine between each layer's output in the teacher and what is left without it, a sample as one vector.

    One pass over the teacher for all plans, of one layer each.
    """
    layers = tuple(plan.layers[0] for plan in plans)
    how = tuple(plan.removals[0] for plan in plans)
    instead = stand_ins(bare(teacher), Plan(layers, how, class_name(teacher)))
    batches: list[list[Tensor]] = [[] for _ in layers]

    def call(t, i, run, inputs):
        out = run()
        batches[i].append(1 - F.cosine_similarity(vectors(out), vectors(instead[i](*inputs[0], **inputs[1]))))
        return out

    with Patch(bare(teacher), layers, call):
        for query in tuples.questions(teacher):
            answer(teacher, query)
    return iter([torch.cat(parts) for parts in batches])


def vectors(out: Any) -> Tensor:
    """A layer's output as one vector for each sample, (n, D) float32."""
    return torch.cat([x.flatten(1).float() for x in tensors(out)], dim=1)


def taylor_losses(teacher: nn.Module, tuples: Tuples, plans: Sequence[Plan]) -> Losses:
    """|Σ w · ∂L_task/∂w| over the weights that each plan frees: the task loss without them to first order, tuple by tuple."""
    whole = bare(teacher)
    names = [freed_names(whole, plan) for plan in plans]
    own = {name: p.detach().requires_grad_() for name, p in whole.named_parameters() if any(name in part for part in names)}
    rows = []
    for query in replace(tuples, batch_size=1).questions(whole):
        with torch.enable_grad():
            predictions = answer(lambda **arguments: functional_call(whole, own, (), arguments), query)
            loss = mean_squares(predictions - query.target).sum()
        slopes = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
        change = {name: (0 if g is None else (g * p).sum().item()) for (name, p), g in zip(own.items(), slopes, strict=True)}
        rows.append([abs(sum(change[name] for name in part)) for part in names])
    return iter(torch.tensor(rows).T)


def magnitude_losses(teacher: nn.Module, tuples: Tuples, plans: Iterable[Plan]) -> Losses:
    """Σ |w| over the weights that each plan frees (ours: a sum, as costs are), K = 1: it needs no tuples."""
    sizes = {name: p.detach().abs().sum().float() for name, p in bare(teacher).named_parameters()}
    return (torch.stack([sizes[name] for name in freed_names(bare(teacher), plan)]).sum().view(1) for plan in plans)


def freed_names(denoiser: nn.Module, plan: Plan) -> set[str]:
    """Names of the parameters that go with the layers of a plan."""
    parameters_of = {(layer, how): denoiser.get_submodule(layer).named_parameters() for layer, how in plan.items()}
    return {
        f"{layer}.{name}"
        for (layer, how), parameters in parameters_of.items()
        for name, _ in parameters
        if not (how == KEEP_SHORTCUT and name.startswith("conv_shortcut."))
    }


def score_losses(score: Callable[[], np.ndarray]) -> Criterion:
    """The criterion of a prompt score: how much worse the images of the teacher's pipe get, by CLIP score, PickScore, ….

    score: draws K images with the pipe, with the same seeds each time, and gives (K,), higher for better. It needs no tuples.
    """

    def losses(teacher: nn.Module, tuples: Tuples | None, plans: Iterable[Plan]) -> Losses:
        dense, removable = torch.as_tensor(score()).float(), cuttable(bare(teacher))
        for plan in plans:
            with bypassed(teacher, plan, removable=removable):
                changed = torch.as_tensor(score()).float()
            yield dense - changed

    return losses


CRITERIA: dict[str, Criterion] = {
    "output": output_losses,
    "task": task_losses,
    "taylor": taylor_losses,
    "cosine": cosine_losses,
    "magnitude": magnitude_losses,
}
