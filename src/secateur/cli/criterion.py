"""The criterion of `prune` by its name: of the denoiser's predictions, or a learned score of the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from secateur.artifact import check_word

if TYPE_CHECKING:
    from secateur.pruning.prune import PruneSettings


def check_scoring(criterion: str, *, keep: float, cost: str, settings: PruneSettings) -> None:
    """Raises ValueError if layers cannot be scored so."""
    from secateur.measuring.learned_scores import SCORES
    from secateur.pruning import prune
    from secateur.pruning.criteria import CRITERIA

    prune.check_keep(keep)
    check_word("criterion", criterion, (*CRITERIA, *SCORES))
    check_word("cost", cost, prune.COSTS)
    prune.check_criterion(image_score(criterion) if criterion in SCORES else criterion, settings)


def criterion_for(name: str, accelerator: Any, device: str) -> str | Callable[..., Any]:
    """What `prune_steps` takes for a criterion of this name. Raises ValueError if processes cannot share it."""
    from secateur.measuring.learned_scores import SCORES
    from secateur.pruning.prune import check_processes

    criterion = image_score(name, device) if name in SCORES else name
    check_processes(criterion, accelerator)
    return criterion


def image_score(name: str, device: str = "cpu") -> Callable[..., Any]:
    """The learned score of this name, which its model is loaded for at the first call; LayerScores say the name."""
    from secateur.measuring.learned_scores import SCORES

    score = SCORES[name](device=device)
    named = lambda images, prompts: score(images, prompts)  # noqa: E731
    named.__name__ = name
    return named


def check_texts(criterion: str, conditions: tuple[Any, ...]) -> None:
    """Raises ValueError if images shall be compared with prompts, and there are class labels."""
    from secateur.measuring.learned_scores import SCORES

    if criterion in SCORES and any(not isinstance(condition, str) for condition in conditions):
        raise ValueError(f"found class labels, which {criterion} cannot compare images with: choose another --criterion")
