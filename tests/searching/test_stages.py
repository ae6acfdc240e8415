"""The search as a user makes it, stage by stage, on real pipelines of tiny size."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

from secateur import zoo
from secateur.denoiser import macs
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring import quality
from secateur.pipeline.schedulers import begun
from secateur.pipeline.trajectory import record
from secateur.schedule.allocate import allocate
from secateur.schedule.apply import apply
from secateur.searching import objective, paired_gain
from secateur.searching.objective import more_for, objective_for
from secateur.searching.paired_gain import STANDARD_ERRORS, PairedGain
from secateur.searching.settings import STAGES, SearchSettings, stages_for
from secateur.searching.stages import BestSoFar, gradient_settings, measure_each, run_stages
from secateur.searching.task import Search
from tiny_pipes import PIPES

CALLS, KEEP = 8, 0.4
LINSPACE = {"timestep_spacing": "linspace", "steps_offset": 1, "clip_sample": False}  # clipping is no linear step
VELOCITY = {"prediction_type": "v_prediction"}  # SD-2.1
SCHEDULERS = ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"]
TWICE = ["PNDMScheduler", "HeunDiscreteScheduler", "DEISMultistepScheduler"]


@pytest.fixture(
    params=[
        *[("sd", name, {}) for name in SCHEDULERS + TWICE],
        *[("sd", name, VELOCITY) for name in SCHEDULERS[:2]],
        *[("dit", name, {}) for name in SCHEDULERS[:2]],  # DiT scales no noise
    ]
)
def pipe(request):
    name, scheduler, more = request.param
    found = request.getfixturevalue(name)
    before, kind = found.scheduler, getattr(diffusers, scheduler)
    found.scheduler = kind.from_config(before.config, **LINSPACE, skip_prk_steps=True, **more)
    yield found
    found.scheduler = before


def looked(pipe, *, target: str = "dense", trials: int = 6, seed: int = 0, **settings) -> list[BestSoFar]:
    conditions = ["a fox", "blue"] if hasattr(pipe, "tokenizer") else [1, 2]
    trajectory = record(pipe, conditions, seeds=[1, 2], num_inference_steps=CALLS, guidance_scale=3.0)
    counted = macs.count(denoiser_of(pipe))
    value = objective_for(pipe, trajectory, target=target, blocks=counted.blocks)
    how = SearchSettings(trials=trials, **settings)
    return list(run_stages(Search(pipe, trajectory, counted, KEEP, PairedGain(value), how, seed=seed, target=target)))


@pytest.mark.filterwarnings("ignore:__array_wrap__")  # DEIS, with numpy 2
def test_every_stage_keeps_the_budget_and_what_was_better(pipe):
    found = looked(pipe)
    seen = dict.fromkeys(part.stage for part in found)
    calls = len(begun(pipe.scheduler, CALLS).timesteps)
    wanted = stages_for(calls, whole_calls=int(KEEP * calls), replayed=calls == CALLS)
    assert tuple(seen) == tuple(stage for stage in wanted if stage in seen or stage != "refresh")  # partial calls may not pay
    assert [part.value_db for part in found] == sorted(part.value_db for part in found)
    assert all(part.last_db == part.value_db if part.improved else part.last_db <= part.value_db for part in found)
    assert any(part.last_db < part.value_db for part in found)
    counted = macs.count(denoiser_of(pipe))
    for part in found:
        assert counted.of(part.schedule) <= KEEP * calls * counted.call()
        assert part.measured <= part.most
    best = found[-1].schedule
    assert best.scheduler == type(pipe.scheduler).__name__
    assert best.table
    with apply(pipe, best):  # it fits the pipe that it was found for
        pass


@pytest.mark.parametrize("name", ["sd21", "sdxl", "pixart", "sd3", "flux"])
def test_every_pipeline_of_the_paper_and_more_by_embeddings(name):
    pipe, call = PIPES[name]()
    pipe.vae.register_to_config(shift_factor=0.0)
    taken = {key: call.pop(key) for key in list(call) if "embeds" in key or "mask" in key}
    call = {k: v for k, v in call.items() if k not in ("latents", "output_type", "num_inference_steps")}
    asked = [{key: value[0] * scale for key, value in taken.items()} for scale in (1.0, 0.5)]
    trajectory = record(pipe, asked, seeds=[1, 2], num_inference_steps=6, **call)
    counted = macs.count(denoiser_of(pipe))
    value = objective_for(pipe, trajectory, target="dense", blocks=counted.blocks)
    found = list(run_stages(Search(pipe, trajectory, counted, 0.5, PairedGain(value), SearchSettings(trials=3))))
    assert found[-1].stage == "local"
    assert counted.of(found[-1].schedule) <= 0.5 * 6 * counted.call()


def test_few_calls_are_searched_for_partial_ones_too():
    assert stages_for(10, whole_calls=5, replayed=True) == ("stock", "additive", "refresh", "local")
    assert stages_for(50, whole_calls=5, replayed=True) == stages_for(10, whole_calls=5, replayed=False) == (*STAGES, "local")
    assert stages_for(50, whole_calls=10, replayed=True) == STAGES == ("stock", "additive")


def test_the_same_seed_finds_the_same(sd):
    first, again = (looked(sd, seed=3) for _ in range(2))
    assert [part.value_db for part in first] == [part.value_db for part in again]
    assert first[-1].schedule == again[-1].schedule


def test_single_cells_and_gradients_are_stages_too(sd):
    found = looked(sd, stages=("stock", "cells", "gradient"), updates=2)
    assert list(dict.fromkeys(part.stage for part in found)) == ["stock", "cells", "gradient"]
    assert all(part.measured <= part.most for part in found)
    scored = [part for part in found if part.scores]
    assert 2 <= sum(part.stage == "cells" for part in scored) <= 3
    assert [part.scores.made["hold"] for part in scored][:2] == ["output", "extrapolate"]
    for part in scored:
        assert allocate(part.scores, keep=KEEP).hold == part.scores.made["hold"]
    assert found[-1].scores.made["updates"] == 2


def test_placed_and_fitted_calls_beat_plain_steps_on_a_trained_pipeline():
    pipe = zoo.load("emoji-sd")
    asked, _ = zoo.conditions("emoji-sd", 4, calibration=True)
    trajectory = record(pipe, asked, seeds=range(4), num_inference_steps=20, guidance_scale=5.0)
    counted = macs.count(pipe.unet)
    value = objective_for(pipe, trajectory, target="dense", blocks=counted.blocks)
    how = SearchSettings(stages=("stock", "additive"))
    found = list(run_stages(Search(pipe, trajectory, counted, 0.3, PairedGain(value), how)))
    plain, *_, last = found
    assert (plain.schedule.made["spacing"], last.schedule.made["method"]) == ("its own", "additive")
    assert last.value_db > plain.value_db + 4
    assert last.schedule.timesteps[0] == trajectory.timesteps[0]
    assert set(last.schedule.timesteps) <= set(trajectory.timesteps)


@pytest.mark.parametrize(("target", "spacings"), [("dense", ["its own"]), ("converged", ["its own", "linspace", "trailing"])])
def test_stock_spacings_begin_where_the_teacher_does(sd, target, spacings):
    before, sd.scheduler = sd.scheduler, diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)  # leading, 876 at first
    try:
        found = looked(sd, target=target, stages=("stock",))
    finally:
        sd.scheduler = before
    assert len(found) == len(spacings) + 1  # the last one has fitted rows


def test_a_converged_target_has_a_teacher_of_its_own(sd):
    before = sd.scheduler
    sd.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(before.config, **LINSPACE)
    try:
        found = looked(sd, target="converged", stages=("stock", "additive"))
    finally:
        sd.scheduler = before
    spacings = [part.schedule.made.get("spacing") for part in found if part.improved]
    assert spacings[0] == "its own"
    assert found[-1].schedule.timesteps[0] == 999


@pytest.mark.parametrize("target", ["dense", "converged"])
def test_images_drawn_in_doubt_have_the_same_kind_of_target(sd, target):
    trajectory = record(sd, ["a fox", "blue"], seeds=[1, 2], num_inference_steps=CALLS, guidance_scale=3.0)
    value = objective_for(sd, trajectory, target=target)
    [again] = more_for(value, trajectory.conditions, trajectory.seeds, target=target)
    assert np.array_equal(again().target, value.target)


def test_a_search_draws_further_images_where_it_is_in_doubt(sd, monkeypatch):
    """Nothing is sure of a gain, and everything is worth another look: every set is drawn, once."""
    doubtful = lambda gains, *, errors=STANDARD_ERRORS: errors < STANDARD_ERRORS  # noqa: E731
    monkeypatch.setattr(paired_gain, "is_significant", doubtful)
    asked = []

    def more():
        asked.append("set")
        return replace(value, seeds=(3, 4))

    trajectory = record(sd, ["a fox", "blue"], seeds=[1, 2], num_inference_steps=CALLS, guidance_scale=3.0)
    value = objective_for(sd, trajectory, target="dense")
    gain, how = PairedGain(value, [more, more]), SearchSettings(stages=("stock",))
    *_, last = run_stages(Search(sd, trajectory, macs.count(sd.unet), 0.5, gain, how))
    assert len(asked) == 2
    assert last.schedule.made["spacing"] == "its own"  # the first one stays


def test_images_that_are_not_finite_end_no_search_that_has_something(sd, monkeypatch):
    """A sampler may overflow in float16; what was found before stays the best."""
    each = objective.Objective.each

    def overflowing(self, schedule):
        if schedule.made["method"] != "stock":
            raise quality.NotFiniteError("2 of 2 of the images are not finite")
        return each(self, schedule)

    monkeypatch.setattr(objective.Objective, "each", overflowing)
    found = looked(sd)
    assert found[-1].stage == "local"
    assert found[-1].schedule.made["method"] == "stock"
    monkeypatch.setattr(
        objective.Objective, "each", lambda self, schedule: overflowing(self, replace(schedule, made={"method": ""}))
    )
    with pytest.raises(ValueError, match="not finite"):
        looked(sd)


def test_converged_is_another_target(sd):
    near, far = (looked(sd, stages=("stock",), target=target)[-1].value_db for target in ("dense", "converged"))
    assert np.isfinite([near, far]).all()
    assert near != far


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"stages": ("stock", "magic")}, "there is no stage 'magic'"),
        ({"stages": ()}, "there is no stage ''"),
        ({"target": "nice"}, "there is no target 'nice'"),
    ],
)
def test_bad_arguments_are_refused(sd, how, says):
    with pytest.raises(ValueError, match=says):
        looked(sd, **how)


@pytest.mark.parametrize(
    ("scheduler", "options", "says"),
    [
        (
            "DDIMScheduler",
            {"clip_sample": True},
            "DDIMScheduler is no fixed sum of its predictions, it clips or thresholds them",
        ),
        ("EulerAncestralDiscreteScheduler", {}, "EulerAncestralDiscreteScheduler draws new noise at its steps"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "draws new noise at its steps"),
        (
            "HeunDiscreteScheduler",
            {},
            "HeunDiscreteScheduler calls twice at a timestep, which stage cells cannot use: leave it out",
        ),
    ],
)
def test_a_scheduler_that_clips_or_draws_noise_is_refused(sd, scheduler, options, says):
    before = sd.scheduler
    sd.scheduler = getattr(diffusers, scheduler).from_config(before.config, **{"clip_sample": False, **options})
    try:
        with pytest.raises(ValueError, match=re.escape(says)):
            looked(sd, stages=("stock", "cells"))
    finally:
        sd.scheduler = before


@pytest.mark.parametrize(("updates", "lr"), [(1000, 0.1), (100, 1.0), (10, 2.0)])
def test_fewer_gradient_updates_than_the_papers_take_larger_steps(updates, lr):
    """At the paper's rate for 1000 of them no gate would flip in a hundred, and the images would teach nothing."""
    settings = gradient_settings(updates, seed=3, device=torch.device("cpu"))
    assert (settings.steps, settings.lr, settings.seed, settings.bf16) == (updates, pytest.approx(lr), 3, False)


@pytest.mark.parametrize(("method", "patient"), [("stock", True), ("additive", False)])
def test_what_stands_against_a_stock_solver_is_measured_patiently(method, patient):
    asked = []

    def objective(schedule, *, patient):
        asked.append(patient)
        return 1.0

    objective.best = SimpleNamespace(schedule=SimpleNamespace(made={"method": method}))
    search = SimpleNamespace(ready=lambda schedule: schedule, objective=objective)
    assert [found.schedule for found in measure_each(search, ["a", "b"])] == ["a", "b"]
    assert asked == [patient, patient]
