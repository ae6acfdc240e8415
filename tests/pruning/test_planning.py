"""Plans of a budget: against every set there is, against the students that they make, and what is refused."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from secateur.denoiser import times
from secateur.denoiser.families import class_name, dummy_inputs, meta_twin
from secateur.denoiser.macs import meta_denoiser, tally
from secateur.knapsack import achieved, knapsack
from secateur.pruning.layer_costs import LayerCosts, count_costs, wholes
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.planning import METHODS, check_reachable, groups, kept_share, next_larger, planned, predicted, with_times
from secateur.pruning.surgery import candidates, drop_layers, parameters, removals
from tiny import TOKENS, tiny

NARROW = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
}


def scores_of(denoiser, *, seed: int = 0, values=None) -> LayerScores:
    """Random scores of a denoiser's layers with their true costs."""
    layers = candidates(denoiser)
    outer, rng = wholes(denoiser, layers), np.random.default_rng(seed)
    losses = rng.random((len(layers), 1)) if values is None else np.array(values)[:, None]
    names, how = tuple(layers), tuple(layers.values())
    costs = count_costs(denoiser, layers, outer)
    return LayerScores(class_name(denoiser), names, how, losses, [0], [1], outer, costs, {"criterion": "drawn"})


@cache
def known(name: str):
    """A tiny denoiser and its scores."""
    return (teacher := tiny(name)), scores_of(teacher)


@pytest.fixture(scope="module")
def unet():
    return tiny("sd15", **NARROW)


@pytest.fixture(scope="module")
def scores(unet):
    return scores_of(unet)


def test_a_knapsack_with_groups_is_the_best_of_all_sets_that_have_one_of_each():
    rng = random.Random(0)
    for _ in range(30):
        n = rng.randint(3, 9)
        values, costs = [rng.uniform(-1, 3) for _ in range(n)], [rng.randint(0, 9) for _ in range(n)]
        parts = [list(range(0, n // 2)), list(range(n // 2, n))]
        sets = [s for s in itertools.product((False, True), repeat=n) if all(any(s[i] for i in part) for part in parts)]
        within = [s for s in sets if achieved(s, costs, rest=5) <= 0.6]
        if not within:
            with pytest.raises(ValueError, match="one of each group takes"):
                knapsack(values, costs, keep=0.6, rest=5, groups=parts)
            continue
        found = knapsack(values, costs, keep=0.6, rest=5, groups=parts)
        assert found in within
        best = max(sum(v for v, k in zip(values, s, strict=True) if k) for s in within)
        assert sum(v for v, k in zip(values, found, strict=True) if k) == pytest.approx(best)


@pytest.mark.parametrize("cost", ["parameters", "macs", "macs_attention"])
@pytest.mark.parametrize("keep", [0.8, 0.5, 0.3])
def test_the_exact_plan_is_the_best_of_all_sets_within_the_budget(scores, cost, keep):
    found = planned(scores, keep=keep, cost=cost)
    sets = itertools.product((False, True), repeat=len(scores.layers))
    named = ([n for n, g in zip(scores.layers, s, strict=True) if g] for s in sets)
    within = [s for s in named if kept_share(scores, s, cost=cost) <= keep]
    assert found.made["kept"] == kept_share(scores, found.layers, cost=cost) <= keep
    assert found.made["predicted"] == pytest.approx(min(predicted(scores, s) for s in within))
    for method in METHODS[1:]:
        rival = planned(scores, keep=keep, cost=cost, method=method)
        assert rival.made["kept"] <= keep
        assert rival.made["predicted"] >= found.made["predicted"] - 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", [0.8, 0.55, 0.3])
def test_the_next_larger_plan_keeps_more_than_was_asked_for_and_none_between_does(scores, method, keep):
    asked, kept = next_larger(scores, planned(scores, keep=keep, method=method))
    assert keep < kept <= asked < 1
    assert planned(scores, keep=asked, method=method).made["kept"] == kept
    assert planned(scores, keep=asked - 0.01, method=method).made["kept"] <= keep


@pytest.mark.parametrize("name", ["sd15", "sdxl", "dit"])
@pytest.mark.parametrize("method", METHODS)
def test_the_share_that_a_plan_states_is_its_students(name, method):
    teacher, scores = known(name)
    found = planned(scores, keep=0.6, method=method)
    student = drop_layers(teacher, found)
    assert parameters(student) / parameters(teacher) == pytest.approx(found.made["kept"], abs=1e-12)
    assert found.made["kept"] <= 0.6


@pytest.mark.parametrize("name", ["sd15", "sdxl", "dit"])
@pytest.mark.parametrize("cost", ["macs", "macs_attention"])
def test_the_macs_that_a_plan_states_are_those_that_its_student_executes(name, cost):
    teacher, scores = known(name)
    first = np.array([[how != "keep_shortcut"] for how in scores.removals])  # those go before all others
    scores = replace(scores, losses=scores.losses * first)
    found = planned(scores, keep=0.75 if name == "dit" else 0.5, cost=cost, method="greedy")
    assert set(found.removals) == set(scores.removals)
    executed, dense = [], meta_twin(teacher)
    for net in (dense, drop_layers(dense, found)):
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(**dummy_inputs(teacher, tokens=77))
        linear, attention = tally(counter)
        executed.append(linear + attention * (cost == "macs_attention"))
    assert executed[1] / executed[0] == pytest.approx(found.made["kept"], abs=1e-12)


@pytest.fixture(scope="module")
def deep():
    """A U-Net both of whose transformers have two blocks, whose norms and projections go with the second."""
    return scores_of(tiny("sd15", **NARROW, transformer_layers_per_block=2), seed=3)


@pytest.mark.parametrize("keep", [0.8, 0.5, 0.3, 0.16])
def test_the_exact_plan_counts_on_what_goes_with_the_last_block(deep, keep):
    assert sum(map(len, deep.wholes.values())) >= 4
    found = planned(deep, keep=keep)
    sets = itertools.product((False, True), repeat=len(deep.layers))
    named = ([n for n, g in zip(deep.layers, s, strict=True) if g] for s in sets)
    best = min(predicted(deep, s) for s in named if kept_share(deep, s, cost="parameters") <= keep)
    assert found.made["predicted"] == pytest.approx(best)
    assert found.made["kept"] <= keep


def test_a_budget_that_only_whole_transformers_reach_is_reached(deep):
    costs = deep.costs["parameters"]
    least = costs.rest / costs.total
    assert planned(deep, keep=least + 1e-6).made["kept"] == pytest.approx(least)
    with pytest.raises(ValueError, match="stays whatever is removed"):
        check_reachable(deep, keep=least - 1e-4)


def test_a_transformer_goes_with_the_last_of_its_blocks():
    teacher, scores = known("sdxl")
    (outer, blocks), *_ = scores.wholes.items()
    values = [0.0 if layer in blocks else 1.0 for layer in scores.layers]
    keep = kept_share(scores, blocks[:1], cost="parameters") - 0.001
    found = planned(replace(scores, losses=np.array(values)[:, None]), keep=keep, method="greedy")
    assert outer in found.layers
    assert not set(blocks) & set(found.layers)
    assert found.made["kept"] == pytest.approx(parameters(drop_layers(teacher, found)) / parameters(teacher))
    assert list(found.layers) == sorted(found.layers, key=list(removals(teacher)).index)


def test_the_layers_of_sdxl_are_chosen_in_under_a_second():
    scores = scores_of(meta_denoiser("sdxl"))
    assert sum(how != "keep_shortcut" for how in scores.removals) == 83
    assert scores.costs["parameters"].total == 2_567_463_684
    start = time.process_time()
    found = planned(scores, keep=0.5)
    assert time.process_time() - start < 1
    assert 0.49 < found.made["kept"] <= 0.5


def test_stages_can_be_spared(unet):
    low = [0.0 if layer.startswith("mid_block") else 1.0 for layer in candidates(unet)]
    scores = scores_of(unet, values=low)
    for method in METHODS:
        bare = planned(scores, keep=0.4, method=method)
        spared = planned(scores, keep=0.6, method=method, keep_every_stage=True)
        assert {n for n in scores.layers if n.startswith("mid_block")} <= set(bare.layers)
        for group in groups(scores):
            assert any(scores.layers[i] not in spared.layers for i in group)


def test_what_can_be_reached_is_known_without_losses():
    for name in ("sd15", "flux"):
        _, scores = known(name)
        blank = replace(scores, losses=scores.losses * np.nan)
        for cost, costs in scores.costs.items():
            stays = [min(group, key=costs.layers.__getitem__) for group in (groups(scores) if name == "flux" else [])]
            least = (costs.rest + sum(costs.wholes) + sum(costs.layers[i] for i in stays)) / costs.total
            check_reachable(blank, keep=least + 1e-6, cost=cost)
            planned(scores, keep=least + 1e-6, cost=cost)
            refusals = [message(check_reachable, blank, keep=least - 1e-6, cost=cost)]
            refusals += [message(planned, scores, keep=least - 1e-6, cost=cost, method=method) for method in METHODS]
            assert set(refusals) == {refusals[0]}


@pytest.mark.parametrize("method", METHODS)
def test_a_transformer_is_never_emptied(method):
    teacher, scores = known("flux")
    least = 1 - 2 * min(scores.costs["parameters"].layers) / scores.costs["parameters"].total
    values = [float(layer.startswith("single")) for layer in scores.layers]  # the others would go first
    scores = replace(scores, losses=np.array(values)[:, None])
    assert drop_layers(teacher, planned(scores, keep=least - 1e-6, method=method)).config.num_layers == 1
    with pytest.raises(ValueError, match=r"keep=0\.2"):
        planned(scores, keep=0.2, method=method)


def test_greedy_takes_the_least_loss_first_or_the_least_for_what_it_frees(scores):
    freed = np.array(scores.costs["parameters"].layers)
    for method, worth in (("greedy", scores.values), ("greedy_ratio", scores.values / freed)):
        found = planned(scores, keep=0.7, method=method)
        order = [scores.layers[i] for i in np.argsort(worth)]
        assert set(found.layers) == set(order[: len(found.layers)])
        assert kept_share(scores, order[: len(found.layers) - 1], cost="parameters") > 0.7


def test_budgets_may_be_in_time(unet, scores, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(times, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))  # a second from look to look

    def run() -> None:
        with torch.no_grad():
            unet(**dummy_inputs(unet, tokens=TOKENS))

    told = with_times(scores, unet, run=run)
    costs = told.costs["ms"]
    assert min(costs.layers) >= 1e9
    assert costs.rest > 0
    assert costs.total == 1e9 * (next(ticks) - 1)
    found = planned(told, keep=0.6, cost="ms")
    assert found.made["kept"] <= 0.6
    assert found.made["cost"] == "ms"


def test_a_plan_says_how_it_was_made(scores, tmp_path):
    found = planned(scores, keep=0.5, method="greedy_ratio")
    assert found.made["scores"] == {"criterion": "drawn"}
    assert (found.made["method"], found.made["keep"], found.made["cost"]) == ("greedy_ratio", 0.5, "parameters")
    found.save(tmp_path / "plan.json")
    assert found.load(tmp_path / "plan.json") == found


def message(function, *args, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_no_plan_can_be_made_of_is_refused_in_a_sentence(scores):
    assert "no method 'best': choose exact" in message(planned, scores, keep=0.5, method="best")
    assert "no costs in 'ms': choose parameters" in message(planned, scores, keep=0.5, cost="ms")
    assert "removes no layer" in message(planned, scores, keep=1.0)
    assert "stays whatever is removed" in message(planned, scores, keep=0.01)
    assert "stays whatever is removed" in message(planned, scores, keep=0.01, method="greedy")
    assert "0.4737 stays whatever is removed" in message(planned, scores, keep=0.15, keep_every_stage=True)
    half = scores.losses.copy()
    half[0] = np.nan
    assert "let the scoring finish" in message(planned, replace(scores, losses=half), keep=0.5)
    assert "give whole numbers" in message(LayerCosts, (1, -1), (), 0)
