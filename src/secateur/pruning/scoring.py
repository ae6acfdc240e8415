"""How much each layer of a teacher matters: LayerScores, from which a Plan of any budget is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.artifact import check_word
from secateur.checkpoint import saved_steps
from secateur.denoiser import fingerprint
from secateur.denoiser.families import bare, class_name
from secateur.pipeline.examples import Examples
from secateur.pipeline.schedulers import scheduler_signature
from secateur.pruning.criteria import CRITERIA, Criterion, Losses, Tuples, draw_tuples, output_losses, score_losses
from secateur.pruning.layer_costs import count_costs, wholes
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.plan import Plan
from secateur.pruning.surgery import candidates, check_known

Weighting = Callable[[Tensor], Tensor]  # timesteps (K,) -> weights (K,), 0 or more


@dataclass(frozen=True, eq=False)
class ScoreStep:
    """One more layer scored. number: of layers scored so far, from 1. scores: of all layers, NaN for those not scored yet."""

    number: int
    layer: str
    value: float
    error: float
    scores: LayerScores


def output_loss(teacher: nn.Module, examples: Examples, scheduler: Any, **settings: Any) -> Iterator[ScoreStep]:
    """A ScoreStep for each layer by LAPTOP-Diff's criterion; settings as for `scored`."""
    return scored(teacher, examples, scheduler, criterion="output", **settings)


def scored(
    teacher: nn.Module,
    examples: Examples,
    scheduler: Any,
    *,
    criterion: str = "output",
    layers: Sequence[str] | None = None,
    weighting: Weighting | None = None,
    path: str | Path | None = None,
    source: str | None = None,
    accelerator: Any = None,
    **drawing: Any,
) -> Iterator[ScoreStep]:
    """A ScoreStep for each layer; the last one's `scores` are the result.

    criterion: of `CRITERIA`. layers: by default the teacher's `surgery.candidates`. weighting: of the tuples by their
    timesteps; the losses stay as they are. path: a file where finished layers are kept; the same call goes on from it, and
    first yields the last of them. source: a name for the examples, if they cannot be made again to the last bit; by default a
    hash of their values. accelerator: spreads the tuples over its processes. drawing: samples, seed, batch_size and called, as
    for `draw_tuples`. Raises ValueError if other settings made the file.
    """
    check_word("criterion", criterion, CRITERIA)
    check_teacher(teacher)
    tuples = draw_tuples(examples, scheduler, **drawing)
    name, digest = scheduler_signature(scheduler)
    made = {"criterion": criterion, "samples": len(tuples), "seed": tuples.seed, "scheduler": name, "scheduler_hash": digest}
    made |= {"weighting": weighting and weighting.__name__, "teacher": fingerprint.of_module(teacher)}
    made |= {} if drawing.get("called") is None else {"called": list(drawing["called"])}
    made |= {"examples": source or fingerprint.of_values((examples.latents, examples.conditions, examples.shared))}
    timesteps = tuples.timesteps[:1] if criterion == "magnitude" else tuples.timesteps
    weights = torch.ones(len(timesteps)) if weighting is None else weighting(timesteps)
    blank = unscored(teacher, layers, timesteps=timesteps, weights=weights, made=made)
    find = CRITERIA[criterion] if accelerator is None or criterion == "magnitude" else spread(CRITERIA[criterion], accelerator)
    yield from score_steps(blank, partial(find, teacher, tuples), path=path, accelerator=accelerator)


def score_change(
    teacher: nn.Module,
    score: Callable[[], np.ndarray],
    *,
    name: str,
    samples: int,
    layers: Sequence[str] | None = None,
    path: str | Path | None = None,
    made: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[ScoreStep]:
    """A ScoreStep for each layer by how much worse the pipe's images get: its score less the one without the layer.

    score: of `samples` images, see `score_losses`. name: of the criterion. made: how the images are drawn, any JSON. path: a
    file where finished layers are kept; the same name and `made` go on from it.
    """
    check_teacher(teacher)
    blank = unscored(
        teacher, layers, timesteps=torch.zeros(samples), weights=torch.ones(samples), made={"criterion": name, **made}
    )
    yield from score_steps(blank, partial(score_losses(score), teacher, None), path=path)


def joint_loss(
    teacher: nn.Module,
    examples: Examples,
    scheduler: Any,
    plans: Iterable[Plan],
    *,
    samples: int = 64,
    seed: int = 0,
    batch_size: int = 8,
    called: Sequence[float] | None = None,
) -> Iterator[np.ndarray]:
    """For each plan the measured output loss of removing all its layers, (K,), on the tuples of `output_loss`."""
    check_teacher(teacher)
    tuples = draw_tuples(examples, scheduler, samples=samples, seed=seed, batch_size=batch_size, called=called)
    for losses in output_losses(teacher, tuples, plans):
        yield losses.cpu().numpy()


def check_teacher(teacher: nn.Module) -> None:
    """Raises ValueError if a teacher would predict differently the second time."""
    if teacher.training:
        raise ValueError(f"this {class_name(teacher)} is in training mode, where dropout changes answers: call eval() on it")


def costed(teacher: nn.Module) -> LayerScores:
    """The layers that could go, with their costs and no losses yet: enough to tell which budgets can be met."""
    one = torch.ones(1)
    return unscored(teacher, None, timesteps=one, weights=one, made={})


def unscored(
    teacher: nn.Module, layers: Sequence[str] | None, *, timesteps: Tensor, weights: Tensor, made: Mapping[str, Any]
) -> LayerScores:
    """LayerScores whose losses are not found yet."""
    if not (layer_removals := candidates(teacher)):
        raise ValueError(
            f"this {class_name(teacher)} has no layer that can go, as each list needs its last block: leave it whole"
        )
    check_known(bare(teacher), layers or (), layer_removals)
    removable = {name: how for name, how in layer_removals.items() if layers is None or name in layers}
    outer = wholes(teacher, removable)
    losses = np.full((len(removable), len(timesteps)), np.nan)
    arrays = (losses, np.asarray(timesteps), np.asarray(weights))
    costs = count_costs(teacher, removable, outer)
    return LayerScores(class_name(teacher), tuple(removable), tuple(removable.values()), *arrays, outer, costs, made)


def score_steps(
    blank: LayerScores, find: Callable[[Sequence[Plan]], Losses], *, path: str | Path | None = None, accelerator: Any = None
) -> Iterator[ScoreStep]:
    """The ScoreStep that a file goes on from, if any, and one for each layer of `blank` that it lacks."""
    scores = resumed(blank, path)
    if accelerator is not None:
        accelerator.wait_for_everyone()  # until all have read what one of them will write over
    done, left = np.flatnonzero(scores.scored), np.flatnonzero(~scores.scored)
    before = as_step(scores, int(done[-1])) if len(done) else None

    def save(step: ScoreStep) -> None:
        if path is not None and (accelerator is None or accelerator.is_main_process):
            step.scores.save(path)

    yield from saved_steps(before, score_left(scores, left.tolist(), find), last=len(scores.layers), save=save)


def score_left(scores: LayerScores, left: Sequence[int], find: Callable[[Sequence[Plan]], Losses]) -> Iterator[ScoreStep]:
    """A ScoreStep for each of these layers, whose losses `find` gives."""
    plans = [Plan((scores.layers[i],), (scores.removals[i],), scores.denoiser) for i in left]
    for i, losses in zip(left, find(plans) if plans else (), strict=True):
        scores = with_losses(scores, i, losses.cpu().numpy())
        yield as_step(scores, i)


def with_losses(scores: LayerScores, i: int, losses: np.ndarray) -> LayerScores:
    """The scores with the losses of layer i. Raises ValueError if they are not finite, or if their number is wrong."""
    if losses.shape != scores.losses[i].shape:
        raise ValueError(f"found losses of {len(losses)} samples for {scores.losses.shape[1]}: give one for each of these")
    if not np.isfinite(losses).all():
        raise ValueError(f"without {scores.layers[i]} the loss is infinite or NaN on some tuples: score in float32 or bfloat16")
    rows = np.array(scores.losses)
    rows[i] = losses
    return replace(scores, losses=rows)


def as_step(scores: LayerScores, i: int) -> ScoreStep:
    number = int(scores.scored.sum())
    return ScoreStep(number, scores.layers[i], float(scores.values[i]), float(scores.errors[i]), scores)


def resumed(blank: LayerScores, path: str | Path | None) -> LayerScores:
    """The scores in a file, or `blank` without a file. Raises ValueError if other settings made them."""
    if path is None or not Path(path).exists():
        return blank
    scores = LayerScores.load(path)
    ours, theirs = dict(blank.made) | {"layers": blank.layers}, dict(scores.made) | {"layers": scores.layers}
    if wrong := [key for key in ours if ours[key] != theirs.get(key)]:
        key = wrong[0]
        raise ValueError(
            f"{path} holds scores whose {key} is {theirs.get(key)!r:.80} and this one's is {ours[key]!r:.80}: give the same "
            "settings to go on with it, or take it away"
        )
    return replace(blank, losses=scores.losses)


def spread(criterion: Criterion, accelerator: Any) -> Criterion:
    """The criterion, spread: each process scores its share of the tuples, and all get the losses of all tuples."""
    from accelerate.utils import gather_object

    def spread(teacher: nn.Module, tuples: Tuples, plans: Sequence[Plan]) -> Losses:
        if len(tuples) < accelerator.num_processes:
            raise ValueError(f"found {len(tuples)} samples for {accelerator.num_processes} processes: ask for one each or more")
        share = tuples[accelerator.process_index :: accelerator.num_processes]
        for losses in criterion(teacher, share, plans):
            pairs = gather_object(list(zip(share.numbers.tolist(), losses.tolist(), strict=True)))
            yield torch.tensor([loss for _, loss in sorted(pairs)])

    return spread


def min_snr(scheduler: Any, *, gamma: float = 5.0) -> Weighting:
    """The Min-SNR weighting of the squared error of what a denoiser predicts (arXiv 2303.09556, section 3.4).

    Raises ValueError if it predicts neither noise, data nor velocity of a diffusion: flow matching has no such weighting.
    """
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    rules = {  # min(SNR, γ) of the error in the data, in what is predicted
        "epsilon": lambda snr: (gamma / snr).clamp(max=1),  # 1, too, where nothing is left but noise
        "sample": lambda snr: snr.clamp(max=gamma),
        "v_prediction": lambda snr: snr.clamp(max=gamma) / (snr + 1),
    }
    if kind not in rules or not hasattr(scheduler, "alphas_cumprod"):
        problem = f"found prediction type {kind!r} of {type(scheduler).__name__}"
        raise ValueError(f"{problem}: Min-SNR weights {', '.join(rules)} of diffusions in timesteps: leave the weighting out")

    def min_snr(timesteps: Tensor) -> Tensor:
        alphas = scheduler.alphas_cumprod[timesteps.long()].float()
        return rules[kind](alphas / (1 - alphas))

    return min_snr


WEIGHTINGS: dict[str, Callable[[Any], Weighting]] = {"min_snr": min_snr}
