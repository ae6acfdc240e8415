"""Settings of `distil` that have no option of their own: NAME=VALUE, or a JSON file of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from secateur.files import parsed, read_json

EXTRAS = {"sites": "", "save_every": 500}  # what --set takes beside the fields of DistilSettings, with a value of its kind
ELSEWHERE = ("called", "updates", "batch_size", "lr", "seed", "mixed_precision")  # fields that other options give


def parse_changes(words: Sequence[str]) -> dict[str, Any]:
    """Settings by name, out of NAME=VALUE and JSON files. Raises ValueError if a name or a value is none."""
    from secateur.distilling.settings import DistilSettings

    defaults = {field.name: field.default for field in fields(DistilSettings) if field.name not in ELSEWHERE} | EXTRAS
    changes: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        changes |= {name.strip(): parse_value(text)} if equals else read_changes(Path(word))
    for name, value in changes.items():
        if name in ELSEWHERE[1:]:
            raise ValueError(f"found {name} among the settings: give it by --{name.replace('_', '-')}")
        if name not in defaults:
            raise ValueError(f"there is no setting {name!r}: choose {', '.join(defaults)}")
        check_kind(name, value, defaults[name])
    return changes


def parse_value(text: str) -> Any:
    """A JSON value, or the text itself."""
    try:
        return parsed(text)
    except (ValueError, RecursionError):
        return text


def read_changes(path: Path) -> dict[str, Any]:
    """The settings in a JSON file. Raises ValueError or FileNotFoundError with the file's name."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give --set NAME=VALUE, or a JSON file of settings")
    changes = read_json(path, "file of settings")
    if not isinstance(changes, dict):
        raise ValueError(f'{path} holds a {type(changes).__name__}: write settings by name, as {{"warmup": 50}}')
    return changes


def check_kind(name: str, value: Any, default: Any) -> None:
    """Raises ValueError if a setting is of another kind than its default."""
    if value is None and name in ("clip", "ema"):
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number if isinstance(default, float) else type(value) is type(default)):
        kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise ValueError(f"found {name}={value!r}, wanted {kinds[type(default)]}: correct it")
