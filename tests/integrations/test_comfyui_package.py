"""The nodes, their package and the workflow, as ComfyUI reads them."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from comfyui import PACKAGE, folder_paths, nodes, samplers, tables
from secateur.denoiser.blocks import find_blocks
from secateur.schedule import baselines
from secateur.schedule.fold import fold
from tiny_pipes import ddim, stable_diffusion


def folded(**made):
    """A sampler of three calls, as a schedule."""
    whole = baselines.chosen(find_blocks(stable_diffusion()[0].unet), 9, run=[0, 2, 5], hold="output")
    folded = fold(whole.bound_to(ddim()), ddim())
    return replace(folded, made={**folded.made, **made})


class Ksampler(SimpleNamespace):
    """ComfyUI's, as far as a node fills it."""

    def __init__(self, sampler_function, extra_options):
        super().__init__(sampler_function=sampler_function, extra_options=extra_options)


@pytest.fixture
def comfyui(tmp_path, monkeypatch):
    """The folder of schedules of a ComfyUI that is running."""
    assert folder_paths.folders["secateur"][0] == Path("ComfyUI/models/secateur")
    monkeypatch.setitem(folder_paths.folders, "secateur", [tmp_path])
    for name, module in {"comfy": SimpleNamespace(), "comfy.samplers": SimpleNamespace(KSAMPLER=Ksampler)}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return tmp_path


def test_the_nodes_give_sigmas_sampler_and_text(comfyui):
    made = {"dense_calls": 50, "guidance_scale": 7.5, "calibration_psnr_db": {"dense": 41.49}, "command": "secateur search"}
    folded(**made).save(comfyui / "mine.json")
    node, info = nodes.SecateurSchedule(), nodes.SecateurInfo()
    assert node.INPUT_TYPES() == info.INPUT_TYPES()
    sigmas, sampler = getattr(node, node.FUNCTION)(schedule="mine.json")
    assert (len(sigmas), float(sigmas[-1])) == (4, 0.0)
    assert sampler.sampler_function is samplers.sample_table
    assert sampler.extra_options == {"table": tables.load(comfyui / "mine.json")}
    lines = getattr(info, info.FUNCTION)(schedule="mine.json")[0].splitlines()
    assert lines[:2] == [
        "a sampler of 3 calls for 50 of UNet2DConditionModel under DDIMScheduler",
        "the model predicts epsilon, at cfg 7.5",
    ]
    assert lines[-2:] == ["PSNR 41.5 dB to the dense images by which it was found", "made by secateur search"]
    before = node.IS_CHANGED(schedule="mine.json")
    folded().save(comfyui / "mine.json")
    assert node.IS_CHANGED(schedule="mine.json") != before


def test_a_file_is_chosen_from_a_list_and_a_path_wins_over_it(comfyui, tmp_path_factory):
    node, elsewhere = nodes.SecateurSchedule(), tmp_path_factory.mktemp("elsewhere") / "other.json"
    for path in (comfyui / "mine.json", comfyui / "sdxl" / "mine.json", elsewhere):
        path.parent.mkdir(exist_ok=True)
        folded(command=str(path)).save(path)
    (comfyui / "notes.txt").touch()
    chosen, typed = (node.INPUT_TYPES()["optional"][name][0] for name in ("schedule", "path_or_hub_id"))
    assert (chosen, typed) == (["mine.json", "sdxl/mine.json"], "STRING")
    for given, path in {
        ("sdxl/mine.json", ""): comfyui / "sdxl" / "mine.json",
        ("mine.json", "  "): comfyui / "mine.json",
        ("mine.json", f' "{elsewhere}" '): elsewhere,
        ("gone.json", str(elsewhere)): elsewhere,
    }.items():
        inputs = dict(zip(("schedule", "path_or_hub_id"), given, strict=True))
        assert nodes.SecateurInfo().text(**inputs)[0].endswith(f"made by {path}")
        assert node.IS_CHANGED(**inputs) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert math.isnan(node.IS_CHANGED(schedule="mine.json", path_or_hub_id=None))


def test_a_file_that_is_missing_is_named_in_a_sentence_by_the_run(comfyui):
    node = nodes.SecateurSchedule()
    assert inspect.getfullargspec(node.VALIDATE_INPUTS).args == ["cls", "schedule"]  # which ComfyUI then leaves to the run
    assert node.VALIDATE_INPUTS("gone.json") is True
    for given, sentence in {
        (): "ComfyUI/models/secateur has no schedule.json: put it there, choose another file, or give a path or a Hub id",
        (("schedule", "gone.json"),): "ComfyUI/models/secateur has no gone.json: put it there",
        (("path_or_hub_id", "gone.json"),): "there is no file 'gone.json': give the whole path, or a Hub id owner/name",
    }.items():
        with pytest.raises(FileNotFoundError, match=f"^{re.escape(sentence)}"):
            node.sampler(**dict(given))


def test_a_hub_id_is_read_from_the_cache_that_the_hub_fills(comfyui, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(comfyui))
    commit, repo = "0" * 40, comfyui / "models--ada--owls"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    file = repo / "snapshots" / commit / "schedule.json"
    folded().save(file)
    for text in ("ada/owls", f"ada/owls@{commit}"):
        assert tables.find(text) == file
        assert len(nodes.SecateurSchedule().sampler(path_or_hub_id=text)[0]) == 4
    with pytest.raises(FileNotFoundError, match=r"schedule\.json of ada/foxes cannot be read from the Hub \(.*\): give a file"):
        nodes.SecateurSchedule().sampler(path_or_hub_id="ada/foxes")


CORE = {  # ComfyUI's own nodes in the workflow: inputs, widgets, outputs
    "CheckpointLoaderSimple": ({}, 1, ["MODEL", "CLIP", "VAE"]),
    "CLIPTextEncode": ({"clip": "CLIP"}, 1, ["CONDITIONING"]),
    "EmptyLatentImage": ({}, 3, ["LATENT"]),
    "SamplerCustom": (
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "sampler": "SAMPLER",
            "sigmas": "SIGMAS",
            "latent_image": "LATENT",
        },
        4,  # with what becomes of the seed
        ["LATENT", "LATENT"],
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, 0, ["IMAGE"]),
    "SaveImage": ({"images": "IMAGE"}, 1, []),
    "PreviewAny": ({"source": "*"}, None, []),
}


def test_the_workflow_connects_every_input_with_its_kind():
    workflow = json.loads((PACKAGE / "workflows" / "sd15.json").read_text())
    ours = {name: ({}, 2, list(node.RETURN_TYPES)) for name, node in nodes.NODE_CLASS_MAPPINGS.items()}
    known, by_id = CORE | ours, {node["id"]: node for node in workflow["nodes"]}
    assert set(ours) <= {node["type"] for node in workflow["nodes"]}
    for node in workflow["nodes"]:
        inputs, widgets, outputs = known[node["type"]]
        assert {entry["name"]: entry["type"] for entry in node.get("inputs", [])} == inputs
        assert all(entry["link"] for entry in node.get("inputs", []))
        assert widgets is None or len(node.get("widgets_values", [])) == widgets
        assert [entry["type"] for entry in node.get("outputs", [])] == outputs
    for link, source, slot, target, place, kind in workflow["links"]:
        output, entry = by_id[source]["outputs"][slot], by_id[target]["inputs"][place]
        assert (output["type"], entry["link"]) == (kind, link)
        assert entry["type"] in (kind, "*")
        assert link in output["links"]
    assert len(workflow["links"]) == sum(len(node.get("inputs", [])) for node in workflow["nodes"])
    assert workflow["last_link_id"] == max(link for link, *_ in workflow["links"])
    assert workflow["last_node_id"] == max(by_id)


def test_the_package_says_what_comfyuis_registry_asks_for():
    document = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
    assert document["project"]["dependencies"] == []
    assert (PACKAGE / document["project"]["license"]["file"]).is_file()
    assert document["tool"]["comfy"]["DisplayName"] == "Secateur"


def test_the_package_imports_nothing_that_comfyui_lacks():
    has = {"torch", "tqdm", "comfy", "folder_paths", "huggingface_hub", *sys.stdlib_module_names}
    trees = [ast.parse(path.read_text()) for path in PACKAGE.glob("*.py")]
    nodes_of = [node for tree in trees for node in ast.walk(tree)]
    found = {alias.name for node in nodes_of if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in nodes_of if isinstance(node, ast.ImportFrom) and not node.level}
    assert {name.split(".")[0] for name in found} <= has
