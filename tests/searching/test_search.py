"""secateur.search as a user calls it, on real pipelines of tiny size."""

from __future__ import annotations

import runpy
from inspect import signature
from pathlib import Path

import diffusers
import numpy as np
import pytest

import secateur
from secateur import SearchSettings, zoo
from secateur.denoiser.macs import count
from secateur.pipeline import prompts
from secateur.pipeline.schedulers import steps_within
from secateur.searching import memo
from secateur.searching import search as searching

QUICK = {"keep": 0.5, "steps": 4, "images": 2, "guidance_scale": 3.0, "progress": False}
STOCK = SearchSettings(stages=("stock",), more_images=0)
EXAMPLE = Path(__file__).parents[2] / "examples" / "find_settings.py"


@pytest.fixture
def pndm(sd):
    """The pipe with the scheduler that most repositories of Stable Diffusion 1.5 come with."""
    before = sd.scheduler
    sd.scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    yield sd
    sd.scheduler = before


def test_a_search_returns_its_best_schedule_and_says_how_it_was_found(sd):
    schedule = secateur.search(sd, ["a fox", "blue"], settings=STOCK, **QUICK)
    *_, last = secateur.search_steps(sd, ["a fox", "blue"], settings=STOCK, **{k: QUICK[k] for k in QUICK if k != "progress"})
    assert schedule == last.schedule
    assert count(sd.unet).of(schedule) == last.kept * 4 * count(sd.unet).call() <= 0.5 * 4 * count(sd.unet).call()
    made = schedule.made
    assert made["calibration_psnr_db"].keys() == {"dense", "converged"}
    assert made["calibration_psnr_db"]["dense"] == last.value_db
    assert (made["target"], made["keep"], made["stage"], made["num_inference_steps"]) == ("dense", 0.5, "stock", 4)
    assert (*made["seeds"], *made["more_seeds"], made["guidance_scale"]) == (40_000, 40_001, 3.0)


def test_every_step_says_how_far_the_search_is(sd):
    steps = list(secateur.search_steps(sd, ["a fox"], keep=0.5, steps=4, images=1, guidance_scale=3.0, settings=STOCK))
    *before, last = [step.measured for step in steps]
    assert before == list(range(1, last + 1))  # the last one is measured near the other target too
    assert [len(step.schedule.made["calibration_psnr_db"]) for step in steps] == [*[1] * last, 2]
    assert steps[-1].schedule.grid == steps[-2].schedule.grid


def test_labels_are_prompts_too(dit):
    with pytest.raises(ValueError, match="DDIMScheduler is no fixed sum of its predictions, it clips"):
        secateur.search(dit, [1, 2], settings=STOCK, **QUICK)
    before = dit.scheduler
    dit.scheduler = diffusers.DDIMScheduler.from_config(before.config, clip_sample=False)
    try:
        schedule = secateur.search(dit, [1, 2], settings=STOCK, **QUICK)
    finally:
        dit.scheduler = before
    assert schedule.denoiser == "DiTTransformer2DModel"


def test_a_pipe_of_the_zoo_brings_its_own_prompts_and_guidance():
    pipe = zoo.load("emoji-dit")
    assert prompts.conditions_for(pipe, None, 3) == zoo.conditions("emoji-dit", 3, calibration=True)[0]
    schedule = secateur.search(pipe, settings=STOCK, **{**QUICK, "images": 1, "guidance_scale": None})
    assert schedule.made["guidance_scale"] == zoo.GUIDANCE["emoji-dit"]


def test_few_images_are_remarked_on(sd, recwarn):
    with pytest.warns(UserWarning, match="2 calibration images are few, .*: give 8 or more"):
        secateur.search(sd, ["a fox"], settings=STOCK, **QUICK)
    assert (searching.few_images(8), searching.few_images(7) != "") == ("", True)
    with pytest.raises(ValueError, match="steps=0"):
        secateur.search(sd, ["a fox"], **{**QUICK, "steps": 0})
    assert not [warning for warning in recwarn if "few" in str(warning.message)]


def test_pndm_is_searched_as_it_is(pndm):
    own = pndm.scheduler
    schedule = secateur.search(pndm, ["a fox"], settings=SearchSettings(stages=("stock", "additive")), **{**QUICK, "images": 1})
    assert pndm.scheduler is own
    assert schedule.scheduler == "PNDMScheduler"
    assert len(schedule.sampler(own)) == 1000
    assert schedule.calls <= 2


def test_a_scheduler_that_cannot_make_so_few_calls_is_refused_before_anything_is_drawn(sd, monkeypatch):
    monkeypatch.setattr(memo, "record", lambda *args, **kwargs: pytest.fail("recorded"))
    monkeypatch.setattr(sd, "scheduler", diffusers.PNDMScheduler())
    with pytest.raises(ValueError, match="no number of steps of this PNDMScheduler makes 11 calls or fewer"):
        secateur.search(sd, ["a fox"], **{**QUICK, "keep": 0.4, "steps": 20})
    assert steps_within(sd.scheduler, 23) == 14
    with pytest.raises(ValueError, match="PNDMScheduler cannot make 3 steps"):
        secateur.search(sd, ["a fox"], **{**QUICK, "keep": 0.4, "steps": 3})


def test_the_bar_is_on_stderr_and_can_be_silenced(sd, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for progress in (False, True):
        secateur.search(sd, ["a fox"], settings=STOCK, **{**QUICK, "images": 1, "progress": progress})
        out, error = capsys.readouterr()
        assert (out, "recording the dense images" in error) == ("", progress)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"keep": 1.5}, "keep is the fraction"),
        ({"keep": 0.1}, "keep=0.1 is out of reach: ask for 0.25"),
        ({"target": "nice"}, "there is no target 'nice'"),
        ({"steps": 1}, "one step leaves nothing to choose"),
        ({"steps": 0}, "found steps=0: ask for 2 or more"),
        ({"images": 0}, "found images=0: a search needs 1 calibration image or more"),
        ({"keep": "0.2"}, "keep is the fraction of the cost kept, above 0 and at most 1; got '0.2'"),
        ({"prompts": []}, r"found prompts=\[\], wanted a list"),
        ({"prompts": "a fox"}, "found prompts='a fox', wanted a list"),
        ({"prompts": None}, "found no prompts for a StableDiffusionPipeline"),
        ({"prompts": ["a fox " * 80]}, "tokens and the tokenizer reads"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_drawn(sd, monkeypatch, how, says):
    monkeypatch.setattr(memo, "record", lambda *args, **kwargs: pytest.fail("recorded"))
    with pytest.raises(ValueError, match=says):
        secateur.search(sd, **{"prompts": ["a fox"], "settings": STOCK, **QUICK, **how})


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"stages": ("stock", "magic")}, "there is no stage 'magic'"),
        ({"stages": ()}, "there is no stage ''"),
        ({"cost": "joules"}, "found cost 'joules': choose macs or ms"),
        ({"trials": 0}, "found trials=0, wanted 1 or more"),
        ({"patience": 0}, "found patience=0, wanted 1 or more"),
        ({"more_images": -1}, "found more_images=-1, wanted 0 or more"),
    ],
)
def test_settings_are_checked_when_they_are_made(how, says):
    with pytest.raises(ValueError, match=says):
        SearchSettings(**how)


def test_help_says_of_settings_what_differs_from_their_defaults():
    functions = (secateur.search, secateur.prune, secateur.distil)
    shown = [repr(signature(function).parameters["settings"].default) for function in functions]
    assert shown == ["SearchSettings()", "PruneSettings()", "DistilSettings(timesteps='stratified', null_rate=0.1)"]


def test_the_example_finds_a_schedule(tmp_path, monkeypatch):
    """With fewer steps and images than it has as it stands."""
    whole = secateur.search
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(secateur, "search", lambda pipe, **how: whole(pipe, **{**how, **QUICK, "images": 1, "settings": STOCK}))
    example = runpy.run_path(str(EXAMPLE))
    assert secateur.load("found.json") == example["schedule"]
    assert np.asarray(example["image"]).shape == (64, 64, 3)
