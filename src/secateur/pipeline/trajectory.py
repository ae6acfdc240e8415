"""The dense trajectory: what the sampler went through from noise to images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.denoiser.patch import intercept
from secateur.pipeline.generate import generate, generate_batches

Step = tuple[Any, Tensor, Tensor, Tensor]  # timestep, what the denoiser said, latents before and after


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What the sampler went through for B samples: T scheduler steps from noise to latents, then the images.

    latents[t] went into step t with outputs[t], what the denoiser said after guidance; latents[T] came out of the last. CPU,
    in the pipe's own dtype; images are float32 in [0, 1].
    """

    conditions: tuple[Any, ...]  # all prompts, all class labels, or all mappings of embeddings
    seeds: tuple[int, ...]
    timesteps: tuple[float, ...]
    latents: Tensor  # (T + 1, B, C, H, W)
    outputs: Tensor  # (T, B, C, H, W)
    images: np.ndarray  # (B, H, W, 3)
    options: Mapping[str, Any]  # what else the pipe was called with

    def __post_init__(self) -> None:
        B = len(self.conditions)
        found = {len(self.seeds), self.latents.shape[1], len(self.images)}
        if found != {B}:
            raise ValueError(f"a Trajectory of {B} conditions has {B} seeds, latents and images; got {sorted(found)}")
        if not len(self.latents) - 1 == len(self.outputs) == len(self.timesteps):
            found = f"{len(self.latents)} latents and {len(self.outputs)} outputs"
            raise ValueError(f"{len(self.timesteps)} timesteps go with one more latents and as many outputs; got {found}")


def record(pipe, conditions: Sequence[Any], *, seeds: Sequence[int], batch_size: int = 8, **call: Any) -> Trajectory:
    """The Trajectory of generating these images; arguments and errors as for `generate`.

    Read off `scheduler.step` for every pipe: DiTPipeline has no callback, and no pipe's callback sees the first noise.
    """
    tape: list[Step] = []

    def step(original, model_output, timestep, sample, *args, **kwargs):
        out = original(model_output, timestep, sample, *args, **kwargs)
        tape.append((timestep, _copy(model_output), _copy(sample), _copy(out[0])))
        return out

    images, latents, outputs, timesteps = [], [], [], ()
    handle = intercept(pipe.scheduler, "step", step)
    try:
        for batch in generate_batches(pipe, conditions, seeds=seeds, batch_size=batch_size, **call):
            images.append(batch)
            latents.append(_unroll(tape, len(batch)))
            outputs.append(torch.stack([output[: len(batch)] for _, output, _, _ in tape]))
            timesteps = tuple(float(step[0]) for step in tape)
            tape.clear()
    finally:
        handle.remove()
    stacked = torch.cat(latents, dim=1), torch.cat(outputs, dim=1), np.concatenate(images)
    return Trajectory(tuple(conditions), tuple(seeds), timesteps, *stacked, MappingProxyType(dict(call)))


def replay(pipe, trajectory: Trajectory, *, batch_size: int = 8) -> Tensor:
    """What the denoiser says along a trajectory, (T, B, C, H, W): at every step it is given the trajectory's own latents.

    With a schedule applied this is what each of its calls would say if those before had cost nothing.
    """
    said: list[Tensor] = []

    def step(original, model_output, timestep, sample, *args, **kwargs):
        out = original(model_output, timestep, sample, *args, **kwargs)
        said.append(_copy(model_output))
        batch, k = divmod(len(said) - 1, len(trajectory.timesteps))
        recorded = trajectory.latents[k + 1, batch * batch_size : (batch + 1) * batch_size].to(sample)
        recorded = recorded.repeat(len(sample) // len(recorded), *[1] * (sample.ndim - 1))  # DiTPipeline steps both halves
        return (recorded,) if isinstance(out, tuple) else type(out)(prev_sample=recorded)

    handle = intercept(pipe.scheduler, "step", step)
    try:
        generate(pipe, trajectory.conditions, seeds=trajectory.seeds, batch_size=batch_size, **trajectory.options)
    finally:
        handle.remove()
    T, B = trajectory.outputs.shape[:2]
    sizes = [min(batch_size, B - start) for start in range(0, B, batch_size)]
    parts = [torch.stack([x[:size] for x in said[n * T : (n + 1) * T]]) for n, size in enumerate(sizes)]
    return torch.cat(parts, dim=1)


def _copy(x: Tensor) -> Tensor:
    return x.detach().to("cpu", copy=True)


def _unroll(tape: list[Step], batch: int) -> Tensor:
    """Latents (T + 1, B, ...). DiTPipeline steps both halves of the guidance batch; the first one is the samples'."""
    return torch.stack([before[:batch] for _, _, before, _ in tape] + [tape[-1][3][:batch]])


def called(pipe, condition: Any, **call: Any) -> tuple[float, ...]:
    """The timesteps at which a pipe calls its denoiser, found by drawing an image of the condition."""
    return record(pipe, [condition], seeds=[0], batch_size=1, **call).timesteps


def first(trajectory: Trajectory, samples: int) -> Trajectory:
    """The trajectory of its first samples."""
    return replace(
        trajectory,
        conditions=trajectory.conditions[:samples],
        seeds=trajectory.seeds[:samples],
        latents=trajectory.latents[:, :samples],
        outputs=trajectory.outputs[:, :samples],
        images=trajectory.images[:samples],
    )
