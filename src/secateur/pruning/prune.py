"""prune(pipe, keep=0.5): the pipe with a smaller denoiser; what the command `secateur prune` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rich.repr

from secateur.artifact import check_word
from secateur.denoiser import fingerprint
from secateur.denoiser.of_pipe import denoiser_of, only_denoiser_of
from secateur.pipeline import examples, generate
from secateur.pipeline import progress as bars
from secateur.pipeline import trajectory as trajectories
from secateur.pipeline.pipes import zoo_name
from secateur.pipeline.progress import View
from secateur.pipeline.prompts import CALIBRATION_SEED, conditions_for, guidance_of
from secateur.pruning import planning, scoring
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.plan import Plan
from secateur.pruning.surgery import drop_layers

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

COSTS = ("parameters", "macs", "macs_attention", "ms")
TIMED_STEPS = 4  # of the pipe, while its layers are timed
ImageScore = Callable[[np.ndarray, Sequence[Any]], np.ndarray]  # (images, prompts) -> (B,), higher is better


@rich.repr.auto
@dataclass(frozen=True, kw_only=True)
class PruneSettings:
    """How layers are scored and chosen, beside the arguments of `prune`.

    weighting: "min_snr" weights noisy samples by their timesteps (arXiv 2303.09556); None counts all alike.
    at_called_timesteps: score at the timesteps of the pipe's own `steps` alone, for models of few steps.
    method: "exact" solves a knapsack; "greedy" and "greedy_ratio" take the layers with the least loss first.
    keep_every_stage: keep one layer or more in each stage of a U-Net.
    batch_size: images or noisy samples at once; it does not change them.
    scores_path: a file where the losses of scored layers are kept; the same arguments go on from it.
    """

    weighting: str | None = None
    at_called_timesteps: bool = False
    method: str = "exact"
    keep_every_stage: bool = False
    batch_size: int = 8
    scores_path: Path | None = None

    def __post_init__(self):
        choices = {"weighting": (None, *scoring.WEIGHTINGS), "method": planning.METHODS}
        for name, words in choices.items():
            check_word(name, getattr(self, name), words)

    @property
    def about_samples(self) -> list[str]:
        """The settings, of those that are given, that only matter to noisy samples."""
        return [name for name in ("weighting", "at_called_timesteps") if getattr(self, name)]


DEFAULTS = PruneSettings()


@dataclass(frozen=True, eq=False)
class PruneStep:
    """How far a pruning is: `done` of `total` images are drawn to score on, or layers are scored.

    doing: what is being done, in words. scores: of the layers scored so far, or None. plan: in the last step, the layers to
    remove.
    """

    doing: str
    done: int
    total: int
    scores: LayerScores | None = None
    plan: Plan | None = None


@dataclass(frozen=True, eq=False)
class Pruning:
    """What one pruning works on. call: arguments of the pipe when it draws."""

    pipe: DiffusionPipeline
    keep: float
    cost: str
    criterion: str | ImageScore
    conditions: tuple[Any, ...]
    samples: int
    seed: int
    settings: PruneSettings
    accelerator: Any = None
    call: dict[str, Any] = field(default_factory=dict)


def prune(
    pipe: DiffusionPipeline,
    keep: float = 0.5,
    *,
    prompts: Sequence[str] | Sequence[int] | None = None,
    cost: str = "parameters",
    criterion: str | ImageScore = "output",
    images: int = 16,
    samples: int = 64,
    steps: int = 50,
    guidance_scale: float | None = None,
    seed: int = CALIBRATION_SEED,
    settings: PruneSettings = DEFAULTS,
    progress: bool = True,
) -> DiffusionPipeline:
    """A pipe whose denoiser lacks the layers that it needs least, the student; the given pipe, its teacher, stays as it is.

        student = secateur.prune(pipe, keep=0.5, prompts=["a fox in the snow", "a red bicycle"])
        student.save_pretrained("student")

    Every layer that can go is left out once, and the change of the denoiser's predictions is its score. The layers to remove
    are those whose scores add up to least while the budget is met (LAPTOP-Diff, arXiv 2404.11098). Distil the student
    afterwards (`secateur.distil`): without that, its images are worse than those of its teacher.

    Arguments that matter:
        pipe: a diffusers pipeline with one denoiser, on the device and in the dtype to score in; float16 may overflow.
        keep: fraction of the denoiser's `cost` that stays, above 0 and below 1.
        prompts: texts, or class labels (int), to draw the images by that layers are scored on. A zoo pipe needs none.
        cost: "parameters"; "macs" of convolutions and linear layers; "macs_attention", with attention's products; or "ms" of
            this device.
        criterion: what a layer's absence changes: "output", "task", "taylor", "cosine" or "magnitude". Or a function from
            images and prompts to scores, higher for better, such as `secateur.measuring.learned_scores.clip_score()`.
        images: images that the pipe draws to score on.
        samples: noisy samples of them, the same for every layer; more make the ranking surer.

    Arguments to tinker with:
        steps, guidance_scale: how the pipe draws; the guidance scale is by default the pipe's own.
        seed: of the first image; the others count on. Noisy samples are drawn from it too. The default is far from the
            seeds that images are measured on, which count from 0.
        settings: weighting, timesteps, method, batch size, see `secateur.PruneSettings`.
        progress: show a progress bar on stderr.

    The student shares the text encoders, the VAE and the scheduler with its teacher. `plan_for` gives the Plan and the scores
    without cutting. Raises ValueError if an argument is out of range, or if no choice of layers meets the budget.
    """
    plan, _ = plan_for(pipe, keep, prompts=prompts, cost=cost, criterion=criterion, images=images, samples=samples, steps=steps,
                       guidance_scale=guidance_scale, seed=seed, settings=settings, progress=progress)  # fmt: skip
    return with_plan(pipe, plan)


def plan_for(pipe: DiffusionPipeline, keep: float = 0.5, *, progress: bool = True, **how: Any) -> tuple[Plan, LayerScores]:
    """The Plan that `prune` would cut by, and the scores of the layers. how: arguments of `prune_steps`."""
    for step in bars.watched(prune_steps(pipe, keep, **how), view_of, first="drawing what to score on", show=progress):
        if step.plan is not None and step.scores is not None:
            return step.plan, step.scores
    raise AssertionError("the last step of a pruning has a plan")


def prune_steps(
    pipe: DiffusionPipeline,
    keep: float = 0.5,
    *,
    prompts: Sequence[str] | Sequence[int] | None = None,
    cost: str = "parameters",
    criterion: str | ImageScore = "output",
    images: int = 16,
    samples: int = 64,
    steps: int = 50,
    guidance_scale: float | None = None,
    seed: int = CALIBRATION_SEED,
    settings: PruneSettings = DEFAULTS,
    accelerator: Any = None,
) -> Iterator[PruneStep]:
    """What `prune` does before it cuts: a PruneStep for each batch of images and each layer; the last one has the plan.

    accelerator: of accelerate; it spreads the noisy samples over its processes. Other arguments and errors: as for `prune`.
    """
    check_keep(keep)
    check_word("cost", cost, COSTS)
    check_criterion(criterion, settings)
    check_processes(criterion, accelerator)
    guidance = guidance_of(pipe, zoo_name(pipe) or "", guidance_scale)
    call = {"num_inference_steps": steps, "guidance_scale": guidance}
    conditions = conditions_for(pipe, prompts, images)
    return choose_layers(Pruning(pipe, keep, cost, criterion, conditions, samples, seed, settings, accelerator, call))


def with_plan(pipe: DiffusionPipeline, plan: Plan) -> DiffusionPipeline:
    """The same pipe with the student that a plan gives in place of the denoiser; all else is shared with the given pipe."""
    name = "unet" if pipe.components.get("unet") is not None else "transformer"
    student = copy(pipe)
    student.register_modules(**{name: drop_layers(only_denoiser_of(pipe), plan)})
    return student


def view_of(step: PruneStep) -> View:
    """A step as a progress bar shows it."""
    return View(step.doing, step.done, step.total)


# Choosing layers


def choose_layers(job: Pruning) -> Iterator[PruneStep]:
    """The steps of a pruning that was checked. Raises ValueError before any drawing if the budget is out of reach."""
    how: dict[str, Any] = {"keep": job.keep, "cost": job.cost, "keep_every_stage": job.settings.keep_every_stage}
    costs = costs_of(job)
    planning.check_reachable(costs, **how)
    step = PruneStep("", 0, 0, costs)  # a denoiser without layers to score is refused before
    for step in score_by_images(job) if callable(job.criterion) else score_by_predictions(job, job.criterion):
        yield step
    scores = replace(step.scores or costs, costs=costs.costs)
    yield replace(step, scores=scores, plan=planning.planned(scores, method=job.settings.method, **how))


def costs_of(job: Pruning) -> LayerScores:
    """The layers with their costs and no losses yet. If the budget is in milliseconds, they are timed."""
    denoiser, size = only_denoiser_of(job.pipe), min(job.settings.batch_size, len(job.conditions))
    layers = scoring.costed(denoiser)
    if job.cost != "ms":
        return layers
    call = {**job.call, "num_inference_steps": TIMED_STEPS, "batch_size": size}
    run = lambda: generate.generate(job.pipe, job.conditions[:size], seeds=range(size), **call)  # noqa: E731
    return planning.with_times(layers, denoiser, run=run)


def score_by_predictions(job: Pruning, criterion: str) -> Iterator[PruneStep]:
    """Layers scored by the denoiser's predictions for noisy samples of images that the pipe draws."""
    pipe, settings, count = job.pipe, job.settings, len(job.conditions)
    called = trajectories.called(pipe, job.conditions[0], **job.call) if settings.at_called_timesteps else None
    weighting = scoring.WEIGHTINGS[settings.weighting](pipe.scheduler) if settings.weighting else None
    draw = {"count": count, "seed": job.seed, "batch_size": settings.batch_size, **job.call}
    parts: list[examples.Examples] = []
    for part in examples.draw_examples(pipe, job.conditions, **draw):
        parts.append(part)
        yield PruneStep("drawing what to score on", sum(map(len, parts)), count)
    # Images differ in their last bits by how many are drawn at a time, which may be changed to go on.
    source = fingerprint.of_values((fingerprint.of_pipe(pipe), job.conditions, job.seed, job.call))
    for step in scoring.scored(
        denoiser_of(pipe), examples.concatenate(parts), pipe.scheduler, criterion=criterion, samples=job.samples,
        seed=job.seed, batch_size=settings.batch_size, called=called, weighting=weighting, path=settings.scores_path,
        source=source, accelerator=job.accelerator):  # fmt: skip
        yield layer_step(step)


def score_by_images(job: Pruning) -> Iterator[PruneStep]:
    """Layers scored by how much worse the criterion finds the images of the pipe without them."""
    score: Any = job.criterion
    seeds = range(job.seed, job.seed + len(job.conditions))

    def scores() -> np.ndarray:
        images = generate.generate(job.pipe, job.conditions, seeds=seeds, batch_size=job.settings.batch_size, **job.call)
        return score(images, job.conditions)

    made = {"seed": job.seed, "conditions": list(job.conditions), "teacher": fingerprint.of_pipe(job.pipe), **job.call}
    for step in scoring.score_change(denoiser_of(job.pipe), scores, name=score.__name__, samples=len(job.conditions),
                                     path=job.settings.scores_path, made=made):  # fmt: skip
        yield layer_step(step)


def layer_step(step: scoring.ScoreStep) -> PruneStep:
    """A layer that was scored, as a step of the pruning."""
    return PruneStep(f"scored {step.layer}", step.number, len(step.scores.layers), step.scores)


# What must fit


def check_keep(keep: float) -> None:
    """Raises ValueError if this is no fraction that leaves something and removes something."""
    if not 0 < keep < 1:
        raise ValueError(f"found keep={keep}, wanted the fraction of the cost that stays, above 0 and below 1: try 0.5")


def check_criterion(criterion: str | ImageScore, settings: PruneSettings) -> None:
    """Raises ValueError if there is no such criterion, or a setting would do nothing with it."""
    if not callable(criterion):
        check_word("criterion", criterion, tuple(CRITERIA))
    name = criterion.__name__ if callable(criterion) else criterion
    if settings.about_samples and (callable(criterion) or name == "magnitude"):
        raise ValueError(f"{name} looks at no noisy samples: leave {settings.about_samples[0]} out")


def check_processes(criterion: str | ImageScore, accelerator: Any) -> None:
    """Raises ValueError if several processes would score the same images."""
    if callable(criterion) and accelerator is not None and accelerator.num_processes > 1:
        raise ValueError(
            f"{criterion.__name__} scores all images in one process, and {accelerator.num_processes} were launched: launch one"
        )
