"""Train the judge on renders, blurred and stained a little so that it reads decoded images as well.

python zoo_training/judge.py [UPDATES]      resumes; writes src/secateur_zoo/judge
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from loop import BUILD, device, log, train
from secateur.zoo import judge as J
from secateur.zoo import scenes
from secateur.zoo.place import home

FOLDER = BUILD / "judge"
UPDATES, BATCH, PEAK = 1500, 64, 2e-3


def batch(rng: np.random.Generator, size: int, *, held_out: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Renders (B, 3, 64, 64) in [0, 1], and what each head should say (B,)."""
    drawn = [scenes.sample(rng, held_out=held_out or rng.random() < 0.125) for _ in range(size)]
    pixels = np.stack([scenes.render(s, rng) for s in drawn]).astype(np.float32) / 255
    wanted = [J.targets(s) for s in drawn]
    said = {name: torch.tensor([w[name] for w in wanted], device=device()) for name in J.HEADS}
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device()), said


def worn(images: Tensor, rng: np.random.Generator) -> Tensor:
    """`images` as a decoder might return them: softened by down- and upsampling, noisy, a little off in tone."""
    small = F.interpolate(images, scale_factor=float(rng.uniform(0.4, 1.0)), mode="bilinear", antialias=True)
    soft = F.interpolate(small, size=images.shape[-2:], mode="bilinear")
    tone = torch.from_numpy(rng.normal(0, 0.03, (len(images), 3, 1, 1))).float()
    grain = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.06), images.shape)).float()
    return (soft + (tone + grain).to(images.device)).clamp(0, 1)


def loss(judge: J.Judge, rng: np.random.Generator) -> Tensor:
    images, wanted = batch(rng, BATCH)
    with torch.autocast(device().type, torch.bfloat16):
        said = judge(worn(images, rng))
    parts = [F.cross_entropy(said[name].float(), wanted[name], label_smoothing=0.05) for name in J.HEADS]
    return torch.stack(parts).sum()


def main() -> None:
    torch.manual_seed(0)
    judge = J.Judge().to(device())
    updates = int(sys.argv[1]) if len(sys.argv) > 1 else UPDATES
    log(FOLDER, train(judge, lambda rng, _: loss(judge, rng), folder=FOLDER, updates=updates, peak=PEAK, ema_decay=0.99))
    (home() / J.WEIGHTS).parent.mkdir(exist_ok=True)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file({k: v.cpu().contiguous() for k, v in weights.items()}, home() / J.WEIGHTS)


if __name__ == "__main__":
    main()
