"""The two nodes: a schedule as SIGMAS and SAMPLER, and a text of what it is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import folder_paths  # ComfyUI's
import torch

from .sampler import sample_table
from .table import described, find, load

FOLDER = "secateur"  # in ComfyUI's folder of models
folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def file_of(schedule: str = "schedule.json", path_or_hub_id: str = "") -> Path:
    """The file that was typed, or else the one that was chosen. Raises FileNotFoundError if there is none."""
    if path_or_hub_id.strip():
        return find(path_or_hub_id)
    if path := folder_paths.get_full_path(FOLDER, schedule):
        return Path(path)
    raise FileNotFoundError(
        f"ComfyUI/models/{FOLDER} has no {schedule}: put it there, choose another file, or give a path or a Hub id owner/name"
    )


class Node:
    """What both nodes have in common: a schedule, chosen or typed."""

    CATEGORY = "sampling/custom_sampling"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        files = [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".json")]
        typed = {"default": "", "tooltip": "wins over the file above: any path, or owner/name on the Hub"}
        return {
            "optional": {
                "schedule": (files, {"tooltip": f"a file of ComfyUI/models/{FOLDER}"}),
                "path_or_hub_id": ("STRING", typed),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, schedule: str = "") -> bool:
        """Yes: a file that is missing does no harm where a path wins over it, and the run says so where none does."""
        return True

    @classmethod
    def IS_CHANGED(cls, **given: str | None) -> str | float:
        if None in given.values():  # another node gives it, and has not run yet
            return float("nan")
        return hashlib.sha256(file_of(**given).read_bytes()).hexdigest()


class SecateurSchedule(Node):
    """SIGMAS and SAMPLER of a schedule, for SamplerCustom and SamplerCustomAdvanced."""

    RETURN_TYPES: ClassVar = ("SIGMAS", "SAMPLER")
    FUNCTION = "sampler"
    DESCRIPTION = "Draw by a schedule that secateur found: connect both outputs to SamplerCustom."

    def sampler(self, **given: str) -> tuple[torch.Tensor, Any]:
        from comfy.samplers import KSAMPLER

        table = load(file_of(**given))
        return torch.tensor([*table.sigmas, 0.0]), KSAMPLER(sample_table, extra_options={"table": table})


class SecateurInfo(Node):
    """A text of what a schedule is."""

    RETURN_TYPES: ClassVar = ("STRING",)
    FUNCTION = "text"
    DESCRIPTION = "What a schedule is: connect it to Preview Any."

    def text(self, **given: str) -> tuple[str]:
        return (described(load(file_of(**given))),)
