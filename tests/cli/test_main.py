"""The command line, run as a user would, in this process: real pipelines of the zoo, files in a temporary folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

import secateur
from commands import last_json, refused
from secateur import load, save, zoo
from secateur.cli import main
from secateur.cli.compare import note_searched, one_thread
from secateur.denoiser import macs
from secateur.denoiser.blocks import find_blocks
from secateur.measuring import gain, variants
from secateur.pipeline import generate as generating
from secateur.pipeline import pipes
from secateur.pipeline.pipes import denoiser_config
from secateur.pipeline.prompts import digest
from secateur.schedule import baselines


def dense_schedule(name: str, calls: int):
    return baselines.dense(find_blocks(denoiser_config(name)), calls)


def written(run, *options: str) -> Path:
    code, _, error = run("schedule", "emoji-sd", *(options or ("--keep", "0.5", "--calls", "4")), "-o", "s.json")
    assert code == 0, error
    return Path("s.json")


def test_macs_of_a_full_size_architecture(run):
    code, out, _ = run("macs", "sd15", "--json")
    found = last_json(out)
    assert code == 0
    assert found["parameters"] == 859_520_964  # of a checkpoint of SD-1.5, 859.52 M
    assert found["inputs"] == {"sample": [1, 4, 64, 64], "encoder_hidden_states": [1, 77, 768]}
    assert "counted with sample 1×4×64×64, encoder_hidden_states 1×77×768: " in out
    assert found["call_linear_macs"] == pytest.approx(338.6e9, rel=0.005)
    assert found["call_with_attention_macs"] == pytest.approx(401.6e9, rel=0.005)
    assert sum(found["linear_macs"]) + found["rest_linear_macs"] == found["call_linear_macs"]


def test_macs_of_a_whole_image_with_guidance(run):
    code, out, _ = run("macs", "pixart-alpha-1024", "--calls", "20", "--guidance", "--json")
    assert code == 0
    assert last_json(out)["calls_linear_macs"] == pytest.approx(85.65e12, rel=0.01)
    assert "20 dense calls" in out
    assert "with guidance" in out


def test_the_published_schedule_is_written_and_counted(run):
    path = written(run, "--method", "dip-go-published")
    code, out, _ = run("macs", "emoji-sd", "--schedule", str(path), "--json")
    assert code == 0
    assert last_json(out)["schedule_keep_linear"] == pytest.approx(0.2, abs=0.01)


def test_a_schedule_with_timesteps_of_its_own_is_a_part_of_the_calls_that_are_named(run):
    blocks = find_blocks(macs.denoiser_config("sd15"))
    save(replace(baselines.dense(blocks, 2), timesteps=(900.0, 300.0)), "s.json")
    _, out, _ = run("macs", "sd15", "--schedule", "s.json", "--json")
    assert "schedule_keep_linear" not in last_json(out)
    _, out, _ = run("macs", "sd15", "--schedule", "s.json", "--calls", "8", "--json")
    assert last_json(out)["schedule_keep_linear"] == 0.25


def test_blocks_names_what_each_reads(run):
    code, out, _ = run("blocks", "emoji-sd", "--granularity", "layer", "--json")
    found = last_json(out)
    assert code == 0
    assert len(found["names"]) == 44
    reader = found["names"].index("up_blocks.3.resnets.1")
    read = {found["names"][i] for i in found["producers"][reader]}
    assert read == {"down_blocks.0.attentions.0", "up_blocks.3.attentions.0"}


def test_a_schedule_is_written_shown_and_its_macs_counted(run):
    path = written(run, "--keep", "0.2")
    code, out, _ = run("show", str(path), "--json")
    assert code == 0
    assert sum("#" in row for row in last_json(out)["grid"]) == 10
    code, out, _ = run("macs", "emoji-sd", "--schedule", str(path), "--json")
    assert code == 0
    assert last_json(out)["schedule_keep_linear"] == pytest.approx(0.2)


def test_generate_follows_the_schedule(run):
    written(run)
    asked = ("generate", "emoji-sd", "--prompt", "a fox on a blue background", "--steps", "4")
    for out, extra in (("dense", ()), ("held", ("--schedule", "s.json"))):
        code, _, error = run(*asked, "--out", out, *extra)
        assert code == 0, error
    dense, held = (Path(folder, "0000.png").read_bytes() for folder in ("dense", "held"))
    assert dense[:4] == held[:4] == b"\x89PNG"
    assert dense != held


@pytest.mark.parametrize(("chosen", "wanted"), [(None, [1]), ("2", [])])
def test_the_demo_takes_one_thread_unless_a_number_is_chosen(chosen, wanted, monkeypatch):
    set_to: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", set_to.append)
    monkeypatch.setenv("OMP_NUM_THREADS", chosen) if chosen else monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    one_thread()
    assert set_to == wanted


def test_demo_can_find_its_schedule_first(run, monkeypatch):
    def search(pipe, *, keep):
        raise ValueError(f"searched with {type(pipe).__name__} and {keep}")

    monkeypatch.setattr("secateur.searching.search.search", search)
    refused(run("demo", "--pipe", "emoji-dit", "--search", "--images", "1"), "searched with DiTPipeline and 0.2")


def test_demo_answers_in_its_first_line_and_writes_a_record_and_a_page_with_pictures(run, monkeypatch):
    few = ("DDIM", "DDIM leading", "DPM-Solver++", "UniPC")
    monkeypatch.setattr(variants.schedulers, "SOLVERS", {name: variants.schedulers.SOLVERS[name] for name in few})
    monkeypatch.setattr(gain, "MORE_STEPS", (0.5, 1.5))
    code, out, error = run("demo", "--pipe", "emoji-dit", "--images", "1", "--json")  # the shipped schedule has 50 calls
    assert code == 0, error
    assert error.splitlines()[0] == "drawing 1 images in 12 ways with emoji-dit: about 1 min on a CPU"
    found = last_json(out)
    assert found == json.loads(Path("secateur-demo/record.json").read_text())
    dense, own, *rivals = found["rows"]
    assert (dense["group"], own["group"]) == ("dense", "Secateur")
    assert [row["group"] for row in rivals] == [
        "fewer steps DDIM", "fewer steps DPM-Solver++", "fewer steps UniPC", "FORA", "uniform hold",
    ]  # fmt: skip
    equal = [row["keep_linear"] for row in (own, *rivals)]
    assert equal == pytest.approx([0.2] * 6, rel=0.05)
    assert sorted(found["plain_steps"]["psnr_db"], key=int) == ["5", "10", "15"]
    shipped = load(zoo.schedule("emoji-dit"))
    assert (own["grid"], own["timesteps"]) == (list(shipped.grid), list(shipped.timesteps))
    page = Path("secateur-demo/report.html").read_text()
    assert page.count("data:image/png;base64,") >= len(found["rows"])
    first = out.splitlines()[0]
    assert f"the schedule that Secateur found reaches {own['psnr_db']['mean']:.1f} dB PSNR" in first
    best = max(row["psnr_db"]["mean"] for row in rivals if row["group"].startswith("fewer steps"))
    assert f"reach {best:.1f} dB, and " in first
    refused(run("demo", "--pipe", "emoji-flux"), "the zoo has no pipeline 'emoji-flux'")
    Path("secateur-demo/notes.txt").touch()
    refused(run("demo", "--pipe", "emoji-dit"), "secateur-demo holds notes.txt")


def test_compare_measures_a_given_schedule_and_report_draws_the_record_again(run):
    written(run, "--method", "deepcache", "--interval", "2", "--calls", "4", "--granularity", "layer")
    Path("prompts.txt").write_text("a fox on a blue background\na ball on a pink background\n")
    words = ("--prompts", "prompts.txt", "--images", "2", "--steps", "4")
    code, out, error = run("compare", "emoji-sd", "s.json", *words, "--json")
    assert code == 0, error
    dense, given, *_ = last_json(out)["rows"]
    assert (dense["name"], given["name"], given["group"]) == ("dense", "s", "yours")
    assert 0.5 < given["keep_linear"] < 1
    assert given["psnr_db"]["mean"] > 10
    code, out, error = run("report", "secateur-compare/record.json", "-o", "again.html")
    assert code == 0, error
    assert Path("again.html").read_text() == Path("secateur-compare/report.html").read_text()


PROMPT = ("--prompt", "a fox on a blue background")


def test_generate_takes_a_file_of_prompts_too_and_overwrites_no_picture(run):
    Path("prompts.txt").write_text("a ball on a pink background\n")
    words = ("generate", "emoji-sd", *PROMPT, "--prompts", "prompts.txt", "--steps", "2", "--seed", "7", "-o", "out")
    code, _, error = run(*words)
    assert code == 0, error
    assert sorted(path.name for path in Path("out").iterdir()) == ["0007.png", "0008.png"]
    before = Path("out/0008.png").read_bytes()
    refused(run("generate", "emoji-sd", *PROMPT, "--steps", "2", "--seed", "8", "-o", "out"), "out/0008.png is there already")
    assert Path("out/0008.png").read_bytes() == before


def test_generate_keeps_what_was_drawn_before_an_interrupt_and_no_half_picture(run, monkeypatch):
    def interrupted(pipe, conditions, **call):
        yield np.zeros((1, 64, 64, 3), dtype=np.float32)
        raise KeyboardInterrupt

    monkeypatch.setattr(generating, "generate_batches", interrupted)
    code, _, _ = run("generate", "emoji-sd", *PROMPT, *PROMPT, "-o", "out")
    assert code == 130
    assert [path.name for path in Path("out").iterdir()] == ["0000.png"]


def test_a_full_disk_leaves_no_half_picture_and_names_the_file(run, monkeypatch):
    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    refused(run("generate", "emoji-sd", *PROMPT, "--steps", "2", "-o", "out"), "out/0000.png cannot be written (No space left")
    assert list(Path("out").iterdir()) == []


def test_generate_notes_another_guidance(run):
    save(replace(dense_schedule("emoji-sd", 2), made={"guidance_scale": 3.0}), "s.json")
    code, out, error = run("generate", "emoji-sd", *PROMPT, "--steps", "2", "--guidance-scale", "5", "--schedule", "s.json")
    assert code == 0, error
    assert "note: the schedule was found with guidance 3, and this is drawn with 5" in out


@pytest.mark.parametrize("command", [("generate", *PROMPT, "--schedule"), ("compare",)])
def test_pictures_are_drawn_as_the_schedule_says_unless_an_option_does(run, command):
    name, *words = command
    dense = dense_schedule("emoji-sd", 2)
    held = replace(dense, grid=(dense.grid[0], "." * len(dense.grid[0])))
    save(replace(held, made={"num_inference_steps": 2, "guidance_scale": 3.0}), "s.json")
    one = () if name == "generate" else ("--images", "1")
    code, out, error = run(name, "emoji-sd", *words, "s.json", *one)
    assert code == 0, error
    assert "drawing with 2 steps and guidance 3\n" in out
    refused(
        run(name, "emoji-sd", *words, "s.json", "--steps", "3", "--force"), "makes 3 calls in 3 steps and the schedule has 2"
    )


def test_schedules_of_different_steps_ask_for_steps(run):
    for steps in (2, 4):
        save(replace(dense_schedule("emoji-sd", 2), made={"num_inference_steps": steps}), f"{steps}.json")
    says = "found with different num_inference_steps, 2, 4: say by --steps which to draw with"
    refused(run("compare", "emoji-sd", "2.json", "4.json"), says)


def test_errors_come_before_notes_and_alone(run):
    save(replace(dense_schedule("emoji-dit", 2), made={"guidance_scale": 3.0}), "s.json")
    for words, says in ((PROMPT, "DiTPipeline takes no prompt"), (("--prompt", "5000"), "there is no class 5000")):
        code, out, error = run("generate", "emoji-dit", *words, "--steps", "2", "--schedule", "s.json")
        refused((code, out, error), says)
        assert out == ""


def test_prompts_that_were_searched_with_are_noted(tmp_path, capsys):
    searched = digest(("a fox on a blue background", "a ball on a pink background", "a fox on a blue background"))
    found = {"seeds": [1, 2], "more_seeds": [3], "conditions_sha256": searched}
    schedule, prompts = replace(dense_schedule("emoji-sd", 2), made=found), tmp_path / "prompts.txt"
    prompts.write_text("a fox on a blue background\na ball on a pink background\n")
    note_searched({"s": schedule}, prompts)
    assert "note: s was searched with these prompts" in capsys.readouterr().out
    prompts.write_text("a fox on a blue background\n")
    note_searched({"s": schedule}, prompts)
    assert capsys.readouterr().out == ""


def test_a_schedule_of_other_calls_is_refused_before_anything_is_loaded(run, monkeypatch):
    monkeypatch.setattr(pipes, "load", None)
    written(run)
    for command in (("compare", "emoji-sd"), ("generate", "emoji-sd", *PROMPT, "--schedule")):
        refused(run(*command, "s.json", "--steps", "6"), "DDIMScheduler makes 6 calls in 6 steps and the schedule has 4")


def test_a_schedule_of_another_denoiser_is_refused_before_anything_is_loaded(run, monkeypatch):
    monkeypatch.setattr(pipes, "load", None)
    other = str(zoo.schedule("emoji-sd"))
    for words in (("compare", other), ("generate", *PROMPT, "--schedule", other)):
        says = "the schedule is for a UNet2DConditionModel and the pipe has a DiTTransformer2DModel"
        refused(run(words[0], "emoji-dit", *words[1:]), says)


def truncated(text: str) -> str:
    return text[: len(text) // 2]


def hand_edited(text: str) -> str:
    return text.replace('"....', '"#...', 1)


def one_too_wide(text: str) -> str:
    document = json.loads(text)
    document["grid"] = [row + "#" for row in document["grid"]]
    return summed_up(document)


def unknown_block(text: str) -> str:
    document = json.loads(text)
    document["blocks"] = {name.replace("mid_block", "middle_block"): kind for name, kind in document["blocks"].items()}
    return summed_up(document)


def summed_up(document: dict) -> str:
    from secateur.artifact import checksum
    from secateur.schedule.schedule import FORM

    return json.dumps(document | {"sha256": checksum(document, FORM)})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (truncated, "no whole schedule file"),
        (hand_edited, "changed by hand"),
        (one_too_wide, "has 10 cells for 9 blocks"),
        (unknown_block, "middle_block"),
    ],
)
def test_a_spoilt_artifact_ends_in_one_sentence(run, spoil, says):
    path = written(run)
    path.write_text(spoil(path.read_text()))
    refused(run("generate", "emoji-sd", "--prompt", "a fox on a blue background", "--steps", "4", "--schedule", "s.json"), says)
    assert not Path("secateur-images").exists()


def test_another_number_of_steps_ends_in_one_sentence(run):
    written(run)
    words = ("generate", "emoji-sd", "--prompt", "a fox on a blue background", "--steps", "6", "--schedule", "s.json")
    refused(run(*words), "makes 6 calls in 6 steps and the schedule has 4")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("macs", "./no/such/folder"), "there is no folder ./no/such/folder"),
        (("macs", __file__), "is a single file and a pipeline's folder is wanted: save one by from_single_file("),
        (("generate", "emoji-flux", "--prompt", "a fox"), "the zoo has no pipeline 'emoji-flux'"),
        (("demo", "--pipe", "emoji-flux"), "the zoo has no pipeline 'emoji-flux'"),
        (("compare", "emoji-sd", "--keep", "0"), "above 0 and at most 1"),
        (("compare", "emoji-sd", "--keep", "1.5"), "above 0 and at most 1"),
        (("compare", "emoji-sd"), "there is nothing to compare: give a schedule's file, or a fraction of MACs by --keep"),
        (("generate", "emoji-sd"), "there is no prompt: give one by --prompt"),
        (("schedule", "sd15", "--keep", "-0.1"), "above 0 and at most 1"),
        (("schedule", "sd15", "--method", "magic", "--keep", "0.5"), "no static method 'magic'"),
        (("schedule", "dit-xl-2", "--method", "deepcache", "--keep", "0.5"), "DeepCache is for U-Nets"),
        (("schedule", "sd15", "--keep", "0.5", "-o", "no/where.json"), "there is no folder no"),
        (("blocks", "sd15", "--granularity", "atom"), "atom"),
        (("show", "nowhere.json"), "nowhere.json does not exist: give a schedule file"),
        (("report", "nowhere.json"), "no record at nowhere.json"),
        (("compare", "sd15"), "the zoo has no pipeline 'sd15'"),
    ],
)
def test_bad_input_ends_in_one_sentence(run, words, says):
    refused(run(*words), says)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("search", "emoji-sd", "--keep", "2"), "above 0 and at most 1"),
        (("search", "emoji-flux", "--keep", "0.2"), "the zoo has no pipeline 'emoji-flux'"),
        (("search", "emoji-sd", "--keep", "0.2", "--stages", "magic"), "there is no stage 'magic'"),
        (("search", "emoji-sd", "--keep", "0.2", "--prompts", "no.txt"), "there is no file no.txt"),
        (("search", "emoji-sd", "--keep", "0.2", "--prompts", os.devnull), "is a pipe or a device and no file"),
        (("search", "emoji-sd", "--keep", "0.2", "-o", "no/where.json"), "there is no folder no"),
        (("search", "emoji-sd", "--keep", "0.2", "--device", "abacus"), "there is no device 'abacus' here"),
        (("search", "emoji-sd", "--keep", "0.2", "--dtype", "int3"), "found dtype 'int3'"),
        (("generate", "emoji-sd", *PROMPT, "--device", "abacus"), "there is no device 'abacus' here"),
        (("generate", "emoji-sd", *PROMPT, "-o", os.devnull), "is a file and a folder is wanted"),
        (("compare", "emoji-sd", str(zoo.schedule("emoji-sd")), "--prompts", "no.txt"), "there is no file no.txt"),
        (("compare", "emoji-sd", "--device", "abacus"), "there is no device 'abacus' here"),
        (("compare", "emoji-sd", str(zoo.schedule("emoji-sd")), "-o", os.devnull), "is a file and a folder is wanted"),
        (("demo", "--device", "abacus"), "there is no device 'abacus' here"),
        (("prune", "emoji-sd", "--keep", "0.5", "--dtype", "int3"), "found dtype 'int3'"),
    ],
)
def test_what_is_cheap_to_check_is_checked_before_diffusers_is_imported(run, monkeypatch, words, says):
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as if it were not there
    refused(run(*words), says)


def test_what_is_calibrated_on_is_not_measured_on(run):
    """No image of a search or a scoring is among the first thousands that are drawn and measured by default."""
    first = {command: default_of(command, "seed") for command in ("search", "prune", "demo", "compare", "generate")}
    assert first["search"] == first["prune"] == signature(secateur.search).parameters["seed"].default
    assert all(abs(first["search"] - seed) >= 20_000 for command, seed in first.items() if command not in ("search", "prune"))
    assert "far from 0" in " ".join(run("prune", "--help")[1].replace("│", "").split())
    assert "with commas" in " ".join(run("search", "--help")[1].split())


def default_of(command: str, option: str):
    from typer.main import get_command

    options = get_command(main.app).commands[command].params
    return next(each.default for each in options if each.name == option)


def test_drawing_says_nothing_on_stderr_but_its_own_words():
    """In a process of its own, since the libraries say some things once."""
    words = ("generate", "emoji-sd", *PROMPT, "--steps", "1", "-o", "out")
    with TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "secateur", *words], capture_output=True, text=True, cwd=folder, check=True
        )
    assert (done.stderr, done.stdout) == ("", "out/0000.png\n")


def test_it_says_its_version_by_either_name(run):
    assert run("--version")[:2] == (0, f"{secateur.__version__}\n")
    done = subprocess.run([sys.executable, "-m", "secateur", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{secateur.__version__}\n"


def test_what_another_command_wrote_is_replaced_by_force_alone(run):
    path = written(run)
    before = path.read_bytes()
    words = ("schedule", "emoji-sd", "--keep", "0.2", "-o", "s.json")
    for other in (words, ("fold", "emoji-sd", "s.json", "-o", "s.json"), ("export", "s.json", "--to", "table", "-o", "s.json")):
        refused(run(*other), "s.json is there already: give another name by --out, or --force to replace it")
        assert path.read_bytes() == before
    code, _, error = run(*words, "--force")
    assert code == 0, error
    assert load(path).calls == 50


def test_a_search_and_a_record_may_be_made_again_by_the_same_command(run, monkeypatch):
    monkeypatch.setattr(pipes, "load", None)
    asked = ("search", "emoji-sd", "--keep", "0.5", "-o", "s.json")
    made = replace(dense_schedule("emoji-sd", 2), made={"command": "secateur search emoji-sd --keep 0.5 -o s.json"})
    save(made, "s.json")
    refused(run(*asked), "'NoneType' object is not callable")  # it goes on to load the pipe
    refused(run(*asked[:2], "--keep", "0.4", "-o", "s.json"), "s.json is there already")
    Path("out").mkdir()
    Path("out/record.json").write_text(json.dumps({"command": "secateur compare emoji-sd --keep 0.3 -o out"}))
    refused(run("compare", "emoji-sd", "--keep", "0.2", "-o", "out"), "out/record.json is there already")
    refused(run("compare", "emoji-sd", "s.json", "-o", "out"), "out/record.json is there already")


def test_generate_replaces_pictures_by_force(run):
    words = ("generate", "emoji-dit", "--prompt", "3", "--steps", "2", "-o", "out")
    assert run(*words)[0] == 0
    before = Path("out/0000.png").read_bytes()
    refused(run(*words, "--steps", "3"), "or --force")
    assert Path("out/0000.png").read_bytes() == before
    assert run(*words, "--steps", "3", "--force")[0] == 0
    assert Path("out/0000.png").read_bytes() != before


def test_the_page_of_a_record_is_the_one_that_was_written_with_it(run):
    record = Path(__file__).parents[2] / "results" / "demo" / "record.json"
    for name, page in (("record.json", "report.html"), ("front.json", "front.html")):
        Path(name).write_bytes(record.read_bytes())
        code, _, error = run("report", name)
        assert code == 0, error
        assert Path(page).exists()
    assert not Path("record.html").exists()


def test_deepcache_reuses_layers_as_its_authors_do(run):
    """By stages it would hold 17 calls in a row for the MACs of five."""
    code, _, error = run("schedule", "sd15", "--method", "deepcache", "--keep", "0.33", "-o", "s.json")
    assert code == 0, error
    assert load("s.json").made["interval"] == 5
    assert load("s.json").blocks == tuple(find_blocks(denoiser_config("sd15"), "layer").names)


def test_a_static_schedule_that_misses_its_budget_says_so(run):
    words = ("schedule", "emoji-sd", "--method", "deepcache", "--granularity", "layer", "-o", "s.json", "--force", "--keep")
    code, out, _ = run(*words, "0.001")
    assert code == 3
    assert "% more than --keep 0.001" in out
    for keep, remark in (("0.5", False), ("0.03", True)):  # less than it may cost is no failure
        code, out, _ = run("schedule", "emoji-sd", "-o", "s.json", "--force", "--keep", keep)
        assert (code, "less than --keep" in out) == (0, remark)
