"""The house: which package may import which. CONTRIBUTING draws it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import secateur

SRC = Path(secateur.__file__).parent
GROUND = ("artifact", "checkpoint", "knapsack", "zoo")  # what everything else may import
MODEL = (*GROUND, "denoiser", "pipeline")
MAY_IMPORT = {
    "artifact": (),
    "checkpoint": ("artifact",),
    "knapsack": (),
    "zoo": (),
    "denoiser": GROUND,
    "pipeline": (*GROUND, "denoiser"),
    "schedule": MODEL,
    "measuring": (*MODEL, "schedule"),
    "searching": (*MODEL, "schedule", "measuring"),
    "pruning": MODEL,
    "distilling": (*MODEL, "pruning"),
    "cli": (*MODEL, "schedule", "measuring", "searching", "pruning", "distilling"),
}


def module_of(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(("secateur", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_of(path): path for path in sorted(SRC.rglob("*.py"))}


def imported(source: str) -> Iterator[str]:
    """The modules of the package that a source imports, at its head, in its functions, or for types alone."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "secateur":
            submodules = [name for alias in node.names if (name := f"{node.module}.{alias.name}") in MODULES]
            yield from submodules or [node.module]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "secateur")


def arrows() -> dict[str, set[str]]:
    return {name: set(imported(path.read_text())) - {name} for name, path in MODULES.items()}


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def wrong(name: str, targets: set[str]) -> list[str]:
    """Imports that point the wrong way; the root and `__main__` may import everything."""
    home = package(name)
    if home in ("", "__main__"):
        return []
    return [target for target in sorted(targets) if package(target) not in (home, *MAY_IMPORT[home])]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, in order; empty if there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if found := walk(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := walk(name, []))), [])


def test_imports_point_one_way():
    assert {name: bad for name, targets in arrows().items() if (bad := wrong(name, targets))} == {}


def test_no_circle():
    assert circle(arrows()) == []


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
        ("secateur.distilling.distil", "from secateur.schedule import schedule"),
        ("secateur.denoiser.macs", "def f():\n    from secateur.pipeline import pipes"),
        ("secateur.pipeline.pipes", "import secateur.cli.main"),
        ("secateur.knapsack", "from secateur import artifact"),
    ],
)
def test_an_import_that_points_the_wrong_way_is_seen(name, source):
    assert wrong(name, set(imported(source)))


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
