"""distil(student, teacher, prompts): the student learns what its teacher predicts; what `secateur distil` runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.denoiser.of_pipe import only_denoiser_of
from secateur.distilling import encoded, features
from secateur.distilling.settings import DistilSettings
from secateur.distilling.training import DistilStep, check_apart, distil_steps
from secateur.pipeline import progress as bars
from secateur.pipeline.examples import Examples, concatenate, draw_examples
from secateur.pipeline.pipes import cast, zoo_name
from secateur.pipeline.progress import View
from secateur.pipeline.prompts import conditions_for, guidance_of
from secateur.pruning.plan import Plan

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import DiffusionPipeline

DEFAULTS = DistilSettings(timesteps="stratified", null_rate=0.1)


def distil(
    student: DiffusionPipeline,
    teacher: DiffusionPipeline,
    prompts: Sequence[str] | Sequence[int] | None = None,
    *,
    examples: Examples | None = None,
    plan: Plan | None = None,
    images: int = 1024,
    steps: int = 25,
    guidance_scale: float | None = None,
    settings: DistilSettings = DEFAULTS,
    folder: str | Path | None = None,
    progress: bool = True,
) -> DiffusionPipeline:
    """The student, whose denoiser now predicts nearly what its teacher's does; it is trained in place.

        student = secateur.prune(pipe, keep=0.5, prompts=prompts)
        secateur.distil(student, pipe, prompts, settings=secateur.DistilSettings(updates=2000, lr=1e-4))
        student.save_pretrained("student")

    At each update, both denoisers get the same noisy samples. The student's error to the true noise, to the teacher's
    prediction and to the teacher's features is minimised (LAPTOP-Diff, arXiv 2404.11098). It learns in float32, and has its
    own dtype again at the end.

    Arguments that matter:
        student: the pruned pipe. teacher: the pipe that it was cut from, on the same device; it stays as it is.
        prompts: texts, or class labels (int), by which the teacher draws the pictures to learn from. A zoo pipe needs none.
        examples: what to learn from, in place of prompts; see `secateur.from_images` for your own pictures.
        settings: updates, learning rate, batch size, weights of the terms, seed and more, see `secateur.DistilSettings`.
        plan: of a transformer that lost blocks, the Plan that it was cut by; a U-Net needs none.

    Arguments to tinker with:
        images: pictures that the teacher draws. steps, guidance_scale: how it draws them.
        folder: where checkpoints go; the same call with the untrained student goes on from the last one.
        progress: show a progress bar on stderr.

    Raises ValueError or TypeError, before the first update, if arguments do not fit. To log each update or to stop early, use
    `secateur.distil_steps`.
    """
    net = only_denoiser_of(student)
    check_apart(only_denoiser_of(teacher), net)
    guidance = guidance_of(teacher, zoo_name(teacher) or "", guidance_scale)
    call = {"num_inference_steps": steps, "guidance_scale": guidance}
    if examples is None:
        examples = drawn_examples(teacher, prompts, images, settings=settings, show=progress, **call)
    dtypes = {name: x.dtype for name, x in net.state_dict().items()}
    net.float()
    try:
        updates = pipe_steps(student, teacher, examples, call=call, plan=plan, settings=settings, folder=folder)
        view = lambda step: View(f"distilling, loss {step.total:.3g}", step.number, settings.updates)  # noqa: E731
        for _ in bars.watched(updates, view, first="distilling", show=progress):
            pass
    finally:
        cast(net, dtypes)
    return student


def drawn_examples(
    teacher: DiffusionPipeline, prompts: Any, images: int, *, settings: DistilSettings, show: bool, **call: Any
) -> Examples:
    """Examples of what the teacher draws by the prompts, or by those of the zoo, while a progress bar counts the batches."""
    conditions, size = conditions_for(teacher, prompts, images), settings.batch_size
    parts = draw_examples(teacher, conditions, count=images, seed=settings.seed, batch_size=size, **call)
    doing, batches = "drawing what to learn from", -(-images // size)
    numbered = bars.watched(enumerate(parts, 1), lambda step: View(doing, step[0], batches), first=doing, show=show)
    return concatenate(part for _, part in numbered)


def pipe_steps(
    student: DiffusionPipeline,
    teacher: DiffusionPipeline,
    examples: Examples,
    *,
    call: Mapping[str, Any],
    settings: DistilSettings,
    plan: Plan | None = None,
    sites: Mapping[str, str] | None = None,
    unpictured: Examples | None = None,
    folder: str | Path | None = None,
    save_every: int = 500,
    accelerator: Accelerator | None = None,
) -> Iterator[DistilStep]:
    """`distil_steps` of a pipe's student.

    call: arguments of the teacher, by which it encodes no prompt. plan: says which blocks a transformer lost. sites: in place
    of the usual ones. unpictured: prompts without pictures, for `settings.swap_rate`. Others: as for `distil_steps`.
    """
    net, pupil = only_denoiser_of(teacher), only_denoiser_of(student)
    if sites is None:
        sites = features.sites(net, pupil, plan=plan) if settings.feature else {}
    labels = "class_labels" in examples.conditions
    null = encoded.null(teacher, labels=labels, **call) if settings.null_rate else None
    return distil_steps(net, pupil, examples, teacher.scheduler, settings=settings, sites=sites, null=null, others=unpictured,
                        folder=folder, save_every=save_every, accelerator=accelerator)  # fmt: skip
