"""Train emoji-dit: a class-conditional DiT of 12 layers over (object, background).

python zoo_training/emoji_dit.py [UPDATES]     needs the autoencoder; resumes; writes src/secateur_zoo/emoji-dit
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from emoji_sd import scheduler
from latents import bank, trained_autoencoder, weight
from loop import BUILD, device, log, train
from secateur.zoo import scenes
from secateur.zoo.place import home

FOLDER, TARGET = BUILD / "emoji-dit", home() / "emoji-dit"
UPDATES, BATCH, PEAK = 5000, 32, 1e-3
SCENES = 30_000
LABEL_DROPOUT = 0.1  # for classifier-free guidance
CLASSES = [(o, b) for o in scenes.OBJECTS for b in scenes.BACKGROUNDS]
NOTHING = 1000  # DiTPipeline's unconditional class, whatever the denoiser's config says


class Factors(nn.Module):
    """A label table as the sum of an object's row and a background's, so that 256 classes are learnt from 32 + 8.

    While training only: removing the parametrization leaves the plain table that stock diffusers expects.
    """

    def forward(self, factors: Tensor) -> Tensor:
        objects, backgrounds, nothing = factors.split([len(scenes.OBJECTS), len(scenes.BACKGROUNDS), 1])
        unused = factors.new_zeros(NOTHING - len(CLASSES), factors.shape[1])
        return torch.cat([(objects[:, None] + backgrounds[None]).flatten(0, 1), unused, nothing])

    def right_inverse(self, table: Tensor) -> Tensor:
        return table[: len(scenes.OBJECTS) + len(scenes.BACKGROUNDS) + 1].clone()


def denoiser() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        num_layers=12,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        num_embeds_ada_norm=NOTHING,
    )


def label_tables(dit: nn.Module) -> list[nn.Embedding]:
    return [m for m in dit.modules() if isinstance(m, nn.Embedding)]


def loss(dit: DiTTransformer2DModel, latents: Tensor, labels: Tensor, alphas: Tensor, rng, noise_source) -> Tensor:
    pick = torch.from_numpy(rng.integers(len(latents), size=BATCH))
    x = latents[pick].float()
    t = torch.from_numpy(rng.integers(1000, size=BATCH))
    noise = torch.randn(x.shape, generator=noise_source)
    a = alphas[t].view(-1, 1, 1, 1)
    told = torch.where(torch.from_numpy(rng.random(BATCH) < LABEL_DROPOUT), len(CLASSES), labels[pick])
    noisy = (a.sqrt() * x + (1 - a).sqrt() * noise).to(device())
    with torch.autocast(device().type, torch.bfloat16), parametrize.cached():
        guess = dit(noisy, timestep=t.to(device()), class_labels=told.to(device())).sample
    error = (guess.float() - noise.to(device())).square().mean((1, 2, 3))
    return (weight(alphas, t).to(device()) * error).mean()


def save(dit: DiTTransformer2DModel) -> None:
    """Write the pipeline in fp16, as stock diffusers reads it."""
    for table in label_tables(dit):
        parametrize.remove_parametrizations(table, "weight")
    names = {i: f"{o}, {b}" for i, (o, b) in enumerate(CLASSES)}
    pipe = DiTPipeline(transformer=dit, vae=trained_autoencoder(), scheduler=scheduler(), id2label=names)
    pipe.to(torch.float16).save_pretrained(TARGET)


def main() -> None:
    torch.manual_seed(0)
    latents, drawn = bank("emoji-dit", SCENES, pairs=0.0)
    labels = torch.tensor([CLASSES.index((s.first, s.background)) for s in drawn])
    dit = denoiser().eval().to(device())  # in train mode diffusers would drop labels by itself, in each layer another
    for table in label_tables(dit):
        parametrize.register_parametrization(table, "weight", Factors())
    alphas = scheduler().alphas_cumprod
    updates = int(sys.argv[1]) if len(sys.argv) > 1 else UPDATES

    def one(rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        return loss(dit, latents, labels, alphas, rng, noise)

    log(FOLDER, train(dit, one, folder=FOLDER, updates=updates, peak=PEAK))
    save(dit)


if __name__ == "__main__":
    main()
