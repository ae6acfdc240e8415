"""Prompts and seeds in, images out.

Every sample has a generator of its own, so how many are made at once does not change any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.artifact import write_bytes
from secateur.pipeline.pixels import png

CONDITIONS = {"prompt": "prompts", "class_labels": "class labels, as whole numbers"}  # argument of a pipe → what it takes
OURS = frozenset({"prompt", "class_labels", "generator", "latents", "num_images_per_prompt", "output_type", "return_dict"})


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per sample: the same noise on every device and at every batch size."""
    return [torch.Generator("cpu").manual_seed(int(s)) for s in seeds]


def generate(pipe, conditions: Sequence[Any], *, seeds: Sequence[int], batch_size=8, **call: Any):
    """Images (B, H, W, 3), float32 in [0, 1]: one per condition and seed, `batch_size` at a time.

    conditions: prompts (str), class labels (int) for DiTPipeline, or for each sample a mapping from names of the pipe's
    arguments (prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, …) to tensors without a batch dimension. call:
    further arguments of the pipe, the same for every batch. DiTPipeline hands its scheduler no generator: there only a
    deterministic scheduler keeps the promise that `batch_size` does not matter. A ValueError or TypeError says which
    argument does not fit.
    """
    return np.concatenate(list(generate_batches(pipe, conditions, seeds=seeds, batch_size=batch_size, **call)))


def generate_batches(
    pipe, conditions: Sequence[Any], *, seeds: Sequence[int], batch_size: int = 8, **call: Any
) -> Iterator[np.ndarray]:
    """The images of `generate` batch by batch, as they are made, for a caller who shows progress."""
    check_call(pipe, conditions, seeds=seeds, batch_size=batch_size, call=call)
    with quiet(pipe):
        for start in range(0, len(seeds), batch_size):
            part = slice(start, start + batch_size)
            options = call_arguments(conditions[part], seeds=seeds[part], call=call)
            images = pipe(**options, output_type="np", return_dict=False)[0]
            yield np.asarray(images, dtype=np.float32)


def call_arguments(conditions: Sequence[Any], *, seeds: Sequence[int], call: Mapping[str, Any]) -> dict[str, Any]:
    """What a pipe is called with for one batch, but for what it should give: conditions and seeds by its own names."""
    return {**_named(conditions), "generator": generators(seeds), **_spread(call, len(seeds))}


def _spread(call: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """`call` with a lone negative prompt given to each sample: pipes want as many as there are prompts."""
    alone = {k: [v] * batch for k, v in call.items() if k.startswith("negative_prompt") and isinstance(v, str)}
    return {**call, **alone}


@contextmanager
def quiet(pipe) -> Iterator[None]:
    """No progress bar of the pipe's own meanwhile; the setting it had is put back."""
    before = vars(pipe).get("_progress_bar_config")
    pipe.set_progress_bar_config(**{**(before or {}), "disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**(before or {}))


def check_call(pipe, conditions: Sequence[Any], *, seeds: Sequence[int], batch_size: int, call: Mapping[str, Any]) -> None:
    """Raises ValueError or TypeError if conditions, seeds or further arguments do not fit the pipe."""
    if len(conditions) != len(seeds) or not len(seeds):
        raise ValueError(f"each sample has a condition and a seed: got {len(conditions)} and {len(seeds)}; give as many")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but at least 1 sample is made at a time")
    if taken := sorted(OURS & call.keys()):
        raise ValueError(f"{taken[0]!r} is set for each batch here, from conditions and seeds: leave it out")
    names = signature(type(pipe).__call__).parameters
    if wrong := [name for name in _named(conditions) if name not in names]:
        own = next((words for name, words in CONDITIONS.items() if name in names), "what its own call takes")
        raise TypeError(f"{type(pipe).__name__} takes no {wrong[0]}: got {conditions[0]!r:.80}; give it {own}")
    if isinstance(conditions[0], Integral) and (outside := [c for c in conditions if not 0 <= c <= classes(pipe)]):
        raise ValueError(f"there is no class {outside[0]}: this {type(pipe).__name__} has 0 to {classes(pipe) - 1}")


def classes(pipe) -> int:
    """How many classes a pipe of class labels has; the number after the last one stands for none."""
    return pipe.transformer.config.num_embeds_ada_norm


def _named(conditions: Sequence[Any]) -> dict[str, Any]:
    """The pipe's arguments that take the conditions."""
    for kind, argument in ((str, "prompt"), (Integral, "class_labels")):
        if all(isinstance(c, kind) for c in conditions):
            return {argument: list(conditions)}
    if all(isinstance(c, Mapping) and c.keys() == conditions[0].keys() for c in conditions):
        return {name: torch.stack([c[name] for c in conditions]) for name in conditions[0]}
    kinds = sorted({type(c).__name__ for c in conditions})
    raise TypeError(
        "conditions are all prompts (str), all class labels (int), or all mappings from the same names to embeddings; got "
        f"{', '.join(kinds)}"
    )


def image_file(folder: Path, seed: int) -> Path:
    """The file into which `save_images` writes the image of a seed."""
    return folder / f"{seed:04d}.png"


def save_images(images: np.ndarray, folder: Path, *, first: int) -> list[Path]:
    """The PNG files written: `folder`/NNNN.png for each image (B, H, W, 3) in [0, 1], numbered by seed from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [image_file(folder, first + k) for k in range(len(images))]
    for image, file in zip(images, files, strict=True):
        write_bytes(png(image), file)
    return files
