"""Studies: they go on where they were cut, refuse other settings, and list their jobs without loading weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import diffusers
import pytest

import run
import stock
from bench import counted
from secateur import Macs, zoo
from studies import STUDIES, front, gpu, schedulers
from study import Job, Run, Study
from tables import RESULTS

RECORDED = {  # what the records in results/ were measured with, if it is not the default
    ("recovery", "emoji-sd"): {"updates": 240, "examples": 2048},
    ("recovery", "emoji-dit"): {"updates": 800, "examples": 4096},
    ("product", "emoji-sd"): {"updates": 240},
    ("product", "emoji-dit"): {"updates": 800},
}
INCOMPLETE = ("front", "timing", "carried", "gpu")  # whose records have fewer rivals yet, or are none, or ran out of time
CASES = [(study, pipe) for study in STUDIES for pipe in study.pipes or ("",)]


def three(made, breaks=()):
    """A study of three rows, of which some fail."""

    def measure(name):
        if name in breaks:
            raise KeyboardInterrupt
        made.append(name)
        return [{"name": name}]

    names = ("one", "two", "three")
    jobs = lambda run: (Job(name, lambda name=name: measure(name)) for name in names)  # noqa: E731
    return Study("some", "Some", jobs, options={"n": 1}, head=lambda pipe, options: {"options": dict(options)})


def begin(study, path, **options):
    options = {**study.options, **options}
    return Run("", options, run.begun(study, "", options, path), path.parent, path.parent)


def names(path):
    return [row["name"] for row in json.loads(path.read_text())["rows"]]


def test_a_study_goes_on_where_it_was_cut(tmp_path):
    path, made = tmp_path / "some.json", []
    breaking, study = three(made, breaks={"two"}), three(made)
    with pytest.raises(KeyboardInterrupt):
        run.go(breaking, begin(breaking, path), path)
    assert names(path) == ["one"]
    assert run.go(study, begin(study, path), path) == 2
    assert made == names(path) == ["one", "two", "three"]
    assert run.go(study, begin(study, path), path) == 0


def test_several_runs_at_once_share_the_jobs(tmp_path):
    """While the first makes its first job, a second makes the others; neither loses the other's rows."""
    path, made = tmp_path / "some.json", []
    study = three(made)

    def first():
        assert run.go(study, begin(study, path), path) == 2
        return {"name": "one"}

    slow = replace(study, jobs=lambda run: (Job(job.name, first) if job.name == "one" else job for job in study.jobs(run)))
    assert run.go(slow, begin(slow, path), path) == 1
    assert made == ["two", "three"]
    assert names(path) == ["two", "three", "one"]


def test_a_record_of_other_settings_is_refused_and_stays(tmp_path):
    path, study = tmp_path / "some.json", three([])
    run.go(study, begin(study, path), path)
    before = path.read_bytes()
    with pytest.raises(SystemExit, match=r"measured with other n: .*python benchmarks/run.py some --n 1"):
        begin(study, path, n=2)
    assert path.read_bytes() == before


def test_a_job_adds_to_the_row_of_its_name():
    record = {"rows": [{"name": "one", "psnr_db": {"mean": 30.0}, "on": "a GPU"}]}
    for job in (Job("times", lambda: [{"name": "one", "speedup": 2.0}]), Job("one", lambda: {"calls": 3})):
        run.add(record, run.rows(job))
    assert record["rows"] == [{"name": "one", "psnr_db": {"mean": 30.0}, "on": "a GPU", "speedup": 2.0, "calls": 3}]


@pytest.mark.parametrize(("study", "pipe"), CASES, ids=[f"{study.name} {pipe}" for study, pipe in CASES])
def test_every_study_lists_its_jobs_without_weights_and_finds_its_record_done(study, pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "load", lambda name: pytest.fail("listing loads weights"))
    options = {**study.options, **RECORDED.get((study.name.partition("-t")[0], pipe), {})}
    path = RESULTS / f"{study.file_of(pipe, options)}.json"
    current = Run(pipe, options, run.begun(study, pipe, options, path), tmp_path, RESULTS)
    jobs = list(study.jobs(current))
    assert len({job.name for job in jobs}) == len(jobs) > 0
    if study.name not in INCOMPLETE:
        assert [job.name for job in jobs if not job.is_done(current.record)] == []


def test_a_new_record_finds_every_job_missing(tmp_path):
    for study, pipe in CASES:
        if not study.times:
            record = run.begun(study, pipe, dict(study.options), tmp_path / "none.json")
            fresh = Run(pipe, study.options, record, tmp_path, tmp_path)
            assert not any(job.is_done(fresh.record) for job in study.jobs(fresh)), study.name


@pytest.mark.parametrize("budget", front.BUDGETS)
def test_the_local_search_like_budcaches_makes_the_budgets_whole_calls_and_places_them_better(budget):
    macs, late = counted("emoji-dit"), lambda schedule: float(sum(t for t in range(50) if not schedule.held(t)))
    how = {"objective": late, "trials": 40, "seed": 0}
    first, *_, last = front.whole_calls_search(macs, 50, keep=budget / 50, **how)
    assert last.best_value > first.value
    for trial in (first, last):
        assert sum(row.count("#") for row in trial.schedule.grid) == int(budget) * len(macs.blocks)
        assert {len(set(row)) for row in trial.schedule.grid} == {1}


@pytest.mark.filterwarnings("ignore:__array_wrap__")  # DEIS and KDPM2 of diffusers call numpy on tensors
def test_the_page_of_schedulers_says_what_this_diffusers_has():
    """Each scheduler of the installed diffusers is probed anew, and is linear or not as the record says."""
    record = json.loads((RESULTS / "schedulers.json").read_text())
    if record["hardware"]["diffusers"] != diffusers.__version__:
        pytest.skip(f"the record is of diffusers {record['hardware']['diffusers']}: run python benchmarks/run.py schedulers")
    assert [row["name"] for row in record["rows"]] == [name for name in dir(diffusers) if name.endswith("Scheduler")]
    for before in record["rows"]:
        now = schedulers.row(before["name"])
        assert before == {"name": before["name"], **now} or {"why"} == now.keys() == before.keys() - {"name"}


@pytest.fixture
def rehearsal(tmp_path, monkeypatch):
    """A function that rehearses the GPU's study for some minutes: how many jobs are made, and the rows so far."""
    study, path = next(study for study in STUDIES if study.name == "gpu"), tmp_path / "gpu.json"
    monkeypatch.setitem(gpu.CALLS, "dit-xl-2", 10)
    monkeypatch.setattr(gpu, "JOBS", {name: gpu.JOBS[name] for name in ("dit-xl-2", "sdxl, cut")})

    def rehearse(minutes=8.0):
        made = run.go(study, begin(study, path, minutes=minutes, rehearse=1), path)
        return made, json.loads(path.read_text())["rows"] if path.exists() else []

    return rehearse


def test_the_gpus_study_measures_each_way_of_tiny_networks_once(rehearsal):
    made, rows = rehearsal()
    assert made == 2
    assert [row["name"] for row in rows] == [
        "dit-xl-2: dense, 10 calls",
        "dit-xl-2: sampler of 2 calls",
        "dit-xl-2: plain, 2 steps",
        "dit-xl-2: FORA, interval 5",
        "sdxl, cut: teacher",
        "sdxl, cut: student",
    ]
    assert all(row["finite"] and 0 < row["latency_s"]["median"] < math.inf for row in rows)
    assert rehearsal() == (0, rows)


def test_the_gpus_study_begins_nothing_after_its_time(rehearsal, capsys):
    assert rehearsal(minutes=0.0) == (0, [])
    assert "time ran out before dit-xl-2; sdxl, cut: the same command" in capsys.readouterr().out


@pytest.mark.parametrize("raising", ["draw", "spent"])
def test_a_job_of_the_gpus_study_that_raises_says_so_and_is_made_again(rehearsal, monkeypatch, raising):
    kind = {"draw": stock.Way, "spent": Macs}[raising]
    right = getattr(kind, raising)

    def wrong(self, *args, **kwargs):
        if any(getattr(part, "whole", True) is False for part in (args[0], getattr(self, "schedule", None))):
            raise RuntimeError("out of\nmemory")
        return right(self, *args, **kwargs)

    monkeypatch.setattr(kind, raising, wrong)
    made, rows = rehearsal()
    assert (made, [row["error"] for row in rows if "error" in row]) == (2, ["RuntimeError: out of memory"])
    monkeypatch.setattr(kind, raising, right)
    made, rows = rehearsal()
    assert (made, len(rows), [row for row in rows if "error" in row]) == (1, 6, [])
