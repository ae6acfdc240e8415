"""`secateur prune` as a user types it, on a tiny pipeline of the real classes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from secateur.cli import prune as command
from secateur.cli.criterion import criterion_for
from secateur.cli.main import app
from secateur.denoiser import macs
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring import learned_scores
from secateur.pipeline import examples, pipes
from secateur.pipeline.generate import generate
from secateur.pruning import criteria
from secateur.pruning.bypass import bypassed
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.plan import Plan
from secateur.pruning.planning import next_larger, planned
from secateur.pruning.presets import bk_sdm_base
from secateur.pruning.surgery import cuttable, parameters, plan_without


@pytest.fixture(params=["sd", "dit"])
def saved(request, tmp_path):
    """A pipeline's folder, and a file to ask it for."""
    pipe = request.getfixturevalue(request.param)
    pipe.save_pretrained(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("a fox\nblue\n" if request.param == "sd" else "1\n2\n")
    return tmp_path


def run(*words) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["prune", *map(str, words)])
    return done.exit_code, done.output if done.exception is None or done.exit_code != 1 else str(done.exception)


def small(folder, *more):
    """The shortest useful command."""
    few = ("--prompts", folder / "prompts.txt", "--images", 2, "--samples", 2, "--steps", 2, "--batch-size", 2)
    return (folder / "teacher", *few, "-o", folder / "student", *more)


@pytest.mark.parametrize("cost", ["parameters", "macs", "ms"])
def test_a_student_is_cut_and_saved_with_its_plan_and_scores(saved, cost):
    keep = 0.98 if cost == "ms" else 0.8  # on a busy machine much of a tiny net's time is outside of its layers
    code, output = run(*small(saved, "--keep", keep, "--cost", cost, "--json"))
    assert code == 0, output
    told = json.loads(output.splitlines()[-1])
    plan = Plan.load(saved / "student" / "plan.json")
    scores = LayerScores.load(saved / "student" / "layer_scores.safetensors")
    assert told["plan"] == dict(plan.items())
    assert set(plan.layers) <= {*scores.layers, *(layer.rpartition(".transformer_blocks")[0] for layer in scores.layers)}
    assert plan.made["kept"] <= keep
    missed = plan.made["kept"] < 0.95 * keep
    assert ("than --keep" in output) == missed
    assert ("the next larger choice is --keep" in output) == (missed and next_larger(scores, plan) is not None)
    if cost == "ms":
        assert f"a call of the student takes about {100 * plan.made['kept']:.1f} % of the teacher's" in " ".join(output.split())
    else:
        key = "parameters" if cost == "parameters" else "macs_linear"
        assert plan.made["kept"] == pytest.approx(told["student"][key] / told["teacher"][key], rel=1e-6)
    loaded = diffusers.DiffusionPipeline.from_pretrained(saved / "student")
    denoiser = loaded.components.get("unet") or loaded.transformer
    assert ("loads it after `import secateur`" in " ".join(output.split())) == ("unet" in loaded.components)
    assert parameters(denoiser) == told["student"]["parameters"]


def test_a_student_that_takes_a_schedule_is_told_by_its_teacher_s_macs(saved):
    assert run(*small(saved, "--keep", 0.8, "--cost", "macs"))[0] == 0
    teacher = Plan.load(saved / "student" / "plan.json").made["teacher"]
    left = macs.count(denoiser_of(pipes.load(str(saved / "student")))).call() / teacher["macs_linear"]
    assert 0.5 < left <= 0.8
    words = ("--prompts", str(saved / "prompts.txt"), "--images", "1", "--steps", "4")
    asked = (str(saved / "student"), *words, "--keep", "0.5", "--stages", "stock", "--scheduler", "DPMSolverMultistepScheduler")
    done = CliRunner().invoke(app, ["search", *asked, "-o", str(saved / "s.json")])
    assert done.exit_code == 0, done.exception
    assert f"that is {left / 2:.3f} of the MACs of the student's teacher" in " ".join(done.output.split())
    out = ("--out", str(saved / "measured"))
    done = CliRunner().invoke(app, ["compare", str(saved / "student"), str(saved / "s.json"), *words, *out])
    assert done.exit_code == 0, done.exception
    record = json.loads((saved / "measured" / "record.json").read_text())
    kept = {row["name"]: row["macs_of_teacher"] for row in record["rows"]}
    assert (kept["dense"], kept["s"]) == pytest.approx((left, left / 2))
    assert "Not at the same budget: s " not in done.output
    assert "macs of teacher" in (saved / "measured" / "report.html").read_text()
    done = CliRunner().invoke(
        app,
        ["compare", str(saved / "student"), str(saved / "s.json"), *words, *out, "--teacher", str(saved / "teacher")],
    )
    assert done.exit_code == 0, done.exception
    assert "Not at the same budget: s " not in done.output
    rows = json.loads((saved / "measured" / "record.json").read_text())["rows"]
    kept = {row["name"]: row["keep_linear"] for row in rows}
    assert list(kept)[:2] == ["teacher, dense", "student, dense"]
    assert [kept[name] for name in ("teacher, dense", "student, dense", "s")] == pytest.approx([1, left, left / 2])
    assert rows[0]["psnr_db"] is None
    assert rows[1]["psnr_db"]["mean"] < 100


@pytest.mark.parametrize("saved", ["sd"], indirect=True)
def test_samples_are_weighted_by_their_timesteps_where_that_is_asked(saved):
    code, output = run(*small(saved, "--keep", 0.8, "--weighting", "min_snr"))
    assert code == 0, output
    scores = LayerScores.load(saved / "student" / "layer_scores.safetensors")
    assert scores.timesteps[0] < scores.timesteps[1]
    assert scores.weights[0] < scores.weights[1]  # errors of noise where little of it is there count for less
    assert scores.made["weighting"] == "min_snr"
    for words, sentence in (
        (("--weighting", "snr"), "there is no weighting 'snr': choose min_snr"),
        (("--weighting", "min_snr", "--criterion", "magnitude"), "magnitude looks at no noisy samples: leave weighting out"),
    ):
        code, output = run(*small(saved, "--keep", 0.8, "-o", saved / "another", *words))
        assert (code, sentence in output) == (1, True)


@pytest.mark.parametrize("saved", ["sd"], indirect=True)
def test_layers_are_scored_at_the_timesteps_of_few_steps_where_that_is_asked(saved):
    code, output = run(*small(saved, "--keep", 0.8, "--at-called-timesteps", "--samples", "4", "--steps", "2"))
    assert code == 0, output
    scores = LayerScores.load(saved / "student" / "layer_scores.safetensors")
    scheduler = pipes.load(str(saved / "teacher")).scheduler
    scheduler.set_timesteps(2)
    assert scores.timesteps.tolist() == sorted(scheduler.timesteps.tolist() * 2)
    for words, sentence in (
        (("--keep", 0.8, "--criterion", "magnitude"), "magnitude looks at no noisy samples: leave at_called_timesteps out"),
        (("--preset", "bk-sdm-base"), "found at_called_timesteps, and no layer is scored"),
    ):
        code, output = run(*small(saved, *words, "--at-called-timesteps", "-o", saved / "another"))
        assert (code, sentence in output) == (1, True)


@pytest.mark.parametrize("saved", ["sd"], indirect=True)
def test_no_stage_is_emptied_where_that_is_asked(saved):
    emptied = []
    for words in ((), ("--keep-every-stage",)):
        folder = saved / f"student{len(words)}"
        code, output = run(*small(saved, "--keep", 0.48, "-o", folder, *words))
        assert code == 0, output
        scores, gone = LayerScores.load(folder / "layer_scores.safetensors"), Plan.load(folder / "plan.json").layers
        left = [layer for layer in scores.layers if not layer.startswith(gone)]
        stages = {".".join(layer.split(".")[:2]) for layer in scores.layers if not layer.startswith("mid_block")}
        emptied.append(stages - {".".join(layer.split(".")[:2]) for layer in left})
    assert emptied[0]
    assert not emptied[1]


def test_a_plan_and_a_preset_need_no_scoring(tmp_path):
    bk_sdm_base().save(tmp_path / "plan.json")
    sizes = []
    for k, words in enumerate((("--plan", tmp_path / "plan.json"), ("--preset", "bk-sdm-base"))):
        code, output = run("emoji-sd", *words, "-o", tmp_path / f"student{k}", "--json")
        assert code == 0, output
        sizes.append(json.loads(output.splitlines()[-1])["student"])
        assert not (tmp_path / f"student{k}" / "layer_scores.safetensors").exists()
    assert sizes[0] == sizes[1]


def test_show_lists_the_layers_of_a_plan(tmp_path):
    bk_sdm_base().save(tmp_path / "plan.json")
    done = CliRunner().invoke(app, ["show", str(tmp_path / "plan.json")])
    assert done.exit_code == 0
    assert "up_blocks.3.resnets.1" in done.output
    assert "drop_skip" in done.output


def test_show_lists_scores_of_layers_with_their_errors(tmp_path, saved):
    assert run(*small(saved, "--keep", 0.8))[0] == 0
    path = saved / "student" / "layer_scores.safetensors"
    done = CliRunner().invoke(app, ["show", str(path)])
    assert done.exit_code == 0
    assert done.output.splitlines() == str(LayerScores.load(path)).splitlines()
    assert done.output.count("±") == len(LayerScores.load(path).layers)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "give one of --keep, --plan and --preset"),
        (("--keep", 0.5, "--preset", "bk-sdm-base"), "give one of --keep, --plan and --preset"),
        (("--keep", 1), "found keep=1.0, wanted the fraction of the cost that stays, above 0 and below 1"),
        (("--keep", 1.5), "found keep=1.5, wanted the fraction of the cost that stays"),
        (("--keep", 0.5, "--criterion", "beauty"), "there is no criterion 'beauty': choose output, task"),
        (("--keep", 0.5, "--cost", "watts"), "there is no cost 'watts': choose parameters"),
        (("--preset", "koala"), "there is no preset 'koala': choose bk-sdm-base"),
        (("--keep", 0.001), "out of reach"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_leaves_nothing(sd, tmp_path, words, told):
    sd.save_pretrained(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("a fox\n")
    code, output = run(*small(tmp_path, *words))
    assert code != 0
    assert told in " ".join(output.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.txt", "teacher"]


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--keep", 0), "found keep=0.0"), (("--preset", "koala"), "no preset"), (("--keep", 0.5), "is there and no pipeline")],
)
def test_bad_values_are_told_before_a_folder_that_is_there(tmp_path, monkeypatch, words, told):
    monkeypatch.setattr(pipes, "load", None)
    (tmp_path / "student").mkdir()
    code, output = run("emoji-sd", *words, "-o", tmp_path / "student")
    assert (code, told in output) == (1, True)


def test_layers_are_scored_by_how_a_score_of_the_images_falls(sd, tmp_path, monkeypatch):
    def redness(*, device: str):
        return lambda images, prompts: images[..., 0].mean(axis=(1, 2)) + len(prompts[0])

    monkeypatch.setitem(learned_scores.SCORES, "clip", redness)
    sd.save_pretrained(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("a fox\nblue\n")
    code, output = run(*small(tmp_path, "--keep", 0.8, "--criterion", "clip", "--guidance-scale", 2.0))
    assert code == 0, output
    scores = LayerScores.load(tmp_path / "student" / "layer_scores.safetensors")
    assert (scores.made["criterion"], scores.losses.shape[1]) == ("clip", 2)
    layer, how = scores.layers[0], scores.removals[0]
    call = {"seeds": (40_000, 40_001), "num_inference_steps": 2, "guidance_scale": 2.0}
    pipe = pipes.load(str(tmp_path / "teacher"))
    dense = generate(pipe, ["a fox", "blue"], **call)[..., 0].mean(axis=(1, 2))
    with bypassed(pipe.unet, Plan((layer,), (how,), scores.denoiser), removable=cuttable(pipe.unet)):
        without = generate(pipe, ["a fox", "blue"], **call)[..., 0].mean(axis=(1, 2))
    np.testing.assert_allclose(scores.losses[0], dense - without, atol=1e-6)
    assert np.abs(scores.losses).max() > 0


def test_class_labels_are_not_compared_with_images(dit, tmp_path):
    dit.save_pretrained(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("1\n2\n")
    code, output = run(*small(tmp_path, "--keep", 0.8, "--criterion", "pick"))
    assert (code, "found class labels, which pick cannot compare images with" in output) == (1, True)
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("cost", ["parameters", "ms"])
def test_what_is_out_of_reach_is_refused_before_anything_is_drawn(saved, monkeypatch, cost):
    monkeypatch.setattr(examples, "draw_examples", lambda *_, **__: pytest.fail("drew"))
    code, output = run(*small(saved, "--keep", 0.001, "--cost", cost))
    assert code != 0
    assert "stays whatever is removed, so keep=0.001 is out of reach: ask for more" in output


@pytest.mark.parametrize("saved", ["sd"], indirect=True)  # the transformer has one layer to score
def test_an_interrupted_scoring_goes_on_and_ends_as_an_undisturbed_one(saved, monkeypatch):
    words, losses, asked = small(saved, "--keep", 0.8), criteria.output_losses, []

    def interrupted(teacher, tuples, plans):
        asked.append(len(plans))
        for k, found in enumerate(losses(teacher, tuples, plans)):
            if len(asked) == 1 and k == 2:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setitem(criteria.CRITERIA, "output", interrupted)
    code, output = run(*words)
    assert code == 130
    assert (
        f"stopped after 2 of {asked[0]} layers; the same command goes on from the layers scored so far, which it keeps in"
        in " ".join(output.split())
    )
    assert sorted(path.name for path in saved.iterdir()) == [".student.scores.safetensors", "prompts.txt", "teacher"]
    partial = (saved / ".student.scores.safetensors").read_bytes()
    plan_without(denoiser_of(pipes.load(str(saved / "teacher"))), ["mid_block.attentions.0"]).save(saved / "plan.json")
    code, output = run(saved / "teacher", "--plan", saved / "plan.json", "-o", saved / "student")
    assert code == 0, output
    (saved / "plan.json").unlink()
    assert (saved / ".student.scores.safetensors").read_bytes() == partial, "no scoring of this student's is done with"
    shutil.rmtree(saved / "student")
    assert run(*words, "--batch-size", 1)[0] == 0  # which draws images that differ in their last bits
    assert asked[1] == asked[0] - 2
    assert sorted(path.name for path in saved.iterdir()) == ["prompts.txt", "student", "teacher"]
    assert run(*words, "-o", saved / "whole")[0] == 0
    one, other = (LayerScores.load(saved / name / "layer_scores.safetensors") for name in ("student", "whole"))
    assert (one.losses[:2] == other.losses[:2]).all()
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-2)


@pytest.mark.parametrize("saved", ["sd"], indirect=True)
def test_a_command_that_was_killed_after_saving_is_run_again_and_another_is_refused(saved, monkeypatch):
    words = small(saved, "--keep", 0.8)
    monkeypatch.setattr(sys, "argv", ["secateur", "prune", "one"])
    assert run(*words)[0] == 0
    plan = (saved / "student" / "plan.json").read_bytes()
    assert run(*words)[0] == 0
    assert (saved / "student" / "plan.json").read_bytes() == plan
    monkeypatch.setattr(sys, "argv", ["secateur", "prune", "another"])
    assert "is there already" in run(*words)[1]


@pytest.mark.slow  # the launcher is tested by distil's command, the shared samples by the scores' own test
@pytest.mark.parametrize("saved", ["sd"], indirect=True)
def test_two_launched_processes_score_as_one(saved):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    command = [*launcher, "-m", "secateur", "prune", *small(saved, "--keep", 0.8)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in command], env=environment, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("DiffusionPipeline.from_pretrained loads it") == 1
    assert run(*small(saved, "--keep", 0.8, "-o", saved / "one"))[0] == 0
    two, one = (LayerScores.load(saved / name / "layer_scores.safetensors") for name in ("student", "one"))
    np.testing.assert_allclose(two.losses, one.losses, rtol=1e-3, atol=1e-7)
    assert sorted(path.name for path in saved.iterdir()) == ["one", "prompts.txt", "student", "teacher"]


def test_images_are_not_scored_in_several_processes():
    two, one = SimpleNamespace(num_processes=2), SimpleNamespace(num_processes=1)
    with pytest.raises(ValueError, match="clip scores all images in one process, and 2 were launched: launch one"):
        criterion_for("clip", two, "cpu")
    assert callable(criterion_for("clip", one, "cpu"))
    assert criterion_for("output", two, "cpu") == "output"


def test_scores_that_were_saved_are_cut_by_at_another_keep_without_scoring(saved, monkeypatch):
    code, output = run(*small(saved, "--keep", 0.8, "--json"))
    assert code == 0, output
    assert "the ranking of layers has a rank correlation of" in " ".join(output.split())
    told = json.loads(output.splitlines()[-1])["stability"]
    assert -1 <= told["spearman_low"] <= told["spearman"] <= 1
    file = saved / "student" / "layer_scores.safetensors"
    monkeypatch.setattr(examples, "draw_examples", lambda *_, **__: pytest.fail("drew"))
    code, output = run(saved / "teacher", "--scores", file, "--keep", 0.7, "-o", saved / "less")
    assert code == 0, output
    plan = planned(LayerScores.load(file), keep=0.7)
    assert Plan.load(saved / "less" / "plan.json").layers == plan.layers
    assert (saved / "less" / "layer_scores.safetensors").read_bytes() == file.read_bytes()
    code, output = run(saved / "teacher", "--scores", file, "--keep", 0.6, "--weighting", "min_snr", "-o", saved / "weighted")
    assert (code, (saved / "weighted").exists()) == (1, False)
    assert "found weighting, and no layer is scored" in output
    pipe = pipes.load(str(saved / "teacher"))
    next(denoiser_of(pipe).parameters()).data.mul_(2)
    pipe.save_pretrained(saved / "tuned")
    output = run(saved / "tuned", "--scores", file, "--keep", 0.7, "-o", saved / "tuned less")[1]
    assert "was scored with other weights" in " ".join(output.split())
    code, output = run("emoji-sd", "--scores", file, "--keep", 0.7, "-o", saved / "other")
    assert code != 0
    assert "give the pipe that was scored, or leave --scores out" in output
    code, output = run(saved / "teacher", "--scores", file, "--preset", "bk-sdm-base", "-o", saved / "other")
    assert "found --scores without --keep" in output


def test_the_layers_that_go_first_are_shown_while_there_is_scoring():
    layers, how = ("a.0", "a.1", "a.2"), ("identity",) * 3
    losses = np.array([[2.0, 2.0], [np.nan] * 2, [0.5, 1.5]])
    scores = LayerScores("DiTTransformer2DModel", layers, how, losses, [0, 1], [1, 1], {}, {})
    assert command.leading(scores) == "first to go: a.2 (1), a.0 (2)"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_student_of_a_half_precision_pipe_is_saved_in_its_dtype(sd, tmp_path, dtype):
    deepcopy(sd).to(dtype).save_pretrained(tmp_path / "teacher")
    plan_without(sd.unet, ["mid_block.resnets.1"]).save(tmp_path / "plan.json")
    code, output = run(tmp_path / "teacher", "--plan", tmp_path / "plan.json", "-o", tmp_path / "student")
    assert code == 0, output
    assert pipes.stored_dtype(str(tmp_path / "student")) == str(dtype).removeprefix("torch.")


def weights_of(folder, part: str) -> dict[str, torch.Tensor]:
    return load_file(folder / part / ("model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"))


@pytest.mark.parametrize(
    ("dtypes", "words"),
    [
        ({"unet": torch.float16}, ()),  # beside a VAE and a text encoder in float32
        ({"unet": torch.bfloat16, "text_encoder": torch.float16}, ("--dtype", "bfloat16")),
        ({}, ("--dtype", "bfloat16")),
        ({"unet": torch.float16, "vae": torch.float16, "text_encoder": torch.float16}, ("--dtype", "bfloat16")),
    ],
)
def test_a_student_has_its_teachers_weights_to_the_bit_whatever_it_was_cut_in(sd, tmp_path, dtypes, words):
    pipe = deepcopy(sd)
    for name, dtype in dtypes.items():
        pipe.components[name].to(dtype)
    pipe.save_pretrained(tmp_path / "teacher")
    plan_without(sd.unet, ["mid_block.resnets.1"]).save(tmp_path / "plan.json")
    code, output = run(tmp_path / "teacher", "--plan", tmp_path / "plan.json", "-o", tmp_path / "student", *words)
    assert code == 0, output
    for part in ("unet", "vae", "text_encoder"):
        teacher, student = (weights_of(tmp_path / who, part) for who in ("teacher", "student"))
        assert student
        assert all(x.dtype == teacher[name].dtype and torch.equal(x, teacher[name]) for name, x in student.items())


def test_a_plan_for_another_denoiser_is_refused(dit, tmp_path):
    dit.save_pretrained(tmp_path / "teacher")
    bk_sdm_base().save(tmp_path / "plan.json")
    code, output = run(tmp_path / "teacher", "--plan", tmp_path / "plan.json", "-o", tmp_path / "student")
    assert code != 0
    assert "the plan is for a UNet2DConditionModel and this is a DiTTransformer2DModel" in output
    assert not (tmp_path / "student").exists()


def test_a_folder_that_is_there_stays_as_it_is_unless_forced(saved, monkeypatch):
    student = saved / "student"
    student.mkdir()
    assert "is there and no pipeline" in run(*small(saved, "--keep", 0.8, "--force"))[1]
    assert not list(student.iterdir())
    (saved / "teacher").rename(student)
    (saved / "teacher").symlink_to(student)
    assert "is or holds the folder of the pipe" in run(*small(saved, "--keep", 0.8, "--force"))[1]
    (saved / "teacher").unlink()
    shutil.copytree(student, saved / "teacher")
    assert "is there already: give another folder by --out, or --force to" in run(*small(saved, "--keep", 0.8))[1]
    assert not (student / "plan.json").exists()
    code, output = run(*small(saved, "--keep", 0.8, "--force"))
    assert (code, (student / "plan.json").exists()) == (0, True)
    assert f"next: secateur distil {student} --teacher {saved / 'teacher'}" in " ".join(output.split())
