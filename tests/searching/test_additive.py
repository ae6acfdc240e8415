"""The additive search against the schedulers themselves and against brute force, on real pipelines of tiny size."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import diffusers
import numpy as np
import pytest
import torch

from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.of_pipe import denoiser_of
from secateur.pipeline.solvers import check_linear
from secateur.pipeline.trajectory import Trajectory
from secateur.schedule import baselines
from secateur.schedule.holds import HOLDS
from secateur.searching import additive, paths, refresh
from secateur.searching import ladder as ladders
from tiny_pipes import sd3, stable_diffusion
from trajectories import T, after, recorded

ONE_STEP = {
    "ddim": lambda: diffusers.DDIMScheduler(steps_offset=1, clip_sample=False, set_alpha_to_one=False),
    "ddim v": lambda: diffusers.DDIMScheduler(steps_offset=1, clip_sample=False, prediction_type="v_prediction"),
    "first order": lambda: dpm_solver(solver_order=1),
}


def dpm_solver(**options) -> diffusers.DPMSolverMultistepScheduler:
    return diffusers.DPMSolverMultistepScheduler(**({"timestep_spacing": "linspace", "steps_offset": 1} | options))


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("name", ONE_STEP)
def test_a_held_update_lands_where_the_pipeline_does(name, hold):
    """Only one gap is held, and the calls before it are dense: there the update is what the pipeline then computes."""
    pipe, call = stable_diffusion(scheduler=ONE_STEP[name]())
    trajectory = recorded(pipe, call)
    ladder, blocks = ladders.held(trajectory, pipe.scheduler, hold=hold), find_blocks(pipe.unet)
    for s, t in ((1, 3), (2, 5), (4, 8)):
        schedule = baselines.chosen(blocks, T, run=[k for k in range(T) if not s < k < t])
        landed = after(pipe, call, replace(schedule, hold=hold))[t - 1]
        bend = ladder.bend[s - 1, s, t] * (ladder.y[s] - ladder.y[s - 1])
        found = ladder.carry[s, t] * ladder.x[s] + ladder.gain[s, t] * ladder.y[s] + bend
        close = float((found - landed.flatten()).abs().max())
        assert close < 0.1 * float((found - ladder.x[t]).abs().max()), (close, found - ladder.x[t])
        missed = float((found - ladder.x[t]).pow(2).mean() / max(1.0, float(ladder.x[t].pow(2).mean())))
        assert additive.local_errors(ladder)[s - 1, s, t] == pytest.approx(missed)
        assert missed > 0


def test_a_free_update_is_the_solver_s_own():
    pipe, call = stable_diffusion(scheduler=dpm_solver(final_sigmas_type="zero"))
    trajectory = recorded(pipe, call)
    ladder = ladders.free(trajectory, pipe.scheduler)
    for k in range(T):
        u = max(k - 1, 0)
        found = ladder.carry[k, k + 1] * ladder.x[k] + ladder.gain[k, k + 1] * ladder.y[k]
        found = found + ladder.bend[u, k, k + 1] * (ladder.y[k] - ladder.y[u])
        torch.testing.assert_close(found, ladder.x[k + 1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("prediction", "sigma"), [("epsilon", 1.5), ("v_prediction", 0.7), ("sample", 0.3)])
def test_data_predictions_are_what_the_scheduler_makes_of_outputs(prediction, sigma):
    scheduler = dpm_solver(prediction_type=prediction)
    scheduler.set_timesteps(3)
    scheduler.sigmas = torch.tensor([sigma, sigma / 2])
    scheduler._step_index = 0
    x, output = torch.randn(2, 5), torch.randn(1, 5)
    wanted = scheduler.convert_model_output(output, sample=x[:1])
    a, s = ladders.signal_and_noise(torch.tensor([sigma, sigma / 2]), flow=False)
    torch.testing.assert_close(ladders.data_predictions(output, x, a, s, kind=prediction), wanted)


def test_the_path_is_the_best_of_all_of_them():
    rng = np.random.default_rng(0)
    G = 7
    errors = np.full((G, G, G + 1), np.inf)
    for u in range(G):
        for s in range(u, G):
            errors[u, s, s + 1 :] = rng.random(G - s)
    found = additive.solve(errors, calls=G)
    for count, solution in enumerate(found, start=1):
        paths = [(0, *rest) for rest in combinations(range(1, G), count - 1)]
        best = min(paths, key=lambda path: total(errors, path))
        assert solution.levels == best
        assert solution.error == pytest.approx(total(errors, best))


def total(errors: np.ndarray, path: tuple[int, ...]) -> float:
    G = len(errors)
    before, then = (path[0], *path[:-1]), (*path[1:], G)
    return float(sum(errors[u, s, t] for u, s, t in zip(before, path, then, strict=True)))


def test_all_calls_cost_nothing_and_fewer_cost_more():
    pipe, call = stable_diffusion(scheduler=ONE_STEP["ddim"]())
    found = additive.solve(additive.local_errors(ladders.held(recorded(pipe, call), pipe.scheduler)), calls=T)
    assert found[-1].levels == tuple(range(T))
    assert found[-1].error < 1e-9
    assert [solution.error for solution in found] == sorted((solution.error for solution in found), reverse=True)


def test_flow_matching_is_held_too():
    pipe, call = sd3()
    ladder = ladders.held(recorded(pipe, call), pipe.scheduler, hold="extrapolate")
    errors = additive.local_errors(ladder)
    assert errors[2, 3, 4] < 1e-9 < errors[2, 3, 6] < np.inf


def test_a_solver_with_a_memory_is_not_held():
    pipe, call = stable_diffusion(scheduler=dpm_solver())
    with pytest.raises(ValueError, match="DPMSolverMultistepScheduler combines the last 2 predictions in every step"):
        ladders.held(recorded(pipe, call), pipe.scheduler)


def test_a_scheduler_that_clips_is_not_held():
    with pytest.raises(ValueError, match="clip_sample=True"):
        check_linear(diffusers.DDIMScheduler())


def test_bfloat16_is_read_with_its_own_rounding():
    pipe, call = stable_diffusion(scheduler=ONE_STEP["ddim"]())
    pipe.to(torch.bfloat16)
    call = {k: v.bfloat16() if torch.is_tensor(v) else v for k, v in call.items()}
    assert len(ladders.held(recorded(pipe, call), pipe.scheduler)) == T


def test_solutions_become_schedules_that_run():
    pipe, call = stable_diffusion(scheduler=dpm_solver())
    blocks, trajectory = find_blocks(denoiser_of(pipe)), recorded(pipe, call)
    ladder = ladders.free(trajectory, pipe.scheduler)
    solution = additive.solve(additive.local_errors(ladder), calls=4)[-1]
    path = paths.of_whole_calls(solution.levels, solution.error)
    free = refresh.schedule_of(path, ladder, blocks, hold="output", made={"seed": 1})
    assert (free.calls, free.timesteps) == (4, tuple(trajectory.timesteps[k] for k in solution.levels))
    assert len(after(pipe, call, free, 4)) == 4
    ladder = replace(ladder, chosen=False)
    held = refresh.schedule_of(path, ladder, blocks, hold="extrapolate", made={})
    assert tuple(t for t in range(T) if not held.held(t)) == solution.levels
    assert (held.hold, held.made["method"]) == ("extrapolate", "additive")


def test_levels_are_whole_and_fall():
    found = ladders.levels(dpm_solver(), 20)
    assert all(float(t).is_integer() for t in found)
    assert list(found) == sorted(set(found), reverse=True)
    assert found[0] == 999
    assert len(found) > 25


def recorded_as(forward, pipe, call) -> tuple[Trajectory, set[int]]:
    """The trajectory of a pipe whose U-Net does what `forward` does, and its calls below t = 500."""
    pipe.unet.forward = forward
    try:
        trajectory = recorded(pipe, call)
    finally:
        del pipe.unet.forward
    return trajectory, {k for k, t in enumerate(trajectory.timesteps) if t < 500}


def test_law_8_calls_that_say_the_same_are_dropped_first_also_where_timesteps_are_chosen():
    """The same for DPM-Solver++ 2M, by which a picture that does not change is reached from one call."""
    pipe, call = stable_diffusion(scheduler=dpm_solver(), guidance=1.0)
    signal, whole = pipe.scheduler.alphas_cumprod, pipe.unet.forward

    def planted(sample, t, *args, **kwargs):
        alpha = signal[int(t)]
        still = ((sample - alpha**0.5 * 0.3) / (1 - alpha) ** 0.5,)  # the noise of one and the same picture
        return still if float(t) < 500 else whole(sample, t, *args, **kwargs)

    trajectory, redundant = recorded_as(planted, pipe, call)
    found = additive.solve(additive.local_errors(ladders.free(trajectory, pipe.scheduler)), calls=T)
    needed = T - len(redundant) + 1
    assert found[needed - 1].error < 1e-9 < 1e-6 < found[needed - 2].error
    assert len(redundant & set(found[needed - 1].levels)) == 1


@pytest.mark.parametrize("hold", HOLDS)
def test_law_8_calls_that_say_the_same_are_dropped_first(hold):
    """A denoiser that says one and the same from t = 500 on: one call there is enough, and the others cost something."""
    pipe, call = stable_diffusion(scheduler=ONE_STEP["ddim"]())
    whole = pipe.unet.forward

    def planted(sample, t, *args, **kwargs):
        out = whole(sample, t, *args, **kwargs)
        return (torch.full_like(out[0], 0.3),) if float(t) < 500 else out

    trajectory, redundant = recorded_as(planted, pipe, call)
    ladder = ladders.held(trajectory, pipe.scheduler, hold=hold)
    found = additive.solve(additive.local_errors(ladder), calls=T)
    needed = T - len(redundant) + 1 + (hold != "output")  # a line takes two equal points to be level
    assert found[needed - 1].error < 1e-6 < found[needed - 2].error
    assert len(redundant & set(found[needed - 1].levels)) == needed - (T - len(redundant))
