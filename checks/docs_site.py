"""What the docs site has beside docs/, and whether its reference is whole; mkdocs.yml names this file as a hook.

The root's changelog and contributing pages and the figures and records of results/ become pages and files of the site. Links
to them in docs/ are written as GitHub wants them, `../../results/gains.png`, and become the site's own.
"""

from __future__ import annotations

import ast
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from secateur.measuring import report

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))  # mkdocs knows nothing of it
from tables_front import FRONTS, shortened  # noqa: E402

PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}  # of the root, and what the site calls them
SHOWN = re.compile(r"^(:::|###) `?(secateur\.[\w.]+)", re.MULTILINE)  # read from the source, or written by hand
FRONT = re.compile(r"(\]\()([^)\s]*results/front-[\w-]+)\.json\)")
MADE = re.compile(r"(?:^.*`(?:python benchmarks/run\.py|secateur demo) .*\d{4}-\d\d-\d\d\.\n)+", re.MULTILINE)  # below a table
LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")


def on_files(files: Files, *, config: Any) -> Files:
    """The files of docs/, those of the root and of results/. Raises PluginError if the reference lacks a public name."""
    if lacking := missing(ROOT):
        raise PluginError(f"found no docstring, or nothing in docs/reference, for {', '.join(lacking)}: write both")
    for name, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    for path in sorted((ROOT / "results").rglob("*.*")):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for name in FRONTS:
        record = shortened(report.load(ROOT / f"results/{name}.json"))
        files.append(File.generated(config, f"results/{name}.html", content=report.html(record)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page with its links to files outside of docs/ as the site has them, and a page beside each front's record."""
    markdown = MADE.sub(r"\g<0>{ .made }\n", FRONT.sub(r"\1\2.json) ([page](\2.html))", markdown))
    return LINK.sub(lambda match: linked(match[1], page.file.src_uri), markdown)


def linked(target: str, page: str) -> str:
    """A link from a page of docs/ as the site has it; itself if it leads elsewhere in docs/ or to what the site lacks."""
    here = Path("docs", page).parent.as_posix()
    there = posixpath.normpath(f"{here}/{target}")
    path = PAGES.get(there, there if there.startswith("results/") else None)
    return posixpath.relpath(f"docs/{path}", here) if path else target


def public(root: Path) -> list[str]:
    """The names of `secateur`: those of `__all__`, and those that it gives when they are asked for."""
    tree = ast.parse((root / "src/secateur/__init__.py").read_text(encoding="utf-8"))
    listed = next(n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")
    asked = [n.comparators[0] for n in ast.walk(tree) if isinstance(n, ast.Compare) and isinstance(n.ops[0], ast.Eq)]
    return sorted([*ast.literal_eval(listed), *map(ast.literal_eval, asked)])


def missing(root: Path) -> list[str]:
    """The public names that docs/reference lacks, and those that it reads from a source without a docstring.

    Of a module, any name will do. A heading `### secateur.NAME` counts, too: some names are made when they are asked for.
    """
    pages = "\n".join(page.read_text(encoding="utf-8") for page in sorted((root / "docs/reference").glob("*.md")))
    package = griffe.load("secateur", search_paths=[str(root / "src")])
    shown = {path for mark, path in SHOWN.findall(pages) if mark == "###" or package[path.partition(".")[2]].has_docstring}
    return [name for name in public(root) if name not in {path.split(".")[1] for path in shown}]
