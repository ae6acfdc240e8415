"""Scores of layers: against real students, finite differences and hooks; law 8; resumed, spread over processes, saved."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.numpy import load_file, save_file
from torch import Tensor

from secateur.denoiser.families import dummy_inputs, family
from secateur.denoiser.patch import intercept
from secateur.pipeline.examples import Examples, answer
from secateur.pruning.bypass import bypassed
from secateur.pruning.criteria import CRITERIA, draw_tuples, freed_names
from secateur.pruning.layer_scores import LayerScores, stability
from secateur.pruning.plan import Plan
from secateur.pruning.planning import planned
from secateur.pruning.scoring import ScoreStep, joint_loss, min_snr, output_loss, score_change, scored
from secateur.pruning.surgery import candidates, drop_layers, plan_without
from tiny import TOKENS, tiny
from tiny_pipes import ddim, noise

N, K = 3, 8
NARROW = {"block_out_channels": (8, 8), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
          "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "layers_per_block": 1}  # fmt: skip


def unet():
    """The smallest U-Net whose layers go in every way."""
    return tiny("sd15", **NARROW | {"block_out_channels": (8, 16)})


def examples_of(denoiser) -> Examples:
    """N random samples for a denoiser."""
    asked = dummy_inputs(denoiser, batch=N, size=8, tokens=TOKENS)
    stream = next(iter(asked))
    latents = noise(0, *asked.pop(stream).shape)
    shared = {k: asked.pop(k) for k in ("img_ids", "txt_ids") if k in asked}
    asked.pop("timestep")
    random_ = torch.utils._pytree.tree_map_only(Tensor, lambda x: noise(1, *x.shape) if x.is_floating_point() else x, asked)
    return Examples(latents, random_, shared, stream)


def last(steps) -> LayerScores:
    *_, step = steps
    return step.scores


def scores_of(denoiser, **settings) -> LayerScores:
    return last(output_loss(denoiser, examples_of(denoiser), ddim(), samples=K, **settings))


def same_embeddings(dit):
    for block in dit.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(dit.transformer_blocks[0].norm1.emb.state_dict())
    return dit


@pytest.mark.parametrize("name", ["sd15", "sdxl", "dit", "pixart", "sd3", "flux"])
def test_law_6_a_bypassed_teacher_is_the_student_bit_for_bit_and_then_itself(name):
    teacher = same_embeddings(tiny(name)) if name == "dit" else tiny(name)
    examples, layers = examples_of(teacher), list(candidates(teacher))
    asked = next(draw_tuples(examples, ddim(), samples=K, seed=0, batch_size=K).questions(teacher))
    dense = answer(teacher, asked)
    for seed, share in enumerate((0.3,) if family(teacher).depths else (0.3, 1.0)):
        chosen = [n for n in layers if random.Random(f"{n}{seed}").random() < share] or layers[:1]
        plan = plan_without(teacher, chosen)
        with bypassed(teacher, plan):
            found = answer(teacher, asked)
        assert torch.equal(found, answer(drop_layers(teacher, plan), asked))
        assert not torch.equal(found, dense)
        assert torch.equal(answer(teacher, asked), dense)
    assert not any("forward" in vars(module) for module in teacher.modules())


def test_output_loss_is_what_the_student_of_each_layer_says_otherwise():
    teacher = unet()
    examples, scores = examples_of(teacher), scores_of(teacher, batch_size=3)
    asked = next(draw_tuples(examples, ddim(), samples=K, seed=0, batch_size=K).questions(teacher))
    assert dict(zip(scores.layers, scores.removals, strict=True)) == candidates(teacher)
    assert {*scores.removals} == {"identity", "drop_skip", "keep_shortcut"}
    for layer, how, losses in list(zip(scores.layers, scores.removals, scores.losses, strict=True))[::2]:
        student = drop_layers(teacher, Plan((layer,), (how,), type(teacher).__name__))
        wanted = (answer(student, asked) - answer(teacher, asked)).square().mean(dim=(1, 2, 3))
        np.testing.assert_allclose(losses, wanted, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(scores.values, scores.losses.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(scores.errors, scores.losses.std(axis=1, ddof=1) / K**0.5, rtol=1e-4)


def test_the_joint_loss_of_many_layers_is_what_their_student_says_otherwise():
    teacher = unet()
    examples, layers = examples_of(teacher), list(candidates(teacher))
    plans = [plan_without(teacher, part) for part in (layers[:1], layers[::2], layers)]
    found = list(joint_loss(teacher, examples, ddim(), plans, samples=K))
    np.testing.assert_array_equal(found[0], scores_of(teacher).losses[0])
    asked = next(draw_tuples(examples, ddim(), samples=K, seed=0, batch_size=K).questions(teacher))
    for plan, losses in zip(plans, found, strict=True):
        prediction = answer(drop_layers(teacher, plan), asked)
        np.testing.assert_allclose(losses, (prediction - answer(teacher, asked)).square().mean(dim=(1, 2, 3)), rtol=1e-3)


def test_the_teacher_is_whole_whenever_a_step_is_in_hand():
    teacher = unet()
    for _ in output_loss(teacher, examples_of(teacher), ddim(), samples=2, layers=list(candidates(teacher))[:2]):
        assert not any("forward" in vars(module) for module in teacher.modules())


def test_law_8_a_layer_that_does_nothing_goes_first():
    teacher = unet()
    idle = "up_blocks.1.resnets.1"
    resnet = teacher.get_submodule(idle)
    resnet.conv2.weight.zero_(), resnet.conv2.bias.zero_()
    resnet.conv_shortcut.weight.zero_(), resnet.conv_shortcut.bias.zero_()
    resnet.conv_shortcut.weight[range(8), range(8)] = 1  # y = the hidden stream, which is what its removal leaves
    for criterion in ("output", "task", "cosine"):
        scores = last(scored(teacher, examples_of(teacher), ddim(), criterion=criterion, samples=K))
        assert abs(dict(zip(scores.layers, scores.values, strict=True))[idle]) < 1e-6
        if criterion != "task":
            assert scores.ranking()[0] == idle
            assert idle in planned(scores, keep=0.95, method="greedy").layers
            assert idle in planned(scores, keep=0.6).layers


def test_timesteps_are_stratified_and_examples_taken_in_turn():
    tuples = draw_tuples(examples_of(unet()), ddim(), samples=K, seed=3, batch_size=3)
    assert [int(t) * K // 1000 for t in tuples.timesteps] == list(range(K))
    assert sorted(torch.bincount(tuples.places).tolist()) == [2, 3, 3]
    other = draw_tuples(examples_of(unet()), ddim(), samples=K, seed=4, batch_size=3)
    assert not torch.equal(other.timesteps, tuples.timesteps)
    assert not torch.equal(other.noise(0), tuples.noise(0))
    assert not torch.equal(tuples.noise(1), tuples.noise(0))


def test_task_loss_is_by_how_much_training_loss_grows():
    teacher = unet()
    scores = last(scored(teacher, examples_of(teacher), ddim(), criterion="task", samples=K))
    asked = next(draw_tuples(examples_of(teacher), ddim(), samples=K, seed=0, batch_size=K).questions(teacher))

    def loss(net) -> Tensor:
        return (answer(net, asked) - asked.target).square().mean(dim=(1, 2, 3))

    student = drop_layers(teacher, plan_without(teacher, [scores.layers[-1]]))
    np.testing.assert_allclose(scores.losses[-1], loss(student) - loss(teacher), rtol=1e-2, atol=1e-6)


def test_taylor_is_the_slope_of_the_task_loss_towards_no_weights():
    teacher = unet().double()
    examples = examples_of(teacher)
    tuples = draw_tuples(examples, ddim(), samples=2, seed=0, batch_size=2)
    plans = [Plan((layer,), (how,), type(teacher).__name__) for layer, how in candidates(teacher).items()]
    asked = next(tuples.questions(teacher))

    def loss() -> Tensor:
        return (answer(teacher, asked) - asked.target).square().mean(dim=(1, 2, 3))

    for plan, losses in list(zip(plans, CRITERIA["taylor"](teacher, tuples, plans), strict=True))[::3]:
        weights, step, ends = [dict(teacher.named_parameters())[n] for n in freed_names(teacher, plan)], 1e-5, []
        before = [w.clone() for w in weights]
        for h in (step, -step):
            for w, old in zip(weights, before, strict=True):
                w.copy_(old * (1 + h))
            ends.append(loss())
        for w, old in zip(weights, before, strict=True):
            w.copy_(old)
        torch.testing.assert_close(losses.double(), ((ends[0] - ends[1]) / (2 * step)).abs(), rtol=1e-3, atol=1e-8)


def test_magnitude_is_the_sum_over_the_weights_that_go():
    teacher = unet()
    scores = last(scored(teacher, examples_of(teacher), ddim(), criterion="magnitude", samples=K))
    for layer, how, value in zip(scores.layers, scores.removals, scores.values, strict=True):
        own = {
            n: p for n, p in teacher.get_submodule(layer).named_parameters() if how != "keep_shortcut" or "shortcut" not in n
        }
        assert value == pytest.approx(sum(p.abs().sum().item() for p in own.values()), rel=1e-4)
    assert np.isnan(scores.errors).all()


def test_cosine_is_of_what_a_layer_gives_and_what_is_left_of_it():
    teacher = unet()
    scores = last(scored(teacher, examples_of(teacher), ddim(), criterion="cosine", samples=K, batch_size=3))
    tuples, seen = draw_tuples(examples_of(teacher), ddim(), samples=K, seed=0, batch_size=K), {}
    names = ["down_blocks.0.resnets.0", "up_blocks.1.resnets.1", "down_blocks.0.attentions.0"]
    for name in names:
        module: Any = teacher.get_submodule(name)
        module.register_forward_hook(lambda module, args, out, name=name: seen.update({name: (args[0], out)}))
    answer(teacher, next(tuples.questions(teacher)))
    for name in names:
        x, y = seen[name]
        y = y[0] if isinstance(y, tuple) else y
        wanted = 1 - torch.cosine_similarity(x[:, : y.shape[1]].flatten(1), y.flatten(1))
        np.testing.assert_allclose(scores.losses[scores.layers.index(name)], wanted, atol=1e-5)


def test_the_change_of_any_score_of_images():
    teacher = unet()
    asked = next(draw_tuples(examples_of(teacher), ddim(), samples=K, seed=0, batch_size=K).questions(teacher))
    score = lambda: answer(teacher, asked).abs().mean(dim=(1, 2, 3)).numpy()  # noqa: E731
    scores = last(score_change(teacher, score, name="size", samples=K, layers=["mid_block.resnets.0"]))
    student = drop_layers(teacher, plan_without(teacher, scores.layers))
    changed = answer(student, asked).abs().mean(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(scores.losses[0], score() - changed, atol=1e-6)
    assert scores.made["criterion"] == "size"
    with pytest.raises(ValueError, match=f"found losses of {K} samples for 1"):
        next(score_change(teacher, score, name="size", samples=1))


def test_an_interrupted_scoring_goes_on_where_it_stopped(tmp_path):
    teacher, path = unet(), tmp_path / "scores.safetensors"
    whole, settings = scores_of(teacher), {"samples": K, "path": path}
    run = output_loss(teacher, examples_of(teacher), ddim(), **settings)
    seen = [next(run) for _ in range(3)]
    run.close()
    assert [step.number for step in seen] == [1, 2, 3]
    assert seen[-1].scores.ranking() == tuple(n for n in whole.ranking() if n in whole.layers[:3])
    entered = []
    handle = intercept(teacher, "forward", lambda original, *a, **k: entered.append(1) or original(*a, **k))
    handle.remove()
    rest = list(output_loss(teacher, examples_of(teacher), ddim(), **settings))
    assert [step.layer for step in rest] == list(whole.layers[2:])  # the one that was saved last comes first
    np.testing.assert_array_equal(rest[-1].scores.losses, whole.losses)
    again: list[ScoreStep] = list(output_loss(teacher, examples_of(teacher), ddim(), **settings))
    assert len(again) == 1
    np.testing.assert_array_equal(again[0].scores.losses, whole.losses)
    with pytest.raises(ValueError, match="holds scores whose seed is 0 and this one's is 1: give the same"):
        next(output_loss(teacher, examples_of(teacher), ddim(), seed=1, **settings))


def test_scores_of_other_weights_or_conditions_are_not_gone_on_with(tmp_path):
    teacher, path = unet(), tmp_path / "scores.safetensors"
    settings = {"samples": K, "path": path, "layers": LAYERS}
    examples = examples_of(teacher)
    next(output_loss(teacher, examples, ddim(), **settings))
    told = {name: x * 2 for name, x in examples.conditions.items()}
    with pytest.raises(ValueError, match="holds scores whose examples is"):
        next(output_loss(teacher, replace(examples, conditions=told), ddim(), **settings))
    teacher.mid_block.resnets[0].conv1.weight.mul_(3)
    with pytest.raises(ValueError, match="holds scores whose teacher is 'UNet2DConditionModel with weights"):
        next(output_loss(teacher, examples, ddim(), **settings))


def test_examples_that_have_a_name_may_differ_in_their_last_bits(tmp_path):
    teacher, path = unet(), tmp_path / "scores.safetensors"
    settings = {"samples": K, "path": path, "layers": LAYERS, "source": "two foxes"}
    examples = examples_of(teacher)
    next(output_loss(teacher, examples, ddim(), **settings))
    moved = replace(examples, latents=examples.latents * (1 + 1e-6))
    assert last(output_loss(teacher, moved, ddim(), **settings)).scored.all()
    with pytest.raises(ValueError, match="holds scores whose examples is 'two foxes' and this one's is 'a fox'"):
        next(output_loss(teacher, examples, ddim(), **settings | {"source": "a fox"}))


def in_a_process(path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    scores_of(unet(), layers=LAYERS, path=path, accelerator=accelerator)


LAYERS = ["mid_block.resnets.0", "up_blocks.1.resnets.1"]


def test_two_processes_find_what_one_does(tmp_path):
    path = tmp_path / "scores.safetensors"
    code = f"from accelerate import debug_launcher as go; from test_scoring import in_a_process as f; go(f, ({str(path)!r},))"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), str(Path(__file__).parents[1]))),
    }
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=200)  # no fork of a process with threads
    np.testing.assert_allclose(LayerScores.load(path).losses, scores_of(unet(), layers=LAYERS).losses, rtol=1e-4)


def test_weights_of_timesteps_count_in_values_alone():
    teacher = unet()
    plain, weighted = scores_of(teacher), scores_of(teacher, weighting=min_snr(ddim()))
    np.testing.assert_array_equal(plain.losses, weighted.losses)
    snr = ddim().alphas_cumprod[plain.timesteps.astype(int)].numpy()
    snr = snr / (1 - snr)
    weights = np.minimum(snr, 5) / snr
    np.testing.assert_allclose(weighted.values, (plain.losses * weights).sum(axis=1) / weights.sum(), rtol=1e-4)
    assert weighted.made["weighting"] == "min_snr"


def test_min_snr_weights_what_the_denoiser_predicts():
    timesteps = torch.tensor([20, 500, 980])
    alphas = ddim().alphas_cumprod[timesteps]
    kinds = {
        kind: DDIMScheduler.from_config(ddim().config, prediction_type=kind) for kind in ("epsilon", "sample", "v_prediction")
    }
    weights = {kind: min_snr(scheduler)(timesteps) for kind, scheduler in kinds.items()}
    torch.testing.assert_close(weights["epsilon"] * alphas / (1 - alphas), weights["sample"])  # errors of noise and of data
    torch.testing.assert_close(weights["v_prediction"] / (1 - alphas), weights["sample"])  # and of velocity, of one error
    to_noise = DDIMScheduler.from_config(ddim().config, rescale_betas_zero_snr=True)
    assert min_snr(to_noise)(torch.tensor([999])).tolist() == [1.0]
    for scheduler, kind in ((FlowMatchEulerDiscreteScheduler(), "flow_prediction"), (EDMEulerScheduler(), "epsilon")):
        with pytest.raises(ValueError, match=f"found prediction type '{kind}' of {type(scheduler).__name__}: Min-SNR weights"):
            min_snr(scheduler)


def test_equal_weights_are_no_weights():
    scores = scores_of(unet())
    doubled = replace(scores, weights=scores.weights * 2)
    np.testing.assert_allclose(doubled.values, scores.values)
    np.testing.assert_allclose(doubled.errors, scores.errors)


def test_a_ranking_that_is_sure_is_stable_and_one_of_noise_is_not():
    scores, rng = scores_of(unet()), np.random.default_rng(0)
    L = len(scores.layers)
    sure = replace(scores, losses=np.arange(L)[:, None] + rng.random((L, K)) / 100)
    found = stability(sure)
    assert (found.spearman, found.spearman_low) == (pytest.approx(1), pytest.approx(1))
    guessed = stability(replace(scores, losses=rng.random((L, K))))
    assert guessed.spearman < 0.9
    half = np.arange(K) % 2  # of the tuples: those that count are sure, the others noise
    mixed = np.where(half, sure.losses, 100 * rng.random((L, K)))
    assert stability(replace(scores, losses=mixed, weights=half)).spearman == pytest.approx(1)
    assert stability(replace(scores, losses=mixed)).spearman < 0.9


def test_scores_are_loaded_as_they_were_saved(tmp_path):
    scores, path = scores_of(tiny("sdxl"), layers=None), tmp_path / "scores.safetensors"
    scores.save(path)
    found = LayerScores.load(path)
    assert found.wholes == scores.wholes != {}
    for name in ("denoiser", "layers", "removals", "costs", "made"):
        assert getattr(found, name) == getattr(scores, name)
    np.testing.assert_array_equal(found.losses, scores.losses)
    assert str(found).splitlines()[0].startswith(scores.layers[0])


def message(function, *args, **kwargs) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_scored_is_refused_in_a_sentence(tmp_path):
    teacher = unet()
    ask = lambda **more: next(scored(teacher, examples_of(teacher), ddim(), **more))  # noqa: E731
    assert "no criterion 'loss': choose output, task" in message(ask, criterion="loss")
    assert "no layer conv_in that can go" in message(ask, layers=["conv_in"])
    assert "0 samples in batches of 8" in message(ask, samples=0)
    assert "call eval() on it" in message(lambda: next(output_loss(unet().train(), examples_of(teacher), ddim())))
    teacher.mid_block.resnets[0].conv1.weight.fill_(torch.inf)
    assert "infinite or NaN" in message(ask, samples=1)
    wrong = Plan(("mid_block.resnets.0",), ("drop_skip",), "UNet2DConditionModel")
    scores = scores_of(unet(), layers=LAYERS)
    assert "that is infinite or NaN" in message(replace, scores, losses=[[0] * 7 + [np.nan], [0] * 8])
    assert "goes by 'identity'" in message(lambda: next(joint_loss(unet(), examples_of(teacher), ddim(), [wrong])))


def test_scores_that_are_none_are_refused_in_a_sentence(tmp_path):
    scores, path = scores_of(unet(), layers=LAYERS), tmp_path / "scores.safetensors"
    assert "losses, timesteps and weights of shapes" in message(replace, scores, weights=np.ones(3))
    assert "give 0 or more, not all of them 0" in message(replace, scores, weights=np.zeros(K))
    assert "name one or more" in message(replace, scores, layers=LAYERS[:1] * 2)
    assert "'gone': use" in message(replace, scores, removals=("identity", "gone"))
    assert "among a transformer's blocks" in message(replace, scores, wholes={"a": ("a.0",)})
    assert "other layers than the 2 scored" in message(
        replace, scores, costs={"parameters": replace(scores.costs["parameters"], layers=(1,))}
    )
    assert "needs 2 tuples" in message(stability, replace(scores, losses=scores.losses[:, :1], timesteps=[0], weights=[1]))
    assert "does not exist: give a layer scores file" in message(LayerScores.load, path)
    scores.save(path)
    path.write_bytes(path.read_bytes()[:-8])
    assert "no whole layer scores file" in message(LayerScores.load, path)
    save_file({"other": np.zeros(1)}, path)
    assert "holds the arrays ['other']" in message(LayerScores.load, path)
    scores.save(path)
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        entries = file.metadata()
    tensors = load_file(path)
    save_file(tensors | {"losses": tensors["losses"] * 2}, path, metadata=entries)
    assert "checksum of its arrays" in message(LayerScores.load, path)
