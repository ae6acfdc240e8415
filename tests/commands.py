"""The command line, called in the test's own process."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from secateur.distilling import pictures


def last_json(out: str) -> dict:
    return json.loads(out.splitlines()[-1])


def refused(result: tuple[int, str, str], says: str) -> None:
    code, _, error = result
    line = error.strip().splitlines()[-1]
    assert code != 0
    assert line.startswith("secateur: ")
    assert says in line
    assert "Traceback" not in error


def labelled(path, labels):
    lines = [json.dumps({"file_name": f"{k}.png", "label": label}) for k, label in enumerate(labels)]
    (folder(path, count=len(labels)) / pictures.METADATA).write_text("\n".join(lines))
    return path


def folder(path, *, count: int = 3, size=(20, 12), text: str = "text"):
    """A folder of random pictures with captions."""
    rng = np.random.default_rng(0)
    lines = []
    for k in range(count):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path / f"{k}.png")
        lines.append(json.dumps({"file_name": f"{k}.png", text: f"caption {k}"}))
    (path / pictures.METADATA).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
