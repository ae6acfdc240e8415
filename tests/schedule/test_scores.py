"""Scores: what they refuse, and that a file gives back all of them or one sentence."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from secateur.artifact import ENTRY, checksum
from secateur.denoiser import macs
from secateur.denoiser.blocks import Blocks
from secateur.denoiser.macs import Macs
from secateur.schedule.scores import ARRAY, FORM, Scores
from tiny import tiny

CHAIN = Blocks("Chain", "layer", ("a", "b", "c"), ("output", "residual", "output"), ((), (0,), (0, 1)), (2,))
COUNTED = Macs(CHAIN, (4, 5, 6), (0, 1, 0), 2, 0)
VALUES = np.arange(6).reshape(2, 3) / 7


@pytest.fixture
def scores() -> Scores:
    made = {"method": "hand", "seed": 3, "curve": [0.5, 0.25], "prompts": ["a fox – 狐"]}
    return Scores(VALUES, COUNTED, "DDIMScheduler", "0123456789abcdef", made)


def equal(a: Scores, b: Scores) -> bool:
    rest = [(s.macs, s.scheduler, s.scheduler_hash, s.made) for s in (a, b)]
    return a.values.dtype == b.values.dtype and np.array_equal(a.values, b.values) and rest[0] == rest[1]


def test_saved_and_loaded_they_are_equal(scores, tmp_path):
    scores.save(tmp_path / "s.safetensors")
    assert equal(Scores.load(tmp_path / "s.safetensors"), scores)
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


def test_the_unit_is_saved_and_files_from_before_there_was_one_are_in_macs(scores, tmp_path):
    path = tmp_path / "s.safetensors"
    scores.save(path)
    with safe_open(path, framework="np") as file:
        assert "unit" not in json.loads(file.metadata()[ENTRY])
    assert Scores.load(path).macs.unit == "macs"
    timed = replace(scores, macs=replace(COUNTED, unit="ns"))
    timed.save(path)
    assert equal(Scores.load(path), timed)
    with pytest.raises(ValueError, match="found the unit 'joules': use 'macs' or 'ns'"):
        replace(COUNTED, unit="joules")


@pytest.mark.parametrize(("name", "granularity"), [("sd15", "layer"), ("sdxl", "stage"), ("dit", None), ("flux", None)])
def test_those_of_a_real_denoiser_need_no_denoiser_later(name, granularity, tmp_path):
    counted = macs.count(tiny(name), granularity)
    values = np.random.default_rng(0).normal(size=(4, len(counted.blocks)))
    Scores(values, counted).save(tmp_path / "s.safetensors")
    assert equal(Scores.load(tmp_path / "s.safetensors"), Scores(values, counted))


def test_nobody_changes_them(scores):
    assert scores.values.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        scores.values[1, 1] = 0
    with pytest.raises(TypeError):
        scores.made["curve"][0] = 1
    mine = VALUES.astype(np.float32)
    kept = Scores(mine, COUNTED)
    mine[:] = 9
    assert np.array_equal(kept.values, VALUES.astype(np.float32))


def chain(**changes) -> Macs:
    return replace(COUNTED, blocks=replace(CHAIN, **changes))


def test_a_failed_save_leaves_the_old_file(scores, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*where to save s.safetensors"):
        scores.save(tmp_path / "where" / "s.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"values": VALUES[:, :2]}, r"shape \(2, 2\) for 3 blocks: give \(T, 3\)"),
        ({"values": VALUES[0]}, r"shape \(3,\)"),
        ({"values": VALUES[:0]}, r"shape \(0, 3\)"),
        ({"values": np.where(VALUES > 0.6, np.nan, VALUES)}, "score of c at call 1 is nan"),
        ({"values": np.where(VALUES > 0.6, 1e300, VALUES)}, "score of c at call 1 is inf"),
        ({"macs": chain(names=("a", "b", "a"))}, "3 block names, 2 of them different"),
        ({"macs": chain(producers=((), (0,), (0, 2)))}, r"c reads blocks \[0, 2\]: give .* 0 … 1"),
        ({"macs": chain(producers=((), (-1,), (0,)))}, r"b reads blocks \[-1\]"),
        ({"macs": chain(sinks=(3,))}, r"sinks \[3\]"),
        ({"macs": chain(sinks=())}, r"sinks \[\]"),
        ({"macs": replace(COUNTED, linear=(4, 5))}, "MACs of 2 blocks and 3 blocks"),
        ({"macs": replace(COUNTED, attention=(0, 1, -1))}, "whole numbers"),
        ({"macs": replace(COUNTED, rest_linear=0.5)}, "whole numbers"),
        ({"macs": Macs(CHAIN, (0, 0, 0), (0, 0, 0), 0, 0)}, "not all of them 0"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(scores, change, says):
    with pytest.raises(ValueError, match=says) as caught:
        replace(scores, **change)
    assert "\n" not in str(caught.value)


def parts(path) -> tuple[dict, np.ndarray]:
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()[ENTRY]), file.get_tensor(ARRAY)


def rewritten(path, *, sum_up: bool = True, **changes) -> None:
    """The file again, with other fields and a checksum that fits them unless `sum_up` is False."""
    found, values = parts(path)
    found = {key: value for key, value in (found | changes).items() if value is not ...}
    found |= {"sha256": checksum(found, FORM)} if sum_up else {}
    save_file({ARRAY: values}, path, metadata={ENTRY: json.dumps(found)})


def spoil(path, kind: str) -> None:
    found, values = parts(path)
    entry = {ENTRY: json.dumps(found)}
    spoilt = {
        "cut": lambda: path.write_bytes(path.read_bytes()[:-4]),
        "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text('{"format": 1}'),
        "weights": lambda: save_file({"conv.weight": values}, path),
        "two": lambda: save_file({ARRAY: values, "more": values}, path, metadata=entry),
        "no JSON": lambda: save_file({ARRAY: values}, path, metadata={ENTRY: entry[ENTRY][:50]}),
        "double": lambda: save_file({ARRAY: values.astype(np.float64)}, path, metadata=entry),
        "other values": lambda: save_file({ARRAY: values[:, ::-1].copy()}, path, metadata=entry),
        "other shape": lambda: save_file({ARRAY: values.reshape(3, 2)}, path, metadata=entry),
        "format": lambda: rewritten(path, format=2),
        "fewer": lambda: rewritten(path, sinks=...),
        "extra": lambda: rewritten(path, speed=3),
        "type": lambda: rewritten(path, linear="4, 5, 6"),
        "edited": lambda: rewritten(path, sum_up=False, linear=[4, 5, 7]),
        "edges": lambda: rewritten(path, producers=[[], 0, [1]]),
        "forward": lambda: rewritten(path, producers=[[], [2], [1]]),
        "counts": lambda: rewritten(path, linear=[4, 5, "6"]),
        "kinds": lambda: rewritten(path, blocks={"a": "output", "b": "input", "c": "output"}),
        "names": lambda: rewritten(path, blocks={"a": "output", "c": "output"}),
    }
    spoilt[kind]()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut", "no whole scores file"),
        ("empty", "no whole scores file"),
        ("text", "no whole scores file"),
        ("weights", r"holds the arrays \['conv.weight'\] and the entries \[\]"),
        ("two", r"\['more', 'scores'\]"),
        ("no JSON", "no whole scores file"),
        ("double", "its arrays are F64 and F32 is wanted"),
        ("other values", "checksum of its arrays"),
        ("other shape", "checksum of its arrays"),
        ("format", "of format 2 and this version reads format 1"),
        ("fewer", r"missing fields \(sinks\)"),
        ("extra", r"unknown fields \(speed\)"),
        ("type", "'linear' is a str"),
        ("edited", "changed by hand or in transit"),
        ("edges", "'producers' holds something that is no list"),
        ("forward", r"b reads blocks \[2\]"),
        ("counts", "whole numbers"),
        ("kinds", r"reuse \['input'\]"),
        ("names", "found 2 names, 2 reuses and 3 lists of producers"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence_with_its_name(scores, tmp_path, kind, says):
    path = tmp_path / "s.safetensors"
    scores.save(path)
    spoil(path, kind)
    with pytest.raises(ValueError, match=says) as caught:
        Scores.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.safetensors does not exist: give a scores file"):
        Scores.load(tmp_path / "nowhere.safetensors")
