"""`secateur distil`, run as a user would, on tiny pipelines in folders."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiTPipeline, UNet2DConditionModel
from PIL import Image

from commands import labelled, last_json
from nets import apart
from secateur import drop_layers
from secateur.artifact import own_name
from secateur.cli import terminal
from secateur.cli.distil import EXAMPLES
from secateur.distilling import encoded, store, update
from secateur.distilling.checkpoints import FILE
from secateur.distilling.features import named_sites
from secateur.distilling.sources import Data, call_of, pairs, source_of
from secateur.pipeline import pipes
from secateur.pruning.plan import Plan
from secateur.pruning.surgery import plan_without
from tiny_pipes import dit, flux, noise, sdxl

QUICK = ("--teacher", "teacher", "--updates", "4", "--batch-size", "2", "--set", "save_every=2", "--lr", "1e-3")
DATA = Data("teacher", None, None, 1, None, None, 1, None, 0)


@pytest.fixture
def command(run):
    """command(*words) distils a student of two blocks from a teacher of three; both lie in folders, with pictures in `data`."""
    pipe, _ = dit()
    plan = plan_without(pipe.transformer, ["transformer_blocks.1"])
    pipe.save_pretrained("teacher")
    pipe.transformer = drop_layers(pipe.transformer, plan)
    pipe.save_pretrained("student")
    plan.save("student/plan.json")
    Path("data").mkdir()
    labelled(Path("data"), [3, 1, 4, 1, 5])
    return lambda *words: run("distil", "student", *QUICK, *words)


def weights(folder: str) -> dict[str, torch.Tensor]:
    return pipes.load(folder).transformer.state_dict()


def equal(one, other) -> bool:
    return all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("words", [("--data", "data"), ("--prompts", "labels.txt", "--limit", "3", "--steps", "2")])
def test_a_student_is_taught_and_saved_as_a_pipe(command, words):
    Path("labels.txt").write_text("3\n7\n")
    code, out, error = command(*words, "--json")
    assert code == 0, error
    found = last_json(out)
    assert (found["updates"], found["out"]) == (4, "student-distilled")
    assert set(found["raw"]) == {"task", "output", "feature.transformer_blocks.0", "feature.transformer_blocks.1"}
    assert "feature.transformer_blocks.1" in out
    assert isinstance(pipes.load("student-distilled"), DiTPipeline)
    assert not equal(weights("student"), weights("student-distilled"))
    assert Path("student-distilled/plan.json").is_file()
    assert "note:" not in out
    assert {path.name for path in Path().iterdir() if path.name.startswith(".")} == set()


@pytest.mark.parametrize(("rate", "helps"), [("1e-3", True), ("0", False)])
def test_it_says_whether_teaching_brought_the_student_nearer(command, rate, helps):
    alone = ("--set", "ema=0.5", "--set", "task=0", "--set", "feature=0")  # the output term, which is what is reported
    code, out, error = command("--data", "data", "--lr", rate, *alone, "--json")
    assert code == 0, error
    told = last_json(out)
    assert (told["taught"] < told["untaught"]) == helps
    assert f"new noise: {told['untaught']:.4g} untaught, {told['taught']:.4g} taught" in out
    assert ("teaching did not help, so keep student, which is as it was" in out) == (not helps)


def test_prompts_without_pictures_are_heard(command):
    Path("more.txt").write_text("8\n9\n6\n")
    words = ("--data", "data", "--set", "swap_rate=1")
    assert command(*words, "-o", "alone")[0] == 0
    code, _, error = command(*words, "--unpictured-prompts", "more.txt", "-o", "heard")
    assert code == 0, error
    assert store.load("heard-checkpoints/unpictured.safetensors").conditions["class_labels"].tolist() == [8, 9, 6]
    assert not equal(weights("alone"), weights("heard"))
    Path("more.txt").write_text("2\n")
    code, _, error = command(*words, "--unpictured-prompts", "more.txt", "-o", "heard")
    assert (code, "whose --unpictured-prompts is 'more.txt with text" in error) == (1, True)


def test_all_conditions_are_of_the_size_and_guidance_of_the_examples(monkeypatch):
    pipe, _ = sdxl()
    pipe.encode_prompt = lambda prompt, **_: (noise(1, 1, 5, 8), noise(2, 1, 5, 8), noise(3, 1, 8), noise(4, 1, 8))
    call = call_of(replace(DATA, source="data", size=32), pipe)
    [pictured, unpictured] = (
        encoded.from_images(pipe, torch.zeros(1, 32, 32, 3), ["a"]),
        *encoded.unpictured(pipe, ["a"], **call),
    )
    ids = [
        part["added_cond_kwargs"]["time_ids"]
        for part in (pictured.conditions, unpictured.conditions, encoded.null(pipe, **call))
    ]
    assert [x.tolist() for x in ids] == [[[32, 32, 0, 0, 32, 32]]] * 3
    pipe, _ = flux()
    asked = replace(DATA, prompts="p.txt", guidance_scale=1.5, steps=7, size=48)
    assert call_of(asked, pipe) == {"height": 48, "width": 48, "num_inference_steps": 7, "guidance_scale": 1.5}
    assert call_of(replace(DATA, source="data"), pipe) == {"height": 256, "width": 256}


def test_how_the_teacher_is_called_for_its_conditions(command, monkeypatch):
    calls = []
    for name in ("null", "unpictured"):
        whole = getattr(encoded, name)
        monkeypatch.setattr(encoded, name, lambda *a, whole=whole, **call: calls.append(call) or whole(*a, **call))
    Path("more.txt").write_text("8\n")
    drawn = ("--prompts", "more.txt", "--limit", "2", "--steps", "2", "--guidance-scale", "1.5")
    code, _, error = command(*drawn, "--unpictured-prompts", "more.txt", "--set", "swap_rate=1")
    assert code == 0, error
    assert [(c["num_inference_steps"], c["guidance_scale"]) for c in calls] == [(2, 1.5)] * 2


@pytest.mark.parametrize("words", [("--data", "data"), ("--prompts", "labels.txt", "--limit", "2")])
def test_only_the_timesteps_of_few_steps_are_taught(command, monkeypatch, words):
    Path("labels.txt").write_text("3\n")
    seen, whole = [], update.update_student
    monkeypatch.setattr(update, "update_student", lambda job, now: seen.append(job.settings) or whole(job, now))
    code, _, error = command(*words, "--at-called-timesteps", "--steps", "2")
    assert code == 0, error
    scheduler = pipes.load("teacher").scheduler
    scheduler.set_timesteps(2)
    assert seen[0].called == tuple(scheduler.timesteps.tolist())
    code, _, error = command(*words, "--steps", "2")
    assert (code, "called" in error) == (1, True)


def test_weight_decay_and_clipping_are_as_asked(command, monkeypatch):
    seen = []
    monkeypatch.setattr(update, "update_student", lambda job, _: seen.append(job.settings) or sys.exit(9))
    command("--data", "data", "--set", "weight_decay=0.2", "--set", "clip=null")
    command("--data", "data", "-o", "o")
    assert [(s.weight_decay, s.clip) for s in seen] == [(0.2, None), (0.01, 1.0)]


def test_settings_may_come_from_a_file(command, monkeypatch):
    seen = []
    monkeypatch.setattr(update, "update_student", lambda job, _: seen.append(job.settings) or sys.exit(9))
    Path("settings.json").write_text('{"warmup": 7, "checkpointing": true, "lr_schedule": "cosine"}')
    command("--data", "data", "--set", "settings.json", "--set", "warmup=3")
    assert [(s.warmup, s.checkpointing, s.lr_schedule) for s in seen] == [(3, True, "cosine")]


@pytest.mark.parametrize(
    ("source", "told"),
    [("hub:a/b", {"path": "a/b"}), ("tars:x.tar", {"path": "webdataset", "data_files": "x.tar"})],
)
def test_a_subset_and_a_split_are_asked_of_datasets(source, told, monkeypatch):
    asked = {}

    def load_dataset(path, **options):
        asked.update(options, path=path)
        return iter([])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(pairs(replace(DATA, source=source, subset="small", split="test"), 8)) == []
    assert asked == {"name": "small", "split": "test", "streaming": True, **told}


def test_two_launched_processes_teach_what_one_does(command):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    words = ("-m", "secateur", "distil", "student", *QUICK, "--data", "data", "-o", "two")
    done = subprocess.run([*launcher, *words], timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert command("--data", "data", "-o", "one")[0] == 0
    one, two, start = (weights(folder) for folder in ("one", "two", "student"))
    assert apart(one, two) < 0.01 * apart(one, start)


def test_a_teacher_of_another_size_than_the_student_was_cut_from_is_noted(command):
    plan = Plan.load("student/plan.json")
    replace(plan, made={**plan.made, "teacher": {"parameters": 1234567}}).save("student/plan.json")
    code, out, error = command("--data", "data", "--updates", "1")
    assert code == 0, error
    assert "note: the student was cut from a net of 1,234,567 parameters, and this teacher has" in " ".join(out.split())


def test_features_are_compared_where_one_says(command):
    Path("student/plan.json").unlink()  # without which nobody knows the partners of a transformer's blocks
    code, out, error = command("--data", "data", "--set", "sites=transformer_blocks.1 = transformer_blocks.2", "--json")
    assert code == 0, error
    assert set(last_json(out)["raw"]) == {"task", "output", "feature.transformer_blocks.1"}
    assert named_sites("mid_block, up_blocks.0 = up_blocks.1") == {"mid_block": "mid_block", "up_blocks.0": "up_blocks.1"}


def test_an_interrupt_leaves_the_last_checkpoint_and_the_same_command_goes_on(command, monkeypatch):
    assert command("--data", "data", "--out", "whole")[0] == 0
    whole, numbers = update.update_student, []

    def interrupted(distillation, now):
        numbers.append(now.number)
        if len(numbers) == 4:
            raise KeyboardInterrupt
        whole(distillation, now)

    monkeypatch.setattr(update, "update_student", interrupted)
    code, out, _ = command("--data", "data", "--out", "o")
    assert (code, Path("o").exists()) == (130, False)
    assert "stopped after 3 updates; the same command goes on from the last checkpoint in o-checkpoints" in out
    assert command("--data", "data", "--out", "o")[0] == 0
    assert numbers == [0, 1, 2, 3, 2, 3]  # the checkpoint was of two
    assert equal(weights("whole"), weights("o"))


def test_a_tracker_that_accelerate_lacks_is_refused(command):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    code, _, error = command("--data", "data", "--log-with", "jsonl")
    assert (code, "jsonl" in error) == (1, True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "found both --data and --prompts or neither"),
        (("--data", "data", "--prompts", "p.txt"), "found both"),
        (("--prompts", "p.txt"), "there is no file p.txt"),
        (("--data", "nowhere"), "there is no folder nowhere"),
        (("--data", "student"), "student has no metadata.jsonl, so its pictures have no captions"),
        (("--data", "broken"), "broken/1.png is no whole picture"),
        (("--data", "scenes"), "the zoo's scenes are for emoji-dit and emoji-sd, not for teacher"),
        (
            ("--data", "data", "--unpictured-prompts", "p.txt"),
            "--unpictured-prompts are for noisy samples, and swap_rate is 0",
        ),
        (("--data", "data", "--unpictured-prompts", "p.txt", "--set", "swap_rate=1"), "there is no file p.txt"),
        (("--data", "data", "--unpictured-prompts", "empty.txt", "--set", "swap_rate=1"), "empty.txt holds no prompt"),
        (
            ("--data", "data", "--unpictured-prompts", "fox.txt", "--set", "swap_rate=1"),
            "DiTPipeline takes no prompt: got 'a fox'",
        ),
        (("--data", "data", "--unpictured-prompts", "far.txt", "--set", "swap_rate=1"), "there is no class 5000"),
        (("--prompts", "fox.txt"), "DiTPipeline takes no prompt: got 'a fox'"),
        (("--data", "data", "--split", "test"), "--split is of a dataset: give --data hub:OWNER/NAME, or leave it out"),
        (("--data", "tars:x.tar", "--subset", "a"), "--subset is of a dataset of the Hub: give --data hub:OWNER/NAME, or"),
        (("--prompts", "far.txt", "--caption", "a"), "--caption is a column of --data: give data, or leave it out"),
        (("--data", "data", "--background", "whit"), "found background 'whit': give a colour such as white"),
        (("--prompts", "near.txt", "--background", "red"), "--background is for pictures: give --data, or leave it out"),
        (("--data", "data", "--guidance-scale", "2"), "--guidance-scale is how the teacher draws by --prompts: give prompts"),
        (("--prompts", "near.txt", "--size", "32"), "DiTPipeline draws pictures of one size: leave --size out"),
        (("--data", "data", "--out", "a/b"), "there is no folder a to save b in"),
        (("--data", "data", "--out", "data/0.png/b"), "data/0.png is a file, in which b cannot be saved"),
        (("--data", "tars:no-*.tar"), "no file matches no-*.tar"),
        (("--data", "data", "--out", "data"), "data is there and no pipeline, so it will not be replaced"),
        (("--data", "data", "--out", "/proc/o"), "/proc/o cannot be written"),
        (("--data", "data", "--checkpoints", "/proc/c"), "/proc/c cannot be written"),
        (
            ("--data", "data", "--out", "other"),
            "other is there already: give another folder by --out, or --force",
        ),
        (("--data", "data", "--out", "teacher"), "teacher is or holds the folder of the teacher, which saving would delete"),
        (("--data", "data", "--out", "../here/student"), "student is or holds the folder of the student, which saving would"),
        (("--data", "data", "--out", "o", "--checkpoints", "o/c"), "o is or holds the folder of the checkpoints"),
        (("--data", "data", "--set", "normalize=l2"), "there is no normalization 'l2'"),
        (
            ("--data", "data", "--set", "sites=transformer_blocks.0,mid_block"),
            "the student has no module mid_block to take features",
        ),
        (("--data", "data", "--set", "sites=transformer_blocks.0,"), "found sites 'transformer_blocks.0,': give each module"),
        (
            ("--data", "data", "--set", "sites=transformer_blocks.0", "--set", "feature=0"),
            "feature is 0: leave one of the two out",
        ),
        (
            ("--data", "data", "--teacher", "emoji-sd"),
            "the student is a DiTTransformer2DModel and the teacher a UNet2DConditionModel: give the teacher that",
        ),
        (("--data", "data", "--teacher", "student"), "student is both student and teacher: give --teacher the pipe that"),
        (("--data", "data", "--set", "warmpu=3"), "there is no setting 'warmpu': choose accumulation, warmup, lr_schedule"),
        (("--data", "data", "--set", "warmup=soon"), "found warmup='soon', wanted a whole number: correct it"),
        (("--data", "data", "--set", "lr=1"), "found lr among the settings: give it by --lr"),
        (("--data", "data", "--set", "settings.json"), "there is no file settings.json: give --set NAME=VALUE, or a JSON file"),
        (("--data", "data", "--lr", "1e30"), "NaN or infinity: begin again with a lower learning rate"),
        (("--data", "data", "--lr", "1e30", "--updates", "1"), "update 1 left a student that answers NaN or infinity"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_nothing_half_written(command, words, says, monkeypatch):
    shutil.copytree("teacher", "other")
    Path("broken").mkdir()
    labelled(Path("broken"), [1, 2])
    for name, text in {"empty": "\n", "fox": "a fox\n", "far": "3\n5000\n", "near": "3\n"}.items():
        Path(f"{name}.txt").write_text(text)
    Path("broken/1.png").write_bytes(Path("broken/1.png").read_bytes()[:100])
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=None))
    words = [word.replace("../here", f"../{Path.cwd().name}") for word in words]
    code, _, error = command(*words)
    assert code == 1
    assert says in error
    assert len(error.strip().splitlines()) == 1
    assert not Path("student-distilled").exists()
    if {"--prompts", "--unpictured-prompts"} & set(words):
        assert not Path("student-distilled-checkpoints").exists()


@pytest.mark.parametrize("teacher", ["student", "../here/student", "link", "copy"])
def test_a_student_that_is_its_teacher_is_refused_before_weights_are_loaded(command, monkeypatch, teacher):
    monkeypatch.setattr(pipes, "load", None)
    Path("link").symlink_to("student")
    shutil.copytree("student", "copy")
    before = set(Path().iterdir())
    code, _, error = command("--data", "data", "--teacher", teacher.replace("here", Path.cwd().name))
    assert code == 1
    assert "student is both student and teacher: give --teacher the pipe that the student was cut from" in error
    assert set(Path().iterdir()) == before


def test_a_student_of_another_model_is_refused_before_weights_are_loaded(command, monkeypatch):
    monkeypatch.setattr(pipes, "load", None)
    for words in (("--data", "data"), ("--data", "data", "--set", "feature=0")):
        code, out, error = command(*words, "--teacher", "emoji-sd")
        assert (code, out) == (1, "")
        assert "the student is a DiTTransformer2DModel and the teacher a UNet2DConditionModel: give the teacher" in error


def test_a_teacher_that_reads_texts_of_another_width_is_refused_and_nothing_written(run, sd, tmp_path):
    sd.save_pretrained("student")
    shutil.copytree("student", "teacher")
    UNet2DConditionModel.from_config({**sd.unet.config, "cross_attention_dim": 16}).save_pretrained("teacher/unet")
    labelled(tmp_path / "student", [3])
    before = sorted(tmp_path.iterdir())
    code, _, error = run("distil", "student", *QUICK, "--data", "student")
    assert code == 1
    assert "teacher reads encoder_hidden_states of (1, 8, 16) and the student of (1, 8, 8): give the teacher that" in error
    assert sorted(tmp_path.iterdir()) == before


def test_prompts_that_are_cut_short_are_noted_and_a_teacher_may_be_in_half_precision(run, sd):
    sd.save_pretrained("teacher")
    student = deepcopy(sd)
    student.unet = drop_layers(sd.unet, plan_without(sd.unet, ["mid_block.resnets.1"]))
    student.save_pretrained("student")
    Path("prompts.txt").write_text("a fox\n" + "a fox on a red background " * 9)
    words = ("--prompts", "prompts.txt", "--limit", "2", "--steps", "2", "--dtype", "bfloat16", "--set", "feature=0")
    code, out, error = run("distil", "student", *QUICK, *words)
    assert code == 0, error
    assert "note: the prompt 'a fox on a red background" in out
    assert "tokens and the tokenizer reads 8" in out


def test_another_distillation_does_not_take_the_place_of_one(command, monkeypatch):
    assert command("--data", "data")[0] == 0
    before = Path("student-distilled-checkpoints", FILE).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(pipes, "load", None)  # it is told before anything is loaded
        code, _, error = command("--data", "data", "--set", "feature=0.7")
    assert (code, "whose feature is 0.1 and this one's is 0.7" in error) == (1, True)
    code, _, error = command("--data", "data", "--limit", "3")
    assert (code, "whose limit is 10000 and this one's is 3" in error) == (1, True)
    assert Path("student-distilled-checkpoints", FILE).read_bytes() == before


def test_a_student_cut_anew_does_not_go_on_from_the_old_ones_checkpoint(command):
    assert command("--data", "data", "--set", "feature=0")[0] == 0
    teacher = pipes.load("teacher")
    plan = plan_without(teacher.transformer, ["transformer_blocks.2"])  # as many weights as without the other block
    teacher.transformer = drop_layers(teacher.transformer, plan)
    pipes.save(teacher, "student", beside={"plan.json": plan})
    code, _, error = command("--data", "data", "--set", "feature=0")
    assert code == 1
    assert "holds a distillation whose student is 'DiTTransformer2DModel with weights" in error
    assert len(error.strip().splitlines()) == 1


def edit(what: str) -> None:
    """Change one thing that examples are made of."""
    match what:
        case "captions":
            labelled(Path("data"), [9, 1, 4, 1, 5])
        case "a picture":
            Image.new("RGB", (20, 12)).save("data/2.png")
        case "prompts":
            Path("labels.txt").write_text("3\n8\n")
        case "the teacher":
            pipe = pipes.load("teacher")
            pipe.vae.encoder.conv_in.bias.data += 1
            pipes.save(pipe, "teacher")


def test_a_broken_picture_is_found_before_the_first_is_encoded(command, monkeypatch):
    Path("data/4.png").write_bytes(Path("data/4.png").read_bytes()[:100])
    monkeypatch.setattr(encoded, "from_images", None)
    code, _, error = command("--data", "data", "--batch-size", "1")
    assert (code, "data/4.png is no whole picture" in error) == (1, True)
    assert not Path("student-distilled").exists()


@pytest.mark.parametrize("what", ["captions", "a picture", "prompts", "the teacher"])
def test_examples_of_edited_data_are_made_again_unless_a_checkpoint_learnt_from_them(command, monkeypatch, what):
    Path("labels.txt").write_text("3\n7\n")
    words = ("--prompts", "labels.txt", "--limit", "3", "--steps", "2") if what == "prompts" else ("--data", "data")
    with monkeypatch.context() as patched:
        patched.setattr(update, "update_student", interrupted)
        assert command(*words)[0] == 130
    kept = Path("student-distilled-checkpoints", EXAMPLES)
    before = kept.read_bytes()
    edit(what)
    code, out, error = command(*words)
    assert code == 0, error
    assert "is made again" in out
    assert kept.read_bytes() != before


def test_stopped_while_it_makes_examples_it_goes_on_with_the_rest(command, monkeypatch):
    made, encode = [], encoded.from_images

    def stopping(pipe, images, told, **more):
        if len(made) == 4 and told[0] == 5:
            raise KeyboardInterrupt
        made.extend(told)
        return encode(pipe, images, told, **more)

    with monkeypatch.context() as patched:
        patched.setattr(encoded, "from_images", stopping)
        code, out, _ = command("--data", "data")
        assert (code, "stopped after 4 examples; the same command goes on" in out) == (130, True)
    made.append(None)
    monkeypatch.setattr(encoded, "from_images", stopping)
    assert command("--data", "data")[0] == 0
    assert made == [3, 1, 4, 1, None, 5]
    assert sorted(path.name for path in Path("student-distilled-checkpoints").iterdir()) == sorted([EXAMPLES, FILE])


def test_edited_data_do_not_go_on_from_a_checkpoint(command):
    assert command("--data", "data")[0] == 0
    assert command("--data", "data/")[0] == 0
    edit("captions")
    code, _, error = command("--data", "data")
    assert (code, "holds a set of examples whose source is 'data with captions" in error) == (1, True)
    assert len(error.strip().splitlines()) == 1


def test_tar_files_are_known_by_their_sizes_and_times(tmp_path):
    def source() -> str | None:
        return source_of(replace(DATA, source=f"tars:{tmp_path}/*.tar"))

    (tmp_path / "a.tar").write_bytes(b"1")
    before = source()
    assert before == source()
    (tmp_path / "a.tar").write_bytes(b"12")
    assert before != source()


def interrupted(distillation, now):
    raise KeyboardInterrupt


def test_a_full_disk_leaves_the_pipe_that_was_there(tmp_path):
    pipe, _ = dit()
    out = tmp_path / "o"
    pipes.save(pipe, out)
    before, limits = weights(str(out)), resource.getrlimit(resource.RLIMIT_FSIZE)
    pipe.transformer.proj_out_2.bias.data.fill_(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"o cannot be written .*, and is as it was: make room"):
            pipes.save(pipe, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert equal(before, weights(str(out)))
    assert [path.name for path in tmp_path.iterdir()] == ["o"]
    pipes.save(pipe, out)
    assert weights(str(out))["proj_out_2.bias"].eq(1).all()
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


@pytest.mark.parametrize("killed", ["before the new one was in place", "before the old one was deleted"])
def test_what_a_killed_saving_left_behind_does_not_block_the_next(tmp_path, killed, monkeypatch):
    pipe, _ = dit()
    out = tmp_path / "o"
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: 2**22 + 1)  # of no process
        old, part = (own_name(out, word) for word in ("old", "part"))
    pipes.save(pipe, out)
    before = weights(str(out))
    if killed == "before the new one was in place":
        out.replace(old)
    else:
        shutil.copytree(out, old)
    shutil.copytree(old, part)
    with monkeypatch.context() as patched:  # no room either: the only copy must not be lost
        patched.setattr(pipe, "save_pretrained", lambda _: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            pipes.save(pipe, out)
    assert equal(before, weights(str(out)))
    pipes.save(pipe, out)
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


def test_accelerate_is_used_where_it_has_launched_the_command(monkeypatch, tmp_path):
    from accelerate.state import AcceleratorState

    assert terminal.accelerator_for("no", None, tmp_path, device="cpu", project="secateur-distil") is None
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert terminal.accelerator_for("no", None, tmp_path, device="cpu", project="secateur-distil").mixed_precision == "no"
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(ValueError, match=r"the tracker comet_ml is not installed: pip install comet_ml, or .*tensorboard"):
        terminal.accelerator_for("no", "comet_ml", tmp_path, device="cpu", project="secateur-distil")
    tracked = terminal.accelerator_for("no", "tensorboard", tmp_path, device="cpu", project="secateur-distil")
    tracked.log({"total": 1.0}, step=1)
    tracked.end_training()
    assert any(path.name.startswith("events") for path in tmp_path.rglob("*"))
    monkeypatch.setitem(sys.modules, "accelerate", SimpleNamespace(Accelerator=SimpleNamespace))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # which would round the weights
    assert terminal.accelerator_for("bf16", None, tmp_path, device="cpu", project="secateur-distil").mixed_precision == "no"
