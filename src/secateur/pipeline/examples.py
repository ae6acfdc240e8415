"""Training examples for a denoiser: clean latents with their conditions, made noisy, and the prediction it should give.

The conditions come from the first denoiser call in the pipe's own __call__, so that no pipeline needs code here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from secateur.pipeline.noise import corrupted
from secateur.pipeline.pixels import as_tensor
from secateur.pipeline.queries import Query, queries_for, sized
from secateur.pipeline.trajectory import Trajectory, record

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

AT_ONCE = 256  # samples read at once from a file that is mapped into memory
PACKING = ["latents", "batch_size", "num_channels_latents", "height", "width"]  # arguments of `_pack_latents` in Flux's family


@dataclass(frozen=True, eq=False)
class Examples:
    """N samples to ask a denoiser about, on the CPU.

    latents: (N, C, H, W) float32, clean, scaled by the VAE's factors, as the pipe's loop ends with them; Flux's are packed,
    (N, tokens, C). conditions: further arguments of the denoiser; their tensors are (N, …), their other values hold for all
    samples. shared: arguments that are the same for all samples. stream: the argument that takes the latents.
    timestep_scale: the pipe multiplies its scheduler's timesteps by this for the denoiser; only Flux's is not 1.
    """

    latents: Tensor
    conditions: Mapping[str, Any]
    shared: Mapping[str, Any] = field(default_factory=dict)
    stream: str = "sample"
    timestep_scale: float = 1.0

    def __post_init__(self):
        # Pictures' channels lie last in memory, and so would a VAE's latents: torch 2.13 crashes in the gradients of those.
        object.__setattr__(self, "latents", self.latents.contiguous())
        if self.latents.ndim < 3 or not len(self.latents):
            raise ValueError(f"found latents of shape {tuple(self.latents.shape)}: give (N, C, H, W), one sample or more")
        if not all(part.isfinite().all() for part in self.latents.split(AT_ONCE)):
            raise ValueError("the latents hold NaN or infinity: encode with the VAE in float32, where half precision overflows")
        if wrong := [x for x in tensors(self.conditions) if x.ndim == 0 or len(x) != len(self.latents)]:
            raise ValueError(
                f"found {len(self.latents)} latents and a condition of shape {tuple(wrong[0].shape)}: give one for each, or "
                "put it into `shared`"
            )

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True, eq=False)
class Question:
    """One forward for n samples: keyword arguments of the denoiser, and the prediction of a perfect one.

    target: (n, C, H, W), the noise, the data or a velocity; the scheduler's prediction type says which.
    """

    arguments: Mapping[str, Any]
    target: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Question:
        """The same question on another device; its floating tensors, except the timesteps, in this dtype."""

        def moved(x: Tensor) -> Tensor:
            return x.to(device, dtype if x.is_floating_point() else None)

        arguments = tree_map_only(Tensor, moved, dict(self.arguments))
        return Question(arguments | {"timestep": self.arguments["timestep"].to(device)}, moved(self.target))


def from_images(
    pipe: DiffusionPipeline, images: np.ndarray | Tensor, conditions: Sequence[Any], *, batch_size: int = 8, **call: Any
) -> Examples:
    """Examples of pictures; their latents are the means that the pipe's VAE gives (ours: no seed needed).

    Raises ValueError if images and conditions differ in number, or if the denoiser takes other latents.

    images: (N, H, W, 3), float in [0, 1]. conditions: one for each image, as for `generate.generate`. call: further
    arguments of the pipe.
    """
    pixels = as_tensor(images) * 2 - 1  # (N, 3, H, W), as a VAE takes them
    height, width = pixels.shape[-2:]
    queries = queries_for(pipe, conditions, call=sized(pipe, height, width) | call)
    latents = torch.cat([encoded(pipe.vae, part) for part in pixels.split(batch_size)])
    return from_latents(packed(pipe, latents), queries)


def from_prompts(pipe: DiffusionPipeline, prompts: Sequence[Any], **call: Any) -> Examples:
    """Examples with conditions only: zeros of shape (1, 1) stand for each one's latents. call: as in `from_images`."""
    return with_conditions(torch.zeros(len(prompts), 1, 1), queries_for(pipe, prompts, call=call))


def from_trajectory(pipe: DiffusionPipeline, trajectory: Trajectory) -> Examples:
    """Examples that the teacher itself drew: its last latents and their conditions."""
    return from_latents(trajectory.latents[-1].float(), queries_for(pipe, trajectory.conditions, call=trajectory.options))


def draw_examples(
    pipe: DiffusionPipeline,
    prompts: Sequence[Any],
    *,
    count: int,
    first: int = 0,
    seed: int = 0,
    batch_size: int = 8,
    **call: Any,
) -> Iterator[Examples]:
    """Examples that the pipe itself draws, `batch_size` at a time: example n has prompt n (in turn) and seed `seed` + n.

    first, count: the first example's number, and the number after the last one's. call: arguments of the pipe, such as
    num_inference_steps.
    """
    for start in range(first, count, batch_size):
        numbers = range(start, min(start + batch_size, count))
        conditions = [prompts[n % len(prompts)] for n in numbers]
        trajectory = record(pipe, conditions, seeds=[seed + n for n in numbers], batch_size=batch_size, **call)
        yield from_trajectory(pipe, trajectory)


def concatenate(parts: Iterable[Examples], *, cat: Callable[[list[Tensor]], Tensor] = torch.cat) -> Examples:
    """All parts as one. Raises ValueError if their latents differ in shape. cat: concatenates their tensors."""
    examples = list(parts)
    first = examples[0]
    if len(shapes := {part.latents.shape[1:] for part in examples}) > 1:
        raise ValueError(f"found latents of shapes {sorted(map(tuple, shapes))}: give pictures of one size")

    def leaf(*values: Any) -> Any:
        return cat(list(values)) if torch.is_tensor(values[0]) else values[0]

    conditions = tree_map(leaf, *(dict(part.conditions) for part in examples))
    return Examples(cat([part.latents for part in examples]), conditions, first.shared, first.stream, first.timestep_scale)


def question(
    examples: Examples, scheduler: Any, places: Sequence[int] | Tensor, *, timesteps: Tensor, noise: Tensor
) -> Question:
    """The Question about n samples, with noise added as the scheduler's training adds it.

    Raises ValueError if the scheduler has neither alphas_cumprod (DDPM, arXiv 2006.11239, Eq. 4) nor the noise of flow
    matching (arXiv 2403.03206, Eq. 13).

    places: indices of the n samples. timesteps: (n,), training timesteps, from 0 to below num_train_timesteps. noise:
    (n, C, H, W).
    """
    at = torch.as_tensor(places)
    clean = examples.latents[at]
    noisy, target = corrupted(scheduler, clean, noise.to(clean), timesteps=timesteps)
    scaled = timesteps if examples.timestep_scale == 1 else timesteps * examples.timestep_scale
    own = tree_map_only(Tensor, lambda x: x[at], dict(examples.conditions))
    return Question({**examples.shared, **own, examples.stream: noisy, "timestep": scaled}, target)


def answer(denoiser: Callable[..., Any], question: Question) -> Tensor:
    """A denoiser's prediction, (n, C, H, W), without the channels of a learned sigma."""
    prediction = denoiser(**question.arguments, return_dict=False)[0]
    return prediction[:, : question.target.shape[1]]


@torch.no_grad()
def encoded(vae: Any, pixels: Tensor) -> Tensor:
    """Latents (n, C, h, w) float32 on the CPU, scaled as in a pipe's loop."""
    config = vae.config
    z = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode().float().cpu()
    if (mean := config.get("latents_mean")) is not None:
        mean, spread = (torch.tensor(x).view(1, -1, 1, 1) for x in (mean, config["latents_std"]))
        return (z - mean) / spread * config["scaling_factor"]
    return (z - (config.get("shift_factor") or 0.0)) * config["scaling_factor"]


def packed(pipe: Any, latents: Tensor) -> Tensor:
    """Latents as in the pipe's loop: Flux's family makes one token of each 2 × 2 patch."""
    pack = getattr(pipe, "_pack_latents", None)
    takes_latents = pack is not None and list(signature(pack).parameters) == PACKING
    return pack(latents, *latents.shape) if pack is not None and takes_latents else latents


def from_latents(latents: Tensor, queries: Sequence[Query]) -> Examples:
    """Examples of latents (N, C, H, W) and their queries. Raises ValueError if the denoiser takes latents of another shape."""
    first = queries[0]
    if latents.shape[1:] != first.shape[1:]:
        raise ValueError(
            f"the denoiser takes {first.stream} of shape {tuple(first.shape[1:])} and these latents are "
            f"{tuple(latents.shape[1:])}: give images of the size that the pipe draws, or use `from_trajectory`"
        )
    if len(latents) != len(queries):
        raise ValueError(f"found {len(latents)} images and {len(queries)} conditions: give one condition for each")
    return with_conditions(latents, queries)


def with_conditions(latents: Tensor, queries: Sequence[Query]) -> Examples:
    """Examples of latents (N, …) with the conditions in their queries."""
    first = queries[0]
    own = [name for name, value in first.conditions.items() if not is_shared(value)]
    conditions = {name: joined(name, [one.conditions[name] for one in queries]) for name in own}
    shared = {name: value for name, value in first.conditions.items() if name not in own}
    return Examples(latents, conditions, shared, first.stream, first.timestep_scale)


def is_shared(value: Any) -> bool:
    """Whether an argument of a one-sample call has no tensor with a batch dimension."""
    return not any(x.ndim and len(x) == 1 for x in tensors(value))


def tensors(value: Any) -> list[Tensor]:
    """Every tensor in a nest of tuples, lists, mappings and diffusers outputs."""
    return [x for x in tree_leaves(value) if torch.is_tensor(x)]


def joined(name: str, values: Sequence[Any]) -> Any:
    """The argument for all samples: the samples' tensors, joined along their batch dimension."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: joined(key, [value[key] for value in values]) for key in first}
    if not torch.is_tensor(first):
        return first
    if len(shapes := {tuple(x.shape[1:]) for x in values}) > 1:
        raise ValueError(f"found {name} of shapes {sorted(shapes)}: pad prompts to one length, or give embeddings of one")
    return torch.cat(list(values))
