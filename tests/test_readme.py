"""What README and docs tell a reader to type: the README's Python runs as written; commands, options, names and links exist."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

import secateur
from secateur.cli.changes import EXTRAS
from secateur.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
OTHERS = {"--num_processes", "--num_machines", "--machine_rank", "--main_process_ip"}  # options of accelerate
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)


def inline(page: Path) -> list[str]:
    """The code between backticks in a page's text, a line each."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def commands(lines: list[str]) -> list[list[str]]:
    """The words after `secateur` of each line that calls it."""
    words = [shlex.split(line.replace("\\\n", " "), comments=True) for line in lines if re.search(r"\bsecateur [a-z-]", line)]
    return [line[line.index("secateur") + 1 :] for line in words if "secateur" in line]


def wrong(words: list[str]) -> str:
    """What nobody could run in a command: its name, an option, a value that is missing; empty if all is well."""
    name, *arguments = words
    if name not in COMMANDS:
        return f"there is no command {name}"
    if not arguments or "…" in arguments:
        return ""  # named, not typed
    command = COMMANDS[name]
    try:
        values, left, _ = command.make_parser(command.context_class(command)).parse_args(arguments)
    except Exception as error:
        return f"{name}: {error}"
    missing = [p.opts[0] for p in command.params if p.required and p.name not in values]
    return f"{name}: {left} {missing}" if left or missing else ""


def resolved(dotted: str) -> Any:
    """The object of a dotted name, whose first parts may be modules; raises AttributeError if there is none."""
    thing: Any = secateur
    for index, name in enumerate(parts := dotted.split("."), 1):
        if index > 1 and not hasattr(thing, name):
            try:
                importlib.import_module(".".join(parts[:index]))
            except ModuleNotFoundError:
                raise AttributeError(f"{dotted} has no {name}") from None
        thing = getattr(thing, name) if index > 1 else thing
    return thing


def names(code: str) -> list[str]:
    return [name for name in re.findall(r"\bsecateur(?:\.\w+)+", code) if not name.endswith((".json", ".png"))]


def anchors(page: Path) -> set[str]:
    """What a link into a page may name: its headings, as GitHub writes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(secateur.zoo.schedule("emoji-sd"), "schedule.json")  # for what the search command writes
    space: dict[str, Any] = {}
    for snippet in blocks(ROOT / "README.md", "python"):
        exec(compile(snippet, "README.md", "exec"), space)
    assert isinstance(space["image"], Image.Image)


def test_the_readme_has_at_most_900_words():
    assert len((ROOT / "README.md").read_text().split()) <= 900  # tables and code, too


@each_page
def test_the_commands_of_a_page_can_be_run(page):
    shell = [line for block in blocks(page, "sh") for line in re.sub(r"\\\n *", "", block).splitlines()]
    assert [error for words in commands([*shell, *inline(page)]) if (error := wrong(words))] == []


@each_page
def test_the_files_that_a_page_names_exist(page):
    named = re.findall(r"(?<![\w/.])[a-z_]+/[\w/-]+\.(?:py|yaml)\b", page.read_text())
    assert [name for name in named if not any((home / name).exists() for home in (ROOT, Path(secateur.__file__).parent))] == []


@each_page
def test_the_options_that_a_page_names_exist(page):
    known = {option for command in COMMANDS.values() for p in command.params for option in (*p.opts, *p.secondary_opts)}
    named = {word for code in inline(page) if "python " not in code for word in re.findall(r"(?<!\S)--[a-z][\w-]*", code)}
    assert named - known - OTHERS == set()
    settings = {field.name for field in fields(secateur.DistilSettings)} | set(EXTRAS)
    assert set(re.findall(r"--set ([a-z_]+)=", page.read_text())) - settings == set()


@each_page
def test_the_names_that_a_page_uses_exist(page):
    for code in (*blocks(page, "python"), *inline(page)):
        for name in names(code):
            resolved(name)
    for snippet in blocks(page, "python"):
        compile(snippet, page.name, "exec")


@each_page
def test_the_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(there), f"{page.name} links to {target}, which has no such heading"


@pytest.mark.parametrize(
    "line",
    [
        "secateur serch emoji-sd --keep 0.2",
        "secateur search emoji-sd --kept 0.2",
        "secateur search emoji-sd",
        "secateur search emoji-sd two --keep 0.2",
        "accelerate launch -m secateur search emoji-sd --keep",
    ],
)
def test_a_command_that_cannot_be_run_is_seen(line):
    assert [wrong(words) for words in commands([line])] != [""]


def test_a_name_that_is_not_there_is_seen():
    assert callable(resolved("secateur.denoiser.blocks.find_blocks"))
    with pytest.raises(AttributeError):
        resolved("secateur.denoiser.blocks.lose_blocks")
