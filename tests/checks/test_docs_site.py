"""The docs site's hook: links that GitHub and the site both follow, and a reference that lacks no public name."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

import secateur
from docs_site import ROOT, linked, missing, on_page_markdown, public
from docstrings import markdown


@pytest.mark.parametrize(
    ("page", "target", "there"),
    [
        ("index.md", "../results/gains.png", "results/gains.png"),
        ("results/time.md", "../../results/front-emoji-sd.png", "front-emoji-sd.png"),
        ("howto/a.md", "../../results/demo/report.html", "../results/demo/report.html"),
        ("howto/a.md", "../../CONTRIBUTING.md", "../contributing.md"),
        ("howto/a.md", "../concepts/b.md", "../concepts/b.md"),
        ("howto/a.md", "../../src/secateur/zoo/NOTICE.md", "../../src/secateur/zoo/NOTICE.md"),
    ],
)
def test_links_out_of_docs_lead_to_the_sites_own_files(page, target, there):
    assert linked(target, page) == there


def test_the_public_names_are_those_that_python_gives():
    assert set(public(ROOT)) - set(secateur.__all__) == {"StudentUNet", "LinearMultistepScheduler"}
    assert all(hasattr(secateur, name) for name in public(ROOT))


def test_a_public_name_that_the_reference_lacks_is_found(tmp_path):
    shutil.copytree(ROOT / "docs/reference", tmp_path / "docs/reference")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=lambda _, names: [n for n in names if "." in n and n[-3:] != ".py"])
    assert missing(tmp_path) == []
    page = tmp_path / "docs/reference/schedules.md"
    page.write_text(page.read_text().replace("::: secateur.apply\n", ""))
    source = tmp_path / "src/secateur/schedule/fold.py"
    source.write_text(source.read_text().replace('    """The Schedule without its held rows', '    f"""', 1))
    assert missing(tmp_path) == ["apply", "fold"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A thing.\n\nkeep: of it. Note: all.", "A thing.\n\n* `keep`: of it. Note: all."),
        ("A thing. keep: of it. low, high: its\nends.", "A thing.\n\n* `keep`: of it.\n* `low`, `high`: its ends."),
        ("Arguments that matter:\n    keep: as\n        above.", "**Arguments that matter**\n\n* `keep`: as above."),
        ("    if keep:\n        low()", "```python\nif keep:\n    low()\n```"),
        ("Two\nlines.", "Two\nlines."),
    ],
)
def test_what_a_docstring_says_about_arguments_is_a_list(text, shown):
    assert markdown(text, {"keep", "low", "high"}) == shown


def test_a_page_links_to_the_page_of_a_fronts_record_and_says_small_where_its_tables_come_from():
    made = "128 images a row, `python benchmarks/run.py front emoji-sd`, NVIDIA H200, 2026-11-28.\n"
    text = f"| a |\n|---|\n\n{made}{made}<!-- /a -->\n\n[x](../../results/front-emoji-sd.json), [y](../../results/gpu.json).\n"
    page = SimpleNamespace(file=SimpleNamespace(src_uri="results/a.md"))
    links = "[x](front-emoji-sd.json) ([page](front-emoji-sd.html)), [y](gpu.json)."
    assert on_page_markdown(text, page=page) == f"| a |\n|---|\n\n{made}{made}{{ .made }}\n<!-- /a -->\n\n{links}\n"
