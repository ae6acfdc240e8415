"""The Plan of any budget, out of LayerScores: exact, as a knapsack (LAPTOP-Diff, arXiv 2404.11098), or greedy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from secateur.artifact import check_word, thawed
from secateur.denoiser.families import family
from secateur.knapsack import Whole, budget, knapsack, least_of
from secateur.pruning.layer_costs import LayerCosts, timed
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.plan import IDENTITY, Plan

METHODS = ("exact", "greedy", "greedy_ratio")
STAGES = ("down_blocks", "up_blocks")


def planned(
    scores: LayerScores, *, keep: float, cost: str = "parameters", method: str = "exact", keep_every_stage: bool = False
) -> Plan:
    """The Plan that keeps at most a fraction `keep` of the whole denoiser's cost at the least sum of losses.

    cost: "parameters", "macs" (convolutions and linear layers), "macs_attention" (with its products), or "ms" after
    `with_times`. method: "exact"; "greedy" removes the layers with the least loss first, "greedy_ratio" those with the least
    loss for their cost. keep_every_stage: of each stage of a U-Net one scored layer stays; of each list of a transformer's
    blocks one always does, without which stock diffusers builds none. What a transformer of a U-Net has beside its blocks goes
    with the last of them (ours): the exact method counts on that, the greedy ones do not. `made` has the fraction that
    is really kept. Raises ValueError if nothing would be removed, or if keep is out of reach.
    """
    check_scores(scores, cost=cost, method=method)
    check_reachable(scores, keep=keep, cost=cost, keep_every_stage=keep_every_stage)
    costs, values, stages = scores.costs[cost], scores.values.tolist(), spared(scores, keep_every_stage=keep_every_stage)
    if method == "exact":
        stays = knapsack(values, costs.layers, keep=keep, rest=costs.rest, groups=stages, wholes=around(scores, costs))
    else:
        stays = greedy(values, costs, keep=keep, groups=stages, by_ratio=method == "greedy_ratio")
    gone = [layer for layer, k in zip(scores.layers, stays, strict=True) if not k]
    if not gone:
        raise ValueError(f"keep={keep} removes no layer: ask for less, or leave the denoiser as it is")
    asked = {"method": method, "keep": keep, "cost": cost, "keep_every_stage": keep_every_stage}
    found = {"kept": kept_share(scores, gone, cost=cost), "predicted": predicted(scores, gone), "scores": thawed(scores.made)}
    return plan_of(scores, gone, made=asked | found)


def next_larger(scores: LayerScores, plan: Plan) -> tuple[float, float] | None:
    """The least keep, in hundredths, whose plan keeps more than was asked for, and what it keeps; None if none does."""
    how = {name: plan.made[name] for name in ("method", "cost", "keep_every_stage")}
    for hundredths in range(int(100 * plan.made["keep"]) + 1, 100):
        kept = planned(scores, keep=hundredths / 100, **how).made["kept"]
        if kept > plan.made["keep"]:
            return hundredths / 100, kept
    return None


def with_times(scores: LayerScores, denoiser: nn.Module, *, run: Callable[[], Any]) -> LayerScores:
    """The same scores, with costs in "ms": nanoseconds on this device, over the calls of the denoiser that `run()` makes."""
    layers = dict(zip(scores.layers, scores.removals, strict=True))
    return replace(scores, costs={**scores.costs, "ms": timed(denoiser, layers, scores.wholes, run=run)})


def check_scores(scores: LayerScores, *, cost: str, method: str) -> None:
    """Raises ValueError if the method is unknown, or the scores are not complete."""
    check_word("method", method, METHODS)
    check_cost(scores, cost)
    if not scores.scored.all():
        raise ValueError(f"found scores of {scores.scored.sum()} of {len(scores.layers)} layers: let the scoring finish")


def check_cost(scores: LayerScores, cost: str) -> None:
    """Raises ValueError if the layers' costs are not known in this unit."""
    if cost not in scores.costs:
        units = ", ".join(scores.costs)
        raise ValueError(f"the scores have no costs in {cost!r}: choose {units}, or score anew in it (`with_times` in Python)")


def check_reachable(scores: LayerScores, *, keep: float, cost: str = "parameters", keep_every_stage: bool = False) -> None:
    """Raises ValueError if no choice of layers meets this fraction, whatever their losses are."""
    check_cost(scores, cost)
    costs = scores.costs[cost]
    least = least_of(costs.layers, spared(scores, keep_every_stage=keep_every_stage), around(scores, costs))
    budget([costs.total - costs.rest - least], keep=keep, rest=costs.rest + least)


def around(scores: LayerScores, costs: LayerCosts) -> list[Whole]:
    """What each transformer of a U-Net costs beside its blocks, and their places."""
    return [(cost, [scores.layers.index(name) for name in inner])
            for cost, inner in zip(costs.wholes, scores.wholes.values(), strict=True)]  # fmt: skip


def spared(scores: LayerScores, *, keep_every_stage: bool) -> list[list[int]]:
    """The groups of layers of which one must stay."""
    return groups(scores) if keep_every_stage or is_transformer(scores) else []


def greedy(
    values: Sequence[float], costs: LayerCosts, *, keep: float, groups: Sequence[Collection[int]], by_ratio: bool
) -> list[bool]:
    """Which layers to keep: those with the least loss (for their cost) are removed until the budget is met."""
    rest = costs.rest + sum(costs.wholes)
    room = budget(costs.layers, keep=keep, rest=rest)
    worth = np.array(values) / np.maximum(costs.layers, 1) if by_ratio else np.array(values)
    stays, left = [True] * len(values), sum(costs.layers)
    for i in worth.argsort(kind="stable").tolist():
        last = any(i in group and sum(stays[j] for j in group) == 1 for group in groups)
        if left > room and not last:
            stays[i], left = False, left - costs.layers[i]
    if left > room:
        raise ValueError(
            f"{(left + rest) / costs.total:.4g} stays with the layer of each stage that goes last, above keep={keep}: ask for "
            "more, or take the exact method"
        )
    return stays


def groups(scores: LayerScores) -> list[list[int]]:
    """Places of the layers of each stage; in a transformer, of each list of blocks whose first one may be removed."""
    members: dict[str, list[int]] = {}
    for i, layer in enumerate(scores.layers):
        first, second, *_ = layer.split(".")
        members.setdefault(f"{first}.{second}" if first in STAGES else first, []).append(i)
    stays = {name for name in members if is_transformer(scores) and f"{name}.0" not in scores.layers}
    return [places for name, places in members.items() if name not in stays]


def is_transformer(scores: LayerScores) -> bool:
    """Whether a denoiser has lists of blocks that stock diffusers cannot build empty."""
    return bool(family(scores.denoiser).depths)


def predicted(scores: LayerScores, layers: Collection[str]) -> float:
    """The sum of the losses without each of these layers: LAPTOP-Diff's stand-in for the loss without all of them."""
    return float(sum(value for layer, value in zip(scores.layers, scores.values, strict=True) if layer in layers))


def kept_share(scores: LayerScores, layers: Collection[str], *, cost: str) -> float:
    """The fraction of the whole denoiser's cost that stays without these layers."""
    costs, gone = scores.costs[cost], set(layers)
    freed = sum(c for layer, c in zip(scores.layers, costs.layers, strict=True) if layer in gone)
    around = sum(c for inner, c in zip(scores.wholes.values(), costs.wholes, strict=True) if gone.issuperset(inner))
    return (costs.total - freed - around) / costs.total


def plan_of(scores: LayerScores, layers: Collection[str], *, made: dict[str, Any]) -> Plan:
    """The Plan without these layers; a transformer all of whose blocks are among them goes whole."""
    items = dict(named(scores, set(layers)))
    return Plan(tuple(items), tuple(items.values()), scores.denoiser, made=made)


def named(scores: LayerScores, gone: set[str]) -> Iterator[tuple[str, str]]:
    """Each removed layer with how it is removed, in execution order."""
    outer = {layer: name for name, inner in scores.wholes.items() if gone.issuperset(inner) for layer in inner}
    for layer, how in zip(scores.layers, scores.removals, strict=True):
        if layer in gone:
            yield (outer[layer], IDENTITY) if layer in outer else (layer, how)
