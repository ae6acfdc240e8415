"""A deterministic scheduler of diffusers is a matrix, whatever its formulas; the others are refused by name and reason."""

from __future__ import annotations

import copy

import diffusers
import numpy as np
import pytest
import torch

from secateur.pipeline.table import Table, matrix_of, probe, rolled

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # DEIS and KDPM2 of diffusers call numpy on tensors
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
UNCLIPPED = LATENT | {"clip_sample": False}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
LINEAR = [
    ("DDIMScheduler", UNCLIPPED),
    ("DDIMScheduler", UNCLIPPED | ZERO_SNR),
    ("DDIMScheduler", UNCLIPPED | {"prediction_type": "sample", "set_alpha_to_one": False}),
    ("DDIMParallelScheduler", UNCLIPPED),
    ("CogVideoXDDIMScheduler", {}),
    ("EulerDiscreteScheduler", LATENT),
    ("EulerDiscreteScheduler", LATENT | {"use_karras_sigmas": True, "prediction_type": "v_prediction"}),
    ("EulerDiscreteScheduler", LATENT | {"use_beta_sigmas": True}),
    ("EulerDiscreteScheduler", LATENT | {"use_exponential_sigmas": True}),
    ("DPMSolverMultistepScheduler", LATENT),
    ("DPMSolverMultistepScheduler", LATENT | {"solver_order": 3, "use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
    ("DPMSolverSinglestepScheduler", LATENT),
    ("UniPCMultistepScheduler", LATENT),
    ("UniPCMultistepScheduler", LATENT | {"solver_order": 3}),
    ("DEISMultistepScheduler", LATENT),
    ("PNDMScheduler", LATENT | {"skip_prk_steps": True, "steps_offset": 1}),
    ("PNDMScheduler", LATENT),
    ("IPNDMScheduler", {}),
    ("LMSDiscreteScheduler", LATENT),
    ("HeunDiscreteScheduler", LATENT),
    ("KDPM2DiscreteScheduler", LATENT),
    ("EDMEulerScheduler", {}),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchHeunDiscreteScheduler", {}),
]
REFUSED = [
    ("DDIMScheduler", LATENT, "clips or thresholds"),
    ("DPMSolverMultistepScheduler", LATENT | {"thresholding": True}, "clips or thresholds"),
    ("DPMSolverMultistepScheduler", LATENT | {"algorithm_type": "sde-dpmsolver++"}, "draws new noise"),
    ("DDPMScheduler", UNCLIPPED, "draws new noise"),
    ("EulerAncestralDiscreteScheduler", LATENT, "draws new noise"),
    ("KDPM2AncestralDiscreteScheduler", LATENT, "draws new noise"),
    ("LCMScheduler", LATENT, "draws new noise"),
    ("TCDScheduler", LATENT, "draws new noise"),
    ("SASolverScheduler", LATENT, "draws new noise"),
    ("RePaintScheduler", {}, "takes no step from latents and a prediction alone"),
]


def begun(name: str, options: dict, steps: int = 7):
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(steps)
    return scheduler


def draws(calls: int) -> torch.Tensor:
    return torch.randn(calls + 1, 2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("name", "options"), LINEAR)
def test_law_10_the_matrix_gives_every_latent_of_the_scheduler(name, options):
    scheduler = begun(name, options)
    before = copy.deepcopy({k: v for k, v in vars(scheduler).items() if k != "_internal_dict"})
    table, values = probe(scheduler), draws(len(scheduler.timesteps))
    found = torch.tensordot(torch.from_numpy(table.matrix.copy()), values, dims=1)
    wanted = rolled(scheduler, values[0], lambda j: values[1 + j]).double()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    np.testing.assert_allclose(matrix_of(table.steps), table.matrix, rtol=1e-5, atol=1e-5 * np.abs(table.matrix).max())
    after = {k: v for k, v in vars(scheduler).items() if k != "_internal_dict"}
    assert str(after) == str(before)


@pytest.mark.parametrize(("name", "options", "why"), REFUSED)
def test_what_is_no_matrix_is_refused_by_name_and_reason(name, options, why):
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=f"^{name} .*{why}"):
        probe(begun(name, options))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_steps_of_ddim_are_its_formula():
    """arXiv 2010.02502, Eq. 12 with η = 0, from one ᾱ to the next."""
    scheduler = begun("DDIMScheduler", UNCLIPPED | {"set_alpha_to_one": True})
    table, alpha = probe(scheduler), scheduler.alphas_cumprod.double().numpy()
    now = alpha[scheduler.timesteps.numpy()]
    after = np.append(now[1:], 1.0)
    carry = np.sqrt(after / now)
    gain = np.sqrt(1 - after) - carry * np.sqrt(1 - now)
    np.testing.assert_allclose(np.array(table.steps), np.stack([carry, gain], axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table.signal, np.sqrt(now), rtol=1e-6)
    np.testing.assert_allclose(table.noise, np.sqrt(1 - now), rtol=1e-6)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler", "DDIMScheduler"])
def test_an_unscaled_table_follows_the_latents_that_the_denoiser_gets(name):
    """Both are rolled out from the same noise, with a denoiser that is no sum."""
    table, scheduled = probe(begun(name, UNCLIPPED if "DDIM" in name else LATENT)), []
    for one in (table, table.unscaled()):
        x0, seen = draws(0)[0] * one.init_noise_sigma, list[torch.Tensor]()
        x = x0
        for row, scale in zip(one.matrix, one.scales, strict=True):
            seen.append(torch.tanh(x * scale))
            x = sum(float(w) * v for w, v in zip(row, [x0, *seen], strict=False))
        scheduled.append(torch.stack([*seen, x]))
    torch.testing.assert_close(*scheduled)
    assert table.unscaled().init_noise_sigma == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(np.hypot(table.unscaled().signal, table.unscaled().noise), 1.0, rtol=1e-5)


def test_a_matrix_that_makes_no_sense_is_refused():
    good = {"timesteps": (9, 5), "scales": (1.0, 1.0), "signal": (), "noise": ()}
    with pytest.raises(ValueError, match="2 × 3, found"):
        Table(np.zeros((2, 2)), **good)
    with pytest.raises(ValueError, match="predictions of later calls"):
        Table(np.ones((2, 3)), **good)
    with pytest.raises(ValueError, match="found 1 values of scales for 2 calls"):
        Table(np.tri(2, 3, 1), **good | {"scales": (1.0,)})
    with pytest.raises(ValueError, match="read-only"):
        Table(np.tri(2, 3, 1), **good).matrix[0] = 2
