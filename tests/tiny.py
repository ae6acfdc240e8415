"""Tiny denoisers of every family, real diffusers classes: `tiny("sd15")` → float32 weights from seed 0, in eval mode."""

from __future__ import annotations

import diffusers
import torch
from torch import nn

UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "block_out_channels": (8, 8, 16, 16),
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
SDXL = {
    "sample_size": 8,
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 56,
}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3}
DIT = {**HEADS, "sample_size": 8, "num_embeds_ada_norm": 10}
TINY = {
    "sd15": UNET,
    "sd21": UNET | {"attention_head_dim": (2, 2, 4, 4), "use_linear_projection": True},
    "sdxl": UNET | SDXL,
    "dit": {"_class_name": "DiTTransformer2DModel", **DIT},
    "pixart": {"_class_name": "PixArtTransformer2DModel", **DIT, "cross_attention_dim": 16, "caption_channels": 12},
    "sd3": {
        "_class_name": "SD3Transformer2DModel",
        **HEADS,
        "sample_size": 8,
        "in_channels": 4,
        "joint_attention_dim": 12,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 6,
        "pos_embed_max_size": 8,
    },
    "flux": {
        "_class_name": "FluxTransformer2DModel",
        **HEADS,
        "num_layers": 2,
        "num_single_layers": 2,
        "in_channels": 16,
        "joint_attention_dim": 12,
        "pooled_projection_dim": 6,
        "guidance_embeds": True,
        "axes_dims_rope": (2, 2, 4),
    },
    "wan": {
        "_class_name": "WanTransformer3DModel",
        **HEADS,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 12,
        "freq_dim": 8,
        "ffn_dim": 16,
    },
}
SIZE, TOKENS = 8, 5  # Flux and Wan have no size of their own to be tiny at


def tiny(name: str, **changes) -> nn.Module:
    """A tiny denoiser by name of its family, with changes to its configuration."""
    torch.manual_seed(0)
    config = TINY[name] | changes
    return getattr(diffusers, config["_class_name"]).from_config(config).eval().requires_grad_(False)
