"""Train the zoo's AutoencoderKL: 64 px images to 4 × 16 × 16 latents of zero mean and unit variance per channel.

python zoo_training/autoencoder.py [UPDATES]
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from loop import BUILD, device, log, train
from secateur.zoo import scenes

FOLDER = BUILD / "vae"
UPDATES, BATCH, KL_WEIGHT = 2600, 16, 1e-6


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=scenes.IMAGE_PX,
        scaling_factor=1.0,
    )


def images(drawn: list[scenes.Scene], rng: np.random.Generator) -> Tensor:
    """`drawn` as float (B, 3, 64, 64) in [-1, 1]."""
    pixels = np.stack([scenes.render(s, rng) for s in drawn])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1).to(device())


def loss(vae: AutoencoderKL, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
    x = images([scenes.sample(rng) for _ in range(BATCH)], rng)
    with torch.autocast(device().type, torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=noise).to(x.device)
        again = vae.decode(z).sample.float()
    return (again - x).abs().mean() + 2 * (again - x).square().mean() + KL_WEIGHT * posterior.kl().float().mean()


@torch.no_grad()
def standardise(vae: AutoencoderKL, rng: np.random.Generator) -> None:
    """Fold the latents' mean and deviation into the two 1×1 convolutions around them, so that scaling_factor is 1."""
    z = torch.cat([vae.encode(images([scenes.sample(rng) for _ in range(64)], rng)).latent_dist.mean for _ in range(16)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    into.bias[:4] -= mean
    for rows in (into.weight[:4], into.bias[:4]):
        rows /= std.view(-1, *[1] * (rows.ndim - 1))
    into.bias[4:] -= 2 * std.log()
    out.bias += (out.weight[:, :, 0, 0] * mean).sum(1)
    out.weight *= std.view(1, -1, 1, 1)


def main() -> None:
    torch.manual_seed(0)
    vae = autoencoder().to(device())
    updates = int(sys.argv[1]) if len(sys.argv) > 1 else UPDATES
    log(FOLDER, train(vae, lambda rng, noise: loss(vae, rng, noise), folder=FOLDER, updates=updates, peak=2e-3))
    rng = np.random.default_rng(1)
    x = images([scenes.sample(rng, held_out=True) for _ in range(256)], rng)
    with torch.no_grad():
        before = vae.decode(vae.encode(x).latent_dist.mean).sample
        standardise(vae, rng)
        z = vae.encode(x).latent_dist.mean
        after = vae.decode(z).sample
    print("latents: mean", z.mean((0, 2, 3)), "std", z.std((0, 2, 3)), "folding changed", (before - after).abs().max())
    print(f"reconstruction PSNR {10 * (4 / (after.clamp(-1, 1) - x).square().mean()).log10():.2f} dB on held-out scenes")
    vae.save_pretrained(FOLDER / "final")


if __name__ == "__main__":
    main()
