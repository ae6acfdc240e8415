"""A student that was saved once loads for ever: tests/golden/student, with each of the three ways in which a layer goes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

import secateur

FOLDER = Path(__file__).parents[1] / "golden" / "student"
LACKING = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))  # to be small
REMOVED = {
    "down_blocks.1.resnets.0": "keep_shortcut",
    "mid_block.resnets.1": "identity",
    "up_blocks.1.resnets.1": "drop_skip",
}


def waves(*shape: int) -> torch.Tensor:
    """Values of this shape that no random generator decides."""
    return torch.arange(torch.Size(shape).numel()).float().mul(0.7).sin().reshape(shape)


def inputs() -> dict[str, torch.Tensor]:
    return {"sample": waves(1, 4, 8, 8), "timestep": torch.tensor([500]), "encoder_hidden_states": waves(1, 5, 8)}


@torch.no_grad()
def check(unet) -> None:
    """Fails if this is not the student of the golden folder."""
    assert type(unet) is secateur.StudentUNet
    assert dict(unet.config["removed"]) == REMOVED
    prediction = load_file(FOLDER / "prediction.safetensors")["prediction"]
    torch.testing.assert_close(unet(**inputs(), return_dict=False)[0], prediction, rtol=1e-4, atol=1e-5)


def test_its_pipeline_loads_by_diffusers_own_function():
    assert json.loads((FOLDER / "model_index.json").read_text())["unet"] == ["secateur", "StudentUNet"]
    check(DiffusionPipeline.from_pretrained(FOLDER, **LACKING).unet)


def test_its_denoiser_loads_alone():
    check(secateur.StudentUNet.from_pretrained(FOLDER, subfolder="unet"))


def test_another_student_is_told_apart():
    unet = secateur.StudentUNet.from_pretrained(FOLDER, subfolder="unet")
    with torch.no_grad():
        unet.conv_in.bias += 0.1
    try:
        check(unet)
    except AssertionError:
        return
    raise AssertionError("a changed student passes for the golden one")
