"""The artifact: what it refuses, that it comes back equal, how it prints; and the static rivals, on traced graphs."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest

import secateur
from secateur.denoiser.blocks import Blocks, find_blocks, live
from secateur.pipeline.schedulers import scheduler_signature
from secateur.schedule import baselines
from secateur.schedule.holds import HOLDS
from secateur.schedule.schedule import Schedule, load, save, schedule_from
from tiny import tiny

CHAIN = Blocks("Chain", "layer", ("a.0", "a.1", "a.2"), ("residual",) * 3, ((), (0,), (1,)), (2,))


@pytest.fixture(scope="module")
def stages() -> Blocks:
    return find_blocks(tiny("sd15"), "stage")


@pytest.fixture(scope="module")
def layers() -> Blocks:
    return find_blocks(tiny("sd15"), "layer")


@pytest.fixture
def schedule() -> Schedule:
    made = {"method": "hand", "seed": 3, "options": {"depth": [1, 2]}}
    return Schedule(CHAIN.names, ("###", ".#.", "..."), CHAIN.reuse, "Chain", timesteps=(9.0, 5.5, 1.0), made=made)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"grid": ("##", "##")}, "row 0 of the grid has 2 cells for 3 blocks"),
        ({"grid": ("###", "#x.")}, "'x'"),
        ({"grid": ("##.",)}, "call 0 has nothing to reuse.*##\\."),
        ({"grid": ()}, "no row at all"),
        ({"blocks": ("a", "a", "b")}, "3 block names, 2 of them different"),
        ({"reuse": ("output",)}, "3 blocks but 1 kinds of reuse"),
        ({"reuse": ("output", "input", "output")}, "'input'.*'output' or 'residual'"),
        ({"timesteps": (1.0,)}, "1 timesteps for 3 calls"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(schedule, change, says):
    with pytest.raises(ValueError, match=says):
        replace(schedule, **change)


def test_what_it_says_of_itself(schedule):
    assert (schedule.calls, schedule.runs(1), schedule.held(1), schedule.held(2)) == (3, (False, True, False), False, True)
    assert schedule.share == 4 / 9


def test_nobody_changes_it(schedule):
    with pytest.raises(TypeError):
        schedule.made["method"] = "other"
    with pytest.raises(TypeError):
        schedule.made["options"]["depth"][0] = 5
    with pytest.raises(TypeError, match="JSON and cannot hold a set"):
        replace(schedule, made={"x": {1}})


def test_saved_loaded_copied_and_pickled_it_is_equal(schedule, tmp_path):
    schedule.save(tmp_path / "s.json")
    again = Schedule.load(tmp_path / "s.json")
    assert again == schedule == copy.deepcopy(schedule) == pickle.loads(pickle.dumps(schedule))
    assert hash(again) == hash(schedule)
    assert again != replace(schedule, made={})
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]


def test_the_file_is_for_people(schedule, tmp_path):
    save(schedule, tmp_path / "s.json")
    lines = [line.strip() for line in (tmp_path / "s.json").read_text().splitlines()]
    assert {'"###",', '".#.",', '"..."', '"a.0": "residual",', '"format": 2,'} <= set(lines)


def damage(text: str, kind: str) -> str:
    found = json.loads(text)
    edits = {
        "cut": text[: len(text) // 2],
        "empty": "",
        "other": '["a schedule"]',
        "format": json.dumps(found | {"format": 3}),
        "extra": json.dumps(found | {"speed": 3}),
        "fewer": json.dumps({k: v for k, v in found.items() if k != "grid"}),
        "type": json.dumps(found | {"grid": "###"}),
        "cells": json.dumps(found | {"grid": [1, 2, 3]}),
        "edited": text.replace(".#.", "##."),
        "order": json.dumps(found | {"blocks": dict(reversed(found["blocks"].items()))}),
    }
    return edits[kind]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut", "no whole schedule file"),
        ("empty", "no whole schedule file"),
        ("other", "holds a list and is no schedule file: give one that secateur wrote"),
        ("format", "of format 3 and this version reads format 2"),
        ("extra", r"unknown fields \(speed\)"),
        ("fewer", r"missing fields \(grid\)"),
        ("type", "'grid' is a str"),
        ("cells", "no text"),
        ("edited", "its checksum is [0-9a-f]{16} but its content gives [0-9a-f]{16}.*edited=True"),
        ("order", "changed by hand"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence_with_its_name(schedule, tmp_path, kind, says):
    path = tmp_path / "s.json"
    save(schedule, path)
    path.write_text(damage(path.read_text(), kind))
    with pytest.raises(ValueError, match=says) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_layout_is_no_edit_and_an_edit_can_be_meant(schedule, tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps(schedule.document(), sort_keys=False))
    assert load(path) == schedule
    path.write_text(damage(path.read_text(), "edited"))
    assert load(path, edited=True).grid[1] == "##."


def test_missing_places_are_named(schedule, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.json does not exist: give a schedule file"):
        load(tmp_path / "nowhere.json")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere.*make it first"):
        save(schedule, tmp_path / "nowhere" / "s.json")


def test_a_scheduler_is_known_by_class_and_configuration(schedule):
    ddim = diffusers.DDIMScheduler()
    bound = schedule.bound_to(ddim)
    assert (bound.scheduler, bound.scheduler_hash) == scheduler_signature(diffusers.DDIMScheduler.from_config(ddim.config))
    assert scheduler_signature(diffusers.DDIMScheduler(beta_end=0.01))[1] != bound.scheduler_hash
    assert schedule_from(bound.document()) == bound


ALONE = """
import importlib, sys, types
package = sys.modules["secateur"] = types.ModuleType("secateur")  # the real package does import torch
package.__path__ = [sys.argv[1]]
importlib.import_module(f"secateur.{sys.argv[2]}")
sys.exit("torch" in sys.modules)
"""


@pytest.mark.parametrize("module", ["artifact", "pruning.plan", "knapsack"])
def test_it_needs_no_torch(module):
    folder = str(Path(secateur.__file__).parent)
    assert subprocess.run([sys.executable, "-c", ALONE, folder, module], check=False).returncode == 0


@pytest.mark.parametrize(("calls", "rows"), [(50, 1), (100, 2)])
def test_it_prints_narrow_enough_and_complete(layers, calls, rows):
    schedule = baselines.deepcache(layers, calls, interval=3)
    head, *lines = str(schedule).splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) == rows * (1 + len(layers))
    assert sum(line.count("#") for line in lines) == round(schedule.share * calls * len(layers))
    assert f"{calls} calls × 44 blocks" in head


def test_the_drawing(schedule):
    head, *lines = str(schedule).splitlines()
    assert head == "Chain, any scheduler: 3 calls × 3 blocks, 44.4% of the cells run, 1 calls held whole"
    assert lines == ["call  0", "a.0   #..", "a.1   ##.", "a.2   #.."]


def test_a_sampler_of_whole_calls_is_drawn_by_its_timesteps(schedule):
    whole = replace(schedule, grid=("###", "###"), timesteps=(981, 260.5))
    assert str(whole) == "Chain, any scheduler: a sampler of 2 calls, whole, at the timesteps\n981 260.5"
    folded = replace(whole, made={"folded_from": {"calls": 50, "run": [0, 36], "hold": "output"}})
    assert str(folded).startswith("Chain, any scheduler: a sampler of 2 calls for 50, whole")
    found = replace(whole, made={"dense_calls": 51})  # as a search says it
    assert (whole.dense_calls, folded.dense_calls, found.dense_calls) == (2, 50, 51)
    assert "66.7% of the cells run" in str(replace(whole, grid=("###", "#..")))


# the rivals


def test_dense_uniform_and_chosen_hold_whole_calls(stages):
    full, none = "#" * 9, "." * 9
    assert set(baselines.dense(stages, 4).grid) == {full}
    assert baselines.uniform(stages, 5, every=2).grid == (full, none, full, none, full)
    assert baselines.chosen(stages, 4, run=[3, 0]).grid == (full, none, none, full)


@pytest.mark.parametrize(
    ("calls", "keep", "running"), [(50, 0.2, 10), (50, 1.0, 50), (50, 0.001, 1), (7, 0.5, 4), (20, 0.33, 7)]
)
def test_uniform_by_keep_runs_that_fraction_evenly(stages, calls, keep, running):
    schedule = baselines.uniform(stages, calls, keep=keep)
    at = [t for t in range(calls) if not schedule.held(t)]
    gaps = {b - a for a, b in zip(at, [*at[1:], calls], strict=True)}
    assert len(at) == running
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("hold", HOLDS)
def test_evenly_held_calls_are_those_of_uniform_by_keep_and_of_chosen(stages, hold):
    held = baselines.evenly(stages, 7, 3, hold=hold)
    assert (held.hold, [t for t in range(7) if not held.held(t)]) == (hold, [0, 2, 4])
    others = (baselines.uniform(stages, 7, keep=3 / 7, hold=hold), baselines.chosen(stages, 7, run=[0, 2, 4], hold=hold))
    assert {replace(other, made=held.made) for other in others} == {held}


def test_deepcache_on_stages_runs_the_outermost_pair(stages):
    assert baselines.deepcache(stages, 3, interval=3).grid[1] == "#.......#"
    assert baselines.deepcache(stages, 3, interval=3, depth=2).grid[1] == "##.....##"


def test_deepcache_on_layers_runs_the_last_readers_and_what_their_skips_need(layers):
    running = [n for n, c in zip(layers.names, baselines.deepcache(layers, 2, interval=2).grid[1], strict=True) if c == "#"]
    down = ["down_blocks.0.resnets.0", "down_blocks.0.attentions.0"]
    up = [f"up_blocks.3.{kind}.{k}" for k in (1, 2) for kind in ("resnets", "attentions")]
    assert running == down + up


def test_fora_and_delta_dit():
    assert baselines.fora(CHAIN, 4, interval=3).grid == ("###", "..#", "..#", "###")
    assert baselines.delta_dit(CHAIN, 5, interval=2, depth=2, boundary=3).grid == ("###", "#..", "###", "..#", "###")


def test_every_rival_is_closed(stages, layers):
    for blocks in (stages, layers):
        for schedule in (baselines.deepcache(blocks, 6, interval=3, depth=2), baselines.fora(blocks, 6, interval=2)):
            assert all(live(schedule.runs(t), blocks) == schedule.runs(t) for t in range(schedule.calls))


def test_the_published_schedule(stages, layers):
    schedule = baselines.published_dip_go(stages)
    assert [t for t in range(schedule.calls) if not schedule.held(t)] == [0, 7, 13, 19, 20, 21, 26, 32, 39, 48]
    assert schedule.grid[7] == "###.#####"
    assert (schedule.calls, schedule.scheduler, schedule.share) == (50, "DDIMScheduler", 89 / 450)
    with pytest.raises(ValueError, match=r"SD-1\.5's 9 stages.*granularity 'stage'"):
        baselines.published_dip_go(layers)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda b: baselines.uniform(b, 5, keep=0.0), "above 0 and at most 1; got 0.0"),
        (lambda b: baselines.uniform(b, 5, keep=1.5), "got 1.5"),
        (lambda b: baselines.uniform(b, 5), "give one of the two"),
        (lambda b: baselines.uniform(b, 5, every=2, keep=0.5), "give one of the two"),
        (lambda b: baselines.uniform(b, 5, every=0), "interval 0: give 1 or more"),
        (lambda b: baselines.evenly(b, 5, 0), "found 0 calls that run of 5: give 1 … 5"),
        (lambda b: baselines.evenly(b, 5, 6), "found 6 calls"),
        (lambda b: baselines.fora(b, 5, interval=-1), "interval -1"),
        (lambda b: baselines.chosen(b, 5, run=[1]), "call 0 is missing"),
        (lambda b: baselines.chosen(b, 5, run=[0, 5]), "found call 5: choose among 0 … 4"),
        (lambda b: baselines.deepcache(b, 5, interval=2, depth=5), "depth 5: choose 1 … 4"),
        (lambda b: baselines.deepcache(CHAIN, 5, interval=2), "Chain has no skip connections"),
        (lambda b: baselines.delta_dit(b, 5, interval=2), "reuses outputs.*try deepcache"),
        (lambda b: baselines.delta_dit(CHAIN, 5, interval=2, depth=3), "depth 3 and boundary 2: choose 1 … 2"),
        (lambda b: baselines.dense(b, 0), "found calls=0: a schedule is for 1 call or more"),
    ],
)
def test_impossible_rivals_are_refused_in_a_sentence(stages, make, says):
    with pytest.raises(ValueError, match=says):
        make(stages)
