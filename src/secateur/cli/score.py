"""How `secateur prune` scores the layers of a pipe's denoiser, and shows how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live

from secateur.cli.terminal import console, progress

if TYPE_CHECKING:
    import numpy as np

    from secateur.pruning.layer_scores import LayerScores
    from secateur.pruning.plan import Plan
    from secateur.pruning.scoring import ScoreStep

LEADING = 5  # layers shown while there is scoring


@dataclass(frozen=True)
class Scoring:
    """How the layers of a pipe are scored and chosen. path: a file where finished layers are kept and gone on from.

    accelerator: of the processes that share the samples; None for one.
    """

    keep: float
    cost: str
    criterion: str
    weighting: str | None
    method: str
    keep_every_stage: bool
    conditions: tuple[Any, ...]
    samples: int
    seed: int
    batch_size: int
    call: dict[str, Any]
    path: Path
    at_called_timesteps: bool = False
    accelerator: Any = None


def check_shared(criterion: str, accelerator: Any) -> None:
    """Nothing; ValueError where processes would all do the same: scores of images are not shared out between them."""
    from secateur.measuring.learned_scores import SCORES

    if criterion in SCORES and accelerator is not None and accelerator.num_processes > 1:
        raise ValueError(
            f"{criterion} scores all images in one process, and {accelerator.num_processes} were launched: run it without"
        )


def scored_plan(loaded: Any, asked: Scoring) -> tuple[Plan, LayerScores]:
    """The plan that costs least, and the scores that it is made of; what cannot be reached is refused before any scoring."""
    from dataclasses import replace

    from secateur.pipeline.pipes import component
    from secateur.pruning import planning

    costs = costs_of(loaded, component(loaded), asked)
    how = {"keep": asked.keep, "cost": asked.cost, "keep_every_stage": asked.keep_every_stage}
    planning.check_reachable(costs, **how)
    scores = replace(scored(loaded, component(loaded), asked), costs=costs.costs)
    return planning.planned(scores, method=asked.method, **how), scores


def costs_of(loaded: Any, denoiser: Any, asked: Scoring) -> LayerScores:
    """The layers with their costs, timed where the budget is in time, and no losses."""
    from secateur.pipeline import generate as generating
    from secateur.pruning import planning, scoring

    found = scoring.costed(denoiser)
    if asked.cost != "ms":
        return found
    few, seeds = asked.conditions[: asked.batch_size], range(min(asked.batch_size, len(asked.conditions)))
    call = asked.call | {"num_inference_steps": 4}
    return planning.with_times(
        found, denoiser, run=lambda: generating.generate(loaded, few, seeds=seeds, batch_size=asked.batch_size, **call)
    )


def scored(loaded: Any, denoiser: Any, asked: Scoring) -> LayerScores:
    """The scores of a denoiser's layers: by what it says about what the pipe draws, or by how the images themselves change."""
    from secateur.measuring.learned_scores import SCORES

    by = by_images if asked.criterion in SCORES else by_answers
    main = asked.accelerator is None or asked.accelerator.is_main_process
    return watched(by(loaded, denoiser, asked), asked.path, shown=main)


def by_answers(loaded: Any, denoiser: Any, asked: Scoring) -> Iterator[ScoreStep]:
    """Layers scored by the denoiser's answers on noisy samples of what the pipe draws."""
    from secateur.denoiser import fingerprint
    from secateur.pipeline import examples
    from secateur.pipeline import trajectory as trajectories
    from secateur.pruning import scoring

    called = trajectories.called(loaded, asked.conditions[0], **asked.call) if asked.at_called_timesteps else None
    count, parts = len(asked.conditions), []
    weighting = scoring.WEIGHTINGS[asked.weighting](loaded.scheduler) if asked.weighting else None
    with progress() as bar:
        drawing = bar.add_task("drawing what to score on", total=count)
        for part in examples.draw_examples(loaded, asked.conditions, count=count, seed=asked.seed,
                                  batch_size=asked.batch_size, **asked.call):  # fmt: skip
            parts.append(part)
            bar.update(drawing, completed=min(count, len(parts) * asked.batch_size))
    # Images differ in their last bits by how many are drawn at a time, which may be changed to go on.
    source = fingerprint.of_values((fingerprint.of_pipe(loaded), asked.conditions, asked.seed, asked.call))
    return scoring.scored(denoiser, examples.concatenate(parts), loaded.scheduler, criterion=asked.criterion,
                        samples=asked.samples, seed=asked.seed, batch_size=asked.batch_size, called=called, weighting=weighting,
                        path=asked.path, source=source, accelerator=asked.accelerator)  # fmt: skip


def by_images(loaded: Any, denoiser: Any, asked: Scoring) -> Iterator[ScoreStep]:
    """Layers scored by how much worse a score finds the images of the pipe without them."""
    from secateur.denoiser import fingerprint
    from secateur.measuring import learned_scores
    from secateur.pipeline import generate as generating
    from secateur.pruning import scoring

    rate = learned_scores.SCORES[asked.criterion](device=str(loaded.device))
    seeds = range(asked.seed, asked.seed + len(asked.conditions))

    def scores() -> np.ndarray:
        images = generating.generate(loaded, asked.conditions, seeds=seeds, batch_size=asked.batch_size, **asked.call)
        return rate(images, asked.conditions)

    made = {"seed": asked.seed, "conditions": list(asked.conditions), "teacher": fingerprint.of_pipe(loaded), **asked.call}
    count = len(asked.conditions)
    return scoring.score_change(denoiser, scores, name=asked.criterion, samples=count, path=asked.path, made=made)


def watched(steps: Iterator[ScoreStep], path: Path, *, shown: bool) -> LayerScores:
    """The scores of all layers; the ranking so far is shown as it comes. An interrupt says where to go on from."""
    bar, last = progress(), None
    task = bar.add_task("scoring", total=None)
    try:
        with Live(console=Console(stderr=True, quiet=not shown), transient=True, refresh_per_second=2) as live:
            for last in steps:
                bar.update(task, completed=last.number, total=len(last.scores.layers), description=f"scored {last.layer}")
                live.update(Group(leading(last.scores), bar))
    except KeyboardInterrupt:
        where = f"after {last.number} of {len(last.scores.layers)} layers" if last else "before the first layer"
        console.print(f"stopped {where}; the same command goes on from {path}", soft_wrap=True)
        raise SystemExit(130) from None
    assert last is not None  # a denoiser without layers to score is refused before
    return last.scores


def leading(scores: LayerScores) -> str:
    """The layers that would go first, of those scored."""
    losses = dict(zip(scores.layers, scores.values, strict=True))
    return "first to go: " + ", ".join(f"{layer} ({losses[layer]:.3g})" for layer in scores.ranking()[:LEADING])
