"""Artifacts as nobody wrote them: each mutation is refused in a sentence, or gives the value that was saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from secateur.artifact import ENTRY, Form, checksum
from secateur.denoiser.blocks import Blocks
from secateur.denoiser.macs import Macs
from secateur.pruning import layer_scores, plan
from secateur.pruning.layer_costs import LayerCosts
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.plan import Plan
from secateur.schedule import schedule as schedules
from secateur.schedule import scores
from secateur.schedule.schedule import Schedule
from secateur.schedule.scores import Scores

FEW, MANY = 300, 10_000
MADE = {"keep": 0.4, "dense_calls": 50, "num_inference_steps": 50, "guidance_scale": 3.0, "command": "secateur search pipe"}
BLOCKS = Blocks("Chain", "layer", ("a", "b", "c"), ("output", "residual", "output"), ((), (0,), (1,)), (2,))
TABLE = {
    "rows": [(0.9, 0.1), (0.8, 0.3, -0.1)],
    "input_scales": [1.0, 1.0],
    "signal_rates": [0.1, 0.7],
    "noise_rates": [0.9, 0.6],
    "init_noise_sigma": 1.0,
}
HELD = Schedule(BLOCKS.names, ("###", ".#.", "..."), BLOCKS.reuse, "Chain", timesteps=(9.0, 5.5, 1.0), made=MADE)
SAMPLER = Schedule(BLOCKS.names, ("###", "###"), BLOCKS.reuse, "Chain", timesteps=(999.0, 400.5), made=MADE, table=TABLE)
COSTS = {"parameters": LayerCosts((5, 6), (7,), 8)}
SAVED = {  # saved values and their forms
    "held": (HELD, schedules.FORM),
    "sampler": (SAMPLER, schedules.FORM),
    "plan": (Plan(("x.y", "z"), ("identity", "drop_skip"), "Chain", made=MADE), plan.FORM),
    "scores": (Scores(np.eye(3), Macs(BLOCKS, (3, 4, 5), (0, 1, 0), 2, 1), made=MADE), scores.FORM),
    "layer scores": (
        LayerScores(
            "Chain", ("x", "z"), ("identity", "identity"), np.eye(2), np.ones(2), np.ones(2), {"t": ("x",)}, COSTS, MADE
        ),
        layer_scores.FORM,
    ),
}
OTHERS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**25), 10**25), st.floats(), st.text(max_size=9),
    st.sampled_from([[], {}, [[]], [None], {"": []}, "#.#", "\x1b[2J", -1, 0, 1e308, 10**400, "NaN", "identity"]),
)  # fmt: skip


@dataclass
class Place:
    """Where a value of a document lies."""

    holder: Any
    key: Any


def places(value: Any) -> Iterator[Place]:
    """All places in a document, whose values may be replaced or taken out."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield Place(value, key)
        yield from places(value[key])


def mutated(document: dict[str, Any], draw: Callable[[Any], Any]) -> dict[str, Any]:
    """The document with a few values replaced, taken out, doubled or renamed."""
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(document))
        assume(found)
        place = draw(st.sampled_from(found))
        way = draw(st.sampled_from(["replace", "take out", "double", "rename"]))
        if way == "replace":
            place.holder[place.key] = deepcopy(draw(OTHERS))
        elif way == "take out":
            del place.holder[place.key]
        elif isinstance(place.holder, list):
            place.holder.insert(place.key, place.holder[place.key])
        else:
            place.holder[draw(st.text(max_size=9))] = place.holder.pop(place.key)
    return document


def told(value: Any) -> tuple[Any, ...]:
    """Everything that an artifact says of itself."""
    return json.dumps(value.document()), str(value)  # as text, in which NaN equals itself


def read(path: Path, form: Form) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not form.arrays:
        return json.loads(path.read_text()), {}
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()[ENTRY]), {name: file.get_tensor(name) for name in form.arrays}


def write(path: Path, document: Any, arrays: dict[str, np.ndarray]) -> None:
    text = json.dumps(document)
    path.write_bytes(save(arrays, metadata={ENTRY: text}) if arrays else text.encode())


def refused_or_equal(kind: str, path: Path, *, mended: bool) -> None:
    """What the file holds is refused in a sentence, or was saved; or with a mended checksum, it can be saved again."""
    saved, _ = SAVED[kind]
    try:
        found = type(saved).load(path)
    except ValueError as error:
        sentence = str(error)
        if not sentence.startswith(str(path)) or len(sentence.splitlines()) != 1:
            raise AssertionError("no sentence") from error
        return
    if not mended:
        assert told(found) == told(saved)
    again = path.with_name("again")
    found.save(again)
    assert told(type(saved).load(again)) == told(found)


def check_document_of(kind: str, data: st.DataObject, folder: Path) -> None:
    saved, form = SAVED[kind]
    path, mended = folder / "a.json", data.draw(st.booleans())
    saved.save(path)
    document, arrays = read(path, form)
    document = mutated(document, data.draw)
    if mended and isinstance(document.get(form.ordered), dict):  # what has a checksum at all
        document["sha256"] = checksum(document, form)
    write(path, document, arrays)
    refused_or_equal(kind, path, mended=mended)


def check_bytes_of(kind: str, data: st.DataObject, folder: Path) -> None:
    saved, _ = SAVED[kind]
    path = folder / "a.json"
    saved.save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    refused_or_equal(kind, path, mended=False)


def fuzzed(check: Callable[..., None], kind: str, folder: Path, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None, derandomize=examples == FEW,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.data())
    def run(data: st.DataObject) -> None:
        check(kind, data, folder)

    run()


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("check", [check_document_of, check_bytes_of])
def test_a_mutation_is_refused_in_a_sentence_or_is_what_was_saved(tmp_path, check, kind):
    fuzzed(check, kind, tmp_path, FEW // (2 * len(SAVED)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("check", [check_document_of, check_bytes_of])
def test_many_mutations_are(tmp_path, check, kind):
    fuzzed(check, kind, tmp_path, MANY // (2 * len(SAVED)))
