"""The sampler: a table's calls, with the signature that ComfyUI's own samplers have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import trange

from .table import EPSILON, FLOW, Table, V

HALF = 0.5  # a sigma at which the kinds of model differ
KINDS = {EPSILON: (-HALF, 1.0), V: (-HALF / (1 + HALF**2) ** 0.5, 1.0), FLOW: (-HALF, 1 - HALF)}


@torch.no_grad()
def sample_table(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    table: Table,
) -> Tensor:
    """Latents (B, C, ...) at the end of the calls that these sigmas are of: all of the table's, or its last ones.

    Raises ValueError if the sigmas are others, or the model is of another kind than the table.
    """
    begin = len(table.rows) - (len(sigmas) - 1)
    check_sigmas(table, sigmas)
    check_model(table, model.inner_model.inner_model.model_sampling)
    if begin == 0 and not model.latent_image.any():  # the pipe's first noise, which ComfyUI scales otherwise
        latents = table.init_noise_sigma * model.noise.to(x)
    else:
        latents = table.latents(begin, x) if len(sigmas) > 1 else x
    predictions: list[Tensor] = []
    for i in trange(len(sigmas) - 1, disable=disable):
        j = begin + i
        x = table.x(j, latents)
        denoised = model(x, x.new_full((len(x),), table.sigmas[j]), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        predictions = [table.prediction(j, x, denoised), *predictions][: len(max(table.rows, key=len)) - 1]
        latents = combined(table.rows[j], latents, predictions)
    return latents


def combined(row: Sequence[float], latents: Tensor, predictions: Sequence[Tensor]) -> Tensor:
    """The latents after a call. predictions: the newest first; one that is missing is taken to be the oldest there is."""
    carry, *weights = row
    total = carry * latents
    for k, weight in enumerate(weights):
        total = total + weight * predictions[min(k, len(predictions) - 1)]
    return total


def check_sigmas(table: Table, sigmas: Tensor) -> None:
    """Raises ValueError unless these are the table's sigmas with a zero, or the last of them."""
    wanted = sigmas.new_tensor([*table.sigmas, 0.0])[-len(sigmas) :]
    if len(wanted) != len(sigmas) or not torch.allclose(sigmas, wanted, rtol=1e-4):
        raise ValueError(
            "these sigmas are not the schedule's last ones: connect SIGMAS of the Secateur node, whole or the low_sigmas "
            "of SplitSigmas"
        )


def check_model(table: Table, sampling: Any) -> None:
    """Raises ValueError if a model predicts something else than a table's, or is called at other timesteps."""
    sigma, one = torch.tensor([HALF]), torch.ones(1)
    shown = float(sampling.calculate_denoised(sigma, one, 0 * one)), float(sampling.noise_scaling(sigma, 0 * one, one))
    found = [kind for kind, marks in KINDS.items() if torch.allclose(torch.tensor(shown), torch.tensor(marks))]
    if found != [table.kind]:
        raise ValueError(
            f"the schedule is for {table.kind} and the model has {found[0] if found else 'another kind of prediction'}: use a "
            "schedule of this model"
        )
    if table.kind == FLOW:  # whose timesteps are its sigmas
        return
    times = sampling.timestep(torch.tensor(table.sigmas)).tolist()
    for found_at, wanted in zip(times, table.timesteps, strict=True):
        if abs(found_at - wanted) > HALF + 0.01:  # ComfyUI rounds them
            raise ValueError(
                f"the model would be called at timestep {found_at:g} and the schedule wants {wanted:g}: use a schedule of "
                "this model"
            )
