"""Pipelines by name: in which dtype they are loaded."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch

from secateur import zoo
from secateur.cli.terminal import device_of
from secateur.pipeline import pipes, prompts


@pytest.mark.parametrize(
    ("stored", "asked", "loaded"),
    [
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.float16, "auto", torch.float32),  # the CPU runs no pipeline in float16
        (torch.float32, "auto", torch.float32),
        (torch.bfloat16, "float32", torch.float32),
    ],
)
def test_a_folder_is_loaded_as_its_weights_are_stored(dit, tmp_path, stored, asked, loaded):
    whole = dit.transformer.dtype
    dit.to(stored).save_pretrained(tmp_path / "pipe")
    dit.to(whole)
    assert pipes.stored_dtype(str(tmp_path / "pipe")) == str(stored).removeprefix("torch.")
    assert pipes.load(str(tmp_path / "pipe"), dtype=asked).transformer.dtype == loaded


def test_a_variant_is_read_if_there_is_nothing_else(dit, tmp_path):
    half = deepcopy(dit).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "pipe", variant="bf16")
    assert pipes.load(str(tmp_path / "pipe")).transformer.dtype == torch.bfloat16
    dit.save_pretrained(tmp_path / "pipe")
    found = pipes.load(str(tmp_path / "pipe")).transformer
    assert all(torch.equal(x, dit.transformer.state_dict()[name]) for name, x in found.state_dict().items())


def damaged(folder, case: str) -> None:
    """Do one thing to a pipe's folder."""
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    match case:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:2000])
        case "no weights":
            weights.unlink()
        case "no JSON":
            (folder / "transformer/config.json").write_text("{")
        case "another shape":
            config = json.loads((folder / "transformer/config.json").read_text())
            (folder / "transformer/config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
        case "no index":
            (folder / "model_index.json").write_text("{}")
        case "another class":
            index = (folder / "model_index.json").read_text()
            (folder / "model_index.json").write_text(index.replace("DiTTransformer2DModel", "Nonesuch"))


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("case", ["cut", "no weights", "no JSON", "another shape", "no index", "another class"])
def test_a_damaged_folder_is_refused_in_a_sentence_with_its_name(dit, tmp_path, case, dtype):
    dit.save_pretrained(tmp_path / "pipe")
    damaged(tmp_path / "pipe", case)
    with pytest.raises(ValueError, match=r"pipe cannot be loaded \(.*: mend it, or save or download it again$") as caught:
        pipes.load(str(tmp_path / "pipe"), dtype=dtype)
    assert "\n" not in str(caught.value)


def test_the_zoo_is_float32_however_small_its_files_are():
    assert pipes.stored_dtype("emoji-dit") == "float16"
    assert pipes.load("emoji-dit").transformer.dtype == torch.float32


@pytest.mark.parametrize("load", [pipes.load, zoo.load])
def test_a_pipe_of_the_zoo_is_known_again_and_drawn_with_its_own_guidance(load):
    pipe = load("emoji-dit")
    assert pipes.zoo_name(pipe) == "emoji-dit"
    assert prompts.guidance_of(pipe, pipes.zoo_name(pipe) or "", None) == zoo.GUIDANCE["emoji-dit"]


def test_another_pipe_is_none_of_the_zoo(dit, tmp_path):
    dit.save_pretrained(tmp_path / "emoji-dit")
    assert pipes.zoo_name(pipes.load(str(tmp_path / "emoji-dit"))) is None


def test_a_dtype_that_is_none_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="found dtype 'int8': choose auto, float32, bfloat16, float16"):
        pipes.load("nowhere/at-all", dtype="int8")


@pytest.mark.parametrize(("accelerator", "device"), [(None, "cpu"), (torch.device("cuda"), "cuda")])
def test_auto_is_the_accelerator_if_there_is_one(monkeypatch, accelerator, device):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: accelerator)
    assert (device_of("auto"), device_of("cpu")) == (device, "cpu")
    with pytest.raises(ValueError, match=f"there is no device 'abacus' here: choose cpu{' or cuda' if accelerator else ''}$"):
        device_of("abacus")


def test_without_the_zoo_its_name_ends_in_a_sentence_and_other_pipes_are_served(dit, tmp_path, monkeypatch):
    monkeypatch.setattr("secateur.zoo.place.find_spec", lambda name: None)
    zoo.home.cache_clear()
    try:
        with pytest.raises(ModuleNotFoundError, match="pip install secateur-zoo"):
            pipes.load("emoji-sd")
        dit.save_pretrained(tmp_path / "emoji-dit")
        assert pipes.zoo_name(pipes.load(str(tmp_path / "emoji-dit"))) is None
    finally:
        zoo.home.cache_clear()
