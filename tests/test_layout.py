"""The house: which package may import which. CONTRIBUTING draws it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import secateur
from house import circles, house, imported, package

SRC = Path(secateur.__file__).parent
GROUND = ("artifact", "checkpoint", "files", "hub", "knapsack", "zoo")  # what everything else may import
MODEL = (*GROUND, "denoiser", "pipeline")
MAY_IMPORT = {
    "artifact": ("files",),
    "files": (),
    "checkpoint": ("artifact", "files"),
    "hub": ("zoo",),
    "knapsack": (),
    "zoo": (),
    "denoiser": GROUND,
    "pipeline": (*GROUND, "denoiser"),
    "schedule": MODEL,
    "measuring": (*MODEL, "schedule"),
    "searching": (*MODEL, "schedule", "measuring"),
    "pruning": MODEL,
    "distilling": (*MODEL, "pruning"),
    "studio": (*MODEL, "schedule", "measuring", "searching"),
    "cli": (*MODEL, "schedule", "measuring", "searching", "studio", "pruning", "distilling"),
}


HOUSE = house(SRC.parent.parent)
MODULES, ARROWS = HOUSE.modules, HOUSE.arrows


def wrong(name: str, targets: set[str]) -> list[str]:
    """Imports that point the wrong way; the root and `__main__` may import everything."""
    home = package(name)
    if home in ("", "__main__"):
        return []
    return [target for target in sorted(targets) if package(target) not in (home, *MAY_IMPORT[home])]


def test_imports_point_one_way():
    assert {name: bad for name, targets in ARROWS.items() if (bad := wrong(name, targets))} == {}


def test_no_circle():
    assert circles(HOUSE.runs) == []


def test_every_module_lives_in_a_package_of_the_house():
    assert {package(name) for name in MODULES} - {"", "__main__"} == set(MAY_IMPORT)


def test_a_package_says_what_lives_in_it():
    for name, path in MODULES.items():
        if path.name == "__init__.py" and package(name) not in ("", "zoo"):
            body, text = ast.parse(path.read_text()).body, path.read_text()
            assert len(body) == 1 or name.endswith("dip_go"), f"{path} holds more than a docstring"
            missing = [p.stem for p in path.parent.glob("*.py") if p.stem != "__init__" and f"\n{p.stem} " not in text]
            assert missing == [], f"{path} does not name {missing}"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("secateur.schedule.fit", "from secateur.pruning.plan import Plan"),
        ("secateur.distilling.training", "from secateur.schedule import schedule"),
        ("secateur.denoiser.macs", "def f():\n    from secateur.pipeline import pipes"),
        ("secateur.pipeline.pipes", "import secateur.cli.main"),
        ("secateur.knapsack", "from secateur import artifact"),
    ],
)
def test_an_import_that_points_the_wrong_way_is_seen(name, source):
    assert wrong(name, set(imported(source, MODULES)))


def test_a_circle_is_seen():
    assert ARROWS["secateur.schedule.fold"] - HOUSE.runs["secateur.schedule.fold"] == {"secateur.schedule.schedule"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]


def test_no_configuration_in_the_package_says_where_it_lay_on_a_machine():
    configs = {path: path.read_text() for path in SRC.parent.rglob("*.json")}
    assert len(configs) > 10
    assert [path.name for path, text in configs.items() if '"_name_or_path"' in text] == []
