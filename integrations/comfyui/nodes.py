"""The two nodes: a schedule as SIGMAS and SAMPLER, and a text of what it is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import torch

from .sampler import sample_table
from .table import described, find, load

FOLDER = "secateur"  # in ComfyUI's folder of models


def file_of(text: str) -> Path:
    """The schedule file that a text names."""
    import folder_paths  # ComfyUI's

    return find(text, Path(folder_paths.models_dir) / FOLDER)


class Node:
    """What both nodes have in common: one text that names a schedule."""

    CATEGORY = "sampling/custom_sampling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tip = "a file of ComfyUI/models/secateur, a path, or a Hub id owner/name"
        return {"required": {"schedule": ("STRING", {"default": "schedule.json", "tooltip": tip})}}

    @classmethod
    def IS_CHANGED(cls, schedule: str) -> str:
        return hashlib.sha256(file_of(schedule).read_bytes()).hexdigest()


class SecateurSchedule(Node):
    """SIGMAS and SAMPLER of a schedule, for SamplerCustom and SamplerCustomAdvanced."""

    RETURN_TYPES: ClassVar = ("SIGMAS", "SAMPLER")
    FUNCTION = "sampler"
    DESCRIPTION = "Draw by a schedule that secateur found: connect both outputs to SamplerCustom."

    def sampler(self, schedule: str) -> tuple[torch.Tensor, Any]:
        from comfy.samplers import KSAMPLER

        table = load(file_of(schedule))
        return torch.tensor([*table.sigmas, 0.0]), KSAMPLER(sample_table, extra_options={"table": table})


class SecateurInfo(Node):
    """A text of what a schedule is."""

    RETURN_TYPES: ClassVar = ("STRING",)
    FUNCTION = "text"
    DESCRIPTION = "What a schedule is: connect it to Preview Any."

    def text(self, schedule: str) -> tuple[str]:
        return (described(load(file_of(schedule))),)
