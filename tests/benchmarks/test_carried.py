"""What the study of carried schedules makes: files of several processes, stock rows at chosen calls, sizes for the judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secateur.pipeline.schedulers import SOLVERS, begun, scheduler_like
from secateur.pipeline.table import Table
from secateur.schedule import baselines
from secateur.schedule.fold import table_at
from studies import carried


@pytest.fixture
def home(tmp_path):
    return carried.Place("emoji-sd", carried.CONDITIONS["emoji-sd"][0], images=1, work=tmp_path)


def test_of_a_file_that_two_processes_make_the_first_ones_stays(tmp_path):
    path = tmp_path / "work" / "found.json"

    def late(part):
        carried.once(path, lambda other: other.write_text("first"))
        part.write_text("second")

    assert carried.once(path, late).read_text() == "first"
    assert [file.name for file in path.parent.iterdir()] == ["found.json"]
    carried.once(path, lambda part: pytest.fail("makes what is there"))


@pytest.mark.parametrize("hold", carried.SAME.values())
def test_stock_rows_at_every_call_are_those_of_the_stock_sampler(home, hold):
    """Nothing is held if every call of the dense run is made."""
    scheduler, every = home.pipe.scheduler, baselines.dense(home.macs.blocks, carried.STEPS)
    times = tuple(begun(scheduler, carried.STEPS).timesteps.tolist())
    stock = home.with_stock_rows(replace(every, timesteps=times), hold)
    assert stock.timesteps == times
    solver = scheduler if hold else scheduler_like(scheduler, *SOLVERS["DPM-Solver++"])
    given = Table.of({"timesteps": times, **stock.table})
    np.testing.assert_allclose(given.matrix, table_at(solver, times).matrix, atol=1e-5)


def test_calls_elsewhere_are_held_along_lines_from_the_nearest_steps_of_the_dense_run(home):
    every = baselines.dense(home.macs.blocks, 3)
    stock = home.with_stock_rows(replace(every, timesteps=(901.0, 505.0, 12.0)), "extrapolate")
    assert stock.timesteps == (981.0, 501.0, 21.0)


def test_the_judge_gets_images_of_its_own_size():
    images = np.full((2, 96, 96, 3), 0.25, dtype=np.float32)
    small = carried.shrunk(images)
    assert small.shape == (2, 64, 64, 3)
    np.testing.assert_allclose(small, 0.25, atol=1e-5)
    assert carried.shrunk(small) is small
