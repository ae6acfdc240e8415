"""A bank of scenes already encoded, so that the denoisers train on latents alone."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoencoder import FOLDER as VAE_FOLDER
from autoencoder import images
from loop import BUILD, device
from secateur.zoo import scenes


def trained_autoencoder() -> AutoencoderKL:
    if not (VAE_FOLDER / "final").exists():
        raise SystemExit("the autoencoder is not trained yet: run `python zoo_training/autoencoder.py` first")
    return AutoencoderKL.from_pretrained(VAE_FOLDER / "final").to(device())


@torch.no_grad()
def bank(name: str, size: int, *, pairs: float) -> tuple[Tensor, list[scenes.Scene]]:
    """`size` training scenes as latents (size, 4, 16, 16) fp16, and what they show; made once, then read from disk."""
    path = BUILD / f"latents-{name}.safetensors"
    rng = np.random.default_rng(list(name.encode()))
    drawn = [scenes.sample(rng, pairs=pairs) for _ in range(size)]
    if not path.exists():
        vae = trained_autoencoder()
        parts = [vae.encode(images(drawn[i : i + 64], rng)).latent_dist.mean.half() for i in range(0, size, 64)]
        save_file({"latents": torch.cat(parts).cpu().contiguous()}, path)
    latents = load_file(path)["latents"]
    if len(latents) != size:
        raise SystemExit(f"{path} holds {len(latents)} latents where {size} are wanted: delete it and run again")
    return latents, drawn


def weight(alphas_cumprod: Tensor, t: Tensor, *, gamma: float = 5.0) -> Tensor:
    """Min-SNR weight of the noise-prediction loss at timesteps `t` (B,): arXiv 2303.09556, Eq. 4 over the SNR."""
    snr = alphas_cumprod[t] / (1 - alphas_cumprod[t])
    return snr.clamp(max=gamma) / snr
