"""Train a sharper decoder for the zoo's AutoencoderKL. Its encoder stays as it is, so latents and denoisers stay valid.

python zoo_training/decoder.py [UPDATES]      needs the pipelines; resumes; writes the vae of each

A config of AutoencoderKL has one depth for encoder and decoder. So the new resnets of a deeper one begin as identities: in the
encoder they stay that, in the decoder they are trained.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from autoencoder import images
from loop import BUILD, device, log, train
from secateur import zoo
from secateur.zoo import scenes

FOLDER = BUILD / "decoder"
UPDATES, BATCH, LAYERS, EDGES, PEAK = 8000, 16, 3, 1.0, 2e-3


def deeper(vae: AutoencoderKL) -> AutoencoderKL:
    """The same autoencoder with LAYERS resnets a level (one more in the decoder); the new ones change nothing yet."""
    config = {key: value for key, value in vae.config.items() if key != "_name_or_path"}
    new = AutoencoderKL.from_config(config, layers_per_block=LAYERS)
    for name, module in new.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    new.load_state_dict({**new.state_dict(), **vae.state_dict()})
    return new


def loss(vae: AutoencoderKL, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
    """Errors of pixels, absolute and squared, as in the encoder's training; and of differences between neighbours: edges."""
    x = images([scenes.sample(rng) for _ in range(BATCH)], rng)
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean
    with torch.autocast(device().type, torch.bfloat16):
        again = vae.decode(z).sample.float()
    error = again - x
    return error.abs().mean() + 2 * error.square().mean() + EDGES * sum(error.diff(dim=dim).abs().mean() for dim in (2, 3))


@torch.no_grad()
def psnr(vae: AutoencoderKL) -> float:
    """Of held-out scenes that come back, in dB."""
    rng = np.random.default_rng(1)
    x = images([scenes.sample(rng, held_out=True) for _ in range(256)], rng)
    again = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    return float(10 * (4 / (again - x).square().mean()).log10())


def main() -> None:
    torch.manual_seed(0)
    old = AutoencoderKL.from_pretrained(zoo.folder("emoji-sd") / "vae").to(device())
    vae = deeper(old).to(device())
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    print(f"before: {psnr(old):.2f} dB, deeper: {psnr(vae):.2f} dB, {sum(p.numel() for p in vae.parameters()) / 1e6:.2f} M")
    updates = int(sys.argv[1]) if len(sys.argv) > 1 else UPDATES
    log(FOLDER, train(vae, lambda rng, noise: loss(vae, rng, noise), folder=FOLDER, updates=updates, peak=PEAK))
    print(f"after: {psnr(vae):.2f} dB on held-out scenes")
    for name in zoo.NAMES:
        vae.half().save_pretrained(zoo.folder(name) / "vae")


if __name__ == "__main__":
    main()
