"""Where the denoiser of a pipe is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

DENOISERS = ("unet", "transformer")  # as diffusers names a pipe's component


def denoiser_of(pipe: DiffusionPipeline, name: str | None = None) -> nn.Module:
    """The denoiser of a pipe. Raises TypeError if it is no pipe, ValueError if it has no denoiser or several."""
    if not isinstance(getattr(pipe, "components", None), Mapping):
        raise TypeError(f"found a {type(pipe).__name__} for a pipe: give what DiffusionPipeline.from_pretrained returns")
    names = [n for n in ((name,) if name else (*DENOISERS, "transformer_2")) if pipe.components.get(n) is not None]
    if len(names) != 1:
        raise ValueError(
            f"{type(pipe).__name__} has {', '.join(names) or 'none'} where one denoiser ({name or ' or '.join(DENOISERS)}) is "
            "wanted: a schedule is for one"
        )
    return pipe.components[names[0]]
