"""What is known of each class of denoiser: its row, or what is found out about a class that has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from secateur.denoiser.found import found_family
from secateur.denoiser.rows import FAMILIES, Family, Size, architecture, bare, class_name, denoiser_class, meta_twin

__all__ = [
    "FAMILIES",
    "Family",
    "Size",
    "architecture",
    "bare",
    "class_name",
    "denoiser_class",
    "dummy_inputs",
    "family",
    "meta_twin",
]


def family(denoiser: nn.Module | Mapping | str) -> Family:
    """The row of a denoiser, of its configuration or of its class name, or else what is found about its class.

    Raises ValueError if nothing is known and nothing is found, with the row to write.
    """
    return FAMILIES.get(class_name(denoiser)) or found_family(denoiser)


def dummy_inputs(
    denoiser: nn.Module | Mapping, *, batch: int = 1, size: Size | None = None, tokens: int | None = None
) -> dict[str, Any]:
    """Keyword arguments of one forward: zeros on the default device. size: the latent's side or sides. tokens: of text."""
    row, (_, config) = family(denoiser), architecture(denoiser)
    return row.inputs(config, batch=batch, size=size, tokens=tokens)
