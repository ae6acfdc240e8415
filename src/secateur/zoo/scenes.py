"""The zoo's picture world: captioned 64 px scenes of emoji on coloured backgrounds.

"a fox on a blue background", "an apple to the left of a rocket on a pink background". Every scene is a `Scene`. Its
caption is a function of it, its picture a function of it and a generator. Any number of them can be made again from a seed.
Glyphs: Noto Color Emoji, SIL Open Font License 1.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.zoo.place import home

if TYPE_CHECKING:
    from PIL import Image

IMAGE_PX = 64
GLYPH_PX = 96
ATLAS = "glyphs.png"

OBJECTS = (
    "fox", "cat", "frog", "panda", "pig", "owl", "penguin", "octopus",
    "fish", "butterfly", "turtle", "whale", "apple", "banana", "grapes", "carrot",
    "pizza", "donut", "rocket", "car", "balloon", "umbrella", "guitar", "crown",
    "tree", "sunflower", "mushroom", "cactus", "house", "robot", "ghost", "ball",
)  # fmt: skip
BACKGROUNDS = {
    "red": (214, 60, 60), "yellow": (247, 214, 80), "green": (96, 178, 92), "blue": (72, 124, 220),
    "purple": (134, 84, 190), "pink": (250, 168, 204), "white": (246, 246, 246), "gray": (120, 124, 130),
}  # fmt: skip
RELATIONS = ("to the left of", "to the right of", "above", "below")


@dataclass(frozen=True)
class Scene:
    """One object on a background; `first` in `relation` to `second` if it is set."""

    first: str
    background: str
    relation: str | None = None
    second: str | None = None

    def __post_init__(self) -> None:
        if (self.relation is None) != (self.second is None):
            raise ValueError(f"a Scene has both a relation and a second object or neither; got {self!r}")

    @property
    def caption(self) -> str:
        what = _article(self.first)
        if self.second is not None:
            what += f" {self.relation} {_article(self.second)}"
        return f"{what} on a {self.background} background"

    @property
    def canonical(self) -> Scene:
        """The same picture told from the left or upper object: "right of" becomes "left of", "below" becomes "above"."""
        opposite = {"to the right of": "to the left of", "below": "above"}
        if self.second is None or self.relation not in opposite:
            return self
        return Scene(self.second, self.background, opposite[self.relation], self.first)

    @property
    def held_out(self) -> bool:
        """Whether this combination never occurs in training: an eighth of (object, background) and of (object, object)."""
        i = OBJECTS.index(self.first)
        if self.second is None:
            return (i + list(BACKGROUNDS).index(self.background)) % 8 == 0
        return (i + OBJECTS.index(self.second)) % 8 == 0


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def parse(caption: str) -> Scene:
    """The Scene that `caption` tells; a ValueError if it is not one of this world's sentences."""
    body, separator, background = caption.removesuffix(" background").rpartition(" on a ")
    relation = next((r for r in RELATIONS if f" {r} " in body), None)
    first, _, second = body.partition(f" {relation} ") if relation else (body, "", "")
    names = [noun.split(" ", 1)[-1] for noun in (first, second) if noun]
    if not separator or background not in BACKGROUNDS or any(n not in OBJECTS for n in names):
        raise ValueError(
            f"the zoo does not know the scene {caption!r}: write 'a fox on a blue background' or "
            "'an apple to the left of a rocket on a pink background'"
        )
    return Scene(names[0], background, relation, names[1] if relation else None)


def singles(*, held_out: bool | None = None) -> tuple[Scene, ...]:
    """All scenes of one object; if `held_out` is True, only scenes held out of training, and if False, only the others."""
    scenes = (Scene(o, b) for o in OBJECTS for b in BACKGROUNDS)
    return tuple(s for s in scenes if held_out is None or s.held_out == held_out)


def sample(rng: np.random.Generator, *, pairs: float = 0.5, held_out: bool = False) -> Scene:
    """A random Scene, of two objects with probability `pairs`, from the combinations kept for training (or held out)."""
    while True:
        first, second = rng.choice(OBJECTS, 2, replace=False)
        background = str(rng.choice(list(BACKGROUNDS)))
        if rng.random() < pairs:
            scene = Scene(str(first), background, str(rng.choice(RELATIONS)), str(second))
        else:
            scene = Scene(str(first), background)
        if scene.held_out == held_out:
            return scene


@cache
def _glyphs() -> dict[str, Image.Image]:
    from PIL import Image

    atlas = Image.open(home() / ATLAS).convert("RGBa")  # premultiplied, so that resizing leaves no dark fringe
    return {o: atlas.crop((GLYPH_PX * i, 0, GLYPH_PX * (i + 1), GLYPH_PX)) for i, o in enumerate(OBJECTS)}


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """`scene` as uint8 (64, 64, 3), its places, sizes and background tone jittered by `rng`."""
    from PIL import Image

    tone = np.clip(np.array(BACKGROUNDS[scene.background]) + rng.integers(-8, 9, 3), 0, 255)
    canvas = Image.new("RGBA", (IMAGE_PX, IMAGE_PX), (*(int(c) for c in tone), 255))
    canonical = scene.canonical
    if canonical.second is None:
        size_px = int(rng.integers(34, 47))
        _paste(canvas, canonical.first, size_px, (32 + rng.integers(-6, 7), 32 + rng.integers(-6, 7)))
    else:
        for name, side in ((canonical.first, -1), (canonical.second, 1)):
            along, across = 32 + side * 15 + rng.integers(-1, 2), 32 + rng.integers(-7, 8)
            centre = (along, across) if canonical.relation == "to the left of" else (across, along)
            _paste(canvas, name, int(rng.integers(25, 30)), centre)
    return np.asarray(canvas.convert("RGB"))


def _paste(canvas: Image.Image, name: str, size_px: int, centre: tuple[Any, Any]) -> None:
    from PIL import Image

    glyph = _glyphs()[name].resize((size_px, size_px), Image.Resampling.BOX).convert("RGBA")
    canvas.alpha_composite(glyph, (int(centre[0]) - size_px // 2, int(centre[1]) - size_px // 2))
