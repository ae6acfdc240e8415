"""The measures of a house, on small ones that are built here."""

from __future__ import annotations

from pathlib import Path

import pytest

from house import circles, functions, house, main, measures

LONG = "def long():\n" + "    x = 1\n" * 61
SHORT = '''def short(a, b=1, *more, c, **rest):
    """Two

    lines of these are no body."""
    def inner():
        """Nothing but words."""

    return inner
'''
MANY = "def many(" + ", ".join(f"a{i}" for i in range(13)) + "): ...\n"
COMMAND = "@app.command()\n" + MANY


def built(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "src" / "secateur" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def packed(tmp_path):
    return built(tmp_path / "packed", {
        "__init__.py": "from secateur.one.a import long",
        "ground.py": "if TYPE_CHECKING:\n    from secateur.one import b\n",
        "zoo/__init__.py": "from secateur import ground",
        "one/__init__.py": "",
        "one/a.py": "from secateur import ground, zoo\nimport secateur.one.b\n" + LONG,
        "one/b.py": "def f():\n    from secateur.two import c\n",
        "two/__init__.py": "",
        "two/c.py": "from secateur.one import a\nfrom secateur.two import c\n" + SHORT + COMMAND,
    })  # fmt: skip


def test_a_house_with_packages(packed):
    found = measures(house(packed))
    assert (found["packages"], found["modules"]) == ("2", "8")
    assert found["import arrows between packages"] == "2"  # one → two and two → one; the ground and the root are no packages
    assert found["import arrows between modules"] == "8"
    assert "secateur.one.b" in house(packed).arrows["secateur.ground"] - house(packed).runs["secateur.ground"]
    assert circles(house(packed).runs) == [["secateur.one.a", "secateur.one.b", "secateur.two.c"]]
    assert found["circles of imports"] == "1"
    assert found["functions of more than 60 lines"] == "1"
    assert (found["parameters of a function: most"], found["functions of more than 12 parameters"]) == ("5", "0")
    assert found["parameters of a command: most"] == "13"
    assert (found["lines of src"], found["lines of tests"]) == ("82", "0")


def test_a_flat_house_is_one_package(tmp_path):
    found = measures(house(built(tmp_path, {"__init__.py": "", "a.py": "from secateur import b", "b.py": MANY})))
    assert (found["packages"], found["modules"]) == ("1", "3")
    assert (found["import arrows between packages"], found["import arrows between modules"]) == ("0", "1")
    assert (found["circles of imports"], found["functions of more than 12 parameters"]) == ("0", "1")


def test_functions_without_their_signatures_and_docstrings():
    assert [(f.name, f.lines, f.parameters, f.command) for f in functions(SHORT + LONG + COMMAND)] == [
        ("short", 4, 5, False), ("long", 61, 0, False), ("many", 1, 13, True), ("inner", 0, 0, False),
    ]  # fmt: skip


def test_the_table_has_a_column_for_each_checkout(packed, capsys):
    main([str(packed)])
    head, rule, first, *_ = capsys.readouterr().out.splitlines()
    assert head == "|  | packed | here |"
    assert (rule.count("|"), first.split(" | ")[:2]) == (4, ["| packages", "2"])
