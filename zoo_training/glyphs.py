"""Draw the emoji that the zoo's scenes are made of into one picture, `src/secateur_zoo/glyphs.png`.

    python zoo_training/glyphs.py [FONT]

FONT is Noto Color Emoji (SIL Open Font License 1.1; Debian's package fonts-noto-color-emoji). Only needed to change the
set: the picture is committed, so that everything else works without the font.
"""

from __future__ import annotations

import sys

from PIL import Image, ImageDraw, ImageFont

from secateur.zoo.place import home
from secateur.zoo.scenes import ATLAS, GLYPH_PX, OBJECTS

EMOJI = dict(
    fox="🦊", cat="🐱", frog="🐸", panda="🐼", pig="🐷", owl="🦉", penguin="🐧", octopus="🐙",
    fish="🐠", butterfly="🦋", turtle="🐢", whale="🐳", apple="🍎", banana="🍌", grapes="🍇", carrot="🥕",
    pizza="🍕", donut="🍩", rocket="🚀", car="🚗", balloon="🎈", umbrella="☂️", guitar="🎸", crown="👑",
    tree="🌳", sunflower="🌻", mushroom="🍄", cactus="🌵", house="🏠", robot="🤖", ghost="👻", ball="⚽",
)  # fmt: skip
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
BITMAP_PX = 109  # the only size this bitmap font has


def glyph(font: ImageFont.FreeTypeFont, text: str) -> Image.Image:
    """One emoji, cropped to what is drawn, centred on a transparent square of GLYPH_PX."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((12, 12), text, font=font, embedded_color=True)
    drawn = canvas.crop(canvas.getbbox())
    drawn.thumbnail((GLYPH_PX, GLYPH_PX), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (GLYPH_PX, GLYPH_PX))
    square.paste(drawn, ((GLYPH_PX - drawn.width) // 2, (GLYPH_PX - drawn.height) // 2))
    return square


def main() -> None:
    font = ImageFont.truetype(sys.argv[1] if len(sys.argv) > 1 else FONT, BITMAP_PX)
    atlas = Image.new("RGBA", (GLYPH_PX * len(OBJECTS), GLYPH_PX))
    for i, name in enumerate(OBJECTS):
        atlas.paste(glyph(font, EMOJI[name]), (GLYPH_PX * i, 0))
    atlas.save(home() / ATLAS, optimize=True)


if __name__ == "__main__":
    main()
