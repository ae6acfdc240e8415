"""The published thin U-Nets have as many weights as their papers and files say, on the meta device."""

from __future__ import annotations

import pytest

from secateur.denoiser.macs import meta_denoiser
from secateur.pruning.presets import PRESETS
from secateur.pruning.surgery import drop_layers, parameters

SD15 = {"bk-sdm-base": 579_384_964, "bk-sdm-small": 482_346_884, "bk-sdm-tiny": 323_384_964}
SDXL = {
    "bk-sdxl-small": 1_304_160_324,
    "ssd-1b": 1_331_334_404,
    "segmind-vega": 745_225_604,
    "koala-1b": 1_161_184_324,
    "koala-700m": 782_822_724,
}


@pytest.fixture(scope="module")
def teachers():
    return {"sd15": meta_denoiser("sd15"), "sdxl": meta_denoiser("sdxl")}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_leaves_the_published_number_of_weights(teachers, name):
    teacher = teachers["sd15" if name in SD15 else "sdxl"]
    plan = PRESETS[name]()
    assert parameters(drop_layers(teacher, plan)) == (SD15 | SDXL)[name]
    assert plan.made["source"].startswith("arXiv")
