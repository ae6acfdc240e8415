"""distil_steps(teacher, student, examples, scheduler): the student learns to predict what the teacher predicts.

LAPTOP-Diff (arXiv 2404.11098), normalized distillation: task, output, and a relative error at each feature site, so that no
site drowns the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.checkpoint import check_save_every, saved_steps
from secateur.denoiser import fingerprint
from secateur.distilling import checkpoints, deepspeed, features, held_out, update
from secateur.distilling.samples import Distillation
from secateur.distilling.settings import DistilSettings
from secateur.distilling.update import Training
from secateur.pipeline.examples import Examples, tensors
from secateur.pipeline.noise import prediction
from secateur.pipeline.schedulers import scheduler_signature

if TYPE_CHECKING:
    from accelerate import Accelerator

DEFAULTS = DistilSettings()
SAMPLED = 16  # examples that go into the hash of all


@dataclass(frozen=True, eq=False)
class DistilStep:
    """A distillation after `number` updates, with the terms of the last one.

    raw: mean square errors by name: "task", "output" and "feature.SITE" for every site, without those of weight 0.
    normalized: the same, with features divided by their α. total: what was minimised. averaged: the averaged weights by name,
    or none; `holding(student, step.averaged)` puts them into the student; the next step changes them. untaught, taught: mean
    square errors to the teacher's predictions on samples that no update learns from, before the first update and, in the last
    step, after it; teaching helped if `taught` is lower.
    """

    number: int
    raw: Mapping[str, float]
    normalized: Mapping[str, float]
    total: float
    learning_rate: float
    averaged: Mapping[str, Tensor]
    untaught: float | None = None
    taught: float | None = None


def distil_steps(
    teacher: nn.Module,
    student: nn.Module,
    examples: Examples,
    scheduler: Any,
    *,
    settings: DistilSettings = DEFAULTS,
    sites: Mapping[str, str] | None = None,
    null: Mapping[str, Any] | None = None,
    others: Examples | None = None,
    folder: str | Path | None = None,
    save_every: int = 500,
    accelerator: Accelerator | None = None,
) -> Iterator[DistilStep]:
    """A DistilStep for each update of a student, which is trained in place; in the end it holds the averaged weights, if any.

    teacher: stays as it is. student: in float32, on the teacher's device. examples: see `secateur.Examples`. scheduler: the
    pipe's, for its noise. sites: module of the student → module of the teacher; by default `features.sites`. null: the
    denoiser's conditions for no prompt, of one sample, if settings.null_rate is not 0. others: prompts without pictures for
    swapped samples, see `encoded.unpictured`. folder: where checkpoints go, every `save_every` updates and at the end. Call
    again with the same arguments and the untrained student to resume; the first step is then the one that was saved.
    accelerator: spreads each batch over its processes, which changes results by rounding alone; its trackers get the terms.
    Raises ValueError or TypeError, in a sentence, if arguments do not fit.
    """
    if sites is None:
        sites = features.sites(teacher, student) if settings.feature else {}
    distillation = Distillation(teacher, student, examples, scheduler, settings, dict(sites), null, accelerator, others)
    check_distillation(distillation)
    check_save_every(save_every)
    return run_updates(distillation, None if folder is None else Path(folder), save_every)


def run_updates(distillation: Distillation, folder: Path | None, save_every: int) -> Iterator[DistilStep]:
    """The DistilSteps of a distillation that was checked."""
    student, last = distillation.student, distillation.settings.updates
    # Of the weights before any update, and before processes share them out.
    own_arguments = resume_arguments(distillation) if folder else {}
    with update.prepared(distillation) as now:

        def save(_: DistilStep) -> None:
            checkpoints.check_student(now, distillation)
            if folder:
                checkpoints.save_checkpoint(now, student, folder, arguments=own_arguments)

        if folder:
            checkpoints.load_checkpoint(now, student, folder, arguments=own_arguments)
        if now.number == 0:
            now.untaught = held_out.distance(distillation, now)
        resumed = as_step(distillation, now) if now.number else None
        yield from saved_steps(resumed, train(distillation, now), last=last, every=save_every, save=save)
        copy_weights(now.averaged, student)


def train(distillation: Distillation, now: Training) -> Iterator[DistilStep]:
    """A DistilStep for each update that is left; trackers get its terms."""
    while now.number < distillation.settings.updates:
        update.update_student(distillation, now)
        if now.number == distillation.settings.updates:
            with holding(distillation.student, now.averaged):  # the weights that it ends with
                now.taught = held_out.distance(distillation, now)
        step = as_step(distillation, now)
        now.accelerator.log(tracker_values(step), step=now.number)
        yield step


def as_step(distillation: Distillation, now: Training) -> DistilStep:
    """The record of a training as it stands."""
    rate = update.learning_rate(max(now.number - 1, 0), distillation.settings)
    taught = now.taught if now.number == distillation.settings.updates else None  # not of an end that was gone on from
    return DistilStep(now.number, dict(now.raw), dict(now.normalized), now.total, rate, now.averaged, now.untaught, taught)


def tracker_values(step: DistilStep) -> dict[str, float]:
    """The numbers of a step that trackers get."""
    parts = {f"{kind}/{name}": value for kind in ("raw", "normalized") for name, value in getattr(step, kind).items()}
    return parts | {"total": step.total, "learning_rate": step.learning_rate}


@contextmanager
def holding(student: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The student with other weights meanwhile, such as a step's averaged ones; with its own again afterwards."""
    before = {name: p.detach().clone() for name, p in student.named_parameters() if name in weights}
    copy_weights(weights, student)
    try:
        yield student
    finally:
        copy_weights(before, student)


@torch.no_grad()
def copy_weights(weights: Mapping[str, Tensor], student: nn.Module) -> None:
    """Put weights by name into a student."""
    for name, p in student.named_parameters():
        if name in weights:
            p.copy_(weights[name])


# What must fit


def check_distillation(distillation: Distillation) -> None:
    """Raises ValueError if a distillation cannot begin."""
    s, teacher, student = distillation.settings, distillation.teacher, distillation.student
    check_apart(teacher, student)
    if wrong := sorted({str(p.dtype).removeprefix("torch.") for p in student.parameters()} - {"float32"}):
        raise ValueError(
            f"the student's weights are {wrong[0]}, in which small updates vanish: load it in float32, and set mixed_precision"
        )
    features.check_inputs(teacher, student)
    features.check_sites(teacher, student, distillation.sites)
    if s.feature and not distillation.sites:
        raise ValueError(f"there are no sites and feature weighs {s.feature}: name some, or set feature=0")
    if s.null_rate and distillation.null is None:
        raise ValueError(f"null_rate is {s.null_rate} and there is no null condition: give `null`, see encoded.null")
    if (
        s.null_rate
        and distillation.null is not None
        and (missing := sorted(distillation.examples.conditions.keys() - distillation.null.keys()))
    ):
        raise ValueError(f"the null condition lacks {missing[0]}, which the examples have: make it by the same pipe")
    if distillation.others is not None:
        check_others(distillation.others, distillation)
    prediction(distillation.scheduler)
    check_processes(distillation)


def check_apart(teacher: nn.Module, student: nn.Module) -> None:
    """Raises ValueError if teacher and student are one, or share weights."""
    if {id(p) for p in teacher.parameters()} & {id(p) for p in student.parameters()}:
        raise ValueError(
            "teacher and student share weights, which both would change: cut the student by drop_layers, or copy it"
        )


def check_others(others: Examples, distillation: Distillation) -> None:
    """Raises ValueError if samples could not get the conditions of `others`, or never would."""
    if not distillation.settings.swap_rate:
        raise ValueError("there are other prompts and swap_rate is 0, so that no sample gets them: give it, such as 0.5")
    own, theirs = (features.input_shapes(part.conditions) for part in (distillation.examples, others))
    if wrong := [name for name in own | theirs if own.get(name, ())[1:] != theirs.get(name, ())[1:]]:
        name = wrong[0]
        raise ValueError(
            f"the other prompts have {name} of {theirs.get(name, 'no shape')} and the examples of {own.get(name, 'no shape')}: "
            "make both by the same pipe"
        )


def check_processes(distillation: Distillation) -> None:
    """Raises ValueError if devices, precision or batch do not fit the accelerator."""
    s, accelerator = distillation.settings, distillation.accelerator
    theirs, mine = (next(net.parameters()).device for net in (distillation.teacher, distillation.student))
    device = mine if accelerator is None else accelerator.device
    if (theirs.type, theirs.index or 0) != (device.type, device.index or 0):
        raise ValueError(f"the teacher is on {theirs} and the student learns on {device}: move the teacher there")
    if accelerator is None:
        return
    if deepspeed.used(accelerator):
        deepspeed.check_config(accelerator, s.mixed_precision)
    elif accelerator.mixed_precision != s.mixed_precision:
        raise ValueError(
            f"the accelerator's mixed_precision is {accelerator.mixed_precision!r} and the settings' {s.mixed_precision!r}: "
            "give both the same"
        )
    if s.batch_size % accelerator.num_processes:
        raise ValueError(
            f"a batch of {s.batch_size} samples cannot be spread evenly over {accelerator.num_processes} processes: give a "
            "multiple"
        )


def resume_arguments(distillation: Distillation) -> dict[str, Any]:
    """What must be the same for a distillation to go on, as JSON."""
    called = distillation.settings.called
    return {
        **distillation.settings.lasting(),
        **({} if called is None else {"called": list(called)}),
        "teacher": fingerprint.of_module(distillation.teacher),
        "student": fingerprint.of_module(distillation.student),
        "sites": [list(pair) for pair in distillation.sites.items()],
        "scheduler": list(scheduler_signature(distillation.scheduler)),
        "examples": hash_examples(distillation.examples),
        **({} if distillation.others is None else {"prompts without pictures": hash_examples(distillation.others)}),
    }


def hash_examples(examples: Examples) -> str:
    """A short hash of examples: how many, and some of them."""
    places = torch.linspace(0, len(examples) - 1, min(SAMPLED, len(examples))).long()
    digest = hashlib.sha256(str(tuple(examples.latents.shape)).encode())
    for x in (examples.latents, *tensors(examples.conditions)):
        digest.update(x[places].float().numpy().tobytes())
    return digest.hexdigest()[:16]
