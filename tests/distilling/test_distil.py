"""Distillation of tiny students: what it minimises, what it leaves behind, how it goes on."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, KarrasVeScheduler
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from nets import apart, traces
from secateur import checkpoint
from secateur.denoiser.families import dummy_inputs
from secateur.distilling import held_out, update
from secateur.distilling.checkpoints import FILE
from secateur.distilling.features import captured, sites
from secateur.distilling.samples import Distillation, draw_batch, draw_example, noise_level
from secateur.distilling.settings import DistilSettings
from secateur.distilling.training import DistilStep, distil_steps, holding
from secateur.distilling.update import learning_rate
from secateur.pipeline.examples import Examples, answer
from secateur.pruning.presets import bk_sdm_base, bk_sdm_tiny
from secateur.pruning.surgery import drop_layers, plan_without
from tiny import tiny
from tiny_pipes import noise

N = 6
CUT = {"dit": ["transformer_blocks.1"], "pixart": ["transformer_blocks.1"], "sd3": ["transformer_blocks.1"]}
SITES = {
    "sd15": ["down_blocks.0", "down_blocks.1", "down_blocks.2", "down_blocks.3", "mid_block"]
    + [f"up_blocks.{k}" for k in range(4)],
    "sdxl": ["down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2"],
}
QUICK = DistilSettings(updates=3, batch_size=2, lr=1e-3, feature=1.0)


def plan_of(kind: str, teacher):
    if kind == "sd15":
        return bk_sdm_base()
    return plan_without(teacher, CUT.get(kind, ["down_blocks.0.resnets.1", "mid_block.resnets.1"]))


def examples_for(denoiser, *, seed: int = 1) -> Examples:
    """Random latents and conditions of the right shapes."""
    found = dummy_inputs(denoiser, batch=N, size=8, tokens=5)
    stream = next(iter(found))
    conditions = {k: v for k, v in found.items() if k not in (stream, "timestep")}
    random = tree_map_only(torch.Tensor, lambda x: x + torch.arange(N) if x.ndim == 1 else noise(seed, *x.shape), conditions)
    return Examples(noise(seed + 1, *found[stream].shape), random, stream=stream)


def made(kind: str = "sd15", **changes):
    """Teacher, student, examples, scheduler and sites."""
    teacher = tiny(kind, **changes)
    plan = plan_of(kind, teacher)
    student = drop_layers(teacher, plan)
    scheduler = FlowMatchEulerDiscreteScheduler() if kind == "sd3" else DDIMScheduler()
    return teacher, student, examples_for(teacher), scheduler, sites(teacher, student, plan=plan)


def ran(kind: str = "sd15", settings: DistilSettings = QUICK, **options) -> tuple[dict[str, torch.Tensor], list[DistilStep]]:
    """The student's weights at the end, and the steps."""
    teacher, student, examples, scheduler, found = made(kind)
    steps = list(distil_steps(teacher, student, examples, scheduler, settings=settings, sites=found, **options))
    return student.state_dict(), steps


def equal(one, other, **tolerance) -> bool:
    return all(torch.allclose(one[k], other[k], **tolerance) if tolerance else torch.equal(one[k], other[k]) for k in one)


# How near it comes


@torch.no_grad()
def error_on_new_noise(job: Distillation) -> float:
    """As `held_out` says it, by one batch of all its samples."""
    numbers = range(held_out.FIRST, held_out.FIRST + held_out.BATCHES * job.settings.batch_size)
    asked = draw_batch(job, numbers).question
    return F.mse_loss(answer(job.student, asked), answer(job.teacher, asked)).item()


def test_it_says_how_near_the_student_was_and_came_on_samples_that_it_did_not_learn_from(tmp_path):
    teacher, student, examples, scheduler, pairs = made()
    settings = replace(QUICK, updates=4, ema=0.5, feature=0.0)
    job = Distillation(teacher, student, examples, scheduler, settings, {}, None, None)
    before = error_on_new_noise(job)
    steps = list(distil_steps(teacher, student, examples, scheduler, settings=settings, sites=pairs, folder=tmp_path))
    assert [step.taught for step in steps[:-1]] == [None] * 3
    assert [step.untaught for step in steps] == pytest.approx([before] * 4)
    assert steps[-1].taught == pytest.approx(error_on_new_noise(job))  # of the averaged weights, in which it ends
    assert steps[-1].taught < before
    again = deepcopy(made()[1])
    [end] = distil_steps(teacher, again, examples, scheduler, settings=settings, sites=pairs, folder=tmp_path)
    assert (end.untaught, end.taught) == (steps[-1].untaught, steps[-1].taught)


# What is minimised


def watched(net, names, question):
    """The outputs of modules, by torch's own hooks, and what the denoiser says."""
    found = {}
    for name in names:
        hook = net.get_submodule(name).register_forward_hook
        hook(
            lambda _, __, out, name=name: found.__setitem__(
                name, (out[-1] if "transformer" in name else out[0]) if isinstance(out, tuple) else out
            )
        )
    return answer(net, question), found


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "dit", "pixart", "sd3"])
def test_the_terms_are_those_of_the_paper(kind):
    teacher, student, examples, scheduler, found = made(kind, **({"out_channels": 8} if kind == "dit" else {}))
    settings = replace(QUICK, batch_size=4, task=0.5, output=2.0, feature=3.0)
    copies = deepcopy(teacher), deepcopy(student)
    step = next(distil_steps(teacher, student, examples, scheduler, settings=settings, sites=found))
    asked = draw_batch(Distillation(teacher, student, examples, scheduler, settings, found, None, None), range(4)).question
    with torch.no_grad():
        told, theirs = watched(copies[0], found.values(), asked)
        prediction, mine = watched(copies[1], found, asked)
    wanted = {"task": F.mse_loss(prediction, asked.target), "output": F.mse_loss(prediction, told)}
    wanted |= {f"feature.{own}": F.mse_loss(mine[own], theirs[other]) for own, other in found.items()}
    scales = {f"feature.{own}": theirs[other].pow(2).mean() for own, other in found.items()}
    assert step.raw == pytest.approx({k: v.item() for k, v in wanted.items()}, rel=1e-4)
    assert step.normalized == pytest.approx({k: (v / scales.get(k, 1)).item() for k, v in wanted.items()}, rel=1e-4)
    parts = step.normalized
    features = sum(v for k, v in parts.items() if k.startswith("feature."))
    assert step.total == pytest.approx(0.5 * parts["task"] + 2 * parts["output"] + 3 * features, rel=1e-4)
    assert min(step.raw.values()) > 0


@pytest.mark.parametrize("normalize", ["norm", "running", "none"])
def test_other_normalizations(normalize):
    settings = replace(QUICK, normalize=normalize, lr=0.0)
    _, steps = ran(settings=settings)
    _, squares = ran(settings=replace(settings, normalize="mean_square"))
    names = [k for k in steps[0].raw if k.startswith("feature.")]
    found = np.array([[s.raw[k] / s.normalized[k] for k in names] for s in steps])
    m = np.array([[s.raw[k] / s.normalized[k] for k in names] for s in squares])
    second = 0.99 * m[0] + 0.01 * m[1]
    wanted = {"norm": m**0.5, "none": np.ones_like(m), "running": np.array([m[0], second, 0.99 * second + 0.01 * m[2]])}
    np.testing.assert_allclose(found, wanted[normalize], rtol=1e-4)
    assert m.std(axis=1).min() > 0


def test_terms_of_no_weight_are_left_out_and_the_teacher_is_not_asked():
    teacher, student, examples, scheduler, _ = made()
    teacher.conv_in.bias.data.fill_(float("nan"))  # would show
    settings = replace(QUICK, output=0.0, feature=0.0)
    for step in distil_steps(teacher, student, examples, scheduler, settings=settings):
        assert set(step.raw) == {"task"}
        assert step.total == step.raw["task"]


def test_a_student_that_is_its_teacher_has_nothing_to_learn_but_the_task():
    teacher, _, examples, scheduler, _ = made()
    step = next(distil_steps(teacher, deepcopy(teacher), examples, scheduler, settings=QUICK))
    assert {k for k, v in step.raw.items() if v} == {"task"}


@pytest.mark.parametrize("kind", ["sd15", "dit"])
def test_students_come_nearer_to_their_teachers(kind):
    settings = replace(QUICK, updates=25, batch_size=6, lr=3e-3, timesteps="stratified", ema=None, task=0.0)
    _, steps = ran(kind, settings)
    early, late = (sum(step.total for step in part) for part in (steps[:5], steps[-5:]))
    assert late < 0.7 * early


# Sites


def test_stages_of_a_unet_and_blocks_of_a_transformer():
    for kind, names in SITES.items():
        teacher = tiny(kind)
        assert sites(teacher, drop_layers(teacher, plan_of(kind, teacher))) == {name: name for name in names}
    teacher = tiny("dit", num_layers=6)
    plan = plan_without(teacher, [f"transformer_blocks.{k}" for k in (1, 2, 5)])
    student = drop_layers(teacher, plan)
    blocks = "transformer_blocks.{}".format
    assert sites(teacher, student, plan=plan) == {blocks(0): blocks(2), blocks(1): blocks(3), blocks(2): blocks(5)}
    assert sites(teacher, teacher) == {blocks(k): blocks(k) for k in range(6)}
    assert sites(teacher, student) == sites(teacher, student, plan=plan)  # known by their weights
    assert sites(deepcopy(teacher).to(torch.bfloat16), deepcopy(student).to(torch.bfloat16).float()) == sites(teacher, student)
    torch.nn.init.ones_(student.transformer_blocks[1].attn1.to_q.weight)
    with pytest.raises(ValueError, match="has 3 transformer_blocks and 1 of the teacher's 6 are known to stay: give the"):
        sites(teacher, student)


def test_stages_between_samplers_that_went_are_not_compared():
    """BK-SDM Tiny's innermost stages are twice as large as its teacher's."""
    teacher = tiny("sd15")
    student = drop_layers(teacher, bk_sdm_tiny())
    _, _, examples, scheduler, _ = made()
    found = sites(teacher, student)
    assert set(sites(teacher, teacher)) - set(found) == {"down_blocks.2", "down_blocks.3", "mid_block"}
    [step] = distil_steps(teacher, student, examples, scheduler, settings=replace(QUICK, updates=1))
    assert {name.removeprefix("feature.") for name in step.raw} - {"task", "output"} == set(found)


def test_a_site_of_a_passage_gives_what_the_teacher_would_without_those_layers():
    """The features of a student's block before training are those that the bypassed teacher has there."""
    teacher, student, examples, scheduler, found = made("dit", num_layers=4)
    asked = draw_batch(Distillation(teacher, student, examples, scheduler, QUICK, found, None, None), range(2)).question
    bypassed = deepcopy(teacher)
    bypassed.transformer_blocks[1].forward = lambda x, *_, **__: x
    with torch.no_grad(), captured(student, list(found)) as mine:
        answer(student, asked)
    with torch.no_grad():
        _, theirs = watched(bypassed, found.values(), asked)
    for own, other in found.items():
        assert torch.equal(mine[own], theirs[other])


# What is left behind


def test_models_are_as_they_were_also_after_an_error():
    teacher, student, examples, scheduler, _ = made()
    student.train()
    student.conv_in.requires_grad_(True)
    flags = [p.requires_grad for p in student.parameters()]
    before = deepcopy(teacher.state_dict())
    attributes = {name: set(vars(m)) for net in (teacher, student) for name, m in net.named_modules()}

    def untouched():
        assert [p.requires_grad for p in student.parameters()] == flags
        assert all(p.grad is None for net in (teacher, student) for p in net.parameters())
        assert equal(before, teacher.state_dict())
        assert (teacher.training, student.training) == (False, True)
        assert not student.is_gradient_checkpointing
        assert {name: set(vars(m)) for net in (teacher, student) for name, m in net.named_modules()} == attributes
        assert not any(m._forward_hooks or m._forward_pre_hooks for net in (teacher, student) for m in net.modules())

    steps = distil_steps(teacher, student, examples, scheduler, settings=replace(QUICK, checkpointing=True))
    untouched()
    next(steps)
    assert not traces(student)
    assert not traces(teacher)
    steps.close()
    untouched()
    list(distil_steps(teacher, student, examples, scheduler, settings=QUICK))
    untouched()
    broken = deepcopy(before)
    broken["conv_in.bias"].fill_(float("nan"))
    teacher.load_state_dict(broken)
    with pytest.raises(ValueError, match="samples 0 to 1 gave NaN"):
        list(distil_steps(teacher, student, examples, scheduler, settings=QUICK))
    teacher.load_state_dict(before)
    untouched()
    assert all(p.isfinite().all() for p in student.parameters())
    wrong = replace(examples, conditions={"encoder_hidden_states": noise(1, N, 5, 7)})
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(distil_steps(teacher, student, wrong, scheduler, settings=QUICK))
    untouched()


# How it is computed


@pytest.mark.parametrize("kind", ["sd15", "dit", "sd3"])
def test_checkpointing_changes_nothing(kind):
    plain, told = ran(kind)
    saved, again = ran(kind, replace(QUICK, checkpointing=True))
    assert apart(plain, saved) < 0.02 * apart(plain, made(kind)[1].state_dict())
    assert again[-1].total == pytest.approx(told[-1].total, rel=1e-5)


def test_checkpointing_is_on_while_it_is_asked_for():
    teacher, student, examples, scheduler, found = made()
    steps = distil_steps(teacher, student, examples, scheduler, settings=replace(QUICK, checkpointing=True), sites=found)
    next(steps)
    assert student.is_gradient_checkpointing
    steps.close()
    assert not student.is_gradient_checkpointing


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_gradients_are_clipped_as_they_are_without_the_scale_of_half_precision(precision, monkeypatch):
    lengths, step = [], torch.optim.AdamW.step

    def stepped(optimizer, *args):
        gradients = [p.grad.norm() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        lengths.append(float(torch.stack(gradients).norm()))
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", stepped)
    ran(settings=replace(QUICK, updates=8, mixed_precision=precision, clip=1e-3))  # fp16 leaves out steps that overflow
    assert len(lengths) > 1
    assert lengths == pytest.approx([1e-3] * len(lengths), rel=1e-3)
    lengths.clear()
    ran(settings=replace(QUICK, clip=None))
    assert min(lengths) > 1e-2


def test_weights_decay():
    start = made()[1].state_dict()
    left, gone = (ran(settings=replace(QUICK, updates=1, ema=None, weight_decay=decay))[0] for decay in (0.0, 10.0))
    assert all(torch.allclose(gone[k], left[k] - 1e-3 * 10 * start[k], atol=1e-6) for k in start)


def test_batches_summed_up_are_one_batch():
    settings = replace(QUICK, batch_size=4, normalize="none", lr=1e-4)
    whole, one = ran(settings=settings)
    parts, two = ran(settings=replace(settings, batch_size=2, accumulation=2))
    smaller, _ = ran(settings=replace(settings, batch_size=2))
    moved = apart(whole, made()[1].state_dict())
    assert apart(whole, parts) < 0.02 * moved
    assert two[0].raw == pytest.approx(one[0].raw, rel=1e-4)
    assert apart(whole, smaller) > 0.2 * moved


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(precision):
    start = made()[1].state_dict()
    exact, told = ran()
    found, steps = ran(settings=replace(QUICK, mixed_precision=precision, ema=None))
    assert all(p.dtype == torch.float32 for p in found.values())
    assert steps[0].total == pytest.approx(told[0].total, rel=0.03)
    assert steps[0].total != told[0].total
    moved = torch.cat([(found[k] - start[k]).flatten() for k in start])
    wanted = torch.cat([(exact[k] - start[k]).flatten() for k in start])
    wanted_likeness = {"bf16": 0.9, "fp16": 0.1}  # whose scaler leaves out the first steps
    assert F.cosine_similarity(moved, wanted, dim=0) > wanted_likeness[precision]


def test_a_teacher_in_half_precision_teaches_a_student_in_full():
    teacher, student, examples, scheduler, _ = made()
    step = next(distil_steps(teacher.to(torch.bfloat16), student, examples, scheduler, settings=QUICK))
    assert step.total == pytest.approx(ran()[1][0].total, rel=0.05)


def test_a_student_learns_from_conditions_in_half_precision():
    teacher, student, examples, scheduler, found = made()
    half = tree_map_only(torch.Tensor, lambda x: x.to(torch.bfloat16), dict(examples.conditions))
    examples = replace(examples, conditions=half)  # as a teacher in half precision encodes them
    step = next(
        distil_steps(teacher.to(torch.bfloat16), student, examples, scheduler, settings=QUICK, sites=found, save_every=1)
    )
    assert step.total == pytest.approx(ran()[1][0].total, rel=0.05)


def test_weights_are_averaged_and_the_student_ends_with_them():
    teacher, student, examples, scheduler, _ = made()
    weights, wanted = [], None
    for step in distil_steps(teacher, student, examples, scheduler, settings=replace(QUICK, updates=5, ema=0.3, lr=1e-2)):
        now = student.conv_in.weight.detach().clone()
        weights.append(now)
        decay = min(0.3, step.number / (9 + step.number))
        before = teacher.conv_in.weight if wanted is None else wanted
        wanted = decay * before + (1 - decay) * now
        torch.testing.assert_close(step.averaged["conv_in.weight"], wanted)
        with holding(student, step.averaged):
            torch.testing.assert_close(student.conv_in.weight, wanted)
        assert torch.equal(student.conv_in.weight, now)
    torch.testing.assert_close(student.conv_in.weight, wanted)
    assert not torch.allclose(student.conv_in.weight, weights[-1])


def test_learning_rates():
    settings = DistilSettings(updates=110, warmup=10, lr=1.0, lr_schedule="cosine")
    assert [learning_rate(n, settings) for n in (0, 4, 9, 10, 60)] == pytest.approx([0.1, 0.5, 1, 1, 0.5])
    assert learning_rate(109, settings) < 1e-3
    assert learning_rate(109, replace(settings, lr_schedule="constant")) == 1


# What is asked


def test_every_example_comes_once_in_each_round():
    rounds = [[draw_example(n, N, seed=0) for n in range(k * N, (k + 1) * N)] for k in range(4)]
    assert all(sorted(found) == list(range(N)) for found in rounds)
    assert len({tuple(found) for found in rounds}) > 1


def test_stratified_timesteps_spread_and_uniform_ones_do_not():
    settings = DistilSettings(batch_size=4, accumulation=4, timesteps="stratified")
    found = [sorted(int(16 * noise_level(n, settings)) for n in range(k, k + 16)) for k in (0, 16, 32)]
    assert found == [list(range(16))] * 3
    assert sorted(int(16 * noise_level(n, replace(settings, timesteps="uniform"))) for n in range(16)) != found[0]


def test_a_student_of_few_steps_learns_at_their_timesteps_alone():
    teacher, student, examples, scheduler, found = made()
    distillation = Distillation(teacher, student, examples, scheduler, replace(QUICK, called=(999.0, 499.0)), found, None, None)
    times = draw_batch(distillation, range(200)).question.arguments["timestep"]
    assert set(times.tolist()) == {499, 999}
    assert 0.4 < (times == 499).float().mean() < 0.6


def test_conditions_are_dropped_and_swapped():
    teacher, student, examples, scheduler, found = made()
    null = {"encoder_hidden_states": torch.full((1, 5, 8), 7.0), "cross_attention_kwargs": None}  # as a pipe asks

    def asked(**changes):
        distillation = Distillation(teacher, student, examples, scheduler, replace(QUICK, **changes), found, null, None)
        return draw_batch(distillation, range(400))

    plain, dropped = asked(), asked(null_rate=0.25)
    is_null = (dropped.question.arguments["encoder_hidden_states"] == 7).flatten(1).all(1)
    assert 0.18 < is_null.float().mean() < 0.32
    told = [x.question.arguments["encoder_hidden_states"] for x in (plain, dropped)]
    assert torch.equal(told[0][~is_null], told[1][~is_null])
    swapped = asked(swap_rate=1.0)
    same = (swapped.question.arguments["encoder_hidden_states"] == told[0]).flatten(1).all(1)
    times = swapped.question.arguments["timestep"]
    assert same[swapped.own].all()
    assert 0.4 < swapped.own.float().mean() < 0.6
    assert swapped.own[times < 200].float().mean() > 0.8
    assert swapped.own[times > 800].float().mean() < 0.2
    assert torch.equal(swapped.question.arguments["sample"], plain.question.arguments["sample"])


def test_swapped_samples_get_prompts_without_pictures_too():
    teacher, student, examples, scheduler, found = made()
    others = replace(examples_for(teacher, seed=5), latents=torch.zeros(N, 1, 1))
    settings = replace(QUICK, swap_rate=1.0)

    def heard(others):
        asked = draw_batch(Distillation(teacher, student, examples, scheduler, settings, found, None, None, others), range(400))
        return asked.question.arguments["encoder_hidden_states"], asked.own

    both = torch.cat([part.conditions["encoder_hidden_states"] for part in (examples, others)])
    (without, _), (told, own) = heard(None), heard(others)
    places = [(both == x).flatten(1).all(1).nonzero().item() for x in told]
    new = torch.tensor(places) >= N
    assert set(places) == set(range(2 * N))
    assert not new[own].any()
    assert 0.4 < new[~own].float().mean() < 0.6
    assert torch.equal(without[own], told[own])
    alone, _ = ran(settings=settings)
    taught, _ = ran(settings=settings, others=others)
    assert not equal(alone, taught)


def test_other_prompts_that_do_not_fit_are_refused():
    teacher = tiny("sd15")
    others = replace(examples_for(teacher, seed=5), latents=torch.zeros(N, 1, 1))
    with pytest.raises(ValueError, match="there are other prompts and swap_rate is 0, so that no sample gets them"):
        ran(others=others)
    states = others.conditions["encoder_hidden_states"]
    for changed, given in (({"encoder_hidden_states": states[..., :7]}, r"\(6, 5, 7\)"), ({}, "no shape")):
        with pytest.raises(ValueError, match=f"have encoder_hidden_states of {given} and the examples of \\(6, 5, 8\\): make"):
            ran(settings=replace(QUICK, swap_rate=1.0), others=replace(others, conditions=changed))


def test_samples_with_the_condition_of_another_have_no_task():
    _, told = ran(settings=replace(QUICK, batch_size=4, swap_rate=1.0))
    teacher, student, examples, scheduler, found = made()
    asked = draw_batch(
        Distillation(teacher, student, examples, scheduler, replace(QUICK, swap_rate=1.0), found, None, None), range(4)
    )
    assert 0 < asked.own.sum() < 4
    with torch.no_grad():
        errors = (answer(student, asked.question) - asked.question.target).pow(2).mean((1, 2, 3))
    assert told[0].raw["task"] == pytest.approx(errors[asked.own].sum().item() / 4, rel=1e-4)


# Going on


def lasting(folder) -> dict:
    """A distillation in a folder whose every state counts."""
    settings = DistilSettings(
        updates=24, batch_size=2, lr=1e-3, normalize="running", mixed_precision="fp16", lr_schedule="cosine"
    )
    return {"settings": settings, "folder": folder, "save_every": 2}


SCRIPT = """
import sys
from test_distil import distil_steps, lasting, made
*parts, sites = made("dit")
for step in distil_steps(*parts, sites=sites, **lasting(sys.argv[1])):
    print(step.number, flush=True)
"""


def script(*arguments: str, text: str = SCRIPT, **env: str) -> subprocess.Popen:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-W", "ignore", "-c", text, *arguments]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())} | env
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def ended(folder) -> tuple[dict[str, torch.Tensor], list[DistilStep]]:
    teacher, student, examples, scheduler, found = made("dit")
    steps = list(distil_steps(teacher, student, examples, scheduler, sites=found, **lasting(folder)))
    return student.state_dict(), steps


@pytest.mark.slow  # every long job saves by checkpoint.saved_steps: the search command's test kills one
def test_a_distillation_that_was_killed_goes_on_and_ends_as_an_undisturbed_one(tmp_path):
    victim = int(np.random.default_rng().integers(3, 11))
    with script(str(tmp_path / "a")) as process:
        for line in process.stdout:
            if int(line) == victim:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    rest, later = ended(tmp_path / "a")
    whole, steps = ended(tmp_path / "b")
    assert 2 <= later[0].number < 24  # not from the beginning
    assert equal(rest, whole)
    for one, other in zip(later[::-1], steps[::-1], strict=False):
        assert (one.number, one.raw, one.normalized) == (other.number, other.raw, other.normalized)
    over, last = ended(tmp_path / "a")
    assert equal(over, whole)
    assert [step.number for step in last] == [24]


def test_with_a_constant_rate_it_may_be_made_longer(tmp_path):
    ran(folder=tmp_path)
    longer, steps = ran(settings=replace(QUICK, updates=5), folder=tmp_path)
    assert [step.number for step in steps] == [3, 4, 5]
    assert equal(longer, ran(settings=replace(QUICK, updates=5))[0])


def test_a_folder_of_another_distillation_or_a_damaged_one_is_refused(tmp_path):
    ran(folder=tmp_path)
    with pytest.raises(ValueError, match=r"holds a distillation whose feature is 1\.0 and this one's is 2\.0"):
        ran(settings=replace(QUICK, feature=2.0), folder=tmp_path)
    teacher, student, _, scheduler, found = made()
    with pytest.raises(ValueError, match="examples is"):
        list(
            distil_steps(
                teacher, student, examples_for(teacher, seed=9), scheduler, settings=QUICK, sites=found, folder=tmp_path
            )
        )
    whole = (tmp_path / FILE).read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"{}"):
        (tmp_path / FILE).write_bytes(damage)
        with pytest.raises(ValueError, match="no whole distillation to go on from"):
            ran(folder=tmp_path)


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_a_checkpoint_of_other_weights_is_refused(tmp_path, who):
    ran(folder=tmp_path)
    teacher, student, examples, scheduler, found = made()
    with torch.no_grad():
        {"teacher": teacher, "student": student}[who].conv_in.weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(ValueError, match=rf"whose {who} is '(StudentUNet|UNet2DConditionModel) with weights"):
        list(distil_steps(teacher, student, examples, scheduler, settings=QUICK, sites=found, folder=tmp_path))


def test_weights_past_all_bounds_are_not_saved_over_the_last_checkpoint(tmp_path, monkeypatch):
    steep = replace(QUICK, lr=1e30)
    with pytest.raises(ValueError, match="update 1 left a student that answers NaN or infinity, which is not saved"):
        ran(settings=replace(steep, updates=1), folder=tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(update, "learning_rate", lambda number, _: 1e30 if number == 2 else 1e-3)
    with pytest.raises(ValueError, match="update 3 left"):
        ran(folder=tmp_path, save_every=1)
    assert checkpoint.read(tmp_path / FILE, noun="distillation", arguments=None)[0]["number"] == 2
    with pytest.raises(ValueError, match="update 3 left"):
        ran(folder=None)


def test_one_weight_that_is_nan_is_not_saved(monkeypatch):
    teacher, student, examples, scheduler, found = made("dit")

    def spoiled(distillation, now):
        now.number += 1
        embedding = distillation.student.get_submodule("transformer_blocks.0.norm1.emb.class_embedder.embedding_table")
        embedding.weight.data[-2] = float("nan")  # of a label that no example has

    monkeypatch.setattr(update, "update_student", spoiled)
    with pytest.raises(ValueError, match="update 1 left"):
        list(distil_steps(teacher, student, examples, scheduler, settings=replace(QUICK, updates=1), sites=found))


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path):
    ran(folder=tmp_path)
    before, limits = (tmp_path / FILE).read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"distil.safetensors cannot be written .*, and is as it was: make room"):
            ran(settings=replace(QUICK, updates=5), folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


# Processes


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp", "FSDP"), ("deepspeed", "DEEPSPEED")])
def test_the_configurations_that_docs_name_are_accelerate_s(name, kind):
    path = Path(__file__).parents[2] / "docs" / "accelerate" / f"{name}.yaml"
    found = load_config_from_file(str(path))  # which refuses keys that it does not know
    assert found.distributed_type == DistributedType[kind]


TOGETHER = """
import sys
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from secateur.distilling.checkpoints import is_spread, whole
from test_distil import DistilSettings, distil_steps, made
zero = DeepSpeedPlugin(zero_stage=int(sys.argv[2][-1])) if sys.argv[2].startswith("zero") else None
accelerator = Accelerator(cpu=True, deepspeed_plugin=zero)
if sys.argv[2] == "fsdp":  # which accelerate sets up for GPUs alone
    policy = {"auto_wrap_policy": "transformer_based_wrap", "state_dict_type": "FULL_STATE_DICT"}
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True, **policy)
if zero:  # for GPUs alone too
    import deepspeed
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.DEEPSPEED
    accelerator.state.deepspeed_plugins = {"default": zero}
    zero.set_mixed_precision("no")
    zero.select(_from_accelerator_state=True)
teacher, student, examples, scheduler, found = made(sys.argv[3])
settings = DistilSettings(updates=3, batch_size=4, accumulation=2, lr=1e-3)
options = {"sites": found, "settings": settings, "accelerator": accelerator, "folder": sys.argv[1], "save_every": 2}
*_, last = distil_steps(teacher, student, examples, scheduler, **options)
numbers = [whole(p.detach()).double().sum().item() for p in student.parameters()]
print(accelerator.num_processes, sum(map(is_spread, student.parameters())), *map(repr, last.raw.values()), *map(repr, numbers))
"""


ZERO = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed, which is built where it is installed")


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        pytest.param("ddp", "dit", marks=pytest.mark.slow),  # which the command's test launches too
        ("fsdp", "sd15"),
        pytest.param("zero1", "dit", marks=ZERO),
        pytest.param("zero2", "sd15", marks=ZERO),
    ],
)
def test_two_processes_make_the_student_of_one(tmp_path, way, kind):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true",
        "DS_ACCELERATOR": "cpu",
    }
    words = (str(tmp_path), way, kind)
    processes = [script(*words, text=TOGETHER, **env, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    first, second = (process.communicate(timeout=300)[0].splitlines()[-1].split() for process in processes)
    settings = DistilSettings(updates=3, batch_size=4, accumulation=2, lr=1e-3)
    alone, steps = ran(kind, settings, folder=tmp_path / "alone")
    names = [name for name, _ in made(kind)[1].named_parameters()]
    assert first == second
    assert first[:2] == ["2", str(len(names) if way == "fsdp" else 0)]
    wanted = [*steps[-1].raw.values(), *(alone[name].double().sum().item() for name in names)]
    np.testing.assert_allclose(np.array(first[2:], dtype=float), wanted, rtol=2e-3, atol=2e-4)
    together, _ = ran(kind, settings, folder=tmp_path)  # goes on from what two have saved
    assert apart(together, alone) < 0.1 * apart(alone, made(kind)[1].state_dict())


def test_accelerate_in_one_process_changes_nothing_and_its_trackers_get_the_terms():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.tracking import GeneralTracker

    class Tape(GeneralTracker):
        name, requires_logging_directory, main_process_only = "tape", False, True
        tracker, lines = None, []

        def store_init_configuration(self, values):
            pass

        def log(self, values, step, **_):
            self.lines.append((step, set(values)))

    AcceleratorState._reset_state(reset_partial_state=True)
    settings = replace(QUICK, mixed_precision="bf16", accumulation=2)
    alone, told = ran(settings=settings)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", log_with=[Tape()])
    accelerator.init_trackers("distil")
    teacher, student, examples, scheduler, found = made()
    attributes = set(vars(student))
    steps = list(distil_steps(teacher, student, examples, scheduler, settings=settings, sites=found, accelerator=accelerator))
    assert set(vars(student)) == attributes
    assert equal(alone, student.state_dict())
    assert [step.raw for step in steps] == [step.raw for step in told]
    assert [step for step, _ in Tape.lines] == [1, 2, 3]
    assert {"raw/task", "normalized/feature.mid_block", "total", "learning_rate"} <= Tape.lines[0][1]
    with pytest.raises(ValueError, match="mixed_precision is 'bf16' and the settings' 'no'"):
        distil_steps(teacher, student, examples, scheduler, settings=QUICK, accelerator=accelerator)
    AcceleratorState._reset_state(reset_partial_state=True)


# What is refused


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"updates": 0}, "found updates=0, wanted 1 or more"),
        ({"lr": float("nan")}, "found lr=nan"),
        ({"normalize": "l2"}, "no normalization 'l2': choose mean_square, norm, running, none"),
        ({"lr_schedule": "linear"}, "found lr_schedule='linear': choose 'constant' or 'cosine'"),
        ({"called": ()}, "found called=\\(\\), no timesteps at all"),
        ({"clip": 0.0}, "found clip=0.0, wanted the length that gradients are cut to, or None"),
        ({"null_rate": 1.5}, "found null_rate=1.5, wanted a fraction"),
        ({"task": 0, "output": 0, "feature": 0}, "nothing to learn"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        replace(QUICK, **changes)


def test_models_that_do_not_fit_are_refused_before_anything_is_done():
    teacher, student, examples, scheduler, _ = made()

    def refused(match: str, *, by=student, noise_of=scheduler, **options):
        with pytest.raises(ValueError, match=match):
            distil_steps(teacher, by, examples, noise_of, **{"settings": QUICK, **options})

    refused("share weights", by=teacher)
    refused("weights are bfloat16, in which small updates vanish", by=deepcopy(student).to(torch.bfloat16))
    refused(
        r"teacher reads encoder_hidden_states of \(1, 8, 8\) and the student of \(1, 8, 16\): give the teacher that",
        by=tiny("sd15", cross_attention_dim=16),
    )
    refused(r"reads added_cond_kwargs.text_embeds of no shape and the student of \(1, 8\)", by=tiny("sdxl"))
    refused("the student has no module down_blocks.9", sites={"down_blocks.9": "mid_block"})
    refused("the teacher has no module middle", sites={"mid_block": "middle"})
    refused("there are no sites", sites={})
    refused("there is no null condition", settings=replace(QUICK, null_rate=0.1))
    refused("null condition lacks encoder_hidden_states", settings=replace(QUICK, null_rate=0.1), null={})
    refused("found save_every=0", save_every=0)
    refused("trains by another noise", noise_of=KarrasVeScheduler())
    refused("teacher is on cpu and the student learns on meta", by=deepcopy(student).to("meta"))

    def deepspeed(stage: int = 2, mixed_precision: str = "no"):
        plugin = SimpleNamespace(zero_stage=stage)
        parts = {"state": SimpleNamespace(deepspeed_plugin=plugin), "mixed_precision": mixed_precision, "num_processes": 2}
        return SimpleNamespace(distributed_type="DEEPSPEED", device=torch.device("cpu"), **parts)

    refused("zero_stage is 3, and stages 1 and 2 work here", accelerator=deepspeed(3))
    refused("mixed_precision is 'bf16', by which DeepSpeed would round", accelerator=deepspeed(mixed_precision="bf16"))
    refused("DeepSpeed scales gradients of fp16", accelerator=deepspeed(), settings=replace(QUICK, mixed_precision="fp16"))
    refused(
        "a batch of 3 samples cannot be spread evenly over 2", accelerator=deepspeed(), settings=replace(QUICK, batch_size=3)
    )
    with pytest.raises(ValueError, match=r"mid_block of the student gives \(2, 16, 1, 1\) and down_blocks.0 of the teacher"):
        next(distil_steps(teacher, student, examples, DDPMScheduler(), settings=QUICK, sites={"mid_block": "down_blocks.0"}))
