"""The form that every artifact has on disk: JSON for people to read and diff, signed so that an edit shows. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

HASH_DIGITS = 16
TEXT, TEXT_OR_NONE = (str,), (str, type(None))
T = TypeVar("T")


@dataclass(frozen=True)
class Form:
    """What the documents of one kind of artifact have in common.

    noun: what messages call it. number: of its format. fields: name → Python types that its JSON may have, beside `format`
    and `sha256`, which all have. ordered: the field that maps names whose order counts. texts: fields full of text. defaults:
    of fields that a document has only where they differ.
    """

    noun: str
    number: int
    fields: Mapping[str, tuple[type, ...]]
    ordered: str
    texts: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def frozen(value: Any) -> Any:
    """A JSON value that nobody can change: read-only mappings and tuples. TypeError for what is no JSON."""
    if isinstance(value, Mapping):
        return MappingProxyType({str(k): frozen(v) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(frozen(v) for v in value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"`made` is saved as JSON and cannot hold a {type(value).__name__}: turn it into text or numbers")


def thawed(value: Any) -> Any:
    """The plain dicts and lists of a frozen value."""
    if isinstance(value, Mapping):
        return {k: thawed(v) for k, v in value.items()}
    return [thawed(v) for v in value] if isinstance(value, tuple) else value


def signed(content: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """The JSON document of an artifact: format number, its fields in the form's order, and a signature that shows edits."""
    stated = [name for name in form.fields if name not in form.defaults or content[name] != form.defaults[name]]
    body = {"format": form.number, **{name: thawed(content[name]) for name in stated}}
    return body | {"sha256": signature(body, form)}


def signature(body: Mapping[str, Any], form: Form) -> str:
    """SHA-256 of a document's content, whatever its layout."""
    content = {k: list(v.items()) if k == form.ordered else v for k, v in body.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check(found: Any, form: Form, *, edited: bool) -> None:
    """Nothing; ValueError where a document is of another format, lacks or adds fields, or was changed and edited is False."""
    if not isinstance(found, dict) or found.get("format") != form.number:
        number = found.get("format") if isinstance(found, dict) else None
        raise ValueError(
            f"it is of format {number!r} and this version reads format {form.number}: make it again or update secateur"
        )
    check_fields(found, form)
    if not edited and found["sha256"] != (wanted := signature(found, form)):
        raise ValueError(
            f"its signature is {found['sha256'][:HASH_DIGITS]} but its content gives {wanted[:HASH_DIGITS]}, so it was changed "
            "by hand or in transit: take the original, or in Python load it with edited=True and save it again"
        )


def check_fields(found: Mapping[str, Any], form: Form) -> None:
    """Nothing; ValueError where fields are missing, unknown, or of the wrong type."""
    types = {"format": (int,), **form.fields, "sha256": TEXT}
    if wrong := set(found) ^ set(types) - (set(form.defaults) - set(found)):
        state = "unknown" if wrong & set(found) else "missing"
        raise ValueError(f"it has {state} fields ({', '.join(sorted(wrong))}): a {form.noun} has {', '.join(types)}")
    if wrong := [key for key in found if not isinstance(found[key], types[key])]:
        raise ValueError(f"its field {wrong[0]!r} is a {type(found[wrong[0]]).__name__}: take the original file")
    for key in form.texts:
        items = found[key].values() if isinstance(found[key], dict) else found[key]
        if not all(isinstance(item, str) for item in items):
            raise ValueError(f"its field {key!r} holds something that is no text: take the original file")


def write(document: Mapping[str, Any], path: str | Path) -> None:
    """Put a document into a file, as `write_bytes` does."""
    write_bytes((json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode(), path)


def write_bytes(content: bytes, path: str | Path) -> None:
    """Put bytes into a file; a reader sees the old file or the new one, never half of it."""
    with replacing(path) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file to write into, which takes the place of `path` at the end; after an error it is gone, and `path` as it was.

    OSError, with the path's name, where there is no room, or one may not write there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to save {path.name} in: make it first")
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(f"{path} cannot be written ({reason}), and is as it was: make room, or save elsewhere") from error
    finally:
        part.unlink(missing_ok=True)


def read(path: str | Path, form: Form, parse: Callable[[Any], T]) -> T:
    """What `parse` makes of the document in a file. ValueError, FileNotFoundError: one sentence each, with the file's name."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {form.noun} file {path}: check the path")
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no whole JSON document ({error}): take the original file") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def are_whole(numbers: Sequence[Any], *, below: int | None = None) -> bool:
    """Whether these are whole numbers from 0 on, and less than `below` where that is given."""
    return all(type(n) is int and n >= 0 and (below is None or n < below) for n in numbers)


def digest(values: np.ndarray) -> str:
    """SHA-256 of an array's shape and little-endian float32 content."""
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    return hashlib.sha256(str(values.shape).encode() + content).hexdigest()
