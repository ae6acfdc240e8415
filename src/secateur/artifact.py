"""The form that every artifact has on disk: JSON for people to read and diff, arrays beside it. Needs no torch.

A checksum over the content shows edits and damage. It is no signature: whoever edits a file can make it anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save as safetensors_bytes

from secateur.files import UNREADABLE, check_file, fault, parsed, read_text, shown

ENTRY = "secateur"  # of a safetensors file's metadata: its JSON document
HASH_DIGITS = 16
HERE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # this machine, in the names of temporary files
TEXT, TEXT_OR_NONE = (str,), (str, type(None))
NUMBERS = re.compile(r"\[\n([-+\d.eE,\s]*)\]")  # a list of nothing else, which reads better on one line
T = TypeVar("T")


@dataclass(frozen=True)
class Form:
    """What the files of one kind of artifact have in common.

    noun: its name in messages. number: of its format. older: formats that are read as well. fields: name → Python types that
    its JSON may have, beside `format` and `sha256`, which all have. ordered: the field that maps names whose order counts.
    texts: fields full of text. defaults: of fields that a document has only if they differ. arrays: names of the float32
    arrays beside the document; then the file is safetensors with the document among its metadata. arrays_field: the
    document's field with their checksum.
    """

    noun: str
    number: int
    fields: Mapping[str, tuple[type, ...]]
    ordered: str
    texts: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    arrays: tuple[str, ...] = ()
    arrays_field: str = ""
    older: tuple[int, ...] = ()


def frozen(value: Any) -> Any:
    """A JSON value that nobody can change: read-only mappings and tuples. Raises TypeError if it is no JSON."""
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


def document_of(content: Mapping[str, Any], form: Form, arrays: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
    """The JSON document of an artifact: format number, its fields in the form's order, and their checksum."""
    if arrays:
        content = {**content, form.arrays_field: arrays_checksum(arrays, form)}
    stated = [name for name in form.fields if name not in form.defaults or content[name] != form.defaults[name]]
    body = {"format": form.number, **{name: thawed(content[name]) for name in stated}}
    return body | {"sha256": checksum(body, form)}


def checksum(body: Mapping[str, Any], form: Form) -> str:
    """SHA-256 of a document's content, whatever its layout."""
    content = {k: list(v.items()) if k == form.ordered else v for k, v in body.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def arrays_checksum(arrays: Mapping[str, np.ndarray], form: Form) -> str:
    """SHA-256 of the shapes and the little-endian float32 content of a form's arrays."""
    ordered = (arrays[name] for name in form.arrays)
    sums = [hashlib.sha256(str(x.shape).encode() + x.astype("<f4").tobytes()).hexdigest() for x in ordered]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def save(document: Mapping[str, Any], path: str | Path, *, arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Write a document as JSON, or with arrays as safetensors; a reader sees the old file or the new one, never half of it."""
    if arrays:
        entry = json.dumps(document, ensure_ascii=False)
        write_bytes(safetensors_bytes(dict(arrays), metadata={ENTRY: entry}), path)
    else:
        write_text(text_of(document), path)


def text_of(document: Mapping[str, Any]) -> str:
    """A document as its file has it."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return NUMBERS.sub(lambda match: " ".join(match[0].split()).replace("[ ", "[").replace(" ]", "]"), text) + "\n"


def load(path: str | Path, form: Form, parse: Callable[..., T], *, edited: bool = False) -> T:
    """What `parse(document, **arrays)` makes of a file.

    Raises FileNotFoundError or ValueError, one sentence with the file's name. edited: take a document that was changed by hand.
    """
    path = Path(path)
    if not path.is_file():
        check_file(path, wanted=f"a {form.noun} file")
        there = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {there}: give a {form.noun} file")
    check_file(path, wanted=f"a {form.noun} file")
    try:
        document, arrays = parts(path, form)
        check_document(document, form, edited=edited)
        if arrays and document[form.arrays_field] != arrays_checksum(arrays, form):
            raise ValueError("the checksum of its arrays is another than its document states: take the original file")
        return parse(document, **arrays)
    except UNREADABLE as error:
        raise ValueError(f"{path} is no whole {form.noun} file: {fault(path, error)}; give one that secateur wrote") from error
    except ValueError as error:
        raise ValueError(f"{path}: {shown(' '.join(str(error).split()))}") from error
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"{path}: its fields hold other things than those of a {form.noun}: take the original file") from error


def parts(path: Path, form: Form) -> tuple[Any, dict[str, np.ndarray]]:
    """The JSON document in a file, and the arrays beside it. Raises ValueError if it holds other things."""
    if not form.arrays:
        return parsed(read_text(path)), {}
    with safe_open(path, framework="np") as file:
        names, entries = sorted(file.keys()), file.metadata() or {}
        if names != sorted(form.arrays) or ENTRY not in entries:
            raise ValueError(
                f"it holds the arrays {names} and the entries {sorted(entries)}, and {form.noun} are {', '.join(form.arrays)} "
                f"with the entry {ENTRY!r}: give a file that secateur saved"
            )
        if others := {kind for name in names if (kind := file.get_slice(name).get_dtype()) != "F32"}:
            raise ValueError(f"its arrays are {', '.join(sorted(others))} and F32 is wanted: take the original file")
        return parsed(entries[ENTRY]), {name: file.get_tensor(name) for name in names}


def check_document(document: Any, form: Form, *, edited: bool) -> None:
    """Raises ValueError if a document is of another format, lacks or adds fields, or was changed and `edited` is False."""
    if not isinstance(document, dict) or "format" not in document:
        held = f"the fields {', '.join(document) or '–'}" if isinstance(document, dict) else f"a {type(document).__name__}"
        raise ValueError(f"it holds {held:.60} and is no {form.noun} file: give one that secateur wrote")
    if (number := document["format"]) not in (form.number, *form.older):
        raise ValueError(
            f"it is of format {number!r} and this version reads format {form.number}: make it again or update secateur"
        )
    check_fields(document, form)
    if not edited and document["sha256"] != (wanted := checksum(document, form)):
        raise ValueError(
            f"its checksum is {document['sha256'][:HASH_DIGITS]} but its content gives {wanted[:HASH_DIGITS]}, so it was "
            "changed by hand or in transit: take the original, or in Python load it with edited=True and save it again"
        )


def check_fields(document: Mapping[str, Any], form: Form) -> None:
    """Raises ValueError if fields are missing, unknown, or of the wrong type."""
    types = {"format": (int,), **form.fields, "sha256": TEXT}
    if wrong := set(document) ^ set(types) - (set(form.defaults) - set(document)):
        state = "unknown" if wrong & set(document) else "missing"
        raise ValueError(f"it has {state} fields ({', '.join(sorted(wrong))}): a {form.noun} file has {', '.join(types)}")
    if wrong := [key for key in document if not isinstance(document[key], types[key])]:
        raise ValueError(f"its field {wrong[0]!r} is a {type(document[wrong[0]]).__name__}: take the original file")
    for key in form.texts:
        items = document[key].values() if isinstance(document[key], dict) else document[key]
        if not all(isinstance(item, str) for item in items):
            raise ValueError(f"its field {key!r} holds something that is no text: take the original file")


def write_text(text: str, path: str | Path) -> None:
    """Put text into a file, as `write_bytes` does."""
    write_bytes(text.encode(), path)


def write_bytes(content: bytes, path: str | Path) -> None:
    """Put bytes into a file; a reader sees the old file or the new one, never half of it."""
    with replacing(path) as part:
        part.write_bytes(content)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file to write into, which takes the place of `path` at the end; after an error it is gone, and `path` as it was.

    Its name is its own, so that several may write `path` at once: the last to end has it. What killed writers of `path` left is
    taken away. Raises OSError with the path's name if there is no room, or one may not write there.
    """
    path = Path(path)
    check_place(path)
    for orphan in orphans(path, "part"):
        orphan.unlink(missing_ok=True)
    part = own_name(path, "part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(f"{path} cannot be written ({reason}), and is as it was: make room, or save elsewhere") from error
    finally:
        part.unlink(missing_ok=True)


def own_name(path: Path, word: str) -> Path:
    """A hidden name beside a path that nobody else takes. It says which process of which machine has it."""
    return path.with_name(f".{path.name}.{HERE}-{os.getpid()}-{uuid4().hex[:8]}.{word}")


def orphans(path: Path, word: str) -> list[Path]:
    """What has a name from `own_name` of a process of this machine that runs no longer."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{HERE}-(\d+)-[0-9a-f]{{8}}\.{word}")
    found = [(match, there) for there in path.parent.iterdir() if (match := pattern.fullmatch(there.name))]
    return [there for match, there in found if not is_running(int(match[1]))]


def is_running(process: int) -> bool:
    """Whether there is a process of this number; where that cannot be asked, True."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def check_place(path: Path, *, folder: bool = False, otherwise: str = "save elsewhere") -> None:
    """Raises OSError if nothing can be saved as `path`. folder: it is one, which is made with those above it.

    otherwise: what the message says to do.
    """
    above = next(there for there in (path.absolute(), *path.absolute().parents) if there.exists()) if folder else path.parent
    if not above.exists():
        raise FileNotFoundError(f"there is no folder {above} to save {path.name} in: make it first, or {otherwise}")
    if not above.is_dir():
        raise NotADirectoryError(f"{above} is a file, in which {path.name} cannot be saved: {otherwise}")
    try:
        TemporaryFile(dir=above).close()  # a permission may be there and the file system read-only
    except OSError as error:
        raise PermissionError(f"{path} cannot be written, since the folder {above} takes no new file: {otherwise}") from error


def check_word(name: str, word: str | None, words: Iterable[str | None]) -> None:
    """Raises ValueError if a word is none of those to choose among."""
    if word not in words:
        raise ValueError(f"there is no {name} {word!r}: choose {', '.join(filter(None, words))}")


def are_numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers."""
    return isinstance(values, Sequence) and all(
        isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in values
    )


def are_whole(numbers: Sequence[Any], *, below: int | None = None) -> bool:
    """Whether these are whole numbers from 0 on, and less than `below` if that is given."""
    return all(type(n) is int and n >= 0 and (below is None or n < below) for n in numbers)
