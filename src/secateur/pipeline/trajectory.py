"""The dense trajectory: what the sampler went through from noise to images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.denoiser.patch import intercept
from secateur.pipeline.generate import generate_batches


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What the sampler went through for B samples: T scheduler steps from noise to latents, then the images.

    latents[t] went into step t with outputs[t], the prediction after guidance; latents[T] came out of the last. CPU,
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
        sizes = {len(self.seeds), self.latents.shape[1], len(self.images)}
        if sizes != {B}:
            raise ValueError(f"a Trajectory of {B} conditions has {B} seeds, latents and images; got {sorted(sizes)}")
        if not len(self.latents) - 1 == len(self.outputs) == len(self.timesteps):
            got = f"{len(self.latents)} latents and {len(self.outputs)} outputs"
            T = len(self.timesteps)
            raise ValueError(f"a Trajectory of {T} timesteps has {T + 1} latents and {T} outputs; got {got}")


@dataclass(frozen=True, eq=False)
class Step:
    """A step of the scheduler for one batch: what goes into it, (b, C, H, W) each.

    t: index of the step in its image, from 0. samples: which of all samples the batch is. prediction: what the denoiser gave,
    after guidance. latents: before the step.
    """

    t: int
    samples: slice
    timestep: Any
    prediction: Tensor
    latents: Tensor


OnStep = Callable[[Step, Callable[[Tensor], Tensor]], Tensor]


def stepping(
    pipe, conditions: Sequence[Any], on_step: OnStep, *, seeds: Sequence[int], batch_size: int, **call: Any
) -> Iterator[np.ndarray]:
    """The images of `generate_batches`, while each step's latents are what `on_step(step, advance)` returns.

    advance(prediction): the latents after the scheduler's own step. DiTPipeline steps both halves of the guidance batch; they
    are equal, and `on_step` sees the first.
    """
    t, part = 0, slice(0, batch_size)

    def step(original, model_output, timestep, sample, *args, **kwargs):
        nonlocal t
        size, outs = len(seeds[part]), []

        def advance(prediction: Tensor) -> Tensor:
            outs.append(original(like(prediction, model_output), timestep, sample, *args, **kwargs))
            return outs[-1][0][:size]

        latents = on_step(Step(t, part, timestep, model_output[:size], sample[:size]), advance)
        t += 1
        [out] = outs
        latents = like(latents, out[0])
        return (latents, *out[1:]) if isinstance(out, tuple) else type(out)(**{**out, "prev_sample": latents})

    handle = intercept(pipe.scheduler, "step", step)
    try:
        for images in generate_batches(pipe, conditions, seeds=seeds, batch_size=batch_size, **call):
            yield images
            t, part = 0, slice(part.stop, part.stop + batch_size)
    finally:
        handle.remove()


def like(x: Tensor, other: Tensor) -> Tensor:
    """`x` in the dtype and on the device of another, repeated until it has as many samples."""
    return x.to(other).repeat(len(other) // len(x), *[1] * (x.ndim - 1))


def record(pipe, conditions: Sequence[Any], *, seeds: Sequence[int], batch_size: int = 8, **call: Any) -> Trajectory:
    """The Trajectory of generating these images; arguments and errors as for `generate`.

    Read off `scheduler.step` for every pipe: DiTPipeline has no callback, and no pipe's callback sees the first noise.
    """
    timesteps, predictions, latents = [], [], []  # of one batch; the latents before each step, and after the last

    def on_step(step: Step, advance: Callable[[Tensor], Tensor]) -> Tensor:
        after = advance(step.prediction)
        timesteps.append(float(step.timestep))
        predictions.append(copied(step.prediction))
        latents[step.t :] = copied(step.latents), copied(after)
        return after

    batches, images = [], []
    for batch in stepping(pipe, conditions, on_step, seeds=seeds, batch_size=batch_size, **call):
        images.append(batch)
        batches.append((tuple(timesteps), torch.stack(latents), torch.stack(predictions)))
        for tape in (timesteps, predictions, latents):
            tape.clear()
    times, all_latents, outputs = zip(*batches, strict=True)
    joined = torch.cat(all_latents, dim=1), torch.cat(outputs, dim=1), np.concatenate(images)
    return Trajectory(tuple(conditions), tuple(seeds), times[-1], *joined, MappingProxyType(dict(call)))


def copied(x: Tensor) -> Tensor:
    return x.detach().to("cpu", copy=True)


def replay(pipe, trajectory: Trajectory, *, batch_size: int = 8) -> Tensor:
    """The denoiser's predictions along a trajectory, (T, B, C, H, W): each call gets the trajectory's own latents.

    With a schedule applied by `fold=False`, these are the predictions of its calls as if the calls before had made no error.
    """
    predictions = torch.empty_like(trajectory.outputs)

    def on_step(step: Step, advance: Callable[[Tensor], Tensor]) -> Tensor:
        advance(step.prediction)
        predictions[step.t, step.samples] = step.prediction
        return trajectory.latents[step.t + 1, step.samples]

    options = {"seeds": trajectory.seeds, "batch_size": batch_size, **trajectory.options}
    for _ in stepping(pipe, trajectory.conditions, on_step, **options):
        pass
    return predictions


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
