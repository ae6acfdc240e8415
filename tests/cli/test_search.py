"""The commands that search, run as a user would, on the zoo's pipeline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import secateur
import tiny_pipes
from commands import last_json
from secateur import load, zoo
from secateur.cli.search_result import BestOnDisk
from secateur.denoiser import blocks
from secateur.measuring.variants import EVEN
from secateur.pipeline import pipes, prompts, schedulers
from secateur.schedule import baselines
from secateur.schedule.scores import Scores
from secateur.searching import memo, objective, search, stages
from secateur.searching.settings import SearchSettings


@pytest.fixture(autouse=True)
def few_steps_converge(monkeypatch):
    """Ten steps stand for the hundred that images converge in, which take most of a small search's time."""
    monkeypatch.setitem(objective.TARGETS, "converged", partial(objective.TARGETS["converged"], steps=10))


@pytest.fixture
def small(run, sd, capsys):
    """`run`, in a folder with a tiny random pipe and prompts: enough where nothing depends on what the images show."""
    sd.save_pretrained("pipe")
    Path("prompts.txt").write_text("a fox\nblue\n")
    capsys.readouterr()  # the bars of saving
    return run


PIPE = ("pipe", "--prompts", "prompts.txt")
QUICK = ("--steps", "8", "--images", "1", "--keep", "0.4", "--trials", "3")


@pytest.mark.parametrize(
    ("scheduler", "stages"), [("DDIMScheduler", "stock,additive,local"), ("DPMSolverMultistepScheduler", "stock,local")]
)
def test_search_saves_a_schedule_that_generate_takes(run, scheduler, stages):
    words = ("--scheduler", scheduler, "--stages", stages, "-o", "s.json", "--json")
    code, out, error = run("search", "emoji-sd", *QUICK, *words)
    assert code == 0, error
    made = last_json(out)["made"]
    assert made["command"].startswith("secateur search emoji-sd")
    assert "few, and the schedule may be worse than evenly held calls on others: give 8 or more" in out
    assert {"conditions_sha256", "seeds", "secateur", "torch", "diffusers", "target"} <= made.keys()
    assert made["guidance_scale"] == zoo.GUIDANCE["emoji-sd"]
    assert made["calibration_psnr_db"].keys() == {"dense", "converged"}
    assert len(set(made["calibration_psnr_db"].values())) == 2
    found = load("s.json")
    assert last_json(out) == found.document()
    assert found.scheduler == scheduler
    assert found.table
    for stage in stages.split(","):
        assert stage in out
    prompts = ("--prompt", "a fox on a blue background", "--steps", "8", "--scheduler", scheduler)
    code, _, error = run("generate", "emoji-sd", *prompts, "--schedule", "s.json", "--out", "images")
    assert code == 0, error
    assert len(list(Path("images").iterdir())) == 1


@pytest.mark.parametrize(
    ("pipe", "asked", "scheduler"),
    [("emoji-dit", "3", "DDIMScheduler"), ("emoji-sd", "a fox on a blue background", "EulerDiscreteScheduler")],
)
def test_a_folded_schedule_draws_the_same_pictures_in_fewer_steps(run, pipe, asked, scheduler):
    """Both come with DDIM, whose timesteps nobody can choose; the file says which scheduler makes its steps."""
    kind = schedulers.scheduler_like(schedulers.scheduler_of(pipe), scheduler, {})
    held = baselines.chosen(blocks.find_blocks(pipes.denoiser_config(pipe)), 8, run=[0, 1, 4])
    replace(held, hold="adams_bashforth").bound_to(kind).save("held.json")
    code, out, error = run("fold", pipe, "held.json", "-o", "folded.json", "--json")
    assert code == 0, error
    assert last_json(out) == load("folded.json").document()
    assert load("folded.json").calls == 3
    assert 'apply(pipe, "folded.json"): image = pipe(prompt, num_inference_steps=3)' in out
    for name in ("held", "folded"):
        words = ("--prompt", asked, "--steps", "8", "--schedule", f"{name}.json", "--out", name)
        code, _, error = run("generate", pipe, *words)
        assert code == 0, error
    held, folded = (np.asarray(Image.open(f"{name}/0000.png")).astype(int) for name in ("held", "folded"))
    assert np.abs(held - folded).max() <= 1


def test_a_schedule_is_folded_for_a_pipe_of_its_own_denoiser(run):
    baselines.chosen(blocks.find_blocks(pipes.denoiser_config("emoji-dit")), 8, run=[0, 4]).save("held.json")
    code, _, error = run("fold", "emoji-sd", "held.json")
    assert (code, Path("folded.json").exists()) == (1, False)
    assert "the schedule is for a DiTTransformer2DModel and the pipe has a UNet2DConditionModel" in sentence(error)


def test_compare_shows_schedules_beside_every_rival_at_equal_macs(run):
    budgets, words = {"schedule": (0.25, 1), "more": (0.5, 2)}, ("--steps", "4", "--images", "1")
    for name, (_, calls) in budgets.items():
        baselines.chosen(blocks.find_blocks(pipes.denoiser_config("emoji-dit")), 4, run=range(calls)).save(f"{name}.json")
    code, out, error = run("compare", "emoji-dit", "schedule.json", "more.json", *words, "--json")
    assert code == 0, error
    record = last_json(out)
    rows = {row["name"]: row for row in record["rows"]}
    assert record["title"] == "your schedule, more on emoji-dit"
    for name, (keep, calls) in zip(("your schedule", "more"), budgets.values(), strict=True):
        even = [f"{hold}, {calls} calls" for hold in EVEN]
        plain = [f"{solver}, {calls} steps" for solver in ("DDIM", "DPM-Solver++ Karras", "UniPC Karras")]
        assert all(rows[rival]["keep_linear"] == pytest.approx(keep) for rival in (name, *even, *plain))
        assert rows[name]["keep"] == pytest.approx(keep)
    assert "dense" in rows
    assert Path("secateur-compare/report.html").is_file()


def test_a_schedule_for_another_spacing_is_measured(run):
    """The pipe comes with DPM-Solver++ at Karras spacing, which is searched as it is."""
    pipe = pipes.load("emoji-dit")
    kind = diffusers.DPMSolverMultistepScheduler
    pipe.scheduler = kind.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    pipe.save_pretrained("karras")
    Path("p.txt").write_text("3\n", encoding="utf-8")
    words = ("--steps", "4", "--images", "1", "--prompts", "p.txt")
    search = ("search", "karras", *words, "--stages", "stock", "--keep", "0.5", "-o", "s.json")
    code, _, error = run(*search)
    assert code == 0, error
    code, _, error = run("compare", "karras", "s.json", *words)
    assert code == 0, error


@pytest.fixture(scope="module")
def pndm(tmp_path_factory) -> str:
    """emoji-sd with the scheduler that most repositories of Stable Diffusion 1.5 come with."""
    folder, pipe = tmp_path_factory.mktemp("pndm"), pipes.load("emoji-sd")
    pipe.scheduler = diffusers.PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    pipe.save_pretrained(folder)
    return str(folder)


def test_bad_input_is_found_before_any_weights_are_loaded(run, pndm, monkeypatch):
    def load(*args, **kwargs):
        raise OSError("loaded")

    monkeypatch.setattr(pipes, "load", load)
    Path("p.txt").write_text("a fox on a blue background\n", encoding="utf-8")
    words = ("search", pndm, "--keep", "0.5", "--prompts", "p.txt")
    code, out, error = run(*words)
    assert (code, out, "loaded" in error) == (1, "", True)
    for wrong, says in ((words[:-2], "there are no prompts"), ((*words, "-o", "no/s.json"), "there is no folder no")):
        code, out, error = run(*wrong)
        assert (code, out, says in sentence(error)) == (1, "", True)


def test_the_line_that_a_search_prints_draws_an_image_on_a_pndm_pipe(run, pndm):
    Path("p.txt").write_text("a fox on a blue background\n", encoding="utf-8")
    words = ("--steps", "4", "--images", "1", "--more-images", "0", "--stages", "stock", "--keep", "0.5", "--prompts", "p.txt")
    code, out, error = run("search", pndm, *words)
    assert code == 0, error
    assert f"on other prompts: secateur compare {pndm} schedule.json --prompts others.txt" in out
    [line] = [line.removeprefix("in Python: ") for line in out.splitlines() if line.startswith("in Python: ")]
    known = {"secateur": secateur, "pipe": pipes.load(pndm), "prompt": "a fox on a blue background"}
    exec(line, known)
    assert known["image"].size == (64, 64)
    assert type(known["pipe"].scheduler).__name__ == "PNDMScheduler"


def test_a_budget_that_is_missed_is_said(small):
    words = ("--steps", "6", "--images", "1", "--more-images", "0", "--stages", "stock")
    for keep, says in (("0.45", "26% less than --keep 0.45"), ("0.5", "")):
        code, out, error = small("search", *PIPE, *words, "--keep", keep, "--force")
        assert code == 0, error
        assert ("than --keep" in out) is bool(says)
        assert says in out


def test_a_scheduler_that_cannot_be_searched_for_leaves_what_was_there(small):
    Path("s.json").write_text("mine")
    quick = ("--steps", "4", "--images", "1", "--keep", "0.5")
    code, _, error = small("search", *PIPE, *quick, "--scheduler", "EulerAncestralDiscreteScheduler", "-o", "s.json", "--force")
    assert code == 1
    assert "draws new noise at its steps" in error
    assert Path("s.json").read_text() == "mine"


def test_scores_say_where_they_are_from_and_schedules_of_them_too(small):
    quick = ("--steps", "4", "--images", "1", "--keep", "0.5", "--stages", " cells")
    assert small("search", *PIPE, *quick, "-o", "s.json")[0] == 0
    assert small("retarget", "s.scores.safetensors", "--keep", "0.6", "-o", "other.json")[0] == 0
    told = load("other.json").made["scores"]
    assert told["command"].startswith("secateur search pipe")
    assert {"conditions_sha256", "seeds", "secateur", "torch", "diffusers"} <= told.keys()


LEARNT = ("--steps", "3", "--images", "2", "--keep", "0.7", "--stages", "stock,gradient", "--updates", "3", "--batch-size", "2")


def started(*words: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    """The search command in a process of its own."""
    command = [sys.executable, *launcher, "-m", "secateur", "search", *PIPE, *LEARNT, *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def assert_alike(one: str, other: str, *, rtol: float) -> None:
    """Two searches ended with the same schedule and scores, by the names of their files."""
    assert load(f"{one}.json").grid == load(f"{other}.json").grid
    values = (Scores.load(Path(f"{name}.scores.safetensors")).values for name in (one, other))
    np.testing.assert_allclose(*values, rtol=rtol)


EVERY = ("--steps", "5", "--images", "2", "--more-images", "2", "--keep", "0.7", "--trials", "3", "--updates", "2")
WORK = Path(".s.json.search")


def killed_when(files: int, *words: str) -> None:
    """Start a search, and kill it as soon as its folder holds this many files."""
    command = [sys.executable, "-m", "secateur", "search", *words, "-o", "s.json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 400
    while not (WORK.exists() and len(list(WORK.iterdir())) >= files) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def found(name: str) -> tuple:
    """What a search found, beside the command that it was."""
    schedule = load(name)
    return replace(schedule, made={}), {name: value for name, value in schedule.made.items() if name != "command"}


def assert_ends_as_an_undisturbed_one(run, *words: str, kills: tuple[int, ...]) -> None:
    for files in kills:
        killed_when(files, *words)
    reached = {path: path.stat().st_mtime_ns for path in WORK.glob("*.safetensors")}
    assert len(reached) >= kills[-1] - 2  # beside its arguments, and a file that was being written
    measured, whole = [], memo.checkpoint.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memo.checkpoint, "write", lambda made, path, **how: measured.append(path) or whole(made, path, **how))
        code, _, error = run("search", *words, "-o", "s.json")
    assert code == 0, error
    assert not reached.keys() & set(measured)
    assert not WORK.exists()
    code, _, error = run("search", *words, "-o", "whole.json")
    assert code == 0, error
    assert found("s.json") == found("whole.json")


def test_a_search_that_was_killed_goes_on_and_ends_as_an_undisturbed_one(small):
    assert_ends_as_an_undisturbed_one(small, *PIPE, *EVERY, "--stages", "stock,cells,gradient", kills=(8,))
    np.testing.assert_array_equal(*(Scores.load(Path(f"{name}.scores.safetensors")).values for name in ("s", "whole")))


@pytest.mark.slow  # the stages above are kept in the same way
def test_a_search_of_every_stage_ends_as_an_undisturbed_one(small):
    stages = "stock,additive,refresh,cells,local,gradient-steps,gradient"
    assert_ends_as_an_undisturbed_one(small, *PIPE, *EVERY, "--stages", stages, kills=(4, 20, 40))


@pytest.mark.slow
def test_a_search_that_was_killed_again_and_again_ends_as_an_undisturbed_one(run):
    words = ("emoji-dit", "--steps", "8", "--images", "8", "--more-images", "8", "--keep", "0.5", "--trials", "6")
    assert_ends_as_an_undisturbed_one(run, *words, kills=(1, 2, 7, 16, 26))


def test_times_that_were_measured_are_those_of_the_run_that_goes_on(small, monkeypatch):
    words = ("search", *PIPE, *EVERY, "--stages", "stock,cells", "--cost", "ms", "-o", "s.json")
    whole = search.run_stages

    def interrupted(task):
        yield next(whole(task))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(search, "run_stages", interrupted)
        assert small(*words)[0] == 130
    kept = load("s.json")
    seen = []
    monkeypatch.setattr(search, "run_stages", lambda task: seen.append(task.macs) or whole(task))
    monkeypatch.setattr(search.times, "block_times", lambda *args: pytest.fail("timed again"))
    assert small(*words)[0] == 0
    assert seen[0].unit == "ns"
    assert "complete" in kept.made
    assert "complete" not in load("s.json").made


def test_the_folder_of_another_search_is_refused_by_name_and_replaced_by_force(small, monkeypatch):
    words = ("search", *PIPE, *EVERY, "--stages", "stock", "-o", "s.json")
    with monkeypatch.context() as patch:
        patch.setattr(search, "run_stages", lambda task: iter([1 / 0]))
        with pytest.raises(ZeroDivisionError):
            small(*words)
    code, _, error = small(*words, "--seed", "3")
    assert code == 1
    assert ".s.json.search holds a search whose seed is 40000 and this one's is 3" in sentence(error)
    assert small(*words, "--seed", "3", "--work", "other")[0] == 0
    assert (Path("other").exists(), WORK.exists()) == (False, True)
    Path("s.json").unlink()
    assert small(*words, "--seed", "4", "--force")[0] == 0
    assert not WORK.exists()
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    code, _, error = small(*words, "--work", "mine", "--force")
    assert (code, [path.name for path in Path("mine").iterdir()]) == (1, ["letter.txt"])
    assert "mine holds letter.txt and no search to go on with" in sentence(error)


@pytest.mark.slow  # the launcher is tested by distil's command, the shared gradients by dip_go's own test
def test_two_launched_processes_write_what_one_writes(small):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    assert started("-o", "two.json", launcher=launcher).wait(timeout=600) == 0
    code, _, error = small("search", *PIPE, *LEARNT, "-o", "one.json")
    assert code == 0, error
    assert_alike("two", "one", rtol=1e-3)


def test_further_images_have_seeds_that_follow(small):
    quick = ("--steps", "4", "--images", "2", "--keep", "0.5", "--stages", "stock", "--seed", "7")
    for more, seeds in (("4", (9, 10, 11, 12)), ("0", ())):
        assert small("search", *PIPE, *quick, "--more-images", more, "-o", "s.json", "--force")[0] == 0
        made = load("s.json").made
        assert [*made["seeds"], *made["more_seeds"]] == [7, 8, *seeds]


def test_prompts_come_from_a_file_and_are_hashed(small):
    Path("p.txt").write_text("blue\n\na fox\n", encoding="utf-8")
    quick = ("--steps", "6", "--images", "1", "--keep", "0.5", "--stages", "stock")
    hashes = set()
    for file in ("p.txt", "prompts.txt"):
        code, out, error = small("search", "pipe", *quick, "--prompts", file, "--json", "--force")
        assert code == 0, error
        hashes.add(last_json(out)["made"]["conditions_sha256"])
    assert len(hashes) == 2


def test_an_interrupt_leaves_the_best_so_far(small, monkeypatch):
    whole = search.run_stages

    def interrupted(*args, **kwargs):
        yield next(whole(*args, **kwargs))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(search, "run_stages", interrupted)
        code, out, _ = small("search", *PIPE, *QUICK, "-o", "s.json")
    assert code == 130
    assert "stopped; the best so far is in s.json; the same command goes on from .s.json.search" in out
    assert (load("s.json").made["stage"], load("s.json").made["complete"]) == ("stock", False)
    assert "not complete" in small("show", "s.json")[1]
    assert small("search", *PIPE, *QUICK, "-o", "s.json")[0] == 0
    assert "complete" not in load("s.json").made
    assert "not complete" not in small("show", "s.json")[1]


def test_sigterm_stops_a_search_which_keeps_its_best(small):
    process = started("-o", "s.json")
    until = time.monotonic() + 400
    while not Path("s.json").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert load("s.json").made["complete"] is False


def test_a_budget_in_milliseconds(small):
    quick = ("--steps", "8", "--images", "1", "--keep", "0.5", "--stages", "stock,local", "--trials", "3", "--cost", "ms")
    code, out, error = small("search", *PIPE, *quick, "--json")
    assert code == 0, error
    made = last_json(out)["made"]
    assert (made["cost"], made["unit"]) == ("ms", "ns")
    assert "of the time, as it was measured on one device" in out
    code, _, error = small("search", *PIPE, "--keep", "0.5", "--cost", "joules")
    assert code == 1
    assert "choose macs or ms" in sentence(error)


def test_scores_found_on_the_way_serve_other_budgets(small):
    quick = ("--steps", "4", "--images", "1", "--keep", "0.5", "--stages", "cells,gradient", "--updates", "1")
    code, _, error = small("search", *PIPE, *quick, "-o", "s.json")
    assert code == 0, error
    for method in ("exact", "bisection", "greedy"):
        code, _, error = small("retarget", "s.scores.safetensors", "--keep", "0.8", "--method", method, "-o", f"{method}.json")
        assert code == 0, error
        assert load(f"{method}.json").scheduler == "DDIMScheduler"


def test_scores_of_a_stage_that_did_not_win_serve_other_budgets_too(small):
    quick = ("--steps", "4", "--images", "1", "--keep", "0.5", "--stages", "cells")
    assert small("search", *PIPE, *quick, "-o", "s.json")[0] == 0
    scores = Scores.load(Path("s.scores.safetensors"))
    won = stages.BestSoFar("stock", load("s.json"), 30.0, 30.0, measured=1, most=1, seconds=0.0, improved=True, kept=0.5)
    lost = replace(won, stage="cells", last_db=20.0, improved=False, scores=scores)
    worse = replace(lost, last_db=10.0, scores=replace(scores, values=scores.values + 1))
    steps = BestOnDisk(Path("t.json"), {}).last_steps([won, lost, worse])
    assert [step.stage for step in steps] == ["stock", "cells"]
    assert np.array_equal(Scores.load(Path("t.scores.safetensors")).values, scores.values)
    assert small("retarget", "t.scores.safetensors", "--keep", "0.8", "-o", "other.json")[0] == 0


def test_scores_in_milliseconds_say_so_and_are_not_mixed_with_macs(small):
    quick = ("--steps", "4", "--images", "1", "--keep", "0.5", "--stages", "cells", "--cost", "ms")
    code, _, error = small("search", *PIPE, *quick, "-o", "s.json")
    assert code == 0, error
    code, out, error = small("retarget", "s.scores.safetensors", "--keep", "0.8", "-o", "t.json")
    assert code == 0, error
    assert "of the time, as it was measured on one device; wrote t.json" in out
    assert "MACs" not in out
    assert "made to keep 0.800 of the dense ns" in small("show", "t.json")[1]
    Path("t.json").unlink()
    code, _, error = small("retarget", "s.scores.safetensors", "--keep", "0.8", "--attention", "-o", "t.json")
    assert code == 1
    assert "in which attention has its part" in sentence(error)
    assert not Path("t.json").exists()


def sentence(error: str) -> str:
    lines = error.strip().splitlines()  # the bar that was there leaves an empty line
    assert len(lines) == 1
    assert lines[0].startswith("secateur: ")
    return lines[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--keep", "1.5"), "keep is the fraction of the cost kept"),
        (("--keep", "0.01", "--steps", "10"), "keep=0.01 is out of reach"),
        (("--keep", "0.5", "--stages", "stock,magic"), "there is no stage 'magic'"),
        (("--keep", "0.5", "--scheduler", "Magic"), "diffusers has no scheduler 'Magic'"),
        (("--keep", "0.5", "--target", "nice", "--steps", "4", "--images", "1"), "there is no target 'nice'"),
        (("--keep", "0.5", "-o", "no/s.json"), "there is no folder no"),
        (("--keep", "0.5", "-o", "/proc/s.json"), "/proc/s.json cannot be written"),
        (("--keep", "0.5", "-o", "."), "cannot be written: give a file by --out"),
        (("--keep", "0.5", "--prompts", "empty.txt"), "empty.txt holds no prompt"),
        (("--keep", "0.5", "--prompts", "long.txt"), "tokens and the tokenizer reads"),
        (("--keep", "0.5", "--prompts", "none.txt"), "none.txt"),
        (("--keep", "0.5", "--prompts", "latin.txt"), "latin.txt is no UTF-8 text"),
        (("--keep", "0.5", "--steps", "1"), "one step leaves nothing to choose"),
        (("--keep", "0.5", "--scheduler", "DDPMScheduler"), "DDPMScheduler draws new noise at its steps"),
        (("--keep", "0.5", "--dtype", "float33"), "found dtype 'float33'"),
        (("--keep", "0.5", "--device", "abacus"), "there is no device 'abacus' here"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_leaves_nothing(run, words, says):
    Path("empty.txt").write_text("\n \n")
    Path("long.txt").write_text("a fox on a blue background " * 40)
    Path("latin.txt").write_bytes("une forêt\n".encode("latin-1"))
    code, _, error = run("search", "emoji-sd", *words, "--images", "1")
    assert code == 1
    assert says in sentence(error)
    assert {path.name for path in Path().iterdir()} == {"empty.txt", "long.txt", "latin.txt"}


@pytest.mark.parametrize("labels", ["3\n9999\n", "-3\n4\n"])
def test_a_class_that_is_none_is_named(run, labels):
    Path("labels.txt").write_text(labels)
    code, _, error = run("search", "emoji-dit", *QUICK, "--prompts", "labels.txt", "--images", "2")
    assert code == 1
    assert f"there is no class {labels.split()[labels.startswith('3')]}" in sentence(error)
    assert not Path("schedule.json").exists()


def test_what_cannot_be_compared_is_refused_before_any_image(run):
    assert run("schedule", "emoji-sd", "--keep", "0.5", "--calls", "4", "-o", "s.json")[0] == 0
    Path("long.txt").write_text("a fox on a blue background " * 40)
    for words, says in ((("--out", "/proc/x"), "cannot be written"), (("--prompts", "long.txt"), "the tokenizer reads")):
        code, _, error = run("compare", "emoji-sd", "s.json", "--steps", "4", "--images", "1", *words)
        assert code == 1
        assert says in sentence(error)
    assert not Path("secateur-compare").exists()


def test_sdxl_with_two_text_encoders_is_searched_by_prompts(run):
    tiny_pipes.sdxl_with_encoders(zoo.load("emoji-sd").tokenizer).save_pretrained("pipe")
    Path("prompts.txt").write_text("a fox on a blue background\nan owl on a red background\n")
    words = ("--prompts", "prompts.txt", "--steps", "6", "--keep", "0.5", "--images", "2", "--trials", "2")
    code, out, error = run("search", "pipe", *words, "-o", "s.json", "--json")
    assert code == 0, error
    assert "local" in out
    assert last_json(out)["denoiser"] == "UNet2DConditionModel"
    code, _, error = run("generate", "pipe", "--prompt", "a fox", "--steps", "6", "--schedule", "s.json", "--out", "images")
    assert code == 0, error
    assert len(list(Path("images").iterdir())) == 1
    code, _, error = run("compare", "pipe", "s.json", "--prompts", "prompts.txt", "--steps", "6", "--images", "2")
    assert code == 0, error


@pytest.mark.parametrize("command", ["search", "generate", "compare"])
def test_a_denoiser_that_gives_nan_ends_in_one_sentence(run, monkeypatch, command):
    from secateur.pipeline import pipes

    asked = {
        "search": QUICK,
        "generate": ("--prompt", "a fox on a blue background", "--steps", "2"),
        "compare": ("--images", "1", "--steps", "4", "--keep", "0.5"),
    }
    there = list(Path().iterdir())
    whole = pipes.load

    def broken(*args, **kwargs):
        pipe = whole(*args, **kwargs)
        pipe.unet.conv_out.weight.data[0, 0, 0, 0] = float("nan")
        return pipe

    monkeypatch.setattr(pipes, "load", broken)
    code, _, error = run(command, "emoji-sd", *asked[command])
    assert code == 1
    assert "not finite" in sentence(error)
    assert list(Path().iterdir()) == there


def test_generate_refuses_prompts_whose_end_would_not_be_heard(run):
    code, _, error = run("generate", "emoji-sd", "--prompt", "a fox on a blue background " * 40)
    assert code == 1
    assert "the tokenizer reads" in sentence(error)
    assert not list(Path().iterdir())


def test_prompts_are_no_longer_than_the_pipes_call_reads_them():
    class Pipe:
        def __call__(self, prompt, max_sequence_length=3):
            pass

    class Words:
        model_max_length = int(1e30)

        def __call__(self, prompt):
            return SimpleNamespace(input_ids=prompt.split())

    Pipe.components = {"tokenizer": Words()}
    prompts.check_tokens(Pipe(), ("a b c", 7))
    with pytest.raises(ValueError, match="has 4 tokens and the tokenizer reads 3"):
        prompts.check_tokens(Pipe(), ("a b c d",))


def test_a_budget_out_of_reach_is_refused_before_anything_is_loaded(run, monkeypatch):
    monkeypatch.setattr(pipes, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    code, _, error = run("search", "emoji-sd", "--steps", "8", "--keep", "0.1")
    assert code == 1
    assert "keep=0.1 is out of reach: ask for 0.125" in sentence(error)


def test_a_tracker_alone_shares_no_milliseconds():
    timed = SearchSettings(cost="ms", stages=("stock", "gradient"))
    timed.check_processes(SimpleNamespace(num_processes=1))
    with pytest.raises(ValueError, match=r"each process times the blocks anew, .* cannot use several of them"):
        timed.check_processes(SimpleNamespace(num_processes=2))


def test_an_error_on_the_way_says_where_the_best_so_far_is(small, monkeypatch):
    def full(task, best):
        raise MemoryError
        yield

    monkeypatch.setitem(stages.METHODS, "local", full)
    code, out, error = small("search", *PIPE, *QUICK, "--stages", "stock,local", "-o", "s.json")
    assert code == 1
    assert "the best so far is in s.json" in out
    assert "out of memory" in sentence(error)
    assert load("s.json").made["stage"] == "stock"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_before_any_work(run):
    Path("shut").mkdir(mode=0o500)
    code, _, error = run("search", "emoji-sd", *QUICK, "-o", "shut/s.json")
    assert code == 1
    assert "cannot be written" in sentence(error)


@pytest.mark.parametrize("kind", [None, MemoryError, torch.OutOfMemoryError])
def test_memory_that_runs_out_ends_in_one_sentence(run, monkeypatch, kind):
    def full(*args, **kwargs):
        if kind:
            raise kind("CUDA out of memory. Tried to allocate 2.00 GiB")
        torch.empty(2**60)  # what the CPU says

    monkeypatch.setattr(memo, "record", full)
    code, _, error = run("search", "emoji-sd", *QUICK)
    assert code == 1
    assert "out of memory" in sentence(error)
    assert "make fewer images at once by --batch-size" in error
    assert not list(Path().iterdir())
