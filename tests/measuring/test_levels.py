"""Noise levels of calls, against the algebra of the schedulers."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

import secateur
from secateur.measuring.levels import Call, calls_made, calls_of, levels_svg
from secateur.schedule.schedule import Schedule

TWO = Schedule(("a", "b"), ("##", "..", "#.", ".."), ("output", "output"), "UNet2DConditionModel")


def test_levels_of_a_variance_preserving_scheduler():
    scheduler = DDIMScheduler(beta_schedule="scaled_linear")
    scheduler.set_timesteps(5)
    kept = scheduler.alphas_cumprod[scheduler.timesteps].double().numpy()
    wanted = np.sqrt(1 - kept) / (np.sqrt(kept) + np.sqrt(1 - kept))
    assert [call.level for call in calls_of(scheduler, 5)] == pytest.approx(wanted, rel=1e-5)


def test_levels_are_the_same_whatever_scale_a_scheduler_gives_its_latents():
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading")
    other = DDIMScheduler(beta_schedule="scaled_linear", timestep_spacing="leading")
    assert [c.level for c in calls_of(scheduler, 5)] == pytest.approx([c.level for c in calls_of(other, 5)], rel=1e-4)


def test_the_level_of_flow_matching_is_its_sigma():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(5)
    assert [call.level for call in calls_of(scheduler, 5)] == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=1e-5)


def test_held_calls_are_none_and_parts_of_calls_are_parts():
    every = calls_of(DDIMScheduler(), 4)
    assert calls_made(DDIMScheduler(), TWO) == (every[0], Call(every[2].level, 0.5))


def test_a_schedule_with_a_table_makes_its_calls_where_the_table_says():
    schedule = secateur.load(secateur.zoo.schedule("emoji-dit"))
    from secateur.pipeline.schedulers import scheduler_of

    levels = {round(call.level, 5) for call in calls_of(scheduler_of("emoji-dit"), 50)}
    made = calls_made(scheduler_of("emoji-dit"), schedule)
    assert len(made) == 10
    assert {round(call.level, 5) for call in made} <= levels  # calls are chosen among those of the dense pipe


def test_the_drawing_has_a_mark_for_each_call_and_escapes_names():
    svg = levels_svg([("<all>", [Call(1.0), Call(0.5)]), ("ours", [Call(0.0, 0.5)])])
    assert "&lt;all&gt;" in svg
    assert svg.count("v-14") == 2
    assert svg.count("v-7") == 1
