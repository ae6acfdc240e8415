"""examples/quickstart.ipynb: its cells run in their order, and what it says of them is so."""

from __future__ import annotations

import base64
import io
import json
import tomllib
from pathlib import Path
from typing import Any

from PIL import Image

import secateur

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
INSTALL, *CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def test_its_cells_run_and_the_schedule_is_nearer_than_plain_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    for source in CODE:
        exec(compile(source, NOTEBOOK.name, "exec"), space)
    assert space["psnr"](space["ours"]) > space["psnr"](space["plain"]) + 5
    assert secateur.load("found.json").calls == space["found"].calls == 6
    assert space["row"].size == (3 * 192, 192)


def test_it_installs_itself_first_and_opens_in_colab():
    assert INSTALL.startswith("%pip install ")
    assert INSTALL.count(f"git+{REPOSITORY}") == 2
    assert (ROOT / INSTALL.partition("#subdirectory=")[2].rstrip('"') / "pyproject.toml").is_file()
    place = NOTEBOOK.relative_to(ROOT).as_posix()
    assert (
        f"https://colab.research.google.com/github/{REPOSITORY.removeprefix('https://github.com/')}/blob/main/{place}"
        in "".join(CELLS[0]["source"])
    )


def test_it_shows_what_it_gave_and_is_small():
    outputs = [output for cell in CELLS for output in cell.get("outputs", ())]
    assert {output["output_type"] for output in outputs} == {"execute_result", "stream"}
    picture = next(output["data"]["image/jpeg"] for output in outputs if "data" in output)
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (3 * 192, 192)
    assert NOTEBOOK.stat().st_size < 50_000
