"""The nodes, their package and the workflow, as ComfyUI reads them."""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from comfyui import PACKAGE, nodes, samplers, tables
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
    modules = {"comfy": SimpleNamespace(), "comfy.samplers": SimpleNamespace(KSAMPLER=Ksampler)}
    for name, module in (modules | {"folder_paths": SimpleNamespace(models_dir=str(tmp_path))}).items():
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "secateur").mkdir()
    return tmp_path / "secateur"


def test_the_nodes_give_sigmas_sampler_and_text(comfyui):
    made = {"dense_calls": 50, "guidance_scale": 7.5, "calibration_psnr_db": {"dense": 41.49}, "command": "secateur search"}
    folded(**made).save(comfyui / "mine.json")
    node, info = nodes.SecateurSchedule(), nodes.SecateurInfo()
    assert node.INPUT_TYPES() == info.INPUT_TYPES()
    sigmas, sampler = getattr(node, node.FUNCTION)("mine.json")
    assert (len(sigmas), float(sigmas[-1])) == (4, 0.0)
    assert sampler.sampler_function is samplers.sample_table
    assert sampler.extra_options == {"table": tables.load(comfyui / "mine.json")}
    lines = getattr(info, info.FUNCTION)(str(comfyui / "mine.json"))[0].splitlines()
    assert lines[:2] == [
        "a sampler of 3 calls for 50 of UNet2DConditionModel under DDIMScheduler",
        "the model predicts epsilon, at cfg 7.5",
    ]
    assert lines[-2:] == ["PSNR 41.5 dB to the dense images by which it was found", "made by secateur search"]
    before = node.IS_CHANGED("mine.json")
    folded().save(comfyui / "mine.json")
    assert node.IS_CHANGED("mine.json") != before
    assert tables.find("mine", comfyui) == comfyui / "mine.json"
    with pytest.raises(FileNotFoundError, match=r"no schedule 'other\.json': .* of .*secateur \(mine\.json\), or a Hub"):
        node.sampler("other.json")


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
        assert tables.find(text, comfyui) == file
        assert len(nodes.SecateurSchedule().sampler(text)[0]) == 4
    with pytest.raises(FileNotFoundError, match=r"schedule\.json of ada/foxes cannot be read from the Hub \(.*\): give a file"):
        nodes.SecateurSchedule().sampler("ada/foxes")


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
    ours = {name: ({}, 1, list(node.RETURN_TYPES)) for name, node in nodes.NODE_CLASS_MAPPINGS.items()}
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
