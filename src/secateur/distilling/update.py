"""One update of a student, and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from secateur.distilling import deepspeed, terms
from secateur.distilling.features import captured, stream_place
from secateur.distilling.processes import SingleProcess
from secateur.distilling.samples import Distillation, draw_batch
from secateur.distilling.settings import PRECISIONS, DistilSettings
from secateur.pipeline.examples import answer

Terms: TypeAlias = dict[str, float]
AFRESH = (  # another learning rate does not go on from a checkpoint
    "begin again with a lower learning rate, or mixed_precision='bf16' instead of 'fp16', in another folder for checkpoints or "
    "after taking distil.safetensors out of this one"
)


@dataclass
class Training:
    """A student after `number` updates: its optimizer, averaged weights and running scales; and the last terms.

    model: the student as the accelerator calls it. untaught, taught: see `DistilStep`. All else follows from number and seed.
    """

    model: nn.Module
    optimizer: Any
    accelerator: Any
    averaged: dict[str, Tensor]
    scales: list[float] = field(default_factory=list)
    number: int = 0
    raw: Terms = field(default_factory=dict)
    normalized: Terms = field(default_factory=dict)
    total: float = float("nan")
    untaught: float | None = None
    taught: float | None = None


# Before and after


@contextmanager
def prepared(distillation: Distillation) -> Iterator[Training]:
    """The training before its first update; afterwards teacher and student have their own modes and flags again.

    Both are in eval mode meanwhile: diffusers' denoisers differ there only in dropping labels and activations by themselves,
    by draws that no seed of ours decides.
    """
    s, student = distillation.settings, distillation.student
    accelerator = accelerator_of(distillation)
    with ExitStack() as undo:
        for net in (student, distillation.teacher):
            undo.callback(net.train, net.training)
            net.eval()
        undo.callback(restore_student, student, [p.requires_grad for p in student.parameters()], set(vars(student)))
        student.requires_grad_(True)
        if s.checkpointing:
            enable_checkpointing(student, undo)
        optimizer = torch.optim.AdamW(student.parameters(), lr=s.lr, weight_decay=s.weight_decay)
        if deepspeed.used(accelerator):
            deepspeed.configure(accelerator, s)
        model, optimizer = (
            (student, optimizer) if isinstance(accelerator, SingleProcess) else accelerator.prepare(student, optimizer)
        )
        if deepspeed.used(accelerator):
            undo.callback(deepspeed.release, model, student)
        averaged = {name: p.detach().clone() for name, p in student.named_parameters()} if s.ema is not None else {}
        yield Training(model, optimizer, accelerator, averaged)


def accelerator_of(distillation: Distillation) -> Any:
    """The distillation's accelerator, counting its batches from here, or one for a single process."""
    s, accelerator = distillation.settings, distillation.accelerator
    if accelerator is None:
        return SingleProcess(next(distillation.student.parameters()).device, s.mixed_precision, s.accumulation)
    accelerator.gradient_accumulation_steps, accelerator.step = s.accumulation, 0
    return accelerator


def restore_student(student: nn.Module, flags: list[bool], attributes: set[str]) -> None:
    """Put a student's flags back, and take away what accelerate sets on it."""
    for p, flag in zip(student.parameters(), flags, strict=True):
        p.requires_grad_(flag).grad = None
    for name in {"forward", "_original_forward", "_is_accelerate_prepared"} & set(vars(student)) - attributes:
        delattr(student, name)


def enable_checkpointing(student: Any, undo: ExitStack) -> None:
    """Turn diffusers' gradient checkpointing on, until `undo`. Raises ValueError if the student has none."""
    if not getattr(student, "_supports_gradient_checkpointing", False):
        raise ValueError(f"{type(student).__name__} has no gradient checkpointing: set checkpointing=False")
    if not student.is_gradient_checkpointing:
        undo.callback(disable_checkpointing, student, {id(module): set(vars(module)) for module in student.modules()})
        student.enable_gradient_checkpointing()


def disable_checkpointing(student: Any, before: Mapping[int, set[str]]) -> None:
    """Turn gradient checkpointing off, and what diffusers leaves on modules away. before: attributes by id of module."""
    student.disable_gradient_checkpointing()
    for module in student.modules():
        for name in {"gradient_checkpointing", "_gradient_checkpointing_func"} & set(vars(module)) - before[id(module)]:
            delattr(module, name)


# One update


def autocast(distillation: Distillation) -> torch.autocast:
    """torch's autocast to the precision of the settings."""
    dtype = PRECISIONS[distillation.settings.mixed_precision]
    return torch.autocast(next(distillation.student.parameters()).device.type, dtype, enabled=dtype is not torch.float32)


def update_student(distillation: Distillation, now: Training) -> None:
    """Minimise the sum of the terms once, over all processes. Raises ValueError, in all of them, if it is not finite."""
    s, first = distillation.settings, now.number * distillation.settings.samples
    for group in now.optimizer.param_groups:
        group["lr"] = learning_rate(now.number, s)
    now.optimizer.zero_grad()
    batches = [
        add_gradient(distillation, now, range(k, k + s.batch_size)) for k in range(first, first + s.samples, s.batch_size)
    ]
    now.raw, now.normalized, now.total = mean_terms(now, batches)
    if not math.isfinite(now.total):
        raise ValueError(f"samples {first} to {first + s.samples - 1} gave NaN or infinity: {AFRESH}")
    step_optimizer(now, s.clip)
    now.number += 1
    if s.ema is not None:
        average_weights(now, distillation.student, s.ema)


def add_gradient(
    distillation: Distillation, now: Training, numbers: range
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Terms raw and normalized and their weighted sum, of this process's samples; its gradient is added to the student's."""
    mine = numbers[now.accelerator.process_index :: now.accelerator.num_processes]
    with now.accelerator.accumulate(now.model):
        raw, normalized = compute_terms(distillation, now, mine)
        weights = {name: getattr(distillation.settings, name.partition(".")[0]) for name in normalized}
        total = sum(weights[name] * term for name, term in normalized.items())
        now.accelerator.backward(total)
    detached = ({name: x.detach() for name, x in values.items()} for values in (raw, normalized))
    return *detached, total.detach()  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]


def compute_terms(distillation: Distillation, now: Training, numbers: range) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every term whose weight is not 0, raw and normalized, with its gradient: "task", "output", "feature.SITE"."""
    s, sites = distillation.settings, distillation.sites if distillation.settings.feature else {}
    batch = draw_batch(distillation, numbers)
    question = batch.question.to(now.accelerator.device, torch.float32)  # in whichever dtype the teacher encoded its conditions
    teacher_prediction, theirs = ask_teacher(distillation, now, question) if s.output or s.feature else (None, {})
    with autocast(distillation), captured(distillation.student, list(sites), place=stream_place(distillation.teacher)) as mine:
        prediction = answer(now.model, question).float()  # once, so that gradients of the terms are summed in full precision
    raw: dict[str, Tensor] = {}
    if s.task:
        raw["task"] = terms.task(prediction, question.target, batch.own.to(prediction.device))
    if s.output and teacher_prediction is not None:
        raw["output"] = terms.output(prediction, teacher_prediction)
    features = terms.features(mine, theirs, sites)
    scales = site_scales(distillation, now, theirs, sites)
    raw |= {f"feature.{name}": term for name, term in features.items()}
    return raw, raw | {f"feature.{name}": features[name] / scale for name, scale in zip(features, scales, strict=True)}


@torch.no_grad()
def ask_teacher(distillation: Distillation, now: Training, question: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The teacher's prediction, and its features at the sites."""
    names = list(dict.fromkeys(distillation.sites.values())) if distillation.settings.feature else []
    dtype = next(distillation.teacher.parameters()).dtype
    with autocast(distillation), captured(distillation.teacher, names, place=stream_place(distillation.teacher)) as features:
        target = answer(distillation.teacher, question.to(now.accelerator.device, dtype))
    return target, dict(features)


def site_scales(distillation: Distillation, now: Training, theirs: Mapping[str, Tensor], sites: Mapping[str, str]) -> Tensor:
    """α of each site, of the batch over all processes."""
    means = terms.mean_squares(theirs, list(sites.values())).to(now.accelerator.device)
    means = terms.scales(now.accelerator.reduce(means, "mean"), now.scales, normalize=distillation.settings.normalize)
    now.scales = means.tolist() if distillation.settings.normalize == "running" else []
    return means


def mean_terms(now: Training, batches: list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]]) -> tuple[Terms, Terms, float]:
    """Terms and total of an update over its batches and all processes, in one exchange."""
    names = list(batches[0][0])
    rows = [torch.stack([*raw.values(), *(normalized[n] for n in names), total]) for raw, normalized, total in batches]
    means = now.accelerator.reduce(torch.stack(rows).mean(0), "mean").tolist()
    size = len(names)
    return dict(zip(names, means, strict=False)), dict(zip(names, means[size:], strict=False)), means[-1]


def step_optimizer(now: Training, clip: float | None) -> None:
    """Clip the gradient and step; under fp16 by the scaler, which leaves a step out whose gradient overflowed."""
    scaler = now.accelerator.scaler if isinstance(now.accelerator, SingleProcess) else None
    if scaler is not None:
        scaler.unscale_(now.optimizer)
    if clip is not None:
        now.accelerator.clip_grad_norm_(now.model.parameters(), clip)
    if scaler is None:
        now.optimizer.step()
    else:
        scaler.step(now.optimizer)
        scaler.update()


@torch.no_grad()
def average_weights(now: Training, student: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the student's; the first updates count less, as they are far off."""
    decay = min(decay, now.number / (9 + now.number))
    for name, p in student.named_parameters():
        now.averaged[name].lerp_(p.detach(), 1 - decay)


def learning_rate(number: int, settings: DistilSettings) -> float:
    """The learning rate of an update: linear growth, then constant, or half a cosine to 0."""
    if number < settings.warmup:
        return settings.lr * (number + 1) / settings.warmup
    if settings.lr_schedule == "constant":
        return settings.lr
    share = (number - settings.warmup) / max(settings.updates - settings.warmup, 1)
    return settings.lr * (1 + math.cos(math.pi * share)) / 2
