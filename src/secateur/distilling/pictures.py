"""Pictures with captions, from a folder, the Hub, tar files or the zoo's renderer."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from tarfile import TarError
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from secateur.files import inside, parsed, read_text

if TYPE_CHECKING:
    from PIL import Image

Condition: TypeAlias = str | int
Pair: TypeAlias = tuple[np.ndarray, Condition]  # (H, W, 3) in [0, 1], and a caption or class label
METADATA, FILE_NAME = "metadata.jsonl", "file_name"
WHITE = "white"
ORIENTATION = 274  # its tag in EXIF
TURNS = {  # by EXIF orientation, how a picture is turned upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
CAPTIONS = ("text", "caption", "txt", "prompt", "label", "cls")  # columns, the first that there is
IMAGES = ("image", "jpg", "jpeg", "png", "webp")


# Pictures


def from_folder(folder: str | Path, *, size: int, caption: str | None = None, background: str = WHITE) -> Iterator[Pair]:
    """Pairs of a folder in the convention of diffusers and datasets: metadata.jsonl with file_name and text on each line.

    size: side in pixels; the short side is scaled to it and the middle cut out. caption: the column to read; by default the
    first of `CAPTIONS` that there is. Whole numbers are class labels. background: see `squared`. All of metadata.jsonl is
    checked before the first pair.
    Raises FileNotFoundError if a file is missing, and ValueError if a line or a picture cannot be read.
    """
    folder = Path(folder)
    entries = metadata(folder, caption=caption)
    return ((read_image(folder / name, size=size, background=background), text) for name, text in entries)


def metadata(folder: Path, *, caption: str | None) -> list[tuple[str, Condition]]:
    """(file, caption) of each line of a folder's metadata.jsonl, every file of which exists."""
    path = folder / METADATA
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give one with pictures and {METADATA}")
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {METADATA}, so its pictures have no captions: write one with a line "
            '{"file_name": "0.png", "text": "a fox"} for each picture'
        )
    try:
        lines = [line for line in read_text(path).splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error}): save it as UTF-8") from error
    if not lines:
        raise ValueError(f"{path} is empty: write a line for each picture, with file_name and text")
    entries = [entry(line, f"line {n} of {path}", caption=caption) for n, line in enumerate(lines, 1)]
    if missing := [name for name, _ in entries if not inside(folder, name).is_file()]:
        raise FileNotFoundError(f"{path} names {missing[0]}, which is not in {folder}: put it there, or take the line out")
    return entries


def entry(line: str, where: str, *, caption: str | None) -> tuple[str, Condition]:
    """The file and the caption in one line of metadata. Raises ValueError, with its place, if it is wrong."""
    try:
        row = parsed(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: correct it") from error
    if not isinstance(row, dict) or not isinstance(row.get(FILE_NAME), str):
        raise ValueError(f"{where} names no {FILE_NAME}: add it")
    return row[FILE_NAME], caption_in(row, where, caption=caption)


def caption_in(row: Mapping[str, Any], where: str, *, caption: str | None) -> Condition:
    """The caption or class label in a row of data. Raises ValueError if there is none."""
    names = (caption,) if caption else CAPTIONS
    condition = next((row[name] for name in names if row.get(name) not in (None, "")), None)
    if isinstance(condition, bytes):
        condition = decoded(condition, where)
    if isinstance(condition, bool) or not isinstance(condition, (str, int)):
        raise ValueError(f"{where} has no caption ({' or '.join(names)}), but {', '.join(row)}: add it, or name its column")
    return condition


def decoded(caption: bytes, where: str) -> str:
    """The text in bytes. Raises ValueError if it is not in UTF-8."""
    try:
        return caption.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the caption in {where} is not in UTF-8 ({error}): write it so") from error


def read_image(path: Path, *, size: int, background: str = WHITE) -> np.ndarray:
    """The picture in a file as `squared`. Raises ValueError if it cannot be read, or not rightly."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow's for a broken PNG is a SyntaxError
        raise ValueError(
            f"{path} is no whole picture: replace it by a PNG or JPEG that is, or take its line out of {METADATA}"
        ) from error
    try:
        return squared(image, size=size, background=background)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used ({error}): save it in RGB, or take its line out of {METADATA}") from error


def squared(image: Image.Image, *, size: int, background: str = WHITE) -> np.ndarray:
    """A picture (size, size, 3), float32 in [0, 1]: upright, the short side scaled, the middle cut out.

    background: the colour that lies behind what is transparent, as HTML writes it.
    """
    from PIL import Image

    image = opaque(upright(image), background)
    scale = size / min(image.size)
    width, height = (max(round(side * scale), size) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its EXIF orientation says; one that cannot be read says nothing, as viewers take it."""
    from PIL import Image

    try:
        orientation = image.getexif().get(ORIENTATION)
    except (SyntaxError, ValueError, OSError, struct.error):
        return image
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image.transpose(Image.Transpose[turn]) if turn else image


def opaque(image: Image.Image, background: str) -> Image.Image:
    """A picture in RGB, laid on a colour. Raises ValueError, with its mode, if that cannot be done rightly."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        image = with_eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image.convert("RGBA")).convert("RGB")


def with_eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits, or of floats in [0, 1], with 8 bits; Pillow would cut its values off."""
    from PIL import Image

    values, white = np.asarray(image).astype(np.float64), 1 if image.mode == "F" else 65535
    if "transparency" in image.info:
        raise ValueError(f"its mode is {image.mode}, of which no shade may be transparent")
    if not 0 <= values.min() <= values.max() <= white:
        raise ValueError(f"its mode is {image.mode} with {values.min():g} to {values.max():g}, and 0 to {white} are read")
    return Image.fromarray((values * 255 / white).round().astype(np.uint8))


def check_background(colour: str) -> None:
    """Raises ValueError if this is no colour, or a transparent one."""
    from PIL import ImageColor

    try:
        whole = len(ImageColor.getrgb(colour)) == 3
    except ValueError:
        whole = False
    if not whole:
        raise ValueError(f"found background {colour!r}: give a colour such as white, grey or '#ffcc00'")


def from_datasets(
    path: str, *, size: int, caption: str | None = None, background: str = WHITE, split: str = "train", **options: Any
) -> Iterator[Pair]:
    """Pairs of a Hub dataset, read as they are asked for; or with path "webdataset" and data_files=… of tar files.

    options: of `datasets.load_dataset`, such as the name of a subset. Raises ModuleNotFoundError if datasets is not installed;
    Raises ValueError if a row has no picture or no caption.
    """
    rows, name = streamed(path, split=split, **options), options.get("data_files", path)
    how: dict[str, Any] = {"size": size, "caption": caption, "background": background}
    return (pair(row, f"row {n} of {name}", **how) for n, row in readable(rows, name))


def streamed(path: str, **options: Any) -> Iterable[Mapping[str, Any]]:
    """The rows of a dataset, streamed. Raises ValueError if there is no such dataset, subset or split."""
    load = loader()
    try:
        return load(path, **{"streaming": True, **options})
    except (ValueError, OSError, RuntimeError) as error:  # a RuntimeError is a repository with a script
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} cannot be read as a dataset ({reason}): name one that there is, its subset and split"
        ) from error


def loader() -> Callable[..., Any]:
    """The function that loads datasets. Raises ModuleNotFoundError if the package is not installed."""
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("data of the Hub and tar files are read by datasets: pip install 'secateur[data]'") from error
    return load_dataset


def readable(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows with their numbers. Raises ValueError, with its number, if one cannot be read."""
    left = iter(rows)
    for n in count():
        try:
            row = next(left, None)
        except (OSError, SyntaxError, ValueError, TarError) as error:
            raise ValueError(f"row {n} of {name} cannot be read ({error}): mend it, or take it out") from error
        if row is None:
            return
        yield n, row


def pair(row: Mapping[str, Any], where: str, *, size: int, caption: str | None, background: str = WHITE) -> Pair:
    """The picture and caption in a row of a dataset."""
    image = next((row[name] for name in IMAGES if row.get(name) is not None), None)
    if not hasattr(image, "convert"):
        raise ValueError(f"{where} has no picture ({' or '.join(IMAGES)}), but {', '.join(row)}: rename its column")
    try:
        picture = squared(image, size=size, background=background)  # pyright: ignore[reportArgumentType]
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ValueError(f"the picture of {where} cannot be read ({error}): take the row out") from error
    return picture, caption_in(row, where, caption=caption)


def scenes(name: str, *, seed: int = 0) -> Iterator[Pair]:
    """Pairs without end of the zoo's pipeline `name`, from combinations that it was trained on: captions or class labels."""
    from secateur.zoo import class_label
    from secateur.zoo.scenes import render, sample

    rng = np.random.default_rng(seed)
    labels = name == "emoji-dit"
    while True:
        scene = sample(rng, pairs=0.0 if labels else 0.35)
        yield render(scene, rng).astype(np.float32) / 255, class_label(scene) if labels else scene.caption
