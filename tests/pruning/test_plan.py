"""The plan: what it refuses, that it comes back equal, how it prints, and the handcrafted ones."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import pytest

from secateur.pruning.plan import Plan
from secateur.pruning.presets import bk_sdm_base, bk_sdm_small, bk_sdm_tiny


@pytest.fixture
def plan() -> Plan:
    layers = ("down_blocks.0.attentions.1", "down_blocks.1.resnets.0", "up_blocks.0.resnets.1")
    return Plan(layers, ("identity", "keep_shortcut", "drop_skip"), "Net", made={"method": "hand", "scores": [0.5, 1e-3]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layers": ("a", "a", "b")}, "3 layers, 2 of them different"),
        ({"layers": (), "removals": ()}, "0 layers"),
        ({"removals": ("identity",)}, "3 layers but 1 removals"),
        ({"removals": ("identity", "identity", "cut")}, "'cut': use 'identity', 'drop_skip', 'keep_shortcut'"),
        ({"layers": ("a.1", "a.10", "a.1.b")}, r"a\.1\.b is in a layer that goes anyway"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(plan, change, says):
    with pytest.raises(ValueError, match=says):
        replace(plan, **change)


def test_nobody_changes_it(plan):
    with pytest.raises(TypeError):
        plan.made["scores"][0] = 1.0
    with pytest.raises(TypeError, match="JSON and cannot hold a set"):
        replace(plan, made={"x": {1}})


def test_law_4_saved_loaded_copied_and_pickled_it_is_equal(plan, tmp_path):
    plan.save(tmp_path / "p.json")
    again = Plan.load(tmp_path / "p.json")
    assert again == plan == copy.deepcopy(plan) == pickle.loads(pickle.dumps(plan))
    assert hash(again) == hash(plan)
    assert again != replace(plan, made={})
    assert [p.name for p in tmp_path.iterdir()] == ["p.json"]


def test_the_file_is_for_people(plan, tmp_path):
    plan.save(tmp_path / "p.json")
    lines = {line.strip() for line in (tmp_path / "p.json").read_text().splitlines()}
    assert {'"format": 1,', '"denoiser": "Net",', '"down_blocks.1.resnets.0": "keep_shortcut",'} <= lines


def damage(text: str, kind: str) -> str:
    found = json.loads(text)
    edits = {
        "cut": text[: len(text) // 2],
        "format": json.dumps(found | {"format": 2}),
        "schedule": json.dumps(found | {"grid": ["#"]}),
        "fewer": json.dumps({k: v for k, v in found.items() if k != "layers"}),
        "type": json.dumps(found | {"layers": list(found["layers"])}),
        "number": json.dumps(found | {"layers": {"a": 1}}),
        "edited": text.replace("attentions.1", "attentions.0"),
        "order": json.dumps(found | {"layers": dict(reversed(found["layers"].items()))}),
    }
    return edits[kind]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut", "no whole plan file"),
        ("format", "of format 2 and this version reads format 1"),
        ("schedule", r"unknown fields \(grid\): a plan file has format, denoiser, made, layers, sha256"),
        ("fewer", r"missing fields \(layers\)"),
        ("type", "'layers' is a list"),
        ("number", "'layers' holds something that is no text"),
        ("edited", "its checksum is [0-9a-f]{16} but its content gives [0-9a-f]{16}.*edited=True"),
        ("order", "changed by hand"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence_with_its_name(plan, tmp_path, kind, says):
    path = tmp_path / "p.json"
    plan.save(path)
    path.write_text(damage(path.read_text(), kind))
    with pytest.raises(ValueError, match=says) as caught:
        Plan.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_layout_is_no_edit_and_an_edit_can_be_meant(plan, tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(plan.document()))
    assert Plan.load(path) == plan
    path.write_text(damage(path.read_text(), "edited"))
    assert Plan.load(path, edited=True).layers[0] == "down_blocks.0.attentions.0"


def test_missing_places_are_named(plan, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.json does not exist: give a plan file"):
        Plan.load(tmp_path / "nowhere.json")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere.*make it first"):
        plan.save(tmp_path / "nowhere" / "p.json")


def test_it_prints(plan):
    assert str(plan).splitlines() == [
        "Net: 3 layers go",
        "down_blocks.0.attentions.1  identity",
        "down_blocks.1.resnets.0     keep_shortcut",
        "up_blocks.0.resnets.1       drop_skip",
    ]


def test_the_handcrafted_ones_hold_each_other():
    base, small, tiny = (set(make().items()) for make in (bk_sdm_base, bk_sdm_small, bk_sdm_tiny))
    assert base < small < tiny
    assert [len(p) for p in (base, small, tiny)] == [14, 17, 22]
