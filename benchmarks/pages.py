"""Write what README.md and docs/ show: tables from results/*.json and the commands, between markers, and the drawings.

python benchmarks/pages.py            rewrites them, on whichever page a marker stands
python benchmarks/pages.py --check    exit code 1 if a page says other numbers than the results do
"""

import re
import sys
from pathlib import Path

import command_line
import tables_depth
import tables_front
import tables_time
from drawings import drawn
from studies import STUDIES
from tables import ROOT, Record, load

MARKED = re.compile(r"(<!-- ([\w-]+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def sections() -> dict[str, str]:
    """The text between each pair of markers."""
    tables = tables_front.TABLES | tables_time.TABLES | tables_depth.TABLES
    texts = {name: table.text([current(record) for record in table.records]) for name, table in tables.items()}
    return texts | {"commands": command_line.text()}


def current(name: str) -> Record:
    """A record with the command that measures it today, if a study does: older records name scripts that are gone."""
    record = load(name)
    for study in STUDIES:
        pipe, known = record.get("pipe", "") if study.pipes else "", record.get("options") or {}
        options = {option: known.get(option, default) for option, default in study.options.items()}
        if study.file_of(pipe, options) == name and not study.times:
            return record | {"command": study.command(pipe, options)}
    return record


def written(page: str, sections: dict[str, str]) -> str:
    """The page with each text between the markers of its name; raises KeyError if a marker has no text."""
    return MARKED.sub(lambda match: f"{match[1]}{sections[match[2]]}\n{match[3]}", page)


def stale(root: Path, *, rewrite: bool) -> list[str]:
    """The pages and drawings that say something else than the results, rewritten if wanted."""
    found, current = [], sections()
    pages = (root / "README.md", *sorted((root / "docs").rglob("*.md")))
    wanted = {path: written(path.read_text(encoding="utf-8"), current) for path in pages}
    wanted |= {root / "docs/images" / name: text for name, text in drawn().items()}
    for path, after in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != after:
            found.append(path.name)
            if rewrite:
                path.write_text(after, encoding="utf-8")
    return found


def main() -> None:
    check = "--check" in sys.argv
    found = stale(ROOT, rewrite=not check)
    if found and check:
        raise SystemExit(f"found other numbers in {' and '.join(found)} than in results/: run python benchmarks/pages.py")


if __name__ == "__main__":
    main()
