"""The docs site: what its first pages tell a reader to type runs and gives what they say; all of it together is short."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import secateur

DOCS = Path(__file__).parent.parent / "docs"
NOT_READ = (r"<!-- ([\w-]+) -->.*?<!-- /\1 -->", r"^ *```.*?^ *```[^\n]*$")  # generated tables, and code


def snippets(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def run(snippets: list[str], page: str, **space: Any) -> dict[str, Any]:
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), space)
    return space


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("quickstart"))
        return run(snippets("quickstart.md"), "quickstart.md")


def test_the_quick_start_draws_nearly_the_same_picture_by_ten_calls(quickstart):
    pipe, schedule, own = quickstart["pipe"], quickstart["schedule"], quickstart["pipe"].scheduler
    dense, ours, evenly = (np.asarray(quickstart[name], dtype=float) for name in ("dense", "ours", "evenly"))
    assert np.abs(ours - dense).mean() < np.abs(evenly - dense).mean() < 8
    assert (schedule.calls, schedule.dense_calls) == (10, 50)
    pipe.scheduler = schedule.sampler(own)
    call = {"num_inference_steps": schedule.calls, "guidance_scale": 5.0, "generator": torch.Generator().manual_seed(7)}
    again = pipe(quickstart["prompt"], **call).images[0]
    pipe.scheduler = own
    assert np.array_equal(np.asarray(again), ours)


def test_img2img_and_inpainting_make_the_calls_that_the_page_says(quickstart, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(secateur.zoo.schedule("emoji-sd"), "schedule.json")
    page, pipe, calls = "howto/img2img-controlnet-lora.md", quickstart["pipe"], []
    counted = pipe.unet.mid_block.register_forward_hook(lambda *_: calls.append(1))
    picture = quickstart["dense"]
    given = {"secateur": secateur, "pipe": pipe, "prompt": quickstart["prompt"], "picture": picture}
    space = run(snippets(page)[:2], page, **given, mask=Image.new("L", picture.size, 255))
    counted.remove()
    assert isinstance(space["image"], Image.Image)
    evenly = [k * 50 // 16 for k in range(16)]  # a third of 50 calls; the image begins at call 20, which then runs too
    assert sum(calls) == len({20, *(t for t in evenly if t >= 20)}) + 10


def words(page: Path) -> int:
    text = page.read_text()
    for pattern in NOT_READ:
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE)
    return sum(any(map(str.isalnum, word)) for word in text.split())


def test_the_site_has_at_most_9000_words():
    counts = {page.relative_to(DOCS).as_posix(): words(page) for page in DOCS.rglob("*.md") if page.parent.name != "upstream"}
    assert sum(counts.values()) <= 9000, sorted(counts.items(), key=lambda item: -item[1])
