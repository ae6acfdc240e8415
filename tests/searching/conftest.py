"""Fixtures of the search's tests."""

from __future__ import annotations

import pytest

from secateur.pipeline.trajectory import record

CALLS = 5


@pytest.fixture(params=["sd", "dit"])
def told(request):
    pipe = request.getfixturevalue(request.param)
    asked = ["a fox", "blue"] if request.param == "sd" else [1, 2]
    return pipe, record(pipe, asked, seeds=[1, 2], num_inference_steps=CALLS, guidance_scale=1.0)
