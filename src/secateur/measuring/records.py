"""Records of measurements, format 1: one JSON document per command, a row per variant, read by `report`."""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.artifact import read_json, write_text

FORMAT = 1
FOUND, GIVEN = "Secateur", "yours"  # groups of rows that a record is about: schedules found here, and given by the user
COUNTS = ("calls", "steps", "macs_linear", "macs_attention")
NUMBERS = ("keep", "keep_linear", "keep_attention", "frechet", "efficiency")
SPREADS = {"latency_s": "median", "speedup": "median", "psnr_db": "mean", "ssim": "mean", "accuracy": "mean"}
WORDS = ("group", "scheduler")
DRAWN = ("grid", "images")
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


def check(record: Any) -> None:
    """Raises ValueError with the first fault, in one sentence, if the record is not of format 1.

    A row needs only its `name`: other fields that are absent or null are shown as – or left out.
    """
    fault = next(_faults(record), None)
    if fault:
        raise ValueError(fault)


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


def _faults(record: Any) -> Iterator[str]:
    if not isinstance(record, dict):
        yield f"the record is a {type(record).__name__}, wanted an object with title and rows: write it again"
        return
    if "format" not in record:
        yield "it has no format, so it is no record: give the JSON file that a measuring command wrote"
    elif record["format"] != FORMAT:
        yield f"the record has format {record['format']!r}, this version reads {FORMAT}: make it with this version"
    yield from _wrong_type("the record", record, "title", str, "text", required=True)
    for key in ("blocks", "conditions"):
        yield from _wrong_type("the record", record, key, list, "a list")
    for key in ("hardware", "options"):
        yield from _wrong_type("the record", record, key, dict, "an object")
    if not isinstance(record.get("rows"), list) or not record["rows"]:
        yield "the record has no rows, wanted a list of at least one: measure something first"
        return
    for number, row in enumerate(record["rows"]):
        yield from _row_faults(row, f"row {number}", record)
    yield from _image_count_faults(record)


def _wrong_type(where: str, holder: dict, key: str, kind: type, wanted: str, *, required: bool = False) -> Iterator[str]:
    value = holder.get(key)
    if isinstance(value, kind) or (value is None and not required):
        return
    yield f"{where} has {key} {value!r:.60}, wanted {wanted}: correct it or measure again"


def _row_faults(row: Any, where: str, record: dict) -> Iterator[str]:
    if not isinstance(row, dict):
        yield f"{where} is a {type(row).__name__}, wanted an object with a name: correct it or measure again"
        return
    yield from _wrong_type(where, row, "name", str, "text", required=True)
    where = f"row {row.get('name')!r}"
    for key in WORDS:
        yield from _wrong_type(where, row, key, str, "text or null")
    for key in (*COUNTS, *NUMBERS):
        yield from _number_faults(where, key, row.get(key), whole=key in COUNTS)
    for key in {"keep", "keep_linear", "keep_attention"} & row.keys():
        if row[key] is not None and row[key] <= 0:
            yield f"{where} has {key} {row[key]!r}, wanted a fraction above 0: correct it or measure again"
    for key, centre in SPREADS.items():
        yield from _spread_faults(where, key, centre, row.get(key))
    yield from _grid_faults(where, row.get("grid"), len(record.get("blocks") or ()))
    yield from _image_faults(where, row.get("images"))


def _number_faults(where: str, key: str, value: Any, *, whole: bool = False) -> Iterator[str]:
    kinds, wanted = (int, "a whole number") if whole else (int | float, "a finite number")
    right = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if value is not None and not right:
        yield f"{where} has {key} {value!r:.60}, wanted {wanted} or null: correct it or measure again"


def _spread_faults(where: str, key: str, centre: str, spread: Any) -> Iterator[str]:
    if spread is None:
        return
    if not isinstance(spread, dict) or centre not in spread:
        yield f"{where} has {key} {spread!r:.60}, wanted an object with {centre!r}: correct it or measure again"
        return
    for part in (centre, "low", "high"):
        yield from _number_faults(where, f"{key}.{part}", spread.get(part))
    ends = spread.get("ci95")
    if ends is None:
        return
    if not isinstance(ends, list | tuple) or len(ends) != 2 or None in ends:
        yield f"{where} has {key}.ci95 {ends!r:.60}, wanted two numbers [low, high]: correct it or measure again"
        return
    for end in ends:
        yield from _number_faults(where, f"{key}.ci95", end)


def _grid_faults(where: str, grid: Any, width: int) -> Iterator[str]:
    if grid is None:
        return
    if not isinstance(grid, list | tuple) or not grid or not all(isinstance(line, str) for line in grid):
        yield f"{where} has grid {grid!r:.60}, wanted a list of strings or null: correct it or measure again"
        return
    for call, line in enumerate(grid):
        if len(line) != width:
            yield f"{where} has {len(line)} cells at call {call}, wanted one for each of {width} blocks: measure again"
        if set(line) - set("#."):
            yield f"{where} has {line!r:.60} at call {call}, wanted only '#' and '.': correct it or measure again"


def _image_faults(where: str, images: Any) -> Iterator[str]:
    if images is None:
        return
    if not isinstance(images, list):
        yield f"{where} has images {images!r:.60}, wanted a list or null: correct it or measure again"
        return
    for image in images:
        if not (isinstance(image, str) and (image.startswith("data:image/") or _is_beside(image))):
            yield f"{where} has image {image!r:.60}, wanted a data:image/ URI or a picture file beside the record"


def _is_beside(name: str) -> bool:
    # a record may be mailed: it must not be able to pull in other files of the reader's
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and path.suffix.lower() in IMAGE_TYPES


def _image_count_faults(record: dict) -> Iterator[str]:
    counts = {len(row["images"]): row["name"] for row in record["rows"] if row.get("images")}
    if len(counts) > 1:
        (few, first), (many, second) = sorted(counts.items())[:2]
        yield f"row {first!r} has {few} images and row {second!r} has {many}, wanted the same number: measure again"
    conditions = record.get("conditions")
    if counts and conditions is not None and max(counts) > len(conditions):
        yield f"the rows have {max(counts)} images for {len(conditions)} conditions, wanted no more: measure again"


def _with_images(row: dict, folder: Path) -> dict:
    if not row.get("images"):
        return row
    return row | {"images": [_data_uri(image, folder) for image in row["images"]]}


def _data_uri(image: str, folder: Path) -> str:
    if image.startswith("data:"):
        return image
    path = folder / image
    if not path.is_file():
        raise FileNotFoundError(f"the record names the picture {image}, which is not in {folder}: put it there")
    return f"data:{IMAGE_TYPES[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode()}"
