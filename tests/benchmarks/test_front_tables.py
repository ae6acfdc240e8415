"""The tables of the fronts, from the records as they stand and from ones with every budget; and the drawings."""

from __future__ import annotations

import re
from statistics import fmean
from xml.etree import ElementTree

import pytest

import drawings
import pages
import tables_front
from tables import RESULTS, ROOT, load

PIPES = ("emoji-sd", "emoji-dit")


@pytest.fixture(scope="module")
def sections():
    return pages.sections()


def complete(record):
    """The record with the rows of a fifth of the MACs at every budget."""
    fifth = [row for row in record["rows"] if row["keep"] == 0.2]
    others = [row | {"keep": keep} for keep in tables_front.BUDGETS if keep != 0.2 for row in fifth]
    return record | {"rows": [row for row in record["rows"] if row["keep"] in (0.2, 1.0)] + others}


def lines(text):
    return [line for line in text.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("pipe", PIPES)
@pytest.mark.parametrize("table", ["dense", "converged"])
def test_a_complete_record_has_a_row_a_budget(pipe, table):
    rows = lines(tables_front.TABLES[f"{table}-{pipe}"].text([complete(load(f"front-{pipe}"))]))
    assert [row.split(" | ")[0] for row in rows] == ["| 25", "| 17", "| 12.5", "| 10", "| 7.5", "| 5"]
    assert len({row.partition(" | ")[2] for row in rows}) == 1
    assert "–" not in re.sub(r"\(\S+–\S+\)|Adams–", "", rows[0])


@pytest.mark.parametrize("pipe", PIPES)
def test_of_each_kind_of_rival_the_nearest_is_shown(pipe):
    record = load(f"front-{pipe}")
    for key in tables_front.WHICH:
        means = {row["group"]: [] for row in record["rows"]}
        for row in record["rows"]:
            if row["keep"] == 0.2:
                means[row["group"]].append(row[key]["mean"])
        means = {group: fmean(values) for group, values in means.items() if values}
        rows = list(tables_front.nearest(record, key))
        assert [row["at"][3] for row in rows] == sorted((row["at"][3] for row in rows), key=fmean, reverse=True)
        rival = max((group for group in means if "Secateur" not in group), key=means.get)
        assert any(row["name"].endswith(rival) for row in rows)
        assert sum("Secateur" in row["name"] for row in rows) == (1 if key == "psnr_db" else 2)


@pytest.mark.parametrize(("key", "which"), tables_front.WHICH.items())
def test_a_lead_says_how_far_the_nearest_rival_is(sections, key, which):
    for pipe, sentence in zip(PIPES, sections[f"lead-{which}"].splitlines(), strict=True):
        groups = {}
        for row in load(f"front-{pipe}")["rows"]:
            if row["keep"] == 0.2:
                groups.setdefault(row["group"], []).append(row[key]["mean"])
        means = {group: fmean(values) for group, values in groups.items()}
        ours = max(means[f"Secateur, {solver}"] for solver in tables_front.AIMED[key] if f"Secateur, {solver}" in means)
        rival = max(value for group, value in means.items() if "Secateur" not in group)
        assert f"`{pipe}` ten calls come to {ours:.1f} dB" in sentence
        assert sentence.endswith(f" is {abs(ours - rival):.1f} dB {'farther' if ours >= rival else 'nearer'}.")


def test_tables_of_the_results_have_at_most_ten_rows(sections):
    for path in sorted((ROOT / "docs/results").glob("*.md")):
        for name in re.findall(r"<!-- ([\w-]+) -->", path.read_text()):
            for part in sections[name].split("\n\n"):
                assert len(lines(part)) <= 10, name


def test_every_record_can_be_had_from_a_page():
    text = "".join(path.read_text() for path in (ROOT / "docs/results").glob("*.md"))
    unseen = [path.name for path in RESULTS.glob("*.json") if f"results/{path.name})" not in text]
    assert [name for name in unseen if not name.startswith("recovery-terms")] == []  # LOG.md speaks of these


def test_every_drawing_is_on_a_page_and_well_formed():
    text = "".join(path.read_text() for path in (ROOT / "docs/concepts").glob("*.md"))
    for name, svg in drawings.drawn().items():
        ElementTree.fromstring(svg)
        assert f"(../images/{name})" in text


def test_the_drawn_grids_have_a_mark_for_each_cell():
    blocks = drawings.blocks_of()
    paths = re.findall(r'<path class="(\w)" d="([^"]*)"', drawings.cells())
    running = [d.count("M") for kind, d in paths if kind == "g"]
    cached = drawings.deepcache(blocks, 20, interval=5)
    assert running == [20 * len(blocks), 4 * len(blocks), sum(row.count("#") for row in cached.grid)]
