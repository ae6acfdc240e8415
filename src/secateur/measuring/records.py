"""Records of measurements, format 1: one JSON document per command, a row per variant, read by `report`."""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from secateur.artifact import write_text
from secateur.files import check_file, inside, read_json

FORMAT = 1
FOUND, GIVEN = "Secateur", "yours"  # groups of rows that a record is about: schedules found here, and given by the user
COUNTS = ("calls", "steps", "macs_linear", "macs_attention")
NUMBERS = ("keep", "keep_linear", "keep_attention", "frechet", "efficiency")
SPREADS = {"latency_s": "median", "speedup": "median", "psnr_db": "mean", "ssim": "mean", "lpips": "mean", "accuracy": "mean"}
WORDS = ("group", "scheduler")
DRAWN = ("grid", "timesteps", "images")
ROW_KEYS = ("name", *WORDS, *COUNTS, *NUMBERS, *SPREADS, *DRAWN)
IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def blank(
    title: str,
    command: str,
    *,
    pipe: str | None = None,
    seeds: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A record without rows: its title, the command that makes it, the time, and the hardware.

    pipe, seeds, options: what is measured, and how; a record has none of those that are left out.
    """
    from secateur.measuring.hardware import hardware

    head = {"format": FORMAT, "title": title, "command": command, "pipe": pipe, "made": now(), "hardware": hardware()}
    head |= {"seeds": None if seeds is None else list(seeds), "options": None if options is None else dict(options), "rows": []}
    return {key: value for key, value in head.items() if value is not None}


def now() -> str:
    """The time in UTC, to the second, as records have it under `made`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def load(path: str | Path) -> dict[str, Any]:
    """The checked record, with image files beside it read in as data URIs, so that it is whole on its own.

    Raises FileNotFoundError if the record or one of its images is missing, ValueError if it is malformed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no record at {path}: give the JSON file that a measuring command wrote")
    record = read_json(path, "record")
    try:
        check(record)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return record | {"rows": [_with_images(row, path.parent) for row in record["rows"]]}


def save(record: dict[str, Any], path: str | Path) -> None:
    """Write the checked record as JSON at once: a reader sees all of it or none of it."""
    check(record)
    write_text(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)


def interval(spread: dict[str, Any]) -> tuple[float, float] | None:
    """(low, high) of a spread, from its `ci95` or its `low` and `high`; None if it has neither."""
    if spread.get("ci95"):
        return tuple(spread["ci95"])
    if spread.get("low") is not None and spread.get("high") is not None:
        return spread["low"], spread["high"]
    return None


def check(record: Any) -> None:
    """Raises ValueError with the first fault, in one sentence, if the record is not of format 1.

    A row needs only its `name`: other fields that are absent or null are shown as – or left out.
    """
    if not isinstance(record, dict):
        raise ValueError(f"the record is a {type(record).__name__}, wanted an object with title and rows: write it again")
    if "format" not in record:
        raise ValueError("it has no format, so it is no record: give the JSON file that a measuring command wrote")
    if record["format"] != FORMAT:
        raise ValueError(f"the record has format {record['format']!r}, this version reads {FORMAT}: make it with this version")
    _check_type("the record", record, "title", str, "text", required=True)
    for key in ("blocks", "conditions"):
        _check_type("the record", record, key, list, "a list")
    for key in ("hardware", "options"):
        _check_type("the record", record, key, dict, "an object")
    if not isinstance(record.get("rows"), list) or not record["rows"]:
        raise ValueError("the record has no rows, wanted a list of at least one: measure something first")
    for number, row in enumerate(record["rows"]):
        _check_row(row, f"row {number}", record)
    _check_image_counts(record)


def _refuse(where: str, key: str, value: Any, wanted: str) -> NoReturn:
    raise ValueError(f"{where} has {key} {value!r:.60}, wanted {wanted}: correct it or measure again")


def _check_type(where: str, holder: dict, key: str, kind: type, wanted: str, *, required: bool = False) -> None:
    value = holder.get(key)
    if not isinstance(value, kind) and (value is not None or required):
        _refuse(where, key, value, wanted)


def _check_row(row: Any, where: str, record: dict) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is a {type(row).__name__}, wanted an object with a name: correct it or measure again")
    _check_type(where, row, "name", str, "text", required=True)
    where = f"row {row.get('name')!r}"
    for key in WORDS:
        _check_type(where, row, key, str, "text or null")
    for key in (*COUNTS, *NUMBERS):
        _check_number(where, key, row.get(key), whole=key in COUNTS)
    for key in {"keep", "keep_linear", "keep_attention"} & row.keys():
        if row[key] is not None and row[key] <= 0:
            raise ValueError(f"{where} has {key} {row[key]!r}, wanted a fraction above 0: correct it or measure again")
    for key, centre in SPREADS.items():
        if row.get(key) is not None:
            _check_spread(where, key, centre, row[key])
    if row.get("grid") is not None:
        _check_grid(where, row["grid"], len(record.get("blocks") or ()))
    if row.get("timesteps") is not None:
        _check_timesteps(where, row["timesteps"])
    if row.get("images") is not None:
        _check_images(where, row["images"])


def _check_number(where: str, key: str, value: Any, *, whole: bool = False) -> None:
    kinds, wanted = (int, "a whole number") if whole else (int | float, "a finite number")
    right = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if value is not None and not right:
        _refuse(where, key, value, f"{wanted} or null")


def _check_spread(where: str, key: str, centre: str, spread: Any) -> None:
    if not isinstance(spread, dict) or centre not in spread:
        _refuse(where, key, spread, f"an object with {centre!r}")
    for part in (centre, "low", "high"):
        _check_number(where, f"{key}.{part}", spread.get(part))
    if (ends := spread.get("ci95")) is not None:
        if not isinstance(ends, list | tuple) or len(ends) != 2 or None in ends:
            _refuse(where, f"{key}.ci95", ends, "two numbers [low, high]")
        for end in ends:
            _check_number(where, f"{key}.ci95", end)


def _check_grid(where: str, grid: Any, width: int) -> None:
    if not isinstance(grid, list | tuple) or not grid or not all(isinstance(line, str) for line in grid):
        _refuse(where, "grid", grid, "a list of strings or null")
    for call, line in enumerate(grid):
        if len(line) != width:
            raise ValueError(
                f"{where} has {len(line)} cells at call {call}, wanted one for each of {width} blocks: measure again"
            )
        if set(line) - set("#."):
            raise ValueError(f"{where} has {line!r:.60} at call {call}, wanted only '#' and '.': correct it or measure again")


def _check_timesteps(where: str, timesteps: Any) -> None:
    if not isinstance(timesteps, list | tuple) or not timesteps or None in timesteps:
        _refuse(where, "timesteps", timesteps, "a list of numbers or null")
    for timestep in timesteps:
        _check_number(where, "timesteps", timestep)


def _check_images(where: str, images: Any) -> None:
    if not isinstance(images, list):
        _refuse(where, "images", images, "a list or null")
    for image in images:
        if not (isinstance(image, str) and (image.startswith("data:image/") or _is_beside(image))):
            raise ValueError(f"{where} has image {image!r:.60}, wanted a data:image/ URI or a picture file beside the record")


def _is_beside(name: str) -> bool:
    # a record may be mailed: it must not be able to pull in other files of the reader's
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and path.suffix.lower() in IMAGE_TYPES


def _check_image_counts(record: dict) -> None:
    counts = {len(row["images"]): row["name"] for row in record["rows"] if row.get("images")}
    if len(counts) > 1:
        (few, first), (many, second) = sorted(counts.items())[:2]
        raise ValueError(f"row {first!r} has {few} images and row {second!r} has {many}, wanted the same number: measure again")
    conditions = record.get("conditions")
    if counts and conditions is not None and max(counts) > len(conditions):
        raise ValueError(f"the rows have {max(counts)} images for {len(conditions)} conditions, wanted no more: measure again")


def _with_images(row: dict, folder: Path) -> dict:
    if not row.get("images"):
        return row
    return row | {"images": [_data_uri(image, folder) for image in row["images"]]}


def _data_uri(image: str, folder: Path) -> str:
    if image.startswith("data:"):
        return image
    path = inside(folder, image)
    check_file(path, wanted="a picture")
    if not path.is_file():
        raise FileNotFoundError(f"the record names the picture {image}, which is not in {folder}: put it there")
    return f"data:{IMAGE_TYPES[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode()}"
