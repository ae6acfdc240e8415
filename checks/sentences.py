"""How long the sentences of README and docs are; exit code 1 if a page is over its limits.

python checks/sentences.py            README.md, CONTRIBUTING.md, CHANGELOG.md and docs/**/*.md
python checks/sentences.py FILE ...   these files
"""

from __future__ import annotations

import math
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEDIAN, P90 = 16, 30  # the most words of the median sentence and of the 90th percentile
LEFT_OUT = (
    (r"<!--.*?-->", " "),
    (r"^ *```.*?^ *```[^\n]*$", "\n\n"),
    (r"^ *\|[^\n]*$", "\n\n"),
    (r"^(?:#|:::)[^\n]*$", "\n\n"),
    (r"!\[[^\]]*\]\([^)]*\)", " "),
    (r"\[([^\]]*)\]\([^)]*\)", r"\1"),
)  # comments, code, tables, headings, the reference's names, pictures, the targets of links
ITEM = r"^ *(?:[-*+]|\d+\.) +"
END = r"(?<!\be\.g)(?<!\bi\.e)(?<!\bEq)(?<!\bvs)(?<!\bcf)[.!?][\"')\]*]*\s+"


@dataclass(frozen=True)
class Page:
    """The sentences of one page."""

    name: str
    sentences: tuple[str, ...]

    @property
    def lengths(self) -> list[int]:
        return sorted(words(sentence) for sentence in self.sentences)

    @property
    def median(self) -> float:
        return statistics.median(self.lengths) if self.sentences else 0

    @property
    def p90(self) -> int:
        """The length that nine sentences in ten do not exceed."""
        return self.lengths[math.ceil(0.9 * len(self.sentences)) - 1] if self.sentences else 0

    @property
    def plain(self) -> bool:
        return self.median <= MEDIAN and self.p90 <= P90

    @property
    def longest(self) -> list[str]:
        return sorted(self.sentences, key=words, reverse=True)[:3]


def words(sentence: str) -> int:
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


def paragraphs(text: str) -> list[str]:
    """Paragraphs of Markdown on a line each; an item of a list is a paragraph."""
    for pattern, instead in LEFT_OUT:
        text = re.sub(pattern, instead, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(ITEM, "\n\n", text, flags=re.MULTILINE)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def sentences(text: str) -> tuple[str, ...]:
    """The sentences of a text in Markdown: what ends in a full stop, and whole paragraphs without one."""

    def covered(code: re.Match[str]) -> str:  # full stops in code end no sentence; a dot that looks like one does not either
        return code.group().replace(".", "․")

    parts = (re.split(END, re.sub(r"`[^`]*`", covered, paragraph)) for paragraph in paragraphs(text))
    return tuple(sentence for part in parts for sentence in part if words(sentence))


def page(path: Path) -> Page:
    name = path.resolve().relative_to(ROOT).as_posix() if path.resolve().is_relative_to(ROOT) else str(path)
    return Page(name, sentences(path.read_text()))


def report(pages: list[Page]) -> str:
    """A line for each page, then the three longest sentences of each page over the limits."""
    lines = [f"{'words a sentence':36}{'sentences':>10}{f'median ≤ {MEDIAN}':>14}{f'p90 ≤ {P90}':>12}"]
    for p in pages:
        lines.append(f"{p.name:36}{len(p.sentences):10}{p.median:14g}{p.p90:12}{'' if p.plain else '  too long'}")
    for p in pages:
        if not p.plain:
            lines += ["", f"The longest of {p.name}:", *(f"{words(long):5} words: {long}" for long in p.longest)]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    everything = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    pages = [page(Path(name)) for name in arguments] or [page(path) for path in everything]
    print(report(pages))
    return 0 if all(p.plain for p in pages) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
