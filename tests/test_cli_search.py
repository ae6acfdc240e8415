"""The commands that search, run as a user would, on the zoo's pipeline."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from secateur import find, load
from secateur.schedule import document
from test_cli import last_json, run  # noqa: F401, the fixture

QUICK = ("--steps", "8", "--images", "1", "--keep", "0.4", "--trials", "3")


@pytest.mark.parametrize(
    ("scheduler", "stages"), [("DDIMScheduler", "stock,additive,local"), ("DPMSolverMultistepScheduler", "stock,local")]
)
def test_search_saves_a_schedule_that_generate_takes(run, scheduler, stages):  # noqa: F811
    words = ("--scheduler", scheduler, "--stages", stages, "-o", "s.json", "--json")
    code, out, error = run("search", "emoji-sd", *QUICK, *words)
    assert code == 0, error
    made = last_json(out)["made"]
    assert made["command"].startswith("secateur search emoji-sd")
    assert {"conditions_sha256", "seeds", "secateur", "torch", "diffusers", "calibration_psnr_db", "target"} <= made.keys()
    found = load("s.json")
    assert last_json(out) == document(found)
    assert (found.scheduler, found.timesteps is None) == (scheduler, scheduler == "DDIMScheduler")
    for stage in stages.split(","):
        assert stage in out
    prompts = ("--prompt", "a fox on a blue background", "--steps", "8", "--scheduler", scheduler)
    code, _, error = run("generate", "emoji-sd", *prompts, "--schedule", "s.json", "--out", "images")
    assert code == 0, error
    assert len(list(Path("images").iterdir())) == 1


def test_compare_shows_schedules_beside_every_rival(run):  # noqa: F811
    for name, keep in (("half", "0.5"), ("quarter", "0.25")):
        quick = ("--steps", "4", "--images", "1", "--stages", "stock", "--keep", keep)
        assert run("search", "emoji-sd", *quick, "-o", f"{name}.json")[0] == 0
    code, out, error = run("compare", "emoji-sd", "half.json", "quarter.json", "--images", "2", "--steps", "4", "--json")
    assert code == 0, error
    rows = {row["name"]: row for row in last_json(out)["rows"]}
    assert {"dense", "half", "quarter", "UniPC Karras, 2 steps", "DPM-Solver++ Karras, 1 steps"} <= rows.keys()
    assert rows["half"]["keep_linear"] == pytest.approx(0.5)
    assert rows["quarter"]["keep"] == pytest.approx(0.25)
    assert Path("secateur-compare/report.html").is_file()


def test_further_images_have_seeds_that_follow(run):  # noqa: F811
    quick = ("--steps", "4", "--images", "2", "--keep", "0.5", "--stages", "stock", "--seed", "7")
    for more, seeds in (("4", (9, 10, 11, 12)), ("0", ())):
        assert run("search", "emoji-sd", *quick, "--more-images", more, "-o", "s.json")[0] == 0
        made = load("s.json").made
        assert [*made["seeds"], *made["more_seeds"]] == [7, 8, *seeds]


def test_prompts_come_from_a_file_and_are_hashed(run):  # noqa: F811
    Path("p.txt").write_text("a fox on a red background\n\na cat on a blue background\n", encoding="utf-8")
    quick = ("--steps", "6", "--images", "1", "--keep", "0.5", "--stages", "stock")
    hashes = set()
    for words in (("--prompts", "p.txt"), ()):
        code, out, error = run("search", "emoji-sd", *quick, *words, "--json")
        assert code == 0, error
        hashes.add(last_json(out)["made"]["conditions_sha256"])
    assert len(hashes) == 2


def test_an_interrupt_leaves_the_best_so_far(run, monkeypatch):  # noqa: F811
    whole = find.find

    def interrupted(*args, **kwargs):
        yield next(whole(*args, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(find, "find", interrupted)
    code, out, _ = run("search", "emoji-sd", *QUICK, "-o", "s.json")
    assert code == 0
    assert "stopped; the best so far is in s.json" in out
    assert load("s.json").made["stage"] == "stock"


def test_a_budget_in_milliseconds(run):  # noqa: F811
    quick = ("--steps", "8", "--images", "1", "--keep", "0.5", "--stages", "stock,local", "--trials", "3", "--budget", "ms")
    code, out, error = run("search", "emoji-sd", *quick, "--json")
    assert code == 0, error
    made = last_json(out)["made"]
    assert (made["budget"], made["unit"]) == ("ms", "ns")
    assert "of the time, as it was measured on one device" in out
    code, _, error = run("search", "emoji-sd", "--keep", "0.5", "--budget", "joules")
    assert code == 1
    assert "choose macs or ms" in sentence(error)


def test_scores_found_on_the_way_serve_other_budgets(run):  # noqa: F811
    quick = ("--steps", "4", "--images", "1", "--keep", "0.5", "--stages", "cells,gradient", "--updates", "1")
    code, _, error = run("search", "emoji-sd", *quick, "-o", "s.json")
    assert code == 0, error
    for method in ("exact", "bisection", "greedy"):
        code, _, error = run("retarget", "s.scores.safetensors", "--keep", "0.8", "--method", method, "-o", f"{method}.json")
        assert code == 0, error
        assert load(f"{method}.json").scheduler == "DDIMScheduler"


def test_scores_in_milliseconds_say_so_and_are_not_mixed_with_macs(run):  # noqa: F811
    quick = ("--steps", "4", "--images", "1", "--keep", "0.5", "--stages", "cells", "--budget", "ms")
    code, _, error = run("search", "emoji-sd", *quick, "-o", "s.json")
    assert code == 0, error
    code, out, error = run("retarget", "s.scores.safetensors", "--keep", "0.8", "-o", "t.json")
    assert code == 0, error
    assert "of the time, as it was measured on one device; wrote t.json" in out
    assert "MACs" not in out
    assert "made to keep 0.800 of the dense ns" in run("show", "t.json")[1]
    Path("t.json").unlink()
    code, _, error = run("retarget", "s.scores.safetensors", "--keep", "0.8", "--attention", "-o", "t.json")
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
        (("--keep", "0.5", "--scheduler", "PNDMScheduler"), "a step of PNDMScheduler is made of 4 predictions"),
        (("--keep", "0.5", "--dtype", "float33"), "found dtype 'float33'"),
        (("--keep", "0.5", "--device", "abacus"), "there is no device 'abacus' here"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_leaves_nothing(run, words, says):  # noqa: F811
    Path("empty.txt").write_text("\n \n")
    Path("long.txt").write_text("a fox on a blue background " * 40)
    code, _, error = run("search", "emoji-sd", *words)
    assert code == 1
    assert says in sentence(error)
    assert {path.name for path in Path().iterdir()} == {"empty.txt", "long.txt"}


def test_a_denoiser_that_gives_nan_ends_in_one_sentence(run, monkeypatch):  # noqa: F811
    from secateur import pipes

    whole = pipes.load

    def broken(*args, **kwargs):
        pipe = whole(*args, **kwargs)
        pipe.unet.conv_out.weight.data[0, 0, 0, 0] = float("nan")
        return pipe

    monkeypatch.setattr(pipes, "load", broken)
    code, _, error = run("search", "emoji-sd", *QUICK)
    assert code == 1
    assert "not finite" in sentence(error)
    assert not list(Path().iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_before_any_work(run):  # noqa: F811
    Path("shut").mkdir(mode=0o500)
    code, _, error = run("search", "emoji-sd", *QUICK, "-o", "shut/s.json")
    assert code == 1
    assert "cannot be written" in sentence(error)


@pytest.mark.parametrize("kind", [None, MemoryError, torch.OutOfMemoryError])
def test_memory_that_runs_out_ends_in_one_sentence(run, monkeypatch, kind):  # noqa: F811
    from secateur import calibration

    def full(*args, **kwargs):
        if kind:
            raise kind("CUDA out of memory. Tried to allocate 2.00 GiB")
        torch.empty(2**60)  # what the CPU says

    monkeypatch.setattr(calibration, "record", full)
    code, _, error = run("search", "emoji-sd", *QUICK)
    assert code == 1
    assert "out of memory" in sentence(error)
    assert "make fewer images at once by --batch-size" in error
    assert not list(Path().iterdir())
