"""Examples of pictures and captions, or of prompts alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateur.distilling.pictures import Condition, Pair
from secateur.pipeline.examples import Examples, from_images, from_prompts
from secateur.pipeline.queries import queries_for

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


NO_LABEL = 1000  # DiTPipeline's unconditional class


def encoded(
    pipe: DiffusionPipeline,
    pairs: Iterable[Pair],
    *,
    first: int = 0,
    limit: int | None = None,
    batch_size: int = 8,
    **call: Any,
) -> Iterator[Examples]:
    """Examples of pictures from number `first` to `limit`, `batch_size` at a time, for `store.making` or `concatenate`.

    Raises ValueError if there is no picture at all.
    """
    left, number = islice(pairs, first, limit), first
    while part := list(islice(left, batch_size)):
        number += len(part)
        images, captions = zip(*part, strict=True)
        yield from_images(pipe, np.stack(images), captions, batch_size=batch_size, **call)
    if not number:
        raise ValueError("there is no picture in the data: give one or more")


def unpictured(
    pipe: DiffusionPipeline, prompts: Sequence[Condition], *, first: int = 0, batch_size: int = 8, **call: Any
) -> Iterator[Examples]:
    """Examples of prompts from number `first` on, for their conditions alone, `batch_size` at a time."""
    for start in range(first, len(prompts), batch_size):
        yield from_prompts(pipe, prompts[start : start + batch_size], **call)


def null(pipe: DiffusionPipeline, *, labels: bool = False, **call: Any) -> dict[str, Any]:
    """The denoiser's conditions for no prompt, of one sample, as guidance uses them: for "", or for DiT's class of nothing.

    Of SDXL and its like, whose configuration asks for it, zeros stand for the empty prompt.
    """
    conditions = queries_for(pipe, [NO_LABEL] if labels else [""], call=call)[0].conditions
    if pipe.config.get("force_zeros_for_empty_prompt"):
        zero, added = torch.zeros_like, conditions["added_cond_kwargs"]
        added = {**added, "text_embeds": zero(added["text_embeds"])}
        return {**conditions, "encoder_hidden_states": zero(conditions["encoder_hidden_states"]), "added_cond_kwargs": added}
    return dict(conditions)
