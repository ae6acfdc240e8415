"""Files that are written: all of it or none, whoever else writes; and what is frozen in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from secateur import files
from secateur.artifact import frozen, replacing, thawed, write_text
from secateur.cli.changes import read_changes
from secateur.cli.terminal import check_writable, command_of
from secateur.measuring import records
from secateur.pipeline.prompts import read_prompts
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.plan import Plan, is_plan
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


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


NO_FILES = {
    "deep": nested(100_000),
    "rather deep": nested(900),
    "long": "[" + "9" * 5000 + "]",
}


@pytest.mark.parametrize("kind", [*NO_FILES, "pipe", "device", "large"])
@pytest.mark.parametrize(
    "read",
    [Schedule.load, Plan.load, Scores.load, records.load, read_prompts, read_changes, is_plan, command_of],
    ids=lambda read: read.__qualname__,
)
def test_what_is_no_file_of_text_is_told_at_once_and_never_waited_for(tmp_path, read, kind, monkeypatch):
    path = tmp_path / "a.json"
    if kind in NO_FILES:
        path.write_text(NO_FILES[kind])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        monkeypatch.setattr(files, "MOST_BYTES", 10)
        path.write_text('{"format": 1}')
    if read in (is_plan, command_of):
        assert not read(path)
    elif read is read_prompts and kind in NO_FILES:
        assert read(path)
    else:
        with pytest.raises((ValueError, FileNotFoundError), match=r"a\.json") as caught:
            read(path)
        assert len(str(caught.value).split()) <= 40


def test_a_file_that_a_list_names_lies_in_its_folder(tmp_path):
    (tmp_path / "data" / "inner").mkdir(parents=True)
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"")
    (tmp_path / "data" / "link.png").symlink_to(secret)
    (tmp_path / "data" / "folder").symlink_to(tmp_path)
    for name in ("link.png", "../secret.png", "inner/../../secret.png", "folder/secret.png", str(secret)):
        with pytest.raises(ValueError, match=r"leads out of .*data: put a copy"):
            files.inside(tmp_path / "data", name)
    for name in ("a.png", "inner/../a.png", "inner/none.png"):
        assert files.inside(tmp_path / "data", name) == tmp_path / "data" / name


def test_control_characters_are_shown_escaped_and_json_stays_json():
    text = 'a\x1b[2J\x9b1m\u202e"é\n\t'
    told = files.shown(json.dumps(text, ensure_ascii=False))
    assert json.loads(told) == text
    assert told.isascii() is False  # é is none
    assert not set(told) & set("\x1b\x9b\u202e")
    assert files.shown("a\x1b\n") == "a\\u001b\n"


@pytest.mark.parametrize(
    "times", [(5.0, float("nan")), (5.0, -101.0), (5.0, 6.0), ("5", "4"), (True, 0.0), (1e9, 5.0), (None, 1.0)]
)
def test_timesteps_that_make_no_pictures_are_refused(times):
    with pytest.raises(ValueError, match=r"timestep"):
        Schedule(("a",), ("#", "#"), ("output",), "Chain", timesteps=times)
    assert Schedule(("a",), ("#", "#"), ("output",), "Chain", timesteps=(5, 5.0)).calls == 2  # Heun calls twice at one


@pytest.mark.parametrize(
    "changes",
    [{"rows": [[1.0, float("inf")], [1.0, 0.5]]}, {"rows": [[1.0], [1.0, 0.5]]}, {"input_scales": ["1", 1.0]},
     {"rows": [[1.0, 0.1], [1.0, 0.5, 0.1, 0.1]]}, {"init_noise_sigma": None}, {"signal_rates": 3}],
)  # fmt: skip
def test_numbers_of_a_table_are_checked(changes):
    table = {"rows": [[1.0, 0.1], [1.0, 0.5]], "input_scales": [1.0] * 2, "signal_rates": [], "noise_rates": []}
    table["init_noise_sigma"] = 1.0
    Schedule(("a",), ("#", "#"), ("output",), "Chain", timesteps=(9, 5), table=table)
    with pytest.raises(ValueError, match="table"):
        Schedule(("a",), ("#", "#"), ("output",), "Chain", timesteps=(9, 5), table=table | changes)


@pytest.mark.parametrize(
    "made", [{"keep": "half"}, {"dense_calls": 0}, {"dense_calls": "50"}, {"folded_from": []}, {"keep": [1]}]
)
def test_numbers_of_made_that_are_read_are_checked(made):
    with pytest.raises(ValueError, match="`made`"):
        Schedule(("a",), ("#", "#"), ("output",), "Chain", made=made)
