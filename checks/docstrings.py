"""Docstrings of the house as Markdown: what they say about arguments and fields becomes a list.

mkdocs.yml names this file as an extension of griffe, which reads the docstrings for the reference.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

TITLED = re.compile(r"(?P<title>[A-Z][\w ]+):\n(?P<items>(?:    .*(?:\n|\Z))+)")


class AsMarkdown(griffe.Extension):
    """Rewrites every docstring once the whole package is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value, names_of(obj))


def names_of(obj: griffe.Object) -> set[str]:
    """What a docstring may say something about: the arguments of a function, the members and arguments of a class."""
    return {parameter.name for parameter in getattr(obj, "parameters", ())} | set(obj.members)


def markdown(text: str, names: set[str]) -> str:
    """The docstring, with lists for what it says about these names; code is Python."""
    return "\n\n".join(paragraph(part, names) for part in re.split(r"\n(?: *\n)+", text.strip("\n")))


def paragraph(text: str, names: set[str]) -> str:
    """One paragraph; names: what an item may begin with."""
    if titled := TITLED.fullmatch(text):
        lines = re.sub(r"\n {8,}", " ", titled["items"].rstrip()).splitlines()
        return "\n".join([f"**{titled['title']}**", "", *(f"* {item(line.strip())}" for line in lines)])
    if text.startswith("    "):
        return f"```python\n{textwrap.dedent(text)}\n```"
    if not names:
        return text
    name = f"(?:{'|'.join(map(re.escape, names))})"
    before, *parts = re.split(rf"(?:^|(?<=[.;,] ))({name}(?:, {name})*): (?=\S)", " ".join(text.split()))
    if not parts:
        return text
    listed = [f"* {item(f'{called}: {what}')}" for called, what in zip(parts[::2], parts[1::2], strict=True)]
    return "\n".join([before.rstrip(), "", *listed] if before else listed)


def item(text: str) -> str:
    """`name, other: what they are` with the names as code."""
    called, colon, what = text.partition(": ")
    return ", ".join(f"`{name}`" for name in called.split(", ")) + f"{colon}{what.rstrip(' ,;')}"
