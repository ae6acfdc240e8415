"""Measure what a study has not measured yet.

    python benchmarks/run.py STUDY [PIPE] [options]     adds to results/STUDY-PIPE.json, row by row
    python benchmarks/run.py STUDY [PIPE] --list        which jobs are done and which are missing; loads no weights

Every row is saved when it is done, and the same command goes on with those that are missing, also on another day. A record
that was measured with other settings is refused.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from secateur.measuring import records
from studies import STUDIES
from study import Job, Record, Run, Study
from tables import RESULTS


def parsed(arguments: list[str] | None = None) -> tuple[Study, argparse.Namespace]:
    """The study of a command line, and its options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    for study in STUDIES:
        command = commands.add_parser(study.name, help=study.title.format(pipe="a pipe"))
        if study.pipes:
            command.add_argument("pipe", nargs="?", default=study.pipes[0], choices=study.pipes)
        for name, default in study.options.items():
            command.add_argument(f"--{name}", type=type(default), default=default, help=f"{default!r} by default")
        command.add_argument("--minutes", type=float, default=float("inf"), help="begin no job after so many")
        command.add_argument("--jobs", type=int, default=None, help="make at most so many")
        command.add_argument("--list", action="store_true", help="say which jobs are done, and make none")
        command.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
        command.add_argument("--work", type=Path, default=Path("benchmarks-work"), help="folder for what a rerun takes up")
    args = parser.parse_args(arguments)
    return next(study for study in STUDIES if study.name == args.study), args


def begun(study: Study, pipe: str, options: dict[str, Any], path: Path) -> Record:
    """The record so far, or a new one; SystemExit if it was measured with other settings."""
    settings = study.settings(pipe, options)
    head = {key: settings.pop(key, None) for key in ("seeds", "options")}
    title, command = study.title.format(pipe=pipe), study.command(pipe, options)
    fresh = records.blank(title, command, pipe=pipe or None, **head) | settings
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


def go(study: Study, run: Run, path: Path, *, until: float = float("inf"), most: int | None = None) -> int:
    """How many jobs were made: those that are missing, saved one by one, until the time is up."""
    count = 0
    for job in study.jobs(run):
        if job.is_done(run.record):
            continue
        if time.monotonic() > until or count == most:
            print("run it again to go on")
            return count
        add(run.record, job)
        study.finish(run)
        run.record["made"] = records.now()
        records.save(run.record, path)
        count += 1
    return count


def add(record: Record, job: Job) -> None:
    """Make a job's rows; one whose name is there already adds to it."""
    for row in job.make():
        old = next((old for old in record["rows"] if old["name"] == row["name"]), None)
        if old is None:
            record["rows"].append(row)
        else:
            old.update(row)
        figures = (f"{key} {row[key]['mean']:.3g}" for key in ("psnr_db", "accuracy") if row.get(key))
        print(f"{row['name']:60s}", *figures, flush=True)


def main(arguments: list[str] | None = None) -> None:
    study, args = parsed(arguments)
    pipe, options = getattr(args, "pipe", ""), {name: getattr(args, name) for name in study.options}
    path = args.results / f"{study.file_of(pipe, options)}.json"
    run = Run(pipe, options, begun(study, pipe, options, path), args.work / study.name, args.results)
    if args.list:
        states = [(job.is_done(run.record), job.name) for job in study.jobs(run)]
        print("\n".join(f"{'done' if done else 'missing':8s} {name}" for done, name in states))
        print(f"{sum(done for done, _ in states)} done, {sum(not done for done, _ in states)} missing")
        return
    args.results.mkdir(parents=True, exist_ok=True)
    made = go(study, run, path, until=time.monotonic() + 60 * args.minutes, most=args.jobs)
    print(f"{path}: {made} jobs made" if made else f"{path}: nothing to do")


if __name__ == "__main__":
    main()
