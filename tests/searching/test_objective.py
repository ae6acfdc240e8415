"""Measured nearness of a schedule's images: to the dense ones, and to the converged ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import diffusers
import numpy as np
import pytest
import torch

import tiny_pipes
from secateur.denoiser import macs
from secateur.denoiser.blocks import Blocks, find_blocks
from secateur.measuring import quality
from secateur.pipeline.generate import generate
from secateur.pipeline.trajectory import Trajectory, record
from secateur.schedule import baselines
from secateur.schedule.apply import apply
from secateur.searching.budget import budget_macs
from secateur.searching.objective import CAP_DB, Objective, converged, converging, more_for, objective_for
from secateur.searching.paired_gain import PairedGain

LABELS, SEEDS, STEPS = [1, 2, 7], [3, 1, 4], 6
CALL = {"guidance_scale": 3.0, "num_inference_steps": STEPS}


@pytest.fixture
def dit() -> diffusers.DiTPipeline:
    pipe, _ = tiny_pipes.dit()
    return pipe


@pytest.fixture
def dense(dit) -> Trajectory:
    return record(dit, LABELS, seeds=SEEDS, **CALL)


@pytest.fixture
def blocks(dit) -> Blocks:
    return find_blocks(dit.transformer)


def test_it_is_the_mean_psnr_of_the_images_under_the_schedule(dit, dense, blocks):
    schedule = baselines.uniform(blocks, STEPS, every=3)
    with apply(dit, schedule):
        images = generate(dit, LABELS, seeds=SEEDS, **CALL)
    wanted = quality.psnr(images, dense.images).mean()
    for given in (None, blocks):
        objective = objective_for(dit, dense, target="dense", batch_size=2, blocks=given)
        assert objective(schedule) == pytest.approx(wanted, abs=1e-3)
    assert 5 < wanted < CAP_DB
    assert "forward" not in vars(dit.transformer)


def test_equal_images_are_as_near_as_the_cap(dit, dense, blocks):
    assert objective_for(dit, dense, target="dense")(baselines.dense(blocks, STEPS)) == CAP_DB


def test_held_calls_are_further_away_the_more_of_them(dit, dense, blocks):
    objective = objective_for(dit, dense, target="dense", blocks=blocks)
    values = [objective(baselines.uniform(blocks, STEPS, every=n)) for n in (1, 2, 3, 6)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


KARRAS = {"use_karras_sigmas": True, "solver_order": 3, "timestep_spacing": "trailing"}


@pytest.mark.parametrize("own", [None, diffusers.DPMSolverMultistepScheduler(**KARRAS)], ids=["ddim", "karras"])
def test_the_converged_target_is_many_steps_of_dpm_solver_from_the_same_seeds(dit, dense, own):
    before = dit.scheduler = own or dit.scheduler
    images = converged(dit, LABELS, seeds=SEEDS, steps=20, **CALL)
    assert dit.scheduler is before
    dit.scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="linspace")  # this DiT has DDPM's linear betas
    wanted = generate(dit, LABELS, seeds=SEEDS, **CALL | {"num_inference_steps": 20})
    assert np.array_equal(images, wanted)
    assert not np.array_equal(images, dense.images)


def test_more_steps_come_nearer_to_the_converged_images(dit, dense, blocks):
    objective = objective_for(dit, dense, target="converged", blocks=blocks)
    assert dict(objective.options) == CALL
    dit.scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="linspace")
    values = []
    for steps in (4, 10, 30):
        dit.scheduler.set_timesteps(steps)
        times = tuple(dit.scheduler.timesteps.tolist())
        values.append(objective(replace(baselines.dense(blocks, steps), timesteps=times)))
    assert values == sorted(values)
    assert values[2] > values[0] + 6


@pytest.mark.parametrize(("name", "own"), [("sd", False), ("pixart", False), ("sd3", True), ("flux", True)])
def test_flow_matching_converges_with_the_pipe_s_own_scheduler(name, own):
    pipe, _ = tiny_pipes.PIPES[name]()
    assert converging(pipe)[0] == (None if own else "DPMSolverMultistepScheduler")


def test_images_that_are_not_finite_are_refused(dit, dense, blocks):
    objective = objective_for(dit, dense, target="dense")
    torch.nn.init.constant_(dit.transformer.transformer_blocks[1].ff.net[2].bias, float("nan"))
    with pytest.raises(ValueError, match="3 of 3 of the images under the schedule are not finite"):
        objective(baselines.uniform(blocks, STEPS, every=2))
    assert "forward" not in vars(dit.transformer)
    with pytest.raises(ValueError, match="target images are not finite"):
        Objective(dit, dense.conditions, dense.seeds, np.full_like(dense.images, np.nan), CALL)


def test_as_many_targets_as_conditions(dit, dense):
    with pytest.raises(ValueError, match="3 conditions, 3 seeds and 2 target images"):
        Objective(dit, dense.conditions, dense.seeds, dense.images[:2], CALL)


def test_a_budget_is_in_macs_and_exact(blocks, dit):
    counted = macs.count(dit.transformer, blocks)
    assert budget_macs(counted, 50, keep=0.2) == 10 * counted.call()
    assert budget_macs(counted, 50, keep=0.2, attention=True) == 10 * counted.call(attention=True)
    assert budget_macs(counted, 100, keep=0.29) == 29 * counted.call()  # 100 × 0.29 is less than 29 in floats
    assert counted.of(baselines.uniform(blocks, 50, every=5)) == budget_macs(counted, 50, keep=0.2)
    assert isinstance(budget_macs(counted, 3, keep=0.5), int)
    with pytest.raises(ValueError, match=r"above 0 and at most 1; got 1\.5"):
        budget_macs(counted, 50, keep=1.5)


def test_a_gain_counts_where_it_is_beyond_doubt():
    """Two images better and two worse is chance; all of them a little better is not."""
    worth = {"start": [30.0, 31.0, 32.0, 33.0], "chance": [33.0, 30.0, 34.0, 32.5], "sure": [30.5, 31.4, 32.6, 33.5]}
    gain = PairedGain(Told(worth))
    assert gain("start") == 31.5
    assert gain("chance") <= 31.5
    assert gain("sure") == pytest.approx(32.0)
    assert gain("start") < 32.0


def test_a_schedule_that_is_surely_worse_on_some_images_is_not_measured_on_the_others():
    worth = {
        "start": [30.0] * 8,
        "worse": [29.0, 28.9, 29.1, 28.8] + [40.0] * 4,
        "behind": [29.0, 31.0, 29.5, 30.0] + [31.0] * 4,
    }
    cuts = tuple(Told({name: values[k : k + 4] for name, values in worth.items()}) for k in (0, 4))
    gain = PairedGain(Told(worth, cuts=cuts))
    assert gain("start") == 30.0
    assert gain("worse") == pytest.approx(28.95)
    assert gain("behind") == 30.0  # 0.44 dB nearer, which is not beyond doubt
    assert [part.seen for part in cuts] == [["start", "worse", "behind"], ["start", "behind"]]


def test_parts_of_an_objective_are_its_images_in_order(dit, blocks):
    labels, seeds = [1, 2, 7, 3, 3, 4, 5, 6, 1, 0], list(range(10))
    whole = objective_for(dit, record(dit, labels, seeds=seeds, **CALL), target="dense", batch_size=2, blocks=blocks)
    first, last = whole.parts()
    assert (first.seeds, last.conditions) == (tuple(range(8)), (1, 0))
    schedule = baselines.uniform(blocks, STEPS, every=3)
    np.testing.assert_allclose(np.concatenate([first.each(schedule), last.each(schedule)]), whole.each(schedule), atol=1e-3)
    assert len(replace(whole, batch_size=10).parts()) == 1


def test_more_images_are_drawn_where_a_gain_is_in_doubt_and_nowhere_else():
    """Sets of four images, of which each schedule's gain over "start" is known; 1 + 3 sets are there."""
    gains = {
        "start": [0.0] * 16,
        "sure": [0.5, 0.6, 0.4, 0.5] + [9.0] * 12,
        "worse": [-0.5, -0.6, -0.4, 0.1] + [9.0] * 12,
        "doubtful": [2.0, -1.0, 1.5, 0.5] + [1.0, 1.1, 0.9, 1.0] * 3,
        "chance": [2.0, -1.0, 1.5, 0.5] + [-2.0, 1.0, -1.5, -0.5] * 3,
    }
    verdicts, sets = {}, {}
    for name in gains:
        gain, drawn = PairedGain(*(told := parts(gains))), told[1]
        start, value = gain("start"), gain(name)
        verdicts[name], sets[name] = value > start, 1 + sum(part.asked for part in drawn)
        assert value <= start or value == pytest.approx(np.mean(gains[name][:4]))  # of the first images, whatever was drawn
    assert verdicts == {"start": False, "sure": True, "worse": False, "doubtful": True, "chance": False}
    assert sets == {"start": 1, "sure": 1, "worse": 1, "doubtful": 2, "chance": 2}


@pytest.mark.parametrize(("further", "patiently"), [([1.0, 1.1, 0.9, 1.0], (True, 3)), ([-2.0, 1.0, -1.5, -0.5], (False, 2))])
def test_one_that_is_expected_to_be_better_is_measured_on_more_images_while_it_is_ahead(further, patiently):
    hardly = [2.0, -1.7, 1.5, -1.4]  # 0.1 dB on average, by half a standard error of one image
    gains = {"start": [0.0] * 16, "hopeful": hardly + further * 3, "behind": [-x for x in hardly] + further * 3}
    for name, patient, expected in (("hopeful", True, patiently), ("hopeful", False, (False, 1)), ("behind", True, (False, 1))):
        objective, more = parts(gains)
        gain = PairedGain(objective, more)
        found = gain(name, patient=patient) > 0.0 if gain("start") == 0.0 else None
        assert (found, 1 + sum(part.asked for part in more)) == expected


def test_a_set_of_images_is_made_once_and_the_best_is_measured_on_it_once():
    doubtful, none = [2.0, -1.0, 1.5, 0.5], [0.0] * 4
    gains = {"start": none * 4, "a": doubtful + none * 3, "b": doubtful[::-1] + none * 3}
    objective, more = parts(gains)
    gain = PairedGain(objective, more)
    assert gain("start") == gain("a") == gain("b") == 0.0
    assert more[0].asked == 1
    assert [part.seen for part in (objective, more[0].told)] == [["start", "a", "b"], ["a", "start", "b"]]


def test_further_images_have_targets_of_their_own_conditions_and_seeds(dit, dense, blocks):
    objective = objective_for(dit, dense, target="dense", blocks=blocks, batch_size=2)
    labels, seeds = [5, 6, 0, 4, 3, 2, 1], range(70, 77)
    first, second = more_for(objective, labels, seeds, target="dense")  # and one is left over
    made = second()
    assert (made.conditions, made.seeds) == ((4, 3, 2), (73, 74, 75))
    assert np.array_equal(made.target, generate(dit, [4, 3, 2], seeds=[73, 74, 75], batch_size=2, **CALL))
    assert made(baselines.dense(blocks, STEPS)) == CAP_DB
    [far] = more_for(objective, labels[:3], seeds[:3], target="converged")
    assert not np.array_equal(far().target, first().target)


def parts(gains):
    """An objective on the first four images, and makers of others on four more each."""
    sets = [Told({name: values[start : start + 4] for name, values in gains.items()}) for start in range(0, 16, 4)]
    count = len(next(iter(gains.values()))) // 4
    return sets[0], [Maker(told) for told in sets[1:count]]


@dataclass
class Maker:
    """Makes an objective, and counts how often it was asked to."""

    told: Told
    asked: int = 0

    def __call__(self):
        self.asked += 1
        return self.told


@dataclass(frozen=True)
class Told:
    """An objective that knows what each schedule is worth, image by image."""

    worth: dict
    seen: list = field(default_factory=list)
    cuts: tuple = ()

    def parts(self):
        return self.cuts or (self,)

    def each(self, schedule):
        self.seen.append(schedule)
        return np.array(self.worth[schedule])
