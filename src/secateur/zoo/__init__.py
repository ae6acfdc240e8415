"""Small trained pipelines, so that everything runs offline on any machine; their weights are the package secateur-zoo.

`emoji-sd` draws captions ("a fox on a blue background") with SD-1.5's topology; `emoji-dit` draws classes (object, background)
with a DiT of 12 layers. 64 px images over 4 × 16 × 16 latents; `zoo_training/` in the repository makes both again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.zoo.place import home
from secateur.zoo.scenes import BACKGROUNDS, OBJECTS, Scene, singles

if TYPE_CHECKING:
    import numpy as np
    from diffusers import DiffusionPipeline

GUIDANCE = {"emoji-dit": 2.0, "emoji-sd": 5.0}
NAMES = tuple(GUIDANCE)


def load(name: str) -> DiffusionPipeline:
    """The trained pipeline `name`, in float32 on the CPU, as stock diffusers loads it. Raises ValueError if there is none."""
    import torch
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder(name), dtype=torch.float32)


def folder(name: str) -> Path:
    """Where the pipeline `name` lies, in diffusers' format. Raises ValueError or ModuleNotFoundError if it lies nowhere."""
    if name not in NAMES:
        raise ValueError(f"the zoo has no pipeline {name!r}: choose one of {', '.join(NAMES)}")
    return home() / name


def name_at(folder: Path) -> str | None:
    """The name of the pipeline in this folder of the zoo; None for every other folder."""
    return folder.name if folder.name in NAMES and folder.parent.name == "secateur_zoo" else None


def schedule(name: str) -> Path:
    """What `secateur search NAME --keep 0.2` found for the pipeline of this name: a sampler of ten calls for 50 of DDIM.

    Load it by `secateur.load`.
    """
    return folder(name) / "schedule.json"


def conditions(
    name: str, count: int, *, calibration: bool = False
) -> tuple[tuple[str, ...] | tuple[int, ...], tuple[str, ...]]:
    """What to ask `name` for, `count` times, and its captions; of emoji-sd one object in combinations held out of training.

    calibration: others, to search with: of emoji-sd combinations trained on, of emoji-dit its classes from the other end.
    """
    pool = singles(held_out=not calibration) if name == "emoji-sd" else singles()
    numbers = range(-1, -1 - count, -1) if calibration else range(count)
    spread = [pool[i * 37 % len(pool)] for i in numbers]  # 37 is prime to 32, 224 and 256: neighbours differ in both words
    texts = tuple(scene.caption for scene in spread)
    return (texts if name == "emoji-sd" else tuple(map(class_label, spread))), texts


def class_label(scene: Scene) -> int:
    """emoji-dit's class of a scene of one object."""
    if scene.second is not None:
        raise ValueError(f"emoji-dit draws one object; {scene.caption!r} has two: use emoji-sd")
    return OBJECTS.index(scene.first) * len(BACKGROUNDS) + list(BACKGROUNDS).index(scene.background)


def caption_of(label: int) -> str:
    """The caption of emoji-dit's class `label`, 0 to 255."""
    if not 0 <= label < len(OBJECTS) * len(BACKGROUNDS):
        raise ValueError(f"emoji-dit has classes 0 to {len(OBJECTS) * len(BACKGROUNDS) - 1}; got {label}")
    return Scene(OBJECTS[label // len(BACKGROUNDS)], list(BACKGROUNDS)[label % len(BACKGROUNDS)]).caption


@cache
def features(captions: tuple[str, ...]) -> np.ndarray:
    """What the judge sees, (8 N, D), in eight true pictures of each of N captions."""
    from secateur.zoo import judge

    return judge.features(renders(captions))


def renders(captions: Sequence[str], *, each: int = 8) -> np.ndarray:
    """True pictures of the captions, `each` of every one, (B·each, 64, 64, 3) in [0, 1], for a Fréchet distance."""
    import numpy as np

    from secateur.zoo.scenes import parse, render

    rng = np.random.default_rng(0)
    pictures = [render(parse(c), rng) for c in captions for _ in range(each)]
    return np.stack(pictures).astype(np.float32) / 255
