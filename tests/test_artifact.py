"""Files that are written: all of it or none, whoever else writes; and what is frozen in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from secateur.artifact import frozen, replacing, thawed, write_text
from secateur.cli.terminal import check_writable
from secateur.measuring import records
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.plan import Plan
from secateur.schedule.schedule import Schedule
from secateur.schedule.scores import Scores

WRITERS = """
import sys
from secateur.artifact import write_text
for k in range(200):
    write_text(sys.argv[2] * 100_000, sys.argv[1])
"""


def test_of_two_writers_at_once_each_reader_sees_one_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    writers = [subprocess.Popen([sys.executable, "-c", WRITERS, path, letter]) for letter in "xy"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        text = path.read_text() if path.exists() else ""
        seen.add((len(text), len(set(text))))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {(0, 0), (100_000, 1)}
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_two_replacements_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert not path.exists()
    assert path.read_text() == "first"  # the last to end


KILLED = """
import os, signal, sys
from secateur.artifact import replacing
with replacing(sys.argv[1]) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_goes_with_the_next_and_what_a_running_one_writes_stays(tmp_path):
    path = tmp_path / "a.txt"
    for name in ("a.txt", "b.txt"):
        assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / name], check=False).returncode == -9
    with replacing(path) as running:
        running.write_text("running")
        write_text("new", path)
        [orphan] = {*tmp_path.iterdir()} - {path, running}
        assert orphan.name.startswith(".b.txt.")  # the next writer of b.txt will see to it
    assert path.read_text() == "running"
    write_text("new", tmp_path / "b.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def stop_half_way(path, error: type[BaseException]) -> None:
    with replacing(path) as part:
        part.write_text("half")
        raise error("stop")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_after_an_error_the_old_file_stands_and_no_other(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text("old", path)
    with pytest.raises(error):
        stop_half_way(path, error)
    assert (path.read_text(), [p.name for p in tmp_path.iterdir()]) == ("old", ["a.txt"])


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"folder cannot be written .* as it was: make room, or save elsewhere"):
        write_text("new", tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match=r"no folder .*where to save a.txt in: make it first"):
        write_text("new", tmp_path / "where" / "a.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


OTHERS = {
    "fields": (b'{"a": 1}', "the fields a", "no format"),
    "list": (b"[1]", "a list"),
    "half": (b'{"format": 1, "gri', "it is no JSON, or cut short"),
    "binary": (b"\x7fELF\xd0\xff", "it is no text"),
    "empty": (b"", "it is empty"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("load", [Schedule.load, Plan.load, Scores.load, LayerScores.load, records.load])
def test_a_file_of_something_else_is_told_in_words_for_everyone(tmp_path, load, kind):
    content, *says = OTHERS[kind]
    path = tmp_path / "a.file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.file") as caught:
        load(path)
    told = str(caught.value).removeprefix(str(path))
    assert any(word in told for word in (*says, "no safetensors file of secateur, or cut short"))
    assert not any(word in told for word in ("Expecting", "codec", "char", "header", "Error", "None"))
    assert len(told.split()) <= 30


@pytest.mark.parametrize(
    "save", [lambda path: write_text("", path), check_writable, lambda path: check_writable(path, folder=True)]
)
def test_a_place_where_nothing_can_be_saved_is_told_alike_before_and_at_the_end(tmp_path, save):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"file is a file, in which x\.json cannot be saved: "):
        save(tmp_path / "file" / "x.json")
    with pytest.raises(PermissionError, match=r"/proc/x\.json cannot be written, since the folder /proc takes no new file: "):
        save(Path("/proc/x.json"))


def test_what_is_frozen_thaws_into_what_it_was():
    value = {"a": [1, {"b": (2.5, None)}], "c": True}
    assert thawed(frozen(value)) == {"a": [1, {"b": [2.5, None]}], "c": True}


def test_json_nested_too_deep_is_refused_in_a_sentence(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match=r"deep.json is no whole schedule file: its JSON is nested too deep"):
        Schedule.load(path)
