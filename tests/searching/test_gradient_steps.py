"""Rows and timesteps moved by gradients: against finite differences, and on a trained pipeline."""

from __future__ import annotations

import pytest
import torch

from secateur import zoo
from secateur.denoiser.blocks import find_blocks
from secateur.pipeline.trajectory import record
from secateur.schedule import baselines
from secateur.schedule.fold import fold, sampler_for
from secateur.searching import gradient_steps
from secateur.searching.dip_go.unrolled import decoded
from secateur.searching.gradient_steps import following, gradients_of, moved
from secateur.searching.objective import objective_for
from tiny_pipes import ddim

STEPS = 3


@pytest.fixture
def task(sd):
    """A tiny pipe, a folded schedule of three calls of six, and how near its images come to the dense ones."""
    before, sd.scheduler = sd.scheduler, ddim()
    trajectory = record(sd, ["a fox", "blue"], seeds=[1, 2], num_inference_steps=6, guidance_scale=2.0)
    blocks = find_blocks(sd.unet)
    yield sd, fold(baselines.chosen(blocks, 6, run=[0, 2, 4]), sd.scheduler), objective_for(sd, trajectory, target="dense")
    sd.scheduler = before


def test_gradients_are_those_of_finite_differences(task):
    pipe, schedule, objective = task
    sampler, own = sampler_for(schedule, pipe.scheduler), pipe.scheduler
    rows = [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in sampler.config["rows"]]
    times = sampler.timesteps.double().requires_grad_()
    leaves = {"times": times, **{str(k): row for k, row in enumerate(rows)}}
    gradients = gradients_of(leaves, pipe, following(sampler, rows, times), objective, slice(0, 2))
    assert pipe.scheduler is own
    assert all(part.grad is None for part in pipe.unet.parameters())

    def mean_db(row: int, by: float) -> float:
        changed = [r.detach().clone() for r in rows]
        changed[row][1] += by
        pipe.scheduler = following(sampler, changed, times.detach())
        try:
            with torch.no_grad():
                images = decoded(pipe, objective.conditions, seeds=objective.seeds, fresh=False, **objective.options)
        finally:
            pipe.scheduler = own
        wanted = torch.from_numpy(objective.target).permute(0, 3, 1, 2)
        errors = (images.double() / 2 + 0.5 - wanted).square().flatten(1).mean(1)
        return float(10 * errors.log10().mean())

    for row in range(STEPS):
        wanted = (mean_db(row, 1e-2) - mean_db(row, -1e-2)) / 2e-2
        assert float(gradients[str(row)][1]) == pytest.approx(wanted, rel=0.05, abs=1e-2)
    assert float(gradients["times"].abs().max()) > 0


def test_a_few_updates_bring_the_images_nearer(monkeypatch):
    pipe = zoo.load("emoji-sd")
    asked, _ = zoo.conditions("emoji-sd", 4, calibration=True)
    trajectory = record(pipe, asked, seeds=range(4), num_inference_steps=10, guidance_scale=5.0)
    objective = objective_for(pipe, trajectory, target="dense")
    start = fold(baselines.evenly(find_blocks(pipe.unet), 10, 3), pipe.scheduler)
    monkeypatch.setattr(gradient_steps, "UPDATES", 6)
    monkeypatch.setattr(gradient_steps, "EVERY", 3)
    found = list(moved(pipe, start, objective, batch_size=4))
    assert [one.made["updates"] for one in found] == [3, 6]
    values = [objective(one) for one in (start, *found)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.3
    assert found[-1].timesteps != start.timesteps
