"""The commands as a page shows them, read off the command line itself: usage, what each does, and a table of its options."""

from pathlib import Path
from typing import Any

import typer

from secateur.cli.main import app


def text() -> str:
    """Every command in Markdown: a table of all by their groups, then a section each, in the order of --help."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    groups = dict.fromkeys(command.rich_help_panel for command in commands.values())
    ordered = [command for group in groups for command in commands.values() if command.rich_help_panel == group]
    rows = [f"| {c.rich_help_panel} | [`{c.name}`](#{c.name}) | {told(c)[0]} |" for c in ordered]
    sections = [line for command in ordered for line in section(command)]
    return "\n".join(["| to | command | |", "|---|---|---|", *rows, *sections])


def section(command: Any) -> list[str]:
    """The lines of one command."""
    options = [p for p in command.params if p.param_type_name == "option"]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    wanted = [f"{p.opts[0]} {p.name.upper()}" for p in options if p.required]
    usage = " ".join(["secateur", command.name, *(p.metavar for p in arguments), *wanted])
    rows = [f"| `{p.metavar}` | {default(p)} | {cell(p.help or '')} |" for p in arguments]
    rows += [f"| {names(p)} | {default(p)} | {cell(p.help or '')} |" for p in options]
    table = ["| option | default | |", "|---|---|---|", *rows]
    return ["", f"## {command.name}", "", *("\n\n".join(told(command)).splitlines()), "", "```sh", usage, "```", "", *table]


def told(command: Any) -> list[str]:
    """The paragraphs of a command's docstring."""
    return [" ".join(part.split()) for part in command.help.split("\n\n") if part.strip()]


def names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def default(parameter: Any) -> str:
    """What is taken if it is left out; empty for what is off or absent."""
    if parameter.required:
        return "required"
    value = getattr(parameter.default, "value", parameter.default)
    if isinstance(value, Path):
        return f"`{value.as_posix()}`"
    return "" if value in (None, False, ()) else f"`{value}`"


def cell(words: str) -> str:
    return words.replace("|", "\\|")
