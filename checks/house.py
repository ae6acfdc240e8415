"""The house in numbers: packages, import arrows, functions, lines, as a table in Markdown.

python checks/house.py           this checkout
python checks/house.py DIR ...   other checkouts, then this one; the flat layout: `git worktree add DIR cc27e18`
"""

from __future__ import annotations

import ast
import math
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = "zoo"  # weights with a loader, which count as ground and not as a package
LINES, PARAMETERS = 60, 12  # the most of a function


@dataclass(frozen=True)
class Function:
    """One function: the lines of its body without the docstring, and whether its signature is a command's options."""

    name: str
    lines: int
    parameters: int
    command: bool


@dataclass(frozen=True)
class House:
    """A checkout and its modules: `secateur.pipeline.pipes` → file."""

    root: Path
    modules: Mapping[str, Path]

    @cached_property
    def arrows(self) -> dict[str, set[str]]:
        """For each module those that it imports."""
        return {name: set(imported(path.read_text(), self.modules)) - {name} for name, path in self.modules.items()}

    @cached_property
    def runs(self) -> dict[str, set[str]]:
        """For each module those whose code an import of it may run: imports for types alone run nothing."""
        return {name: set(imported(untyped(path.read_text()), self.modules)) - {name} for name, path in self.modules.items()}

    @cached_property
    def packages(self) -> set[str]:
        return {package(name) for name, path in self.modules.items() if path.parent.name != "secateur"} - {DATA}

    @cached_property
    def functions(self) -> list[Function]:
        return [function for path in self.modules.values() for function in functions(path.read_text())]


def house(root: Path) -> House:
    src = root / "src" / "secateur"
    return House(root, {module_of(path, src): path for path in sorted(src.rglob("*.py"))})


def module_of(path: Path, src: Path) -> str:
    parts = path.relative_to(src).with_suffix("").parts
    return ".".join(("secateur", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def package(module: str) -> str:
    """The package or the ground module that a module belongs to; empty for `secateur` itself."""
    return module.split(".")[1] if "." in module else ""


def imported(source: str, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the package that a source imports, at its head, in its functions, or for types alone."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "secateur":
            submodules = [name for alias in node.names if (name := f"{node.module}.{alias.name}") in modules]
            yield from submodules or [node.module]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "secateur")


def untyped(source: str) -> str:
    """A source without what stands under `if TYPE_CHECKING`."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    return ast.unparse(tree)


def reached(arrows: Mapping[str, set[str]], start: str) -> set[str]:
    """The modules that an import of start runs, start only if one of them imports it."""
    seen: set[str] = set()
    left = [start]
    while left:
        new = arrows.get(left.pop(), set()) - seen
        seen |= new
        left += new
    return seen


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or not."""
    behind = {name: reached(arrows, name) for name in arrows}
    groups = {frozenset(b for b in behind[a] if a in behind.get(b, ())) for a in arrows if a in behind[a]}
    return sorted(sorted(group) for group in groups)


def functions(source: str) -> list[Function]:
    """Every function of a source, also methods and nested ones."""
    defs = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [Function(node.name, body_lines(node), parameters(node.args), is_command(node)) for node in defs]


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body if ast.get_docstring(function, clean=False) is None else function.body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters(signature: ast.arguments) -> int:
    named = (*signature.posonlyargs, *signature.args, *signature.kwonlyargs)
    return len(named) + (signature.vararg is not None) + (signature.kwarg is not None)


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(".command" in ast.unparse(decorator) for decorator in function.decorator_list)


def lines(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))


def p90(values: list[int]) -> int:
    """The value that nine in ten do not exceed."""
    return sorted(values)[math.ceil(0.9 * len(values)) - 1]


def measures(of: House) -> dict[str, str]:
    sizes = [function.lines for function in of.functions]
    between = {(package(name), package(target)) for name, targets in of.arrows.items() for target in targets}
    many = [function for function in of.functions if function.parameters > PARAMETERS and not function.command]
    return {
        "packages": str(len(of.packages) or 1),
        "import arrows between packages": str(sum(a != b for a, b in between if {a, b} <= of.packages)),
        "modules": str(len(of.modules)),
        "import arrows between modules": str(sum(map(len, of.arrows.values()))),
        "circles of imports": str(len(circles(of.runs))),
        "functions": str(len(sizes)),
        "lines of a function: median, p90, most": f"{statistics.median(sizes):g}, {p90(sizes)}, {max(sizes)}",
        f"functions of more than {LINES} lines": str(sum(size > LINES for size in sizes)),
        "parameters of a function: most": str(max(f.parameters for f in of.functions if not f.command)),
        f"functions of more than {PARAMETERS} parameters": str(len(many)),
        "parameters of a command: most": str(max((f.parameters for f in of.functions if f.command), default=0)),
        "lines of the longest module": str(max(len(path.read_text().splitlines()) for path in of.modules.values())),
        **{f"lines of {folder}": str(lines(of.root / folder)) for folder in ("src", "tests", "benchmarks")},
    }


def table(columns: Mapping[str, dict[str, str]]) -> str:
    rows = [["", *columns], ["---", *("---:" for _ in columns)]]
    first = next(iter(columns.values()))
    rows += [[name, *(column[name] for column in columns.values())] for name in first]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(folders: list[str]) -> None:
    others = {Path(folder).name: measures(house(Path(folder).resolve())) for folder in folders}
    print(table({**others, "here" if others else "": measures(house(ROOT))}))


if __name__ == "__main__":
    main(sys.argv[1:])
