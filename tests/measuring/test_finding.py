"""What a record is said to have found, against sentences written by hand. Ties are said as ties."""

from __future__ import annotations

import pytest

from made_records import benchmark
from secateur.measuring.finding import headline, missed
from secateur.measuring.records import FOUND, GIVEN

DENSE = {"name": "dense", "group": "dense", "keep_linear": 1.0, "accuracy": {"mean": 0.95}}
LEAD = "With 20 % of the MACs, mine is 4.8× faster and reaches 40.0 dB PSNR to the dense images"
HOLDS = "It holds the dense prompt accuracy of 0.95"


def row(name: str, db: float | None, *, group: str = "rival", keep: float = 0.2, right: float | None = 0.95, fast=None) -> dict:
    figures = {"psnr_db": db and {"mean": db}, "accuracy": right and {"mean": right}, "speedup": fast and {"median": fast}}
    return {"name": name, "group": group, "keep": keep, "keep_linear": keep, **figures}


def mine(db: float = 40.0, *, name: str = "mine", **about) -> dict:
    return row(name, db, **{"group": GIVEN, "fast": 4.8, **about})


def found(*rows: dict) -> str:
    return headline({"rows": [DENSE, *rows]})


FINDINGS = {
    "alone": ([mine()], f"{LEAD}. {HOLDS}, and no row with as few MACs does."),
    "first, accuracy tied": (
        [mine(), row("a", 39.9), row("b", 30.0), row("c", 30.0, right=0.5)],
        f"{LEAD}; none of three rivals comes as near. The best of them, a, reaches 39.9 dB. "
        f"{HOLDS}. No row with fewer MACs does; two do as well.",
    ),
    "first, accuracy alone": (
        [mine(), row("a", 39.9, right=0.5)],
        f"{LEAD}; its rival, a, reaches 39.9 dB. {HOLDS}, and no row with as few MACs does.",
    ),
    "tied in both": (
        [mine(), row("a", 40.04), row("b", 30.0, right=0.5)],
        f"{LEAD}. No rival at this cost comes nearer; one comes as near. "
        f"{HOLDS}. No row with fewer MACs does; one does as well.",
    ),
    "behind two that tie": (
        [mine(right=0.9), row("a", 41.0), row("b", 41.0), row("c", 40.0)],
        f"{LEAD}; two of three rivals come nearer. The best of them, a and b, reach 41.0 dB. "
        "The dense prompt accuracy of 0.95 is not held: mine has 0.90.",
    ),
    "cheaper rows hold the accuracy": (
        [mine(), row("a", 39.0), row("b", 20.0, keep=0.1)],
        f"{LEAD}; its rival, a, reaches 39.0 dB. {HOLDS}; one does with fewer MACs.",
    ),
    "two budgets": (
        [mine(), mine(50.0, name="half", keep=0.5, fast=None), row("a", 41.0), *(row(b, 49.0, keep=0.5) for b in "bc")],
        f"{LEAD}; its rival, a, reaches 41.0 dB. With 50 % of the MACs, half reaches 50.0 dB PSNR to the dense images; "
        "none of two rivals comes as near. mine holds the dense prompt accuracy of 0.95. No row with fewer MACs does; "
        "one does as well.",
    ),
    "some rows are the dense images themselves": (
        [row("a", None), row("b", 30.0)],
        "Two rows hold the dense prompt accuracy of 0.95 with 20 % of the MACs; no row with fewer does. "
        "The nearest of them to the dense images: b, 30.0 dB PSNR.",
    ),
    "the best of three that were found": (
        [*(mine(db, name=f"seed {db}", group=f"{FOUND}, DDIM", right=None) for db in (39.0, 40.0, 38.0)), row("a", 30.0)],
        LEAD.replace("mine", "seed 40.0, the best of three schedules,")
        + "; its rival, a, reaches 30.0 dB.",
    ),
    "one holds the accuracy": (
        [row("a", 30.0, right=0.94), row("b", 30.0, keep=0.3)],
        "The cheapest row that holds the dense prompt accuracy of 0.95 is b: prompt accuracy 0.95, 30 % of the MACs.",
    ),
    "three hold it": (
        [row("a", 30.0), row("b", 40.0), row("c", 35.0), row("d", 50.0, keep=0.5)],
        "Three rows hold the dense prompt accuracy of 0.95 with 20 % of the MACs; no row with fewer does. "
        "The nearest of them to the dense images: b, 40.0 dB PSNR.",
    ),
    "three hold it and are as near": (
        [row("a", 30.0), row("b", 30.0), row("c", 30.0)],
        "Three rows hold the dense prompt accuracy of 0.95 with 20 % of the MACs; no row with fewer does.",
    ),
    "none holds it": (
        [row("a", 30.0, right=0.3), row("b", 30.0, right=0.4), row("c", 30.0, right=0.4)],
        "Nothing here holds the dense prompt accuracy of 0.95; the closest: b and c: 0.40 with 20 % of the MACs.",
    ),
    "near, no accuracy": (
        [row(name, db, keep=keep, right=None) for name, db, keep in
         (("a", 30.04, 0.2), ("b", 30.0, 0.2), ("c", 29.9, 0.2), ("d", 40.0, 0.5))],
        "At keep 0.2 the closest to the dense images are a and b: 30.0 dB PSNR.",
    ),
    "many tie": (
        [row(name, 30.0, right=None) for name in "abcdef"],
        "At keep 0.2 the closest to the dense images are a, b, c and three more: 30.0 dB PSNR.",
    ),
    "names with commas": (
        [row(name, 30.0, right=None) for name in ("a, 10 steps", "b, 10 steps", "c")],
        "At keep 0.2 the closest to the dense images are a, 10 steps; b, 10 steps and c: 30.0 dB PSNR.",
    ),
    "fast alone": ([row("a", None, right=None, fast=4.81)], "The fastest is a: 4.8× faster for 5.0× fewer MACs."),
    "as fast": ([row(name, None, right=None, fast=4.81) for name in "abc"], "The fastest are a, b and c: 4.8× faster."),
    "nothing to compare": ([{"name": "a", "keep_linear": 0.2}], ""),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "sentence"), FINDINGS.values(), ids=FINDINGS)
def test_finding_is_the_sentence(rows, sentence):
    assert found(*rows) == sentence


def test_finding_does_not_depend_on_the_order_of_rows():
    for rows, sentence in (FINDINGS[name] for name in ("first, accuracy tied", "two budgets", "three hold it")):
        own = [one for one in rows if one["group"] == GIVEN]
        assert found(*own, *reversed(rows[len(own) :])) == sentence


def test_an_interval_that_reaches_the_dense_accuracy_holds_it():
    near = row("a", 30.0) | {"accuracy": {"mean": 0.9, "ci95": [0.8, 0.95]}}
    assert found(near).startswith("The cheapest row that holds the dense prompt accuracy of 0.95 is a: prompt accuracy 0.90")
    assert found(near | {"accuracy": {"mean": 0.9, "ci95": [0.8, 0.94]}}).startswith("Nothing here holds")


def test_a_single_timed_pair_is_not_quoted():
    once, twice = ({**mine(), "speedup": {"median": 4.8, "low": low, "high": 4.8}} for low in (4.8, 4.7))
    assert found(twice).startswith(LEAD)
    assert found(once).startswith(LEAD.replace("is 4.8× faster and ", ""))


def test_attention_counts_as_macs_of_the_time_it_takes():
    timed = benchmark()
    timed["rows"][1] |= {"keep_attention": 0.25, "speedup": {"median": 3.6}}
    assert headline(timed) == "The fastest is DiP-GO, published: 3.6× faster for 4.0× fewer MACs."


def test_rows_that_miss_their_budget_are_named_or_counted():
    exact, one, two, three = row("a", 30.0), row("b", 30.0), row("c", 30.0), row("d", 30.0)
    assert missed({"rows": [DENSE, exact]}) == ""
    rows = [exact, one | {"keep_linear": 0.29}, two | {"keep_linear": 0.15}, three | {"keep_linear": 0.15}]
    said = "Not at the same budget: b keeps 29 % of the MACs, not 20 %; two rows keep 15 % of the MACs, not 20 %."
    assert missed({"rows": [DENSE, *rows]}) == said
