"""LayerScores: what the loss of each layer costs in quality, the artifact between scoring and the Plan of any budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secateur import artifact
from secateur.artifact import TEXT, Form, document_of, frozen
from secateur.pruning.layer_costs import LayerCosts, Wholes
from secateur.pruning.plan import REMOVALS

ARRAYS = ("losses", "timesteps", "weights")
FORM = Form(
    noun="layer scores",
    number=1,
    fields={"denoiser": TEXT, "made": (dict,), "layers": (dict,), "wholes": (dict,), "costs": (dict,), "tensors_sha256": TEXT},
    ordered="layers",
    texts=("layers",),
    arrays=ARRAYS,
    arrays_field="tensors_sha256",
)


@dataclass(frozen=True, eq=False)
class LayerScores:
    """For each layer that could go, the loss without it on each of K tuples; lower goes first.

    denoiser: the teacher's class. layers, removals: (L,) names in execution order and how each goes. losses: (L, K) float32;
    a row of NaN is not found yet. timesteps: (K,) of the tuples. weights: (K,) of the tuples in `values`. wholes:
    transformer → its blocks, which go with it. costs: unit → LayerCosts. made: how it was made, any JSON.
    """

    denoiser: str
    layers: tuple[str, ...]
    removals: tuple[str, ...]
    losses: np.ndarray
    timesteps: np.ndarray
    weights: np.ndarray
    wholes: Wholes
    costs: Mapping[str, LayerCosts]
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ARRAYS:
            values = np.array(getattr(self, name), dtype=np.float32)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        object.__setattr__(self, "made", frozen(self.made))
        check_layers(self)
        check_losses(self)

    @property
    def values(self) -> np.ndarray:
        """Weighted mean loss without each layer, (L,) float64; NaN if it is not found yet."""
        return self.losses.astype(float) @ self.weights / self.weights.sum(dtype=float)

    @property
    def errors(self) -> np.ndarray:
        """Standard errors of `values` over the tuples, (L,); NaN if there is one tuple."""
        K, w = len(self.weights), self.weights.astype(float) / self.weights.sum(dtype=float)
        squares = np.square(w * (self.losses - self.values[:, None])).sum(axis=1)
        return np.sqrt(squares * K / (K - 1)) if K > 1 else np.full(len(self.layers), np.nan)

    @property
    def scored(self) -> np.ndarray:
        """Which layers have their losses, bool (L,)."""
        return np.isfinite(self.losses).sum(axis=1) == len(self.weights)

    def ranking(self) -> tuple[str, ...]:
        """The scored layers, the one that goes first first."""
        return tuple(self.layers[i] for i in np.argsort(self.values, kind="stable") if self.scored[i])

    def arrays(self) -> dict[str, np.ndarray]:
        """Losses, timesteps and weights, by these names."""
        return {name: getattr(self, name) for name in ARRAYS}

    def document(self) -> dict[str, Any]:
        """Its JSON document, format 1: everything but the arrays, of which it has the checksum."""
        content = {
            "denoiser": self.denoiser,
            "made": self.made,
            "layers": dict(zip(self.layers, self.removals, strict=True)),
            "wholes": {name: list(inner) for name, inner in self.wholes.items()},
            "costs": {unit: asdict(costs) for unit, costs in self.costs.items()},
        }
        return document_of(content, FORM, self.arrays())

    def save(self, path: str | Path) -> None:
        """Write them to a safetensors file; a reader sees the old file or the new one, never half of it."""
        artifact.save(self.document(), path, arrays=self.arrays())

    @staticmethod
    def load(path: str | Path) -> LayerScores:
        """The scores in a file. Raises FileNotFoundError or ValueError, one sentence with the file's name."""
        return artifact.load(path, FORM, layer_scores_from)

    def __str__(self) -> str:
        width = max(map(len, self.layers))
        rows = zip(self.layers, self.removals, self.values, self.errors, strict=True)
        return "\n".join(f"{n:<{width}}  {how:<13}  {value:.4g} ± {error:.2g}" for n, how, value, error in rows)


def check_layers(scores: LayerScores) -> None:
    """Raises ValueError if layers, removals, wholes and costs do not belong together."""
    L = len(scores.layers)
    if not L or len(set(scores.layers)) < L or len(scores.removals) != L:
        raise ValueError(f"found {L} layers and {len(scores.removals)} removals: name one or more, each once, with how it goes")
    if wrong := set(scores.removals) - set(REMOVALS):
        raise ValueError(f"found removal {', '.join(sorted(map(repr, wrong)))}: use {', '.join(map(repr, REMOVALS))}")
    if wrong := [n for inner in scores.wholes.values() for n in inner if n not in scores.layers]:
        raise ValueError(f"found {wrong[0]} among a transformer's blocks and not among the layers: give both or none")
    if wrong := [unit for unit, c in scores.costs.items() if (len(c.layers), len(c.wholes)) != (L, len(scores.wholes))]:
        raise ValueError(f"found costs in {wrong[0]} of other layers than the {L} scored: count them for these")


def check_losses(scores: LayerScores) -> None:
    """Raises ValueError if losses, timesteps and weights differ in their number of tuples, or are not finite."""
    L, K = len(scores.layers), len(scores.weights)
    if scores.losses.shape != (L, K) or scores.timesteps.shape != (K,) or not K:
        shapes = [getattr(scores, name).shape for name in ARRAYS]
        raise ValueError(f"found losses, timesteps and weights of shapes {shapes}: give ({L}, K), (K,) and (K,), K from 1 on")
    if not scores.weights.sum() > 0 or scores.weights.min() < 0:
        raise ValueError(f"found weights from {scores.weights.min()} on: give 0 or more, not all of them 0")
    if wrong := [n for n, row in zip(scores.layers, scores.losses, strict=True) if not is_row(row)]:
        raise ValueError(f"found a loss of {wrong[0]} that is infinite or NaN: give finite ones, or NaN for all of a layer's")


def is_row(row: np.ndarray) -> bool:
    """Whether these are finite losses, or none of them found yet."""
    return bool(np.isfinite(row).all() or np.isnan(row).all())


@dataclass(frozen=True)
class Stability:
    """How sure the ranking is, over tuples drawn again with replacement (bootstrap).

    spearman, spearman_low: mean and 5th percentile of the rank correlation with the ranking found.
    """

    spearman: float
    spearman_low: float


def stability(scores: LayerScores, *, draws: int = 1000, seed: int = 0) -> Stability:
    """The Stability of a ranking; of one from a single tuple (magnitude) that says nothing, and ValueError says so."""
    K = len(scores.weights)
    if K < 2 or not scores.scored.all():
        raise ValueError(
            f"found {K} tuples for {scores.scored.sum()} layers: a bootstrap needs 2 tuples and every layer's loss"
        )
    rng, losses = np.random.default_rng(seed), scores.losses.astype(float)
    counts = rng.multinomial(K, np.full(K, 1 / K), size=draws) * scores.weights  # (draws, K)
    again = places(losses @ counts.T)  # (L, draws); a positive factor in each draw does not move the ranks
    ranks = places(scores.values[:, None])[:, 0]
    correlations = [float(np.corrcoef(ranks, drawn)[0, 1]) for drawn in again.T] if len(ranks) > 1 else [1.0]
    return Stability(float(np.mean(correlations)), float(np.percentile(correlations, 5)))


def places(values: np.ndarray) -> np.ndarray:
    """The rank of each row in its column, from 0."""
    return values.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")


def layer_scores_from(document: Mapping[str, Any], **arrays: np.ndarray) -> LayerScores:
    """The scores of a JSON document and its arrays. Raises ValueError if they do not fit."""
    layers = document["layers"]
    costs = {unit: LayerCosts(tuple(c["layers"]), tuple(c["wholes"]), c["rest"]) for unit, c in document["costs"].items()}
    wholes = {name: tuple(inner) for name, inner in document["wholes"].items()}
    rest = {"wholes": wholes, "costs": costs, "made": document["made"]}
    return LayerScores(document["denoiser"], tuple(layers), tuple(layers.values()), **arrays, **rest)
