"""secateur.prune: the pipe without the layers that matter least, and its teacher as it was."""

from __future__ import annotations

from copy import deepcopy

import diffusers
import numpy as np
import pytest
import torch

import secateur
from secateur.denoiser.of_pipe import denoiser_of
from secateur.pruning.prune import plan_for, prune_steps, with_plan
from secateur.pruning.surgery import cuttable, parameters, plan_without

QUICK = {"images": 2, "samples": 2, "steps": 2, "settings": secateur.PruneSettings(batch_size=2)}


@pytest.fixture(params=["sd", "dit"])
def pipe(request):
    return request.getfixturevalue(request.param)


def prompts_of(pipe) -> list:
    return [1, 2] if isinstance(pipe, diffusers.DiTPipeline) else ["a fox", "blue"]


def test_a_pipe_is_pruned_and_its_teacher_stays_as_it_is(pipe, tmp_path, capsys):
    teacher, before = denoiser_of(pipe), deepcopy(denoiser_of(pipe).state_dict())
    student = secateur.prune(pipe, 0.8, prompts=prompts_of(pipe), progress=False, **QUICK)
    assert (type(student), denoiser_of(pipe)) == (type(pipe), teacher)
    assert all(torch.equal(before[name], x) for name, x in teacher.state_dict().items())
    assert parameters(denoiser_of(student)) <= 0.8 * parameters(teacher)
    assert student.vae is pipe.vae
    assert capsys.readouterr().err == ""
    student.save_pretrained(tmp_path)
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert parameters(denoiser_of(loaded)) == parameters(denoiser_of(student))
    plan, scores = plan_for(pipe, 0.8, prompts=prompts_of(pipe), progress=False, **QUICK)
    assert set(plan.layers) <= set(cuttable(teacher))
    assert set(cuttable(denoiser_of(student))) < set(cuttable(teacher))
    assert scores.scored.all()


def test_a_student_has_the_dtype_of_its_teacher(sd):
    half = deepcopy(sd).to(torch.bfloat16)
    student = secateur.prune(half, 0.8, prompts=["a fox"], progress=False, **QUICK)
    assert student.unet.dtype == torch.bfloat16


def test_steps_draw_then_score_then_plan(sd):
    steps = list(prune_steps(sd, 0.8, prompts=["a fox"], **QUICK))
    layers = len(steps[-1].scores.layers)
    assert [(s.doing, s.done, s.total) for s in steps[:1]] == [("drawing what to score on", 2, 2)]
    assert [(s.done, s.total) for s in steps[1:-1]] == [(k, layers) for k in range(1, layers + 1)]
    assert [s.plan is None for s in steps] == [True] * (len(steps) - 1) + [False]


def test_layers_may_be_scored_by_any_function_of_the_images(sd):
    def blueness(images, prompts):
        assert prompts == ("a fox", "blue")
        return images[..., 2].mean(axis=(1, 2))

    _, scores = plan_for(sd, 0.8, prompts=["a fox", "blue"], criterion=blueness, progress=False, **QUICK)
    assert scores.made["criterion"] == "blueness"
    assert np.abs(scores.losses).max() > 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"keep": 1.0}, "found keep=1.0, wanted the fraction of the cost that stays, above 0 and below 1"),
        ({"cost": "watts"}, "there is no cost 'watts': choose parameters, macs"),
        ({"criterion": "beauty"}, "there is no criterion 'beauty': choose output, task"),
        ({"prompts": "a fox"}, "found prompts='a fox', wanted a list of them"),
        ({"prompts": None}, "found no prompts for a StableDiffusionPipeline: give some like those"),
        (
            {"criterion": "magnitude", "settings": secateur.PruneSettings(weighting="min_snr")},
            "magnitude looks at no noisy samples: leave weighting out",
        ),
        ({"keep": 0.001}, "is out of reach: ask for more"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(sd, wrong, says, monkeypatch):
    monkeypatch.setattr("secateur.pipeline.examples.draw_examples", lambda *_, **__: pytest.fail("drew"))
    with pytest.raises(ValueError, match=says):
        secateur.prune(sd, **{"keep": 0.8, "prompts": ["a fox"], "progress": False, **QUICK, **wrong})


def test_settings_are_checked_when_they_are_built():
    with pytest.raises(ValueError, match="there is no method 'best': choose exact, greedy, greedy_ratio"):
        secateur.PruneSettings(method="best")


def test_a_denoiser_without_a_layer_to_spare_is_refused(dit):
    student = with_plan(dit, plan_without(dit.transformer, ["transformer_blocks.1"]))
    with pytest.raises(ValueError, match="this DiTTransformer2DModel has no layer that can go, as each list needs its last"):
        secateur.prune(student, 0.5, prompts=[1, 2], progress=False, **QUICK)
