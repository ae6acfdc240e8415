"""The judge: a small classifier that reads object(s), background and relation from a 64 px image of the zoo's world.

Offline, it stands in for CLIP score and Inception features. *Prompt accuracy* is the share of images in which it reads just
what the caption asked for. Its features carry the Fréchet distance. It is no judge of photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur.zoo.place import home
from secateur.zoo.scenes import BACKGROUNDS, OBJECTS, Scene

WEIGHTS = "judge/judge.safetensors"
LAYOUTS = (None, "to the left of", "above")  # of canonical scenes; None: one object
HEADS = {"layout": len(LAYOUTS), "background": len(BACKGROUNDS), "first": len(OBJECTS), "second": len(OBJECTS)}
FEATURES = 128


class Judge(nn.Module):
    """Images (B, 3, 64, 64) in [0, 1] → logits by head. `first` is the single, left or upper object, `second` the other."""

    def __init__(self) -> None:
        super().__init__()
        widths = (24, 48, 96, FEATURES)
        layers: list[nn.Module] = []
        for c_in, c_out in zip((3, *widths[:-1]), widths, strict=True):
            layers += [_conv(c_in, c_out, stride=2), _conv(c_out, c_out, stride=1)]
        self.trunk = nn.Sequential(*layers)
        self.pool = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES * 16, FEATURES), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, n) for name, n in HEADS.items()})

    def features(self, images: Tensor) -> Tensor:  # (B, D)
        return self.pool(self.trunk(images * 2 - 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}


def _conv(c_in: int, c_out: int, *, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


def targets(scene: Scene) -> dict[str, int]:
    """The class that each head should give for `scene`; -100, which cross entropy ignores, if there is no second object."""
    canonical = scene.canonical
    return {
        "layout": LAYOUTS.index(canonical.relation),
        "background": list(BACKGROUNDS).index(canonical.background),
        "first": OBJECTS.index(canonical.first),
        "second": -100 if canonical.second is None else OBJECTS.index(canonical.second),
    }


@cache
def load() -> Judge:
    """The trained judge of the package secateur-zoo, on the CPU."""
    judge = Judge()
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(home() / WEIGHTS).items()})
    return judge.eval().requires_grad_(False)


def _tensor(images: np.ndarray) -> Tensor:
    if images.ndim != 4 or images.shape[1:] != (64, 64, 3):
        raise ValueError(f"the judge reads images of shape (B, 64, 64, 3) with values in 0..1; got shape {images.shape}")
    return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).permute(0, 3, 1, 2)


def features(images: np.ndarray) -> np.ndarray:
    """Features (B, 128) of `images` (B, 64, 64, 3) in 0..1, for the Fréchet distance."""
    return load().features(_tensor(images)).numpy()


def read(images: np.ndarray) -> list[Scene]:
    """What `images` (B, 64, 64, 3) in 0..1 show, each as a canonical Scene."""
    answers = {name: logits.argmax(1).tolist() for name, logits in load()(_tensor(images)).items()}
    return [_scene(*row) for row in zip(*(answers[name] for name in HEADS), strict=True)]


def likelihoods(images: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """Log-probabilities (B,) that the judge gives `scenes` of `images` (B, 64, 64, 3) in 0..1: finer than right or wrong."""
    logs = {name: logits.log_softmax(1) for name, logits in load()(_tensor(images)).items()}
    rights = [targets(scene) for scene in scenes]
    sums = [sum(float(logs[name][k, place]) for name, place in one.items() if place >= 0) for k, one in enumerate(rights)]
    return np.array(sums)


def _scene(layout: int, background: int, first: int, second: int) -> Scene:
    one, colour = OBJECTS[first], list(BACKGROUNDS)[background]
    return Scene(one, colour, LAYOUTS[layout], OBJECTS[second]) if layout else Scene(one, colour)
