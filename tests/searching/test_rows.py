"""Rows of a sampler, fitted: against numpy's least squares, and on pipelines whose dense latents they should lead to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring import quality
from secateur.pipeline.generate import generate
from secateur.pipeline.trajectory import first, record
from secateur.schedule import baselines
from secateur.schedule.apply import apply
from secateur.schedule.fold import fold, table_of
from secateur.searching.rows import Choice, error_of, fitted_row, grams_of, shortened, solved, with_fitted_rows
from secateur.searching.teacher import Teacher
from tiny_pipes import ddim, noise

T, RUN = 8, [0, 1, 3, 6]


@pytest.fixture
def recorded(sd):
    """A tiny pipe and the dense trajectory of four samples."""
    before, sd.scheduler = sd.scheduler, ddim()
    yield sd, record(sd, ["a fox", "blue", "red", "an owl"], seeds=range(4), num_inference_steps=T, guidance_scale=2.0)
    sd.scheduler = before


def problem(weights, samples: int = 4, extra: int = 0):
    """Random vectors (m, B, N) and the sum of them with these weights, or with noise that the vectors know nothing of."""
    basis = noise(0, len(weights), samples, 50).double()
    return basis, torch.tensordot(torch.tensor(weights, dtype=basis.dtype), basis, dims=1) + extra * noise(1, samples, 50)


def test_a_row_that_is_exact_is_found():
    weights = (0.9, -0.4, 0.3, -0.1)
    basis, goal = problem(weights)
    assert fitted_row((1.0, 0.0), basis, goal) == pytest.approx(weights, abs=1e-4)


def test_a_row_without_a_ridge_is_least_squares():
    basis, goal = problem((0.9, -0.4, 0.3), extra=1)
    grams = grams_of(torch.cat([basis, goal[None]])).sum(0)
    flat = basis.flatten(1).numpy()
    wanted, rest, *_ = np.linalg.lstsq(flat.T, goal.flatten().numpy(), rcond=None)
    found = solved((1.0, 0.5, 0.5, 0.5), grams, Choice(2, 0.0, scales=True))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert error_of(found, grams) == pytest.approx(float(rest[0]))
    unscaled = solved((1.0, 0.5, 0.5, 0.5), grams, Choice(2, 0.0, scales=False))
    wanted, *_ = np.linalg.lstsq(flat[1:].T, goal.flatten().numpy() - flat[0], rcond=None)
    np.testing.assert_allclose(unscaled, [1.0, *wanted], rtol=1e-6)


def test_the_sum_of_distances_counts_and_not_of_squares():
    """Seven samples ask for one row. An eighth, four times as large, asks for another, which least squares would give it."""
    basis, goal = problem((0.9, -0.4), samples=8)
    goal[7] = 0.9 * basis[0, 7] + 3 * basis[1, 7]
    basis[:, 7] *= 4
    goal[7] *= 4
    grams = grams_of(torch.cat([basis, goal[None]]))
    rows = fitted_row((0.9, 0.0), basis, goal), solved((0.9, 0.0), grams.sum(0), Choice(1, 0.0, scales=True))
    distances, squares = (sum(error_of(np.array(row), gram) ** 0.5 for gram in grams) for row in rows)
    assert distances < 0.8 * squares


def test_a_row_stays_near_the_samplers_own_if_the_samples_know_nothing():
    basis, _ = problem((1.0, 0.5, 0.5, 0.5), samples=8)
    row = fitted_row((1.0, 0.5), basis[:, :, :3], basis[0, :, :3] + 0.5 * basis[1, :, :3] + 1e-3 * noise(5, 8, 3).double())
    assert row[:2] == pytest.approx((1.0, 0.5), abs=1e-2)
    assert all(abs(weight) < 1e-2 for weight in row[2:])


def test_a_prediction_of_nothing_weighs_nothing():
    basis, goal = problem((0.9, -0.4, 0.3))
    basis[2] = 0
    row = fitted_row((1.0, 0.0), basis, goal)
    assert all(np.isfinite(row))
    assert row[2:] in ((), (0.0,))


def test_a_shorter_row_keeps_the_sum_of_its_weights():
    np.testing.assert_allclose(shortened((0.9, 1.0, -0.5, 0.25, 0.125), 2), [0.9, 1.0, -0.125])
    np.testing.assert_allclose(shortened((0.9, 1.0), 3), [0.9, 1.0, 0, 0])


def test_fitted_rows_lead_nearer_to_the_dense_images(recorded):
    pipe, dense = recorded
    own, blocks = pipe.scheduler, find_blocks(denoiser_of(pipe))
    held, teacher = baselines.chosen(blocks, T, run=RUN).bound_to(own), Teacher.of(first(dense, 3), own)
    fitted = with_fitted_rows(pipe, teacher.placed(held, dense.timesteps), teacher, blocks=blocks)
    assert pipe.scheduler is own
    assert (fitted.calls, fitted.timesteps) == (4, tuple(dense.timesteps[t] for t in RUN))
    call = {"seeds": dense.seeds, "num_inference_steps": T, "guidance_scale": 2.0}
    near = {}
    for name, schedule in {"held": held, "folded": fold(held, own), "fitted": fitted}.items():
        with apply(pipe, schedule):
            near[name] = quality.psnr(generate(pipe, dense.conditions, **call), dense.images)
    np.testing.assert_allclose(near["folded"], near["held"], atol=0.1)
    assert (near["fitted"] > near["held"] + 3).all(), near


def test_rows_of_all_calls_stay_the_samplers_own(recorded):
    """The dense sampler's rows lead to the dense latents, so that nothing is left to fit."""
    pipe, dense = recorded
    blocks = find_blocks(denoiser_of(pipe))
    whole, teacher = baselines.dense(blocks, T), Teacher.of(dense, pipe.scheduler)
    fitted = with_fitted_rows(pipe, teacher.placed(whole, dense.timesteps), teacher, blocks=blocks)
    wanted = table_of(fold(whole, pipe.scheduler)).matrix
    x = torch.cat([dense.latents[:1], dense.outputs]).double().flatten(1)
    found = torch.from_numpy(table_of(fitted).matrix.copy()) @ x
    torch.testing.assert_close(found, torch.from_numpy(wanted.copy()) @ x, rtol=1e-3, atol=1e-3)
