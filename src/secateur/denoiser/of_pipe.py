"""Where the denoiser of a pipe is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

DENOISERS, TWIN = ("unet", "transformer"), "transformer_2"  # as diffusers names a pipe's components


def denoisers_of(pipe: DiffusionPipeline, name: str | None = None) -> tuple[nn.Module, ...]:
    """The denoisers of a pipe: one, or two of one architecture that share the noise levels (Wan 2.2).

    Raises TypeError if it is no pipe, ValueError if it has no denoiser or different ones.
    """
    if not isinstance(getattr(pipe, "components", None), Mapping):
        raise TypeError(f"found a {type(pipe).__name__} for a pipe: give what DiffusionPipeline.from_pretrained returns")
    names = [n for n in ((name,) if name else (*DENOISERS, TWIN)) if pipe.components.get(n) is not None]
    found = tuple(pipe.components[n] for n in names)
    if not found or any(settings(net) != settings(found[0]) for net in found):
        raise ValueError(
            f"{type(pipe).__name__} has {', '.join(names) or 'none'} where one denoiser ({name or ' or '.join(DENOISERS)}) is "
            "wanted, or two of one architecture: a schedule is for one"
        )
    return found


def denoiser_of(pipe: DiffusionPipeline, name: str | None = None) -> nn.Module:
    """The denoiser of a pipe; of two, the one for the first calls. Raises what `denoisers_of` does."""
    return denoisers_of(pipe, name)[0]


def only_denoiser_of(pipe: DiffusionPipeline) -> nn.Module:
    """The denoiser of a pipe. Raises what `denoisers_of` does, and ValueError if there are two."""
    net, *others = denoisers_of(pipe)
    if others:
        raise ValueError(
            f"{type(pipe).__name__} has two denoisers, and this is for pipes with one: find a schedule by secateur.search"
        )
    return net


def settings(net: nn.Module) -> tuple[str, dict[str, Any]]:
    """The class of a denoiser and its configuration."""
    config: Mapping[str, Any] = getattr(net, "config", {})
    return type(net).__name__, {key: value for key, value in config.items() if not key.startswith("_")}
