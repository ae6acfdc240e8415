"""The command line, run as a user would, in this process: real pipelines of the zoo, files in a temporary folder."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import secateur
from commands import last_json, refused
from secateur import save
from secateur.denoiser import macs
from secateur.denoiser.blocks import find_blocks
from secateur.measuring.variants import EVEN
from secateur.schedule import baselines


def written(run, *options: str) -> Path:
    code, _, error = run("schedule", "emoji-sd", *(options or ("--keep", "0.5", "--calls", "4")), "-o", "s.json")
    assert code == 0, error
    return Path("s.json")


def test_macs_of_a_full_size_architecture(run):
    code, out, _ = run("macs", "sd15", "--json")
    found = last_json(out)
    assert code == 0
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


@pytest.mark.parametrize("pipe", ["emoji-sd", "emoji-dit"])
def test_demo_writes_a_record_and_a_page_with_pictures(run, pipe):
    words = ("--pipe", pipe, "--images", "2", "--batch-size", "2", "--steps", "4", "--keep", "0.5", "--json")
    code, out, error = run("demo", *words)
    assert code == 0, error
    found = last_json(out)
    assert found == json.loads(Path("secateur-demo/record.json").read_text())
    rows = {row["group"]: row for row in found["rows"]}
    equal = {*EVEN, "fewer steps DDIM", "fewer steps DPM-Solver++"}
    assert set(rows) > {"dense", *equal}
    assert {rows[group]["macs_linear"] for group in equal} == {found["rows"][0]["macs_linear"] // 2}
    page = Path("secateur-demo/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 2 * len(found["rows"])


def test_measure_compares_a_given_schedule_and_report_draws_the_record_again(run):
    written(run, "--method", "deepcache", "--interval", "2", "--calls", "4", "--granularity", "layer")
    Path("prompts.txt").write_text("a fox on a blue background\na ball on a pink background\n")
    code, out, error = run("measure", "emoji-sd", "--schedule", "s.json", "--prompts", "prompts.txt", "--images", "2",
                           "--steps", "4", "--json")  # fmt: skip
    assert code == 0, error
    given = next(row for row in last_json(out)["rows"] if row["name"] == "s")
    assert 0.5 < given["keep_linear"] < 1
    assert given["psnr_db"]["mean"] > 10
    code, out, error = run("report", "secateur-measure/record.json", "-o", "again.html")
    assert code == 0, error
    assert Path("again.html").read_text() == Path("secateur-measure/report.html").read_text()


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
    refused(run(*words), "makes 6 calls and the schedule has 4")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("macs", "./no/such/folder"), "there is no folder ./no/such/folder"),
        (("generate", "emoji-flux", "--prompt", "a fox"), "the zoo has no pipeline 'emoji-flux'"),
        (("demo", "--pipe", "emoji-flux"), "the zoo has no pipeline 'emoji-flux'"),
        (("demo", "--keep", "0"), "above 0 and at most 1"),
        (("demo", "--keep", "1.5"), "above 0 and at most 1"),
        (("schedule", "sd15", "--keep", "-0.1"), "above 0 and at most 1"),
        (("schedule", "sd15", "--method", "magic", "--keep", "0.5"), "no static method 'magic'"),
        (("schedule", "dit-xl-2", "--method", "deepcache", "--keep", "0.5"), "DeepCache is for U-Nets"),
        (("schedule", "sd15", "--keep", "0.5", "-o", "no/where.json"), "there is no folder no"),
        (("blocks", "sd15", "--granularity", "atom"), "atom"),
        (("show", "nowhere.json"), "there is no schedule file nowhere.json"),
        (("report", "nowhere.json"), "no record at nowhere.json"),
        (("measure", "sd15"), "the zoo has no pipeline 'sd15'"),
    ],
)
def test_bad_input_ends_in_one_sentence(run, words, says):
    refused(run(*words), says)
    assert list(Path().iterdir()) == []


def test_it_says_its_version_by_either_name(run):
    assert run("--version")[:2] == (0, f"{secateur.__version__}\n")
    done = subprocess.run([sys.executable, "-m", "secateur", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{secateur.__version__}\n"
