"""Pushing to and pulling from the Hub: real HTTP with a Hub on this machine, by a process whose HF_ENDPOINT it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

import secateur
from commands import last_json, refused
from local_hub import TOKEN, Hub, Repo, serving
from secateur import hub as hubs
from secateur.denoiser import macs
from secateur.denoiser.of_pipe import denoiser_of
from secateur.pipeline import pipes
from secateur.pruning.plan import Plan
from secateur.pruning.prune import with_plan
from secateur.pruning.surgery import plan_without

ZOO = secateur.zoo.schedule("emoji-sd")
WORKER = """
import io, json, os, sys, traceback
from contextlib import redirect_stderr, redirect_stdout
from secateur.cli import main
for line in sys.stdin:
    job = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update(job["env"])
    os.chdir(job["folder"])
    code, out, err = 0, io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            sys.argv = ["secateur", *job["words"]]
            exec(job["code"], {}) if job["code"] else main.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = 99
            traceback.print_exc()
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=sys.__stdout__, flush=True)
"""


@pytest.fixture(scope="module")
def place():
    with serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where huggingface_hub keeps what it downloads."""
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def process(place: Hub, home):
    """A Python that knows no other Hub."""
    own = {"HF_ENDPOINT": place.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    own |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WORKER], env={**os.environ, **own}, **pipe) as worker:
        yield worker
        worker.stdin.close()


@pytest.fixture
def hub(place: Hub, home):
    """The Hub, empty; and nothing was downloaded from it."""
    shutil.rmtree(home / "hub", ignore_errors=True)
    place.repos.clear()
    place.refuses.clear()
    return place


@pytest.fixture
def run(process, tmp_path):
    """run(*words) or run(code=...) → (exit code, stdout, stderr), in an empty folder, as somebody with a token."""

    def job(*words: str, code: str = "", token: str | None = TOKEN) -> tuple[int, str, str]:
        env = {"HF_TOKEN": token} if token else {}
        line = json.dumps({"words": list(map(str, words)), "code": code, "env": env, "folder": str(tmp_path)})
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        return tuple(json.loads(process.stdout.readline()))

    return job


def done(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert code == 0, err
    return out


def pushed(run, what=ZOO, repo: str = "me/owl", base: str = "emoji-sd", *more: str) -> str:
    return last_json(done(run("push", what, repo, "--base", base, "--json", *more)))["source"]


# schedules


def test_what_is_pushed_is_what_is_loaded_and_says_from_which_commit(hub, run, tmp_path):
    source = pushed(run)
    sha, files = hub.repos["me/owl"].commits[-1]
    assert source == f"me/owl@{sha}"
    assert files["schedule.json"] == ZOO.read_bytes()
    assert last_json(done(run("pull", "me/owl", "--json"))) == {"source": source, "out": "schedule.json"}
    pulled, own = secateur.load(tmp_path / "schedule.json"), secateur.load(ZOO)
    assert pulled == replace(own, made={**own.made, "hub": source})
    done(
        run(code=f"import secateur; secateur.load('me/owl').save('loaded.json'); secateur.load({source!r}).save('pinned.json')")
    )
    assert {(tmp_path / f"{name}.json").read_text() for name in ("loaded", "pinned")} == {
        (tmp_path / "schedule.json").read_text()
    }


def test_a_commit_stays_what_it_was(hub, run, tmp_path):
    first = pushed(run)
    pushed(run, secateur.zoo.schedule("emoji-dit"), "me/owl", "emoji-dit")
    done(run("pull", first))
    assert secateur.load(tmp_path / "schedule.json").grid == secateur.load(ZOO).grid
    done(run("pull", "me/owl", "-o", "new.json"))
    assert secateur.load(tmp_path / "new.json").denoiser == "DiTTransformer2DModel"


def test_the_lines_of_the_card_draw_the_images_of_the_file(hub, run, tmp_path):
    pushed(run)
    card = hub.repos["me/owl"].commits[-1][1]["README.md"].decode()
    [lines] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    seeded = lines.replace("num_inference", "generator=torch.manual_seed(0), num_inference")
    code = f"import torch\nprompt = 'a fox in the snow'\n{seeded}\nout.images[0].save"
    done(run(code=f"{code}('theirs.png')"))
    done(run(code=f"{code.replace('me/owl', str(ZOO))}('ours.png')"))
    assert (tmp_path / "theirs.png").read_bytes() == (tmp_path / "ours.png").read_bytes()


def put_base(hub: Hub, folder: Path, card: str) -> None:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.repos["them/base"] = Repo(files={**files, "README.md": card.encode()})


def test_the_card_says_base_license_tags_and_what_macs_counts(hub, run):
    license_of_base = "license: other\nlicense_name: theirs\nlicense_link: LICENSE.md"
    put_base(hub, secateur.zoo.folder("emoji-sd"), f"---\n{license_of_base}\n---\n# Base\n")
    pushed(run, ZOO, "me/owl", "them/base")
    files = hub.repos["me/owl"].commits[-1][1]
    _, heading, card = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(heading) == {
        "base_model": "them/base",
        "base_model_relation": "adapter",
        "library_name": "secateur",
        "license": "other",
        "license_name": "theirs",
        "license_link": "https://huggingface.co/them/base/blob/main/LICENSE.md",
        "tags": ["secateur", "diffusers"],
    }
    costs = macs.count(pipes.denoiser_config("emoji-sd"))
    plain, attention = (2 * costs.call(attention=a) / 1e9 for a in (False, True))  # two samples, by guidance
    near = secateur.load(ZOO).made["calibration_psnr_db"]["dense"]
    assert f"| dense | 50 | {50 * plain:.1f} G (100.0%) | {50 * attention:.1f} G (100.0%) | the same |" in card
    assert f"| this schedule | 10 | {10 * plain:.1f} G (20.0%) | {10 * attention:.1f} G (20.0%) | {near:.1f} dB |" in card
    assert 'load_pipe("them/base")' in card
    marks = ElementTree.fromstring(files["schedule.svg"]).iter("{http://www.w3.org/2000/svg}path")
    assert sum(path.get("d").count("v40") for path in marks) == 1 + 10  # the band and the calls
    assert "(schedule.svg)" in card


def test_a_stock_pipe_is_loaded_by_its_name_and_known_by_it(hub, run):
    put_base(hub, secateur.zoo.folder("emoji-dit"), "# Base\n")
    pinned = f"them/base@{hub.repos['them/base'].commits[-1][0]}"
    weights = "[*secateur.load_pipe({!r}, dtype='float32').transformer.parameters()]"
    same = f"a, b = {weights.format(pinned)}, {weights.format('emoji-dit')}\nassert a and all(map(torch.equal, a, b))"
    done(run(code=f"import secateur, torch\n{same}\nassert secateur.load_pipe('them/base').name_or_path == 'them/base'"))


def test_a_schedule_says_its_base_itself_if_a_search_of_a_public_pipe_made_it(hub, run, tmp_path):
    own = secateur.load(ZOO)
    replace(own, made={key: value for key, value in own.made.items() if key != "pipe"}).save(tmp_path / "nobodys.json")
    done(run("push", ZOO, "me/owl"))
    refused(run("push", "nobodys.json", "me/other"), "which Hub model is it for? nothing says it: give --base, its")
    with pytest.raises(ValueError, match=r"for\? 'here' is not on the Hub: give base=, its"):
        own.push_to_hub("me/other", base="here")
    assert list(hub.repos) == ["me/owl"]


# students


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """emoji-sd without two of its layers, in a folder as `secateur prune` leaves it."""
    folder, pipe = tmp_path_factory.mktemp("student") / "student", pipes.load("emoji-sd")
    plan = plan_without(denoiser_of(pipe), ["mid_block.attentions.0", "mid_block.resnets.1"])
    plan = replace(plan, made={"pipe": "emoji-sd", "teacher": {"parameters": 10**7, "macs_linear": 4 * 10**8}})
    pipes.save(pipes.as_stored(with_plan(pipe, plan)), folder, beside={"plan.json": plan})
    return folder


def test_a_student_goes_there_and_back(hub, run, student, tmp_path):
    source = last_json(done(run("push", student, "me/small", "--json")))["source"]
    assert last_json(done(run("pull", "me/small", "--json"))) == {"source": source, "out": "small"}
    theirs, ours = (
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "small", student)
    )
    assert set(theirs) == set(ours)
    assert [name for name in ours if theirs[name] != ours[name]] == ["plan.json"]
    plan = Plan.load(student / "plan.json")
    assert Plan.load(tmp_path / "small" / "plan.json") == replace(plan, made={**plan.made, "hub": source})
    weights = "secateur.StudentUNet.from_pretrained({!r}, subfolder='unet').state_dict()"
    same = f"import secateur, torch\na, b = {weights.format('me/small')}, {weights.format(str(student))}\n"
    done(run(code=f"{same}assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)"))
    card = hub.repos["me/small"].commits[-1][1]["README.md"].decode()
    assert re.search(r"\| parameters \| 10.00 M \| [\d.]+ M \([\d.]+%\) \|", card)
    [lines] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done(run(code=f"{lines}\nassert pipe.name_or_path == 'me/small'\npipe('a fox', num_inference_steps=1)"))


def test_a_student_damaged_on_the_hub_is_no_folder_here(hub, run, student, tmp_path):
    pushed(run, student, "me/small")
    for name, says in (("unet/diffusion_pytorch_model.safetensors", "no whole safetensors"), ("plan.json", "no whole plan")):
        good = hub.repos["me/small"].at("main")[1]
        hub.repos["me/small"].commit({name: good[name][:-9]})
        result = run("pull", "me/small")
        refused(result, says)
        refused(result, f"me/small@{hub.repos['me/small'].commits[-1][0]} on the Hub: {name}")
        hub.repos["me/small"].commit(good)
    assert list(tmp_path.iterdir()) == []


# what is refused


def test_a_schedule_damaged_on_the_hub_is_no_file_here(hub, run, tmp_path):
    pushed(run)
    text = ZOO.read_bytes()
    for damaged, says in (
        (text[:-99], "no whole schedule"),
        (text.replace(b"981", b"980"), "its checksum is"),
        (b"{}", "holds"),
    ):
        sha = hub.repos["me/owl"].commit({"schedule.json": damaged})
        result = run("pull", "me/owl")
        refused(result, says)
        refused(result, f"me/owl@{sha} on the Hub: ")
    assert list(tmp_path.iterdir()) == []


NO_REPO = "the Hub has no repository them/none that you may read"
READS = [
    ("pull", "them/none"),
    ("show", "them/none"),
    ("push", ZOO, "me/owl", "--base", "them/none"),
]


@pytest.mark.parametrize("words", READS, ids=lambda words: f"{words[0]} {words[-1]}")
@pytest.mark.parametrize("token", [TOKEN, None], ids=["known", "unknown"])
def test_a_repository_that_is_not_there(hub, run, words, token, tmp_path):
    if token or words[0] != "push":
        refused(run(*words, token=token), NO_REPO)
    assert hub.repos == {}
    assert list(tmp_path.iterdir()) == []


def test_a_private_repository_is_there_for_its_owner_alone(hub, run):
    pushed(run, ZOO, "me/owl", "emoji-sd", "--private")
    assert hub.repos["me/owl"].private
    refused(run("show", "me/owl", token=None), "if it is private")
    done(run("show", "me/owl"))
    hub.repos["me/owl"].private = False
    result = run("push", ZOO, "me/owl", "--base", "emoji-sd", "--private")
    refused(result, "is public and a private one is wanted")
    assert len(hub.repos["me/owl"].commits) == 2


@pytest.mark.parametrize(
    ("words", "token", "says"),
    [
        (("push", ZOO, "me/owl", "--base", "emoji-sd"), None, "there is no Hub token here"),
        (("push", ZOO, "me/owl", "--base", "emoji-sd"), "hf_wrong", "your Hub token may not do this to me/owl"),
        (("push", ZOO, "them/owl", "--base", "emoji-sd"), TOKEN, "your Hub token may not do this to them/owl"),
        (("push", ZOO, "owl", "--base", "emoji-sd"), TOKEN, "found 'owl' for a repository on the Hub: give owner/name"),
        (("push", ZOO, "me/owl@main", "--base", "emoji-sd"), TOKEN, "give owner/name alone"),
        (("push", ZOO, "me/owl", "--base", "emoji-dit"), TOKEN, "the schedule is for a UNet2DConditionModel"),
        (("push", ZOO, "me/owl", "--base", "."), TOKEN, "'.' is not on the Hub: give --base"),
        (("push", "none.json", "me/owl"), TOKEN, "none.json does not exist"),
        (("push", ".", "me/owl"), TOKEN, "plan.json does not exist"),
        (("pull", "owl"), TOKEN, "found 'owl' for a repository on the Hub: give owner/name"),
        (("pull", "them/base"), TOKEN, "on the Hub has no schedule.json"),
        (("pull", "them/base@abc"), TOKEN, "them/base has no revision 'abc'"),
        (("pull", "them/gated"), TOKEN, "them/gated is gated"),
        (("generate", "emoji-sd", "--prompt", "x", "--schedule", "them/base"), TOKEN, "has no schedule.json"),
    ],
    ids=lambda value: " ".join(map(str, value[:1] + value[2:])) if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_sentence_and_changes_nothing(hub, run, words, token, says, tmp_path):
    hub.repos["them/base"] = Repo(files={"model_index.json": b"{}"})
    hub.repos["them/gated"] = Repo(gated=True, files={"schedule.json": ZOO.read_bytes()})
    refused(run(*words, token=token), says)
    assert sorted(hub.repos) == ["them/base", "them/gated"]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_pulled_over_a_file(hub, run, tmp_path):
    pushed(run)
    (tmp_path / "schedule.json").write_text("mine")
    refused(run("pull", "me/owl"), "schedule.json is there already")
    refused(run("pull", "me/owl", "-o", "none/x.json"), "there is no folder")
    assert (tmp_path / "schedule.json").read_text() == "mine"


@pytest.mark.parametrize("files", [{"README.md": b"# Mine"}, {"model_index.json": b"{}"}, {"notes.txt": b"mine"}])
def test_what_somebody_else_put_there_is_not_written_over(hub, run, files):
    hub.repos["me/owl"] = Repo(files=files)
    refused(run("push", ZOO, "me/owl", "--base", "emoji-sd"), "give a new repository")
    assert len(hub.repos["me/owl"].commits) == 1


def test_a_schedule_is_not_pushed_into_a_student(hub, run):
    hub.repos["me/small"] = Repo(files={"README.md": b"---\ntags: [secateur]\n---\n", "model_index.json": b"{}"})
    refused(run("push", ZOO, "me/small", "--base", "emoji-sd"), "me/small holds a pipeline")
    assert len(hub.repos["me/small"].commits) == 1


def test_a_push_that_breaks_off_leaves_the_repository_as_it_was(hub, run, student):
    hub.repos["me/small"] = Repo()
    for part in ("commit", "lfs/objects"):
        hub.refuses = {part: 418}
        refused(run("push", student, "me/small"), "the Hub answered 418 for me/small (refused)")
    assert len(hub.repos["me/small"].commits) == 1


def test_without_a_network(tmp_path):
    with serving() as first:
        pass  # whose port nobody listens on any more
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", first.url)
        patch.setenv("HF_HOME", str(tmp_path / "hf"))
        command = [sys.executable, "-m", "secateur", "pull", "me/owl"]
        broken = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    refused((broken.returncode, broken.stdout, broken.stderr), "the Hub cannot be reached for me/owl (")


def test_names_of_the_hub_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert all(map(hubs.is_name, ("me/owl", "me/owl-1.5@main", Path("me/owl@0a1b"))))
    assert not any(map(hubs.is_name, ("owl", "out/schedule.json", "/me/owl", "../me", "a/b/c", "~/owl", "me/owl@", "")))
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "owl").touch()
    assert not hubs.is_name("me/owl")
