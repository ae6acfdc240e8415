"""Files as they are read: regular ones of a bounded size, JSON that is neither deep nor of long numbers. Needs no torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

MOST_BYTES = 2**28  # of what is read as a whole (ours): far more than any artifact, record or list of prompts has
MOST_DEPTH = 50  # of lists and objects in each other (ours)
MOST_DIGITS = 20  # of a whole number: those of 64 bits have no more
UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError, SafetensorError, RecursionError)

UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)  # in a terminal, beside tabs and new lines


def check_file(path: Path, *, wanted: str = "a file of text") -> None:
    """Raises ValueError if something is there and no file, or if it is too large to be read. Nothing is opened.

    A pipe would wait for its writer for ever, and a device may have no end.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is a pipe or a device and no file: give {wanted}")
    if path.is_file() and (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{path} has {size / 1e6:,.0f} MB, and {MOST_BYTES / 1e6:,.0f} MB are read at most: give {wanted}")


def inside(folder: Path, name: str) -> Path:
    """A file that a list in its folder names. Raises ValueError if it lies elsewhere, by its name or by a link."""
    path = folder / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} leads out of {folder}: put a copy of the file into the folder, and name that")
    return path


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises what opening and decoding it raises, and ValueError as `check_file`."""
    check_file(path)
    return path.read_text(encoding="utf-8")


def read_json(path: Path, noun: str) -> Any:
    """What a JSON file holds. Raises ValueError, one sentence with its name, if it is no JSON as `parsed` takes it."""
    check_file(path, wanted=f"a {noun}")
    try:
        return parsed(read_text(path))
    except UNREADABLE as error:
        raise ValueError(f"{path} is no whole {noun}: {fault(path, error)}; mend it, or give another") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}: mend it, or give another") from error


def parsed(text: str) -> Any:
    """The value of a JSON text. Raises JSONDecodeError, RecursionError if it is deep, ValueError if a number is long."""
    value = json.loads(text, parse_int=whole)
    level, depth = [value], 0
    while level := [x for holder in level for x in parts_of(holder)]:
        depth += 1
        if depth > MOST_DEPTH:
            raise RecursionError
    return value


def parts_of(value: Any) -> list[Any]:
    """What is in a list or an object."""
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def whole(text: str) -> int:
    """The whole number. Raises ValueError if it is very long."""
    if len(text) > MOST_DIGITS + 1:
        raise ValueError(f"it holds the number {text[:MOST_DIGITS]}…, and whole ones have at most {MOST_DIGITS} digits")
    return int(text)


def fault(path: Path, error: Exception) -> str:
    """What is wrong with a file that could not be read, in words for those who do not know the reader."""
    if path.is_file() and not path.stat().st_size:
        return "it is empty"
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON, or cut short, at line {error.lineno}"
    if isinstance(error, RecursionError):
        return "its JSON is nested too deep"
    return "it is no text" if isinstance(error, UnicodeDecodeError) else "it is no safetensors file of secateur, or cut short"


def shown(text: str) -> str:
    """The text with control characters escaped: a name in somebody's file moves no cursor and hides nothing."""
    return UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
