"""secateur.distil: pipes in, the student's pipe out."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

import secateur
from secateur.denoiser.of_pipe import denoiser_of
from secateur.distilling.distil import DEFAULTS
from secateur.pipeline.examples import concatenate, draw_examples
from secateur.pruning.prune import with_plan
from secateur.pruning.surgery import plan_without
from tiny_pipes import dit

QUICK = secateur.DistilSettings(updates=2, batch_size=2, lr=1e-3, null_rate=0.5)
FEW = {"images": 2, "steps": 2, "settings": QUICK, "progress": False}


@pytest.fixture
def pipes():
    """A student of two blocks, and its teacher of three."""
    teacher, _ = dit()
    return with_plan(teacher, plan_without(teacher.transformer, ["transformer_blocks.1"])), teacher


def weights(pipe) -> dict[str, torch.Tensor]:
    return deepcopy(denoiser_of(pipe).state_dict())


def equal(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_pruned_pipe_learns_and_its_teacher_stays_as_it_is(pipes, capsys):
    student, teacher = pipes
    before, untaught = weights(teacher), weights(student)
    copy = deepcopy(denoiser_of(student))
    assert secateur.distil(student, teacher, [3, 7], **FEW) is student
    assert equal(before, weights(teacher))
    assert not equal(untaught, weights(student))
    assert capsys.readouterr().err == ""
    call = {"num_inference_steps": 2, "guidance_scale": 4.0}
    examples = concatenate(draw_examples(teacher, [3, 7], count=2, seed=0, batch_size=2, **call))
    none = secateur.distilling.encoded.null(teacher, labels=True)
    sites = {"transformer_blocks.0": "transformer_blocks.1", "transformer_blocks.1": "transformer_blocks.2"}
    list(secateur.distil_steps(teacher.transformer, copy, examples, teacher.scheduler, settings=QUICK, sites=sites, null=none))
    assert equal(weights(student), copy.state_dict())


def test_a_student_in_half_precision_learns_in_float32_and_stays_in_half_precision(pipes):
    student, teacher = (pipe.to(torch.bfloat16) for pipe in pipes)
    before = weights(student)
    secateur.distil(student, teacher, [3], **FEW)
    assert denoiser_of(student).dtype == torch.bfloat16
    assert not equal(before, weights(student))


def test_every_weight_of_a_student_has_its_own_dtype_again(pipes):
    student, teacher = pipes
    student.transformer.to(torch.bfloat16)
    student.transformer.proj_out_2.to(torch.float32)
    student.register_modules(vae=deepcopy(student.vae).double())
    before = {name: x.dtype for name, x in student.transformer.state_dict().items()}
    secateur.distil(student, teacher, [3], plan=plan_without(teacher.transformer, ["transformer_blocks.1"]), **FEW)
    assert {name: x.dtype for name, x in student.transformer.state_dict().items()} == before


def test_examples_may_be_given_and_checkpoints_kept(pipes, tmp_path):
    student, teacher = pipes
    examples = secateur.from_images(teacher, torch.rand(2, 16, 16, 3), [1, 2])
    fresh = deepcopy(student.transformer)
    secateur.distil(student, teacher, examples=examples, folder=tmp_path, **FEW)
    once = weights(student)
    student.transformer = fresh
    secateur.distil(student, teacher, examples=examples, folder=tmp_path, **FEW)
    assert equal(once, weights(student))


def test_a_student_that_is_its_teacher_is_refused_before_anything_is_drawn(pipes, monkeypatch):
    monkeypatch.setattr("secateur.distilling.distil.drawn_examples", None)
    with pytest.raises(ValueError, match="teacher and student share weights"):
        secateur.distil(pipes[1], pipes[1], [3], **FEW)


def test_a_trained_transformer_needs_its_plan(pipes):
    student, teacher = pipes
    secateur.distil(student, teacher, [3], **FEW)
    with pytest.raises(
        ValueError, match=r"the student has 2 transformer_blocks and 0 of the teacher's 3 are known to stay: give the plan"
    ):
        secateur.distil(student, teacher, [3], **FEW)


def test_prompts_are_needed(pipes):
    with pytest.raises(ValueError, match="found no prompts for a DiTPipeline"):
        secateur.distil(*pipes, settings=DEFAULTS, progress=False)
