"""Examples on disk: kept whole, made part by part, gone on with after a stop."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from secateur.distilling import store
from secateur.pipeline.examples import Examples, concatenate
from tiny_pipes import noise


def test_examples_are_kept_whole_and_known_by_how_they_were_made(tmp_path):
    nested = {"text_embeds": noise(1, 3, 6), "time_ids": torch.ones(3, 6, dtype=torch.long), "none": None}
    shared = {"img_ids": noise(2, 4, 3), "joint_attention_kwargs": {"scale": 0.5}, "flag": True}
    made = Examples(noise(3, 3, 4, 2, 2), {"added": nested, "labels": torch.arange(3)}, shared, "hidden_states", 0.001)
    path = tmp_path / "deeper" / "e.safetensors"
    store.save(made, path, made={"seed": 1})
    found = store.load(path, made={"seed": 1})
    assert torch.equal(found.latents, made.latents)
    assert torch.equal(found.conditions["labels"], made.conditions["labels"])
    assert all(torch.equal(found.conditions["added"][k], nested[k]) for k in ("text_embeds", "time_ids"))
    assert found.conditions["added"]["none"] is None
    assert torch.equal(found.shared["img_ids"], shared["img_ids"])
    assert {k: v for k, v in found.shared.items() if k != "img_ids"} == {k: v for k, v in shared.items() if k != "img_ids"}
    assert (found.stream, found.timestep_scale, len(store.load(path))) == ("hidden_states", 0.001, 3)
    with pytest.raises(ValueError, match="holds a set of examples whose seed is 1 and this one's is 2"):
        store.load(path, made={"seed": 2})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="no whole set of examples"):
        store.load(path)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Files of two examples."""
    monkeypatch.setattr(store, "PART", 2)


def whole(count: int) -> Examples:
    """Examples that tell their numbers."""
    latents, words = noise(1, count, 4, 2, 2), noise(2, count, 3, 8).half()
    return Examples(latents, {"words": {"of": words}, "labels": torch.arange(count)}, {"sizes": torch.ones(2)})


def cut(examples: Examples, numbers: range) -> Examples:
    own = examples.conditions
    at = slice(numbers.start, numbers.stop)
    conditions = {"words": {"of": own["words"]["of"][at]}, "labels": own["labels"][at]}
    return Examples(examples.latents[at], conditions, examples.shared)


class Source:
    """Parts of `whole`, noting which were asked for; it breaks where told."""

    def __init__(self, count: int, *, size: int, breaks: int | None = None):
        self.whole, self.size, self.breaks, self.begun = whole(count), size, breaks, []

    def __call__(self, first: int) -> Iterator[Examples]:
        for start in range(first, len(self.whole), self.size):
            self.begun.append(start)
            if start == self.breaks:
                raise KeyboardInterrupt
            yield cut(self.whole, range(start, min(start + self.size, len(self.whole))))


def equal(a: Examples, b: Examples) -> bool:
    pairs = [(x.latents, x.conditions["labels"], x.conditions["words"]["of"], x.shared["sizes"]) for x in (a, b)]
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(*pairs, strict=True))


def begun(tmp_path):
    """A file whose making was stopped after 4 of 9 examples, in parts of 2."""
    path, stopped = tmp_path / "examples.safetensors", Source(9, size=2, breaks=4)
    with pytest.raises(KeyboardInterrupt):
        list(store.making(stopped, path, made={"seed": 1}))
    assert not path.exists()
    return path


def test_making_goes_on_after_a_stop_with_parts_of_any_size(tmp_path):
    path, again = begun(tmp_path), Source(9, size=3)
    assert list(store.making(again, path, made={"seed": 1})) == [4, 7, 9]
    assert again.begun == [4, 7]
    assert equal(store.load(path, made={"seed": 1}), whole(9))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("seed", "broken", "from_number"), [(1, False, 4), (2, False, 0), (1, True, 2)])
def test_parts_that_are_damaged_or_of_other_data_are_made_again(tmp_path, seed, broken, from_number):
    path, again = begun(tmp_path), Source(9, size=2)
    last = max((tmp_path / ".examples.parts").iterdir())
    if broken:
        last.write_bytes(last.read_bytes()[:-5])
    list(store.making(again, path, made={"seed": seed}))
    assert again.begun == list(range(from_number, 9, 2))
    assert equal(store.load(path, made={"seed": seed}), whole(9))


def test_small_parts_share_a_file_and_none_is_lost_when_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PART", 4)
    path = tmp_path / "examples.safetensors"
    with pytest.raises(KeyboardInterrupt):
        list(store.making(Source(12, size=2, breaks=10), path, made={}))
    assert sorted(file.stem for file in (tmp_path / ".examples.parts").iterdir()) == ["000000000", "000000004", "000000008"]
    again = Source(12, size=2)
    assert list(store.making(again, path, made={})) == [10, 12]
    assert equal(store.load(path), whole(12))


def test_joining_that_finds_no_room_says_so_and_leaves_the_parts(tmp_path, monkeypatch):
    path = tmp_path / "examples.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(store, "disk_usage", lambda folder: SimpleNamespace(free=1000))
        with pytest.raises(OSError, match=r"examples.safetensors takes 0.0 GB and 0.0 are free: make room"):
            list(store.making(Source(5, size=2), path, made={}))
    assert not path.exists()
    again = Source(5, size=2)
    assert list(store.making(again, path, made={})) == [5]
    assert not again.begun
    assert equal(store.load(path), whole(5))


def test_parts_of_other_shapes_are_refused():
    one, other = Examples(noise(1, 2, 4, 2, 2), {}), Examples(noise(1, 2, 4, 4, 4), {})
    with pytest.raises(ValueError, match="give pictures of one size"):
        concatenate([one, other])
