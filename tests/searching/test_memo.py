"""What a search measured, kept in a folder: known again to the bit, refused to others, gone at the end."""

from __future__ import annotations

import json

import pytest
import torch

from secateur.pipeline.trajectory import record
from secateur.searching.memo import ARGUMENTS, Memo, memo_in, recorded

ASKED = {"keep": 0.5, "seed": 1}


def ones() -> dict[str, torch.Tensor]:
    return {"ones": torch.ones(3, dtype=torch.float64)}


def never() -> dict[str, torch.Tensor]:
    pytest.fail("made again")


@pytest.mark.parametrize("folder", ["work", None])
def test_a_trajectory_is_known_to_the_bit(told, tmp_path, folder, monkeypatch):
    pipe, seen = told
    how = {"seeds": seen.seeds, "batch_size": 8, **seen.options}
    memo = memo_in(tmp_path / "work" if folder else None, ASKED)
    fresh = recorded(memo, pipe, seen.conditions, **how)
    if folder:
        monkeypatch.setattr("secateur.searching.memo.record", lambda *args, **kwargs: pytest.fail("recorded again"))
        fresh = recorded(memo_in(tmp_path / "work", ASKED), pipe, seen.conditions, **how)
    whole = record(pipe, seen.conditions, **how)
    assert torch.equal(fresh.latents, whole.latents)
    assert torch.equal(fresh.outputs, whole.outputs)
    assert (fresh.images == whole.images).all()
    assert (fresh.timesteps, fresh.conditions, fresh.seeds) == (whole.timesteps, whole.conditions, whole.seeds)
    assert dict(fresh.options) == dict(whole.options)


def test_values_are_known_by_name_and_key_in_the_next_run(tmp_path):
    memo_in(tmp_path, ASKED)("ones", [1, (2.0, "three")], ones)
    memo = memo_in(tmp_path, ASKED)
    assert torch.equal(memo("ones", [1, (2.0, "three")], never)["ones"], ones()["ones"])
    for name, key in (("ones", [1, (2.0, "four")]), ("others", [1, (2.0, "three")])):
        made = []
        memo(name, key, lambda made=made: made.append(1) or ones())
        assert made == [1]


def test_another_search_is_refused_unless_it_may_begin_afresh(tmp_path):
    memo_in(tmp_path, ASKED)("ones", [], ones)
    with pytest.raises(ValueError, match=r"holds a search whose keep is 0\.5 and this one's is 0\.4: give the same again"):
        memo_in(tmp_path, {**ASKED, "keep": 0.4})
    memo_in(tmp_path, ASKED, afresh=True)("ones", [], never)
    made = []
    memo_in(tmp_path, {**ASKED, "keep": 0.4}, afresh=True)("ones", [], lambda: made.append(1) or ones())
    assert made == [1]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match=r"holds letter\.txt and no search to go on with"):
        memo_in(tmp_path, ASKED, afresh=True)
    (tmp_path / "letter.txt").rename(tmp_path.with_name("letter.txt"))
    memo = memo_in(tmp_path, ASKED)
    memo("ones", [], ones)
    (tmp_path / "letter.txt").write_text("dear")
    memo.end()
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_a_damaged_value_is_named(tmp_path, damage):
    memo_in(tmp_path, ASKED)("ones", [], ones)
    [path] = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    with pytest.raises(ValueError, match=f"{path.name} is no whole search to go on from"):
        memo_in(tmp_path, ASKED)("ones", [], never)


def test_a_damaged_list_of_arguments_is_named(tmp_path):
    memo_in(tmp_path, ASKED)
    for content in ("", "[", "[]", json.dumps({"format": 1}), json.dumps({"format": 7, "arguments": {}})):
        (tmp_path / ARGUMENTS).write_text(content)
        with pytest.raises(ValueError, match="search"):
            memo_in(tmp_path, ASKED)


def test_of_several_processes_one_writes(tmp_path):
    class Accelerator:
        is_main_process = False

        def wait_for_everyone(self):
            pass

    memo = memo_in(tmp_path, ASKED, accelerator=Accelerator())
    assert torch.equal(memo("ones", [], ones)["ones"], ones()["ones"])
    memo.end()
    assert not list(tmp_path.iterdir())
    assert memo_in(None, ASKED) == Memo()
