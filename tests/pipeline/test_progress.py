"""What a long job shows: a bar in a terminal, and in a file a line now and then."""

import sys
import time
from io import StringIO

import pytest

from secateur.cli.long_job import last_step
from secateur.pipeline import progress
from secateur.pipeline.progress import View, watched


def in_file(monkeypatch, every=0.01):
    """A stderr that is a file, to which a line goes every hundredth of a second."""
    monkeypatch.setattr(progress, "EVERY", every)
    for variable in ("FORCE_COLOR", "TTY_INTERACTIVE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "stderr", StringIO())
    return sys.stderr


def slowly(steps, written):
    """The steps, each given when two more lines are written."""
    for step in steps:
        before = written().count("\n")
        for _ in range(1000):
            time.sleep(0.01)
            if written().count("\n") >= before + 2:
                break
        yield step


def view(step):
    return View("searching", step, 3)


@pytest.mark.parametrize("watching", [watched, lambda *job, **first: [last_step(*job, resume="it", stopped=str, **first)]])
def test_in_a_file_lines_say_what_a_job_is_at(monkeypatch, watching):
    stderr = in_file(monkeypatch)
    *_, last = watching(slowly([1, 2, 3], stderr.getvalue), view, first="recording")
    lines = [line.partition(", 0:")[0] for line in stderr.getvalue().splitlines()]
    assert (last, lines[0], lines[-1]) == (3, "recording", "searching, 2 of 3")
    assert "searching, 1 of 3" in lines


def test_a_job_that_is_done_soon_leaves_a_file_empty(monkeypatch):
    stderr = in_file(monkeypatch, every=60.0)
    assert (list(watched(iter([1, 2, 3]), view, first="recording")), stderr.getvalue()) == ([1, 2, 3], "")


def test_no_line_is_written_after_a_job_or_where_nobody_asked(monkeypatch):
    stderr = in_file(monkeypatch)

    def failing():
        raise KeyError
        yield

    with pytest.raises(KeyError):
        list(watched(failing(), view, first="recording"))
    told = stderr.getvalue()
    time.sleep(0.05)
    assert stderr.getvalue() == told
    list(watched(iter([1]), lambda step: time.sleep(0.05) or view(step), first="recording", show=False))
    assert stderr.getvalue() == told
