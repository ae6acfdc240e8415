"""A job in a thread of its own: its steps in order, its errors here, and an end when nobody listens."""

from __future__ import annotations

import pytest
import torch

from secateur.studio.live import live


@pytest.fixture
def layer():
    return torch.nn.Linear(2, 2)


def job(layer, done: list[int], *, error: Exception | None = None):
    for step in range(3):
        for _ in range(4):
            layer(torch.zeros(1, 2))
            done.append(step)
        yield f"step {step}"
    if error:
        raise error


def test_the_steps_come_in_order_and_calls_are_counted_between_them(layer):
    news = list(live(layer, job(layer, [])))
    assert [n for n in news if isinstance(n, str)] == ["step 0", "step 1", "step 2"]
    assert news[0] == 1  # a call is told at once
    assert all(1 <= n <= 4 for n in news if isinstance(n, int))
    assert not layer._forward_pre_hooks


def test_a_job_waits_until_its_next_step_is_wanted(layer):
    done: list[int] = []
    steps = live(layer, job(layer, done))
    assert next(s for s in steps if isinstance(s, str)) == "step 0"
    assert done == [0] * 4
    steps.close()
    assert done == [0] * 4


def test_an_error_of_the_job_is_raised_here(layer):
    with pytest.raises(ValueError, match="of the job"):
        list(live(layer, job(layer, [], error=ValueError("of the job"))))


def test_a_job_that_nobody_listens_to_ends_at_the_next_call(layer):
    done: list[int] = []
    steps = live(layer, job(layer, done))
    assert next(steps) == 1
    steps.close()
    assert len(done) < 4 or done == [0] * 4  # before its first step, at most at it
    assert not layer._forward_pre_hooks
