"""Small trained pipelines that come with the package, so that everything runs offline on any machine.

`emoji-sd` draws captions ("a fox on a blue background") with SD-1.5's topology; `emoji-dit` draws classes (object, background)
with a DiT of 12 layers. 64 px images over 4 × 16 × 16 latents; `zoo_training/` in the repository makes both again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.zoo.scenes import BACKGROUNDS, OBJECTS, Scene, singles

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PIPES = Path(__file__).parent
NAMES = ("emoji-dit", "emoji-sd")


def load(name: str) -> DiffusionPipeline:
    """The trained pipeline `name`, in float32 on the CPU, as stock diffusers loads it; ValueError where there is none."""
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder(name), dtype=_float32())


def folder(name: str) -> Path:
    """Where the pipeline `name` lies, in diffusers' format."""
    if name not in NAMES:
        raise ValueError(f"the zoo has no pipeline {name!r}: choose one of {', '.join(NAMES)}")
    return PIPES / name


def _float32():
    import torch

    return torch.float32


def captions(*, held_out: bool | None = None) -> tuple[str, ...]:
    """What emoji-sd can be asked for with one object: 256 captions, or only those held out of (kept for) its training."""
    return tuple(scene.caption for scene in singles(held_out=held_out))


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
