"""Fixtures that several files share."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel

from secateur.cli import main
from tiny_pipes import autoencoder, tokenizer


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run(*words) → (exit code, stdout, stderr), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["secateur", *words])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        code = stopped.value.code or 0
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def sd() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=54, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, projection_dim=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=autoencoder().eval(), text_encoder=CLIPTextModel(text).eval(), tokenizer=tokenizer(), unet=unet.eval(),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def dit() -> DiTPipeline:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, num_layers=2, sample_size=8, patch_size=2,
        norm_num_groups=2, num_embeds_ada_norm=1000, out_channels=4,
    )  # fmt: skip
    return DiTPipeline(transformer.eval(), autoencoder().eval(), DDIMScheduler())


@pytest.fixture
def quick_dynamo():
    """torch.compile afresh, without the trace that it writes for whoever captures debug logs, as pytest does."""
    torch._dynamo.reset()
    logger = logging.getLogger("torch.__trace")
    level, logger.level = logger.level, logging.ERROR
    yield
    logger.level = level
    torch._dynamo.reset()
