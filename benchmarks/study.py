"""What a study is: a name, a title, options, and jobs whose rows make its record."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from names import library

Row = dict[str, Any]
Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run of a study. record: what is measured so far. work: a folder for what a rerun takes up. results: of records."""

    pipe: str
    options: Mapping[str, Any]
    record: Record
    work: Path
    results: Path


@dataclass(frozen=True)
class Job:
    """Some rows of a record. make: one row, named like the job, or named rows; a row of a name that is there adds to it.

    last: the name of the row that tells that the job is done, if it is not the job's. done: overrides that.
    """

    name: str
    make: Callable[[], Row | Iterable[Row]]
    last: str = ""
    done: bool | None = None

    def is_done(self, record: Record) -> bool:
        """Whether a record has this job's rows, under the library's names of solvers or older ones."""
        known = {row.get("job", row["name"]) for row in record["rows"]} | {library(row["name"]) for row in record["rows"]}
        return (self.last or self.name) in known if self.done is None else self.done


@dataclass(frozen=True)
class Study:
    """A table's worth of measurements: `jobs` yields what is to be measured, in order of interest.

    title: may name the {pipe}. options: of the command line, with their defaults. pipes: to choose from, the first by default.
    head: of the record, with the "seeds" and "options" that it must have been measured with. finish: adds what all rows tell.
    file: the record's name, the study's (and the pipe's) by default; times: adds to the rows of a record that is there.
    """

    name: str
    title: str
    jobs: Callable[[Run], Iterator[Job]]
    options: Mapping[str, Any] = field(default_factory=dict)
    pipes: tuple[str, ...] = ()
    head: Record | Callable[[str, Mapping[str, Any]], Record] = field(default_factory=dict)
    finish: Callable[[Run], None] = lambda run: None
    file: Callable[[str, Mapping[str, Any]], str] | None = None
    times: bool = False

    def file_of(self, pipe: str, options: Mapping[str, Any]) -> str:
        """The name of the record."""
        return self.file(pipe, options) if self.file else "-".join(filter(None, (self.name, pipe)))

    def command(self, pipe: str, options: Mapping[str, Any]) -> str:
        """What a user types to measure this again."""
        given = (f"--{name} {value}" for name, value in options.items())
        return " ".join(filter(None, ("python benchmarks/run.py", self.name, pipe, *given)))
