"""The commands that put schedules and students on the Hugging Face Hub, and take them from there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.terminal import SHARE, AsJson, check_writable, console, finish

app = typer.Typer()


@app.command(rich_help_panel=SHARE)
def push(
    what: Annotated[Path, typer.Argument(metavar="WHAT", help="a schedule's file, or a student's folder")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="on the Hub; made if there is none")],
    base: Annotated[str | None, typer.Option(help="Hub id of the pipe it is for; default: as WHAT says")] = None,
    private: Annotated[bool, typer.Option("--private", help="nobody else may see it")] = False,
    json: AsJson = False,
) -> None:
    """Put a schedule or a student on the Hugging Face Hub, with a card that says what it costs and how to use it."""
    from secateur.pipeline.pipes import base_of
    from secateur.pruning.card import check, push_student
    from secateur.schedule.schedule import Schedule

    pushed = check(what) if what.is_dir() else Schedule.load(what)
    base = base_of(base, pushed.made, option="--base")
    if isinstance(pushed, Schedule):
        source = pushed.push_to_hub(repo, base=base, private=private)
    else:
        source = push_student(what, repo, base=base, private=private)
    console.print(f"pushed {source}", soft_wrap=True)
    finish({"source": source}, as_json=json)


@app.command(rich_help_panel=SHARE)
def pull(
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="owner/name, or owner/name@revision")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="default: schedule.json, or a folder NAME")] = None,
    json: AsJson = False,
) -> None:
    """Take a schedule or a student from the Hugging Face Hub, checked. It says from which commit it came."""
    from secateur import hub
    from secateur.pruning.card import is_student, pull_student
    from secateur.schedule.card import FILE
    from secateur.schedule.schedule import Schedule

    student = is_student(name)
    place = out or Path(hub.split(name)[0].partition("/")[2] if student else FILE)
    if place.exists():
        raise FileExistsError(f"{place} is there already: give another place by --out")
    check_writable(place)
    if student:
        source = pull_student(name, place)
    else:
        schedule = hub.load(hub.take(name, FILE), Schedule.load)
        schedule.save(place)
        source = schedule.made[hub.SOURCE]
    console.print(f"pulled {source} into {place}", soft_wrap=True)
    finish({"source": source, "out": str(place)}, as_json=json)
