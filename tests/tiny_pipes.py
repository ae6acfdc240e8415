"""Tiny random pipelines of the real classes: `pipe, call = stable_diffusion()`, then `pipe(**call)` gives latents."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from reference import reference
from secateur.denoiser.blocks import streams_by_name
from secateur.denoiser.of_pipe import denoiser_of
from secateur.schedule.schedule import Schedule
from tiny import tiny

STEPS = 6


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def vae(channels: int = 4) -> diffusers.AutoencoderKL:
    torch.manual_seed(1)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    small = {"block_out_channels": (4, 4), "norm_num_groups": 2, "layers_per_block": 1, "latent_channels": channels}
    return diffusers.AutoencoderKL(**kinds, **small).eval().requires_grad_(False)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ddim() -> diffusers.DDIMScheduler:
    """DDIM as Stable Diffusion 1.5 has it."""
    return diffusers.DDIMScheduler(steps_offset=1, clip_sample=False, set_alpha_to_one=False)


def common(batch: int = 1, width: int = 8, guidance: float = 3.0) -> dict[str, Any]:
    """The arguments that pipelines share: embeddings instead of prompts, latents instead of images."""
    call = {"prompt_embeds": noise(2, batch, 5, width), "guidance_scale": guidance, "num_inference_steps": STEPS}
    if guidance > 1:
        call["negative_prompt_embeds"] = noise(3, batch, 5, width)
    return call | {"output_type": "latent"}


def stable_diffusion(
    kind: str = "StableDiffusionPipeline", scheduler=None, *, denoiser="sd15", batch: int = 1, guidance: float = 3.0, **more
):
    """A Stable Diffusion pipeline of any kind and its arguments."""
    parts = {"vae": vae(), "text_encoder": None, "tokenizer": None, "unet": tiny(denoiser, **more.pop("unet", {}))}
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = getattr(diffusers, kind)(**parts, **rest, scheduler=scheduler or ddim(), **more)
    return quiet(pipe), {**common(batch, guidance=guidance), **start(kind, batch)}


def stable_diffusion_2():
    """Stable Diffusion 2.1, which predicts velocities."""
    scheduler = diffusers.DDIMScheduler.from_config(ddim().config, prediction_type="v_prediction")
    return stable_diffusion(scheduler=scheduler, denoiser="sd21")


def start(kind: str, batch: int) -> dict[str, Any]:
    """What this kind of pipeline starts from."""
    if kind == "StableDiffusionPipeline":
        return {"latents": noise(4, batch, 4, 8, 8)}
    image = {"image": noise(5, batch, 3, 16, 16).abs().clamp(max=1), "generator": torch.Generator().manual_seed(0)}
    if "ControlNet" in kind:
        return {"image": image["image"], "latents": noise(4, batch, 4, 8, 8)}
    if "Inpaint" in kind:
        mask = torch.zeros(batch, 1, 16, 16)
        mask[..., :8] = 1
        return image | {"mask_image": mask, "strength": 0.6, "height": 16, "width": 16}
    return image | {"strength": 0.6}


def controlnet(unet) -> diffusers.ControlNetModel:
    torch.manual_seed(5)
    net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4))
    for block in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.1)  # they begin as zeros, which would show nothing
    return net.eval().requires_grad_(False)


def sdxl(scheduler=None):
    parts = {"text_encoder": None, "text_encoder_2": None, "tokenizer": None, "tokenizer_2": None}
    scheduler = scheduler or diffusers.EulerDiscreteScheduler()
    pipe = diffusers.StableDiffusionXLPipeline(vae=vae(), unet=tiny("sdxl"), scheduler=scheduler, **parts)
    pooled = {"pooled_prompt_embeds": noise(6, 1, 8), "negative_pooled_prompt_embeds": noise(7, 1, 8)}
    return quiet(pipe), common() | pooled | {"latents": noise(4, 1, 4, 8, 8)}


def sdxl_with_encoders(tokenizer):
    """SDXL with its two text encoders, which take this tokenizer of CLIP's."""
    torch.manual_seed(6)
    small = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 8}
    words = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = CLIPTextConfig(**small, **words, max_position_embeddings=tokenizer.model_max_length)
    encoders = {"text_encoder": CLIPTextModel(config).eval(), "text_encoder_2": CLIPTextModelWithProjection(config).eval()}
    parts = {"vae": vae(), "unet": tiny("sdxl"), "scheduler": ddim(), "tokenizer": tokenizer, "tokenizer_2": tokenizer}
    return quiet(diffusers.StableDiffusionXLPipeline(**parts, **encoders))


def dit():
    pipe = diffusers.DiTPipeline(tiny("dit", num_embeds_ada_norm=1000, out_channels=8), vae(), diffusers.DDIMScheduler())
    call = {"class_labels": [1, 2], "guidance_scale": 3.0, "num_inference_steps": STEPS, "output_type": "pt"}
    return quiet(pipe), call


def said(tokens: int, batch: int = 1):
    """A mask over five tokens of which so many are words."""
    return (torch.arange(5) < tokens).float().expand(batch, 5)


def pixart():
    parts = {"tokenizer": None, "text_encoder": None, "vae": vae()}
    net = tiny("pixart", out_channels=8)
    pipe = diffusers.PixArtAlphaPipeline(**parts, transformer=net, scheduler=diffusers.DPMSolverMultistepScheduler())
    masks = {"prompt_attention_mask": said(4), "negative_prompt_attention_mask": said(2)}
    call = common(width=12) | masks | {"latents": noise(4, 1, 4, 8, 8), "use_resolution_binning": False}
    return quiet(pipe), call | {"height": 16, "width": 16, "negative_prompt": None}


def sd3():
    names = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    parts = dict.fromkeys(names) | {"vae": vae(), "transformer": tiny("sd3", out_channels=4), "scheduler": scheduler}
    pooled = {"pooled_prompt_embeds": noise(6, 1, 6), "negative_pooled_prompt_embeds": noise(7, 1, 6)}
    call = common(width=12) | pooled | {"latents": noise(4, 1, 4, 8, 8), "height": 16, "width": 16}
    return quiet(diffusers.StableDiffusion3Pipeline(**parts)), call


def flux(*, true_cfg: float = 1.0):
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    parts = dict.fromkeys(names) | {"vae": vae(), "transformer": tiny("flux"), "scheduler": scheduler}
    call = common(width=12) | {
        "pooled_prompt_embeds": noise(6, 1, 6),
        "latents": noise(4, 1, 16, 16),
        "height": 16,
        "width": 16,
    }
    call |= {"negative_pooled_prompt_embeds": noise(7, 1, 6), "true_cfg_scale": true_cfg}
    return quiet(diffusers.FluxPipeline(**parts)), call


def wan(guidance: float = 3.0):
    torch.manual_seed(1)
    coder = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    scheduler = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    pipe = diffusers.WanPipeline(tokenizer=None, text_encoder=None, vae=coder, scheduler=scheduler, transformer=tiny("wan"))
    call = common(width=12, guidance=guidance) | {
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "latents": noise(4, 1, 4, 2, 4, 4),
    }
    return quiet(pipe), call


PIPES = {
    "sd": stable_diffusion,
    "sd21": stable_diffusion_2,
    "sdxl": sdxl,
    "dit": dit,
    "pixart": pixart,
    "sd3": sd3,
    "flux": flux,
    "wan": wan,
}


def expected(pipe, call, schedule: Schedule, **how) -> Tensor:
    """What the pipeline draws by a schedule, where everything is computed and then replaced; see reference.py."""
    with reference(denoiser_of(pipe), schedule, streams=streams_by_name(denoiser_of(pipe)), **how):
        return draw(pipe, call)


def draw(pipe, call: dict[str, Any]) -> Tensor:
    """The pipeline's latents or images; a fresh generator, so that it can be called again."""
    call = dict(call)
    if "generator" in call or isinstance(pipe, diffusers.DiTPipeline):
        call["generator"] = torch.Generator().manual_seed(0)
    out = pipe(**call)
    found = out.frames if hasattr(out, "frames") else out.images
    return found if torch.is_tensor(found) else torch.from_numpy(found)


def ip_adapter(unet) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of an IP-Adapter for a U-Net's cross attentions, numbered as those of the Hub are."""
    weights = {}
    for i, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            weights |= {f"{i}.to_{kv}_ip.weight": torch.randn(width, 8) for kv in "kv"}
    norm = {"norm.weight": torch.ones(8), "norm.bias": torch.zeros(8)}
    proj = {"proj.weight": torch.randn(4 * 8, 6), "proj.bias": torch.zeros(32), **norm}
    return {"image_proj": proj, "ip_adapter": weights}


def tokenizer() -> CLIPTokenizer:
    letters = [c + end for c in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocab = {token: k for k, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=8)


def autoencoder() -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(4, 8), norm_num_groups=2, latent_channels=4, sample_size=16, **blocks)


OFFSET = {"steps_offset": 1}  # what Stable Diffusion's pipelines ask of a scheduler
SCHEDULERS = {
    "ddim": ddim,
    "pndm": lambda: diffusers.PNDMScheduler(**OFFSET, skip_prk_steps=True),
    "dpm++": lambda: diffusers.DPMSolverMultistepScheduler(**OFFSET),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**OFFSET),
    "euler": lambda: diffusers.EulerDiscreteScheduler(**OFFSET),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**OFFSET),
    "lcm": lambda: diffusers.LCMScheduler(**OFFSET),
}
