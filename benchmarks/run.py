"""Measure what a study has not measured yet.

    python benchmarks/run.py STUDY [PIPE] [options]     adds to results/STUDY-PIPE.json, row by row
    python benchmarks/run.py STUDY [PIPE] --list        which jobs are done and which are missing; loads no weights

Every row is saved when it is done, and the same command goes on with those that are missing, also on another day. Several of
the same command at once share the jobs. A record that was measured with other settings is refused.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from hashlib import sha256
from pathlib import Path
from typing import Any

from secateur.measuring import records
from secateur.measuring.hardware import hardware
from studies import STUDIES
from study import Job, Record, Row, Run, Study
from tables import RESULTS


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of a command line, its study among them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="STUDY")
    for study in STUDIES:
        command = commands.add_parser(study.name, help=study.title.format(pipe="a pipe"))
        command.set_defaults(study=study, pipe="")
        if study.pipes:
            command.add_argument("pipe", nargs="?", default=study.pipes[0], choices=study.pipes)
        for name, default in study.options.items():
            command.add_argument(f"--{name}", type=type(default), default=default, help=f"{default!r} by default")
        command.add_argument("--list", action="store_true", help="say which jobs are done, and make none")
        command.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    return parser.parse_args(arguments)


def begun(study: Study, pipe: str, options: dict[str, Any], path: Path) -> Record:
    """The record so far, or a new one; SystemExit if it was measured with other settings."""
    head = dict(study.head(pipe, options) if callable(study.head) else study.head)
    known = {key: head.pop(key, None) for key in ("seeds", "options")}
    fresh = records.blank(study.title.format(pipe=pipe), study.command(pipe, options), pipe=pipe or None, **known) | head
    if not path.exists():
        if study.times:
            raise SystemExit(f"found no {path}: measure it before it is timed")
        return fresh
    before = json.loads(path.read_text(encoding="utf-8"))
    if other := differing(before, json.loads(json.dumps(fresh))):
        raise SystemExit(f"{path} was measured with other {', '.join(other)}: move it away, or run {before['command']}")
    return before


def differing(before: Record, fresh: Record) -> list[str]:
    """What two records were measured with that is not the same, of what both name."""
    old, new = ({"seeds": record.get("seeds"), **(record.get("options") or {})} for record in (before, fresh))
    return [key for key in new if key in old and None not in (old[key], new[key]) and old[key] != new[key]]


def go(study: Study, run: Run, path: Path) -> int:
    """How many jobs were made: those that are missing and that no other process is making, saved one by one."""
    count, locks = 0, run.work / "locks"
    for job in study.jobs(run):
        if job.is_done(run.record):
            continue
        with locked(locks / sha256(f"{path} {job.name}".encode()).hexdigest()[:16]) as alone:
            if not alone or job.is_done(newest(run, path)):
                continue
            made = rows(job)
            with locked(locks / f"{path.stem}.json", wait=True):
                add(newest(run, path), made)
                study.finish(run)
                run.record["made"] = records.now()
                records.save(run.record, path)
            count += 1
    return count


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone has a lock; the system frees it if the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            flock(file, LOCK_EX | (0 if wait else LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def newest(run: Run, path: Path) -> Record:
    """The run's record with the rows that other processes have saved."""
    if path.exists():
        run.record.update(json.loads(path.read_text(encoding="utf-8")))
    return run.record


def rows(job: Job) -> list[Row]:
    """The rows that a job makes, each with a name."""
    made = job.make()
    return [{"name": job.name} | row for row in ([made] if isinstance(made, dict) else made)]


def add(record: Record, made: list[Row]) -> None:
    """Add rows to a record; one whose name is there already adds to it, and those that failed before in the same job go.

    A new row says on which machine it was made.
    """
    machine = hardware()
    jobs = {row.get("job") for row in made}
    record["rows"] = [old for old in record["rows"] if "error" not in old or old["job"] not in jobs]
    for row in made:
        if old := next((old for old in record["rows"] if old["name"] == row["name"]), None):
            old.update(row)
        else:
            record["rows"].append(row | {"on": machine["gpu"] or machine["cpu"]})
        print(row["name"], flush=True)


def main(arguments: list[str] | None = None) -> None:
    args = parsed(arguments)
    study, options = args.study, {name: getattr(args, name) for name in args.study.options}
    path = args.results / f"{study.file_of(args.pipe, options)}.json"
    work = args.results.parent / "benchmarks-work" / study.name.partition("-")[0]  # product-times reads what product wrote
    run = Run(args.pipe, options, begun(study, args.pipe, options, path), work, args.results)
    if args.list:
        for job in study.jobs(run):
            print(f"{'done' if job.is_done(run.record) else 'missing':8s} {job.name}")
        return
    args.results.mkdir(parents=True, exist_ok=True)
    print(f"{path}: {go(study, run, path)} jobs made")


if __name__ == "__main__":
    main()
