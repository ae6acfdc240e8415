"""The sentence checker, on texts whose lengths are known."""

from __future__ import annotations

import pytest

from sentences import Page, main, report, sentences, words


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("One two three. Four five!", [3, 2]),
        ("A line that\ngoes on here.\n\nAnother paragraph without a stop", [6, 5]),
        ("lower case. begins sentences too.", [2, 3]),
        ("It costs 0.25 of v1.5. Next.", [5, 1]),
        ("As in the paper (e.g. Eq. 3 there). Next.", [8, 1]),
        ("Say *so.* (Or not.) Done.", [2, 2, 1]),
        ("# A heading\n\nText below it.", [3]),
        ("- one item\n- an item that\n  goes on\n1. a numbered one", [2, 5, 3]),
        ("Before.\n\n```sh\nsecateur search a b c. D e f.\n```\n\nAfter it.", [1, 2]),
        ("- an item\n\n  ```python\n  x = 1\n  ```\n", [2]),
        ("Before.\n| a | b |\n|---|---|\n| c d e | f |\nAfter it.", [1, 2]),
        ("Before <!-- nobody reads\nthis. Or this. --> after.", [2]),
        ("See [the guide](docs/a-b.md#c.d) now.", [4]),
        ("![a long description. Of a picture](x.png)\n\nText.", [1]),
        ("Run `secateur show s.json. x` now.", [6]),
        ("A pause — and − then ≥ go.", [5]),
        ("", []),
    ],
)
def test_sentences_are_told_apart(text, lengths):
    assert [words(sentence) for sentence in sentences(text)] == lengths


def test_median_and_90th_percentile():
    p = Page("x", tuple("w " * n for n in (10, 1, 2, 3, 4, 5, 6, 7, 8, 9)))
    assert (p.median, p.p90) == (5.5, 9)
    assert Page("x", ("w " * 3,)).p90 == 3
    assert Page("x", ()).plain


@pytest.mark.parametrize(
    ("lengths", "plain"),
    [((16, 16, 16), True), ((17, 17, 17), False), ((5,) * 8 + (30, 90), True), ((5,) * 8 + (31, 90), False)],
)
def test_a_page_over_a_limit_is_not_plain(lengths, plain):
    assert Page("x", tuple("w " * n for n in lengths)).plain is plain


def test_the_longest_sentences_of_a_page_that_fails_are_printed():
    text = report([Page("bad.md", tuple("w " * n for n in (40, 50, 60, 20))), Page("good.md", ("w w",))])
    assert [line.split()[0] for line in text.splitlines()[-3:]] == ["60", "50", "40"]
    assert "The longest of good.md" not in text


def test_a_text_that_must_fail(tmp_path, capsys):
    (tmp_path / "bad.md").write_text("word " * 31 + ".")
    (tmp_path / "good.md").write_text("word " * 16 + ".")
    assert main([str(tmp_path / "good.md")]) == 0
    assert main([str(tmp_path / "good.md"), str(tmp_path / "bad.md")]) == 1
    assert "31 words: word" in capsys.readouterr().out
