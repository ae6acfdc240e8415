"""The node's sampler beside LinearMultistepScheduler, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import diffusers
import pytest
import torch

from comfyui import Model, Sampling, predicted, samplers, tables
from secateur.denoiser.blocks import find_blocks
from secateur.schedule import baselines
from secateur.schedule.export import sampler_numbers
from secateur.schedule.fold import fold
from tiny_pipes import ddim, noise, stable_diffusion

T, RUN = 10, [0, 1, 4, 7, 8]
BLOCKS = find_blocks(stable_diffusion()[0].unet)


def in_comfyui(table, sampling, unit, *, image=None, sigmas=None):
    """The samples and the model's timesteps, as ComfyUI's KSAMPLER runs the node's sampler."""
    sigmas = torch.tensor([*table.sigmas, 0.0]) if sigmas is None else sigmas
    image = torch.zeros_like(unit) if image is None else image
    model, whole = Model(sampling, unit, image), bool(sigmas[0] > sampling.sigma_max * (1 - 1e-5))
    x, seen = sampling.noise_scaling(sigmas[0], unit, image, whole), []
    options = {"extra_args": {"guidance": 1.5}, "callback": seen.append, "disable": True, "table": table}
    samples = samplers.sample_table(model, x, sigmas, **options)
    assert [entry["i"] for entry in seen] == list(range(len(sigmas) - 1))
    return samples, model.times


def in_diffusers(sampler, unit, *, image=None, begin=0):
    """The samples that a pipeline would draw with the sampler."""
    sampler.set_timesteps(len(sampler.timesteps))
    sampler.set_begin_index(begin)
    x = unit * sampler.init_noise_sigma if image is None else sampler.add_noise(image, unit, sampler.timesteps[begin])
    for t in sampler.timesteps[begin:]:
        x = sampler.step(1.5 * predicted(sampler.scale_model_input(x, t), float(t)), t, x).prev_sample
    return x


def held(hold: str = "output"):
    return baselines.chosen(BLOCKS, T, run=RUN, hold=hold)


def dense(calls: int = 5):
    return baselines.dense(BLOCKS, calls)


SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def stock(name: str, **options):
    """One of diffusers' schedulers as Stable Diffusion 1.5 has it, but for the options."""
    return getattr(diffusers, name)(**SD15 | options)


def flow():
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


DDIM = {"name": "DDIMScheduler", "clip_sample": False}
V = {"prediction_type": "v_prediction"}
LINSPACE, TRAILING = {"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}
CASES = {
    "DDIM": (held(), stock(**DDIM), "epsilon"),
    "DDIM, lines": (held("extrapolate"), stock(**DDIM), "epsilon"),
    "DDIM, from the noisiest": (held(), stock(**DDIM, **TRAILING), "epsilon"),
    "DPM-Solver++": (dense(), stock("DPMSolverMultistepScheduler", **LINSPACE), "epsilon"),
    "UniPC": (dense(), stock("UniPCMultistepScheduler", **LINSPACE), "epsilon"),
    "Euler, leading": (dense(), stock("EulerDiscreteScheduler", timestep_spacing="leading"), "epsilon"),
    "Euler, trailing": (dense(), stock("EulerDiscreteScheduler", **TRAILING), "epsilon"),
    "v": (held("adams_bashforth"), stock(**DDIM, **V), "v_prediction"),
    "v, from pure noise": (held(), stock(**DDIM, **V, **TRAILING, rescale_betas_zero_snr=True), "v_prediction"),
    "flow": (held(), flow(), "flow_prediction"),
    "flow, lines": (held("extrapolate"), flow(), "flow_prediction"),
}


def table_and_sampler(name, tmp_path):
    """A case's table as the node reads it from a file, diffusers' sampler, and ComfyUI's model_sampling."""
    schedule, scheduler, kind = CASES[name]
    sampler = schedule.bound_to(scheduler).sampler(scheduler)
    file = tmp_path / "table.json"
    file.write_text(json.dumps(numbers := sampler_numbers(sampler)))
    table = tables.load(file)
    assert numbers["prediction_type"] == table.kind == kind
    return table, sampler, Sampling(kind, scheduler)


@pytest.mark.parametrize("name", CASES)
def test_the_node_draws_what_the_scheduler_of_diffusers_draws(name, tmp_path):
    table, sampler, sampling = table_and_sampler(name, tmp_path)
    unit = noise(0, 2, 4, 8, 8)
    samples, times = in_comfyui(table, sampling, unit)
    assert times == pytest.approx(sampler.timesteps.tolist(), rel=1e-5)
    torch.testing.assert_close(samples, in_diffusers(sampler, unit), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("begin", [1, 3])
def test_the_last_sigmas_begin_at_a_picture(name, begin, tmp_path):
    table, sampler, sampling = table_and_sampler(name, tmp_path)
    unit, image = noise(0, 2, 4, 8, 8), noise(1, 2, 4, 8, 8)
    samples, _ = in_comfyui(table, sampling, unit, image=image, sigmas=torch.tensor([*table.sigmas, 0.0])[begin:])
    torch.testing.assert_close(samples, in_diffusers(sampler, unit, image=image, begin=begin), rtol=1e-5, atol=1e-5)


def test_a_folded_schedule_is_read_as_its_table_is(tmp_path):
    schedule = fold(held("extrapolate").bound_to(ddim()), ddim())
    schedule.save(tmp_path / "schedule.json")
    (tmp_path / "table.json").write_text(json.dumps(sampler_numbers(schedule.sampler(ddim()))))
    found, wanted = (tables.load(tmp_path / name) for name in ("schedule.json", "table.json"))
    assert replace(found, made={}) == wanted
    assert tables.described(found).splitlines()[:3] == [
        "a sampler of 5 calls for 10 of UNet2DConditionModel under DDIMScheduler",
        "the model predicts epsilon",
        "timesteps 901 801 501 201 101",
    ]


def test_other_sigmas_are_refused(tmp_path):
    table, _, sampling = table_and_sampler("DDIM", tmp_path)
    whole, unit = torch.tensor([*table.sigmas, 0.0]), noise(0, 1, 4, 8, 8)
    for wrong in (whole[:3], whole[[0, 2, 3, 4, 5]], torch.cat([whole[:1] + 1, whole]), whole * 1.01):
        with pytest.raises(
            ValueError, match="not the schedule's last ones: connect SIGMAS of the Secateur node, whole or the low"
        ):
            in_comfyui(table, sampling, unit, sigmas=wrong)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("other", ["DDIM", "v", "flow"])
def test_a_model_of_another_kind_is_refused(name, other, tmp_path):
    table, *_ = table_and_sampler(name, tmp_path)
    sampling = Sampling(CASES[other][2], CASES[other][1])
    if sampling.kind != table.kind:
        with pytest.raises(ValueError, match=f"is for {table.kind} and the model has {sampling.kind}: use a schedule of this"):
            in_comfyui(table, sampling, noise(0, 1, 4, 8, 8))


def test_a_model_of_other_noise_levels_is_refused(tmp_path):
    table, *_ = table_and_sampler("DDIM", tmp_path)
    sampling = Sampling("epsilon", diffusers.DDIMScheduler())
    with pytest.raises(ValueError, match="would be called at timestep 648 and the schedule wants 901"):
        in_comfyui(table, sampling, noise(0, 1, 4, 8, 8))


def test_files_that_are_no_sampler_are_refused_in_a_sentence(tmp_path):
    bound = held().bound_to(ddim())
    bound.save(tmp_path / "held.json")
    baselines.deepcache(BLOCKS, T, interval=2).save(tmp_path / "partial.json")
    fold(bound, ddim()).save(tmp_path / "edited.json")
    edited = json.loads((tmp_path / "edited.json").read_text())
    edited["table"]["rows"][0][0] = 1.0
    (tmp_path / "edited.json").write_text(json.dumps(edited))
    numbers = sampler_numbers(bound.sampler(ddim()))
    short, wild, bare = numbers | {"rows": numbers["rows"][1:]}, numbers | {"init_noise_sigma": float("nan")}, dict(numbers)
    del bare["noise_rates"]
    contents = {"list": [], "other": {"a": 1}, "short": short, "wild": wild, "bare": bare, "odd": {"grid": 3}}
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "cut.json").write_text('{"rows": [')
    for name, sentence in {
        "held": "held.json: it leaves some numbers to its scheduler: run secateur export --to table",
        "partial": "partial.json: 5 of its calls reuse blocks, which no sampler can do: find one of whole calls",
        "edited": "edited.json: its checksum is another than its content gives",
        "list": "list.json: it is neither a schedule nor a table",
        "other": "other.json: it is neither a schedule nor a table",
        "short": "short.json: its table does not have one of each number for 4 calls",
        "wild": "wild.json: its table holds something that is no finite number",
        "bare": "bare.json: it lacks noise_rates",
        "odd": "odd.json: its checksum is another",
        "cut": "cut.json is no JSON, or cut short",
    }.items():
        with pytest.raises(ValueError, match=re.escape(sentence)):
            tables.load(tmp_path / f"{name}.json")
