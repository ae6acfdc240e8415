"""Every family's row fits the real classes, and a denoiser that nobody has heard of needs one row."""

from __future__ import annotations

import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.families import FAMILIES, Family, dummy_inputs, family
from secateur.denoiser.macs import count
from tiny import SIZE, TINY, TOKENS, tiny


@pytest.mark.parametrize("name", TINY)
def test_dummy_inputs_feed_the_real_denoiser(name):
    args = dummy_inputs(tiny(name), batch=2, size=SIZE, tokens=TOKENS)
    out = tiny(name)(**args)[0]
    assert out.shape[0] == 2
    assert out.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"class_embed_type": "timestep"},
        {"class_embed_type": "identity"},
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 6},
        {"num_class_embeds": 3},
        {"time_cond_proj_dim": 6},
        {"encoder_hid_dim": 12},
        {"sample_size": (8, 16)},
        {"mid_block_type": None},
        {"addition_embed_type": "image", "encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 12},
        {"addition_embed_type": "text_image", "encoder_hid_dim_type": "text_image_proj", "encoder_hid_dim": 12},
    ],
    ids=str,
)
def test_other_unets_are_traced_too(changes):
    assert len(find_blocks(tiny("sd15", **changes))) == 9 - ("mid_block_type" in changes)


def test_wan_that_starts_from_an_image_is_traced_too():
    assert len(find_blocks(tiny("wan", image_dim=10, added_kv_proj_dim=24))) == 3


class Ladder(ModelMixin, ConfigMixin):
    """A denoiser nobody has heard of: `depth` linear rungs, the last one reading the first again."""

    @register_to_config
    def __init__(self, width: int = 4, depth: int = 3, repeats: int = 1):
        super().__init__()
        self.rungs = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.repeats = repeats

    def forward(self, x):
        first = last = x
        for rung in list(self.rungs) * self.repeats:
            last = rung(last) + first * 0
            first = last if first is x else first
        return (last + first,)


def ladder_inputs(config, *, batch, size, tokens):
    return {"x": torch.zeros(batch, config["width"])}


LADDER = Family(granularities={"rung": ("rungs.*",), "typo": ("steps.*",)}, reuse="output", inputs=ladder_inputs)


def test_an_unknown_denoiser_is_told_what_to_declare():
    with pytest.raises(
        ValueError, match=r'^Ladder is not among .*FAMILIES\["Ladder"\] = secateur.Family\(granularities=.*inputs='
    ) as error:
        find_blocks(Ladder())
    assert "\n" not in str(error.value)


def test_one_row_makes_a_denoiser_known(monkeypatch):
    monkeypatch.setitem(FAMILIES, "Ladder", LADDER)
    blocks = find_blocks(Ladder())
    assert blocks.names == ("rungs.0", "rungs.1", "rungs.2")
    assert blocks.producers == ((), (0,), (0, 1))
    assert blocks.sinks == (0, 2)
    assert count(Ladder(), blocks).linear == (16, 16, 16)


def test_what_cannot_be_traced_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setitem(FAMILIES, "Ladder", LADDER)
    monkeypatch.setitem(FAMILIES, "Linear", LADDER)
    with pytest.raises(ValueError, match=r"rungs\.0 runs twice in one call"):
        find_blocks(Ladder(repeats=2))
    with pytest.raises(ValueError, match=r"no module of Ladder fits steps\.\*"):
        find_blocks(Ladder(), "typo")
    with pytest.raises(ValueError, match="Ladder has no granularity 'stage', so choose rung or typo"):
        find_blocks(Ladder(), "stage")
    with pytest.raises(ValueError, match="diffusers has no class Ladder: give the denoiser itself"):
        find_blocks({"_class_name": "Ladder"})
    with pytest.raises(ValueError, match="a Linear without a configuration"):
        find_blocks(nn.Linear(2, 2))
    altered = Ladder()
    del altered.rungs[2]
    with pytest.raises(ValueError, match=r"Ladder lacks rungs\.2"):
        find_blocks(altered)


def test_a_configuration_must_name_its_class():
    with pytest.raises(ValueError, match="without '_class_name'"):
        family({"sample_size": 8})


def test_a_pipe_is_no_denoiser(sd):
    with pytest.raises(TypeError, match=r"found a StableDiffusionPipeline for a denoiser: give pipe\.unet, pipe\.transformer"):
        find_blocks(sd)


def test_unets_that_say_no_size_or_take_an_image_hint_are_traced_too():
    assert len(find_blocks(tiny("sd15", sample_size=None))) == 9
    hinted = {
        "in_channels": 8,
        "addition_embed_type": "image_hint",
        "encoder_hid_dim_type": "image_proj",
        "encoder_hid_dim": 12,
    }
    assert len(find_blocks(tiny("sd15", **hinted))) == 9


def test_a_unet_that_attends_to_itself_instead_of_text_is_traced_too():
    own = {"cross_attention_dim": (8, 8, 16, 16), "class_embed_type": "simple_projection", "class_embeddings_concat": True}
    assert len(find_blocks(tiny("sd15", **own, projection_class_embeddings_input_dim=6))) == 9


def test_wan_between_two_images_is_traced_too():
    assert len(find_blocks(tiny("wan", image_dim=10, added_kv_proj_dim=24, pos_embed_seq_len=6))) == 3
