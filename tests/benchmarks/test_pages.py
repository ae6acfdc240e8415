"""Tables: templates become numbers with units, and a page that says another number than the results is found."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest

import pages
import run
import tables
from tables import RESULTS, ROOT


@pytest.fixture(scope="module")
def sections():
    return pages.sections()


@pytest.fixture
def copied(tmp_path, monkeypatch, sections):
    monkeypatch.setattr(pages, "sections", lambda: sections)
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    return tmp_path


def test_pages_say_what_the_results_say(copied):
    assert pages.stale(copied, rewrite=False) == []


def test_every_command_under_a_table_can_be_typed_and_goes_on_with_its_record(sections):
    texts = {command for text in sections.values() for command in re.findall(r"`(python [^`]*)`", text)}
    assert len(texts) > 15
    for text in texts:
        python, script, *arguments = shlex.split(text)
        assert (python, script) == ("python", "benchmarks/run.py"), text
        args = run.parsed(arguments)
        options = {name: getattr(args, name) for name in args.study.options}
        path = RESULTS / f"{args.study.file_of(args.pipe, options)}.json"
        assert path.exists(), text
        run.begun(args.study, args.pipe, options, path)  # SystemExit if the record was measured with other settings


def test_every_figure_is_on_a_page():
    pages = "".join(page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))
    assert [path.name for path in RESULTS.glob("*.png") if f"results/{path.name})" not in pages] == []


def test_a_changed_number_is_found_and_mended(copied):
    page = next(path for path in sorted((copied / "docs").rglob("*.md")) if "<!--" in path.read_text())
    before = page.read_text()
    start = pages.MARKED.search(before).start()
    page.write_text(before[:start] + re.sub(r"\d+\.\d", "999.9", before[start:], count=1))
    assert pages.stale(copied, rewrite=False) == [page.name]
    assert pages.stale(copied, rewrite=True) == [page.name]
    assert page.read_text() == before


def test_a_marker_without_a_table_is_an_error(sections):
    with pytest.raises(KeyError, match="nothing"):
        pages.written("<!-- nothing -->\n<!-- /nothing -->", sections)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{name}, {calls}", "dense, 50"),
        ("{keep:.1f %}", "12.5 %"),
        ("{macs:.2f G} of it", "1.50 G of it"),
        ("{bytes:.0f MiB}", "3 MiB"),
        ("{psnr.mean:.1f dB} from {psnr.ci95.0:.0f}", "30.2 dB from 29"),
        ("{absent:.1f}", "–"),
        ("{none.mean:.1f}", "–"),
        ("{none:near}", "the same"),
        ("{psnr:near}", "30.2 dB (29.1–31.0)"),
        ("{runs.db:.1f}", "30.0, 31.5, 36.0"),
        ("{runs.db:mean.1f dB}", "32.5 dB"),
        ("{runs.db:median.1f}", "31.5"),
        ("{runs.db:range.1f dB}", "32.5 dB (30.0–36.0)"),
        ("{runs.0.db:+.1f}", "+30.0"),
    ],
)
def test_a_template_shows_a_rows_numbers(template, text):
    row = {"name": "dense", "calls": 50, "keep": 0.125, "macs": 1.5e9, "bytes": 3 * 2**20, "none": None}
    row["runs"] = [{"db": 30.0}, {"db": 31.5}, {"db": 36.0}]
    assert tables.shown(template, row | {"psnr": {"mean": 30.21, "ci95": [29.1, 31.0]}}) == text
