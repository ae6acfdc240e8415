"""Secateur: pruning shears for diffusion models.

with secateur.apply(pipe, secateur.load("schedule.json")):
    image = pipe(prompt).images[0]
"""

from typing import Any

from secateur import zoo
from secateur.denoiser.blocks import Blocks, find_blocks
from secateur.denoiser.families import FAMILIES, Family
from secateur.denoiser.macs import Macs, count
from secateur.denoiser.patch import Patch, compile_blocks
from secateur.distilling.distil import distil
from secateur.distilling.settings import DistilSettings
from secateur.distilling.training import DistilStep, distil_steps
from secateur.knapsack import knapsack
from secateur.pipeline.examples import Examples, from_images, from_trajectory
from secateur.pipeline.pipes import load as load_pipe
from secateur.pipeline.table import Table, probe
from secateur.pipeline.trajectory import Trajectory, record
from secateur.pruning.card import pull_student, push_student
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.plan import Plan
from secateur.pruning.planning import planned
from secateur.pruning.prune import PruneSettings, PruneStep, plan_for, prune, prune_steps
from secateur.pruning.scoring import joint_loss, output_loss, scored
from secateur.pruning.surgery import drop_layers
from secateur.schedule.allocate import allocate
from secateur.schedule.apply import apply, follow, remove
from secateur.schedule.baselines import chosen, deepcache, delta_dit, dense, fora, published_dip_go, uniform
from secateur.schedule.fold import fold
from secateur.schedule.schedule import Schedule, load, save
from secateur.schedule.scores import Scores
from secateur.schedule.subnet import SubNet
from secateur.searching import dip_go
from secateur.searching.objective import objective_for
from secateur.searching.search import search, search_steps
from secateur.searching.settings import SearchSettings

__version__ = "0.1.0"
__all__ = [
    "FAMILIES",
    "Blocks",
    "DistilSettings",
    "DistilStep",
    "Examples",
    "Family",
    "LayerScores",
    "Macs",
    "Patch",
    "Plan",
    "PruneSettings",
    "PruneStep",
    "Schedule",
    "Scores",
    "SearchSettings",
    "SubNet",
    "Table",
    "Trajectory",
    "allocate",
    "apply",
    "chosen",
    "compile_blocks",
    "count",
    "deepcache",
    "delta_dit",
    "dense",
    "dip_go",
    "distil",
    "distil_steps",
    "drop_layers",
    "find_blocks",
    "fold",
    "follow",
    "fora",
    "from_images",
    "from_trajectory",
    "joint_loss",
    "knapsack",
    "load",
    "load_pipe",
    "objective_for",
    "output_loss",
    "plan_for",
    "planned",
    "probe",
    "prune",
    "prune_steps",
    "published_dip_go",
    "pull_student",
    "push_student",
    "record",
    "remove",
    "save",
    "scored",
    "search",
    "search_steps",
    "uniform",
    "zoo",
]


def __getattr__(name: str) -> Any:
    """The two classes that diffusers finds here when it loads a pipeline, and their bases: they take an import of diffusers."""
    if name == "StudentUNet":
        from secateur.pruning.student import student_class

        return student_class()
    if name == "LinearMultistepScheduler":
        from secateur.pipeline.multistep import LinearMultistepScheduler

        return LinearMultistepScheduler
    if name in ("ModelMixin", "SchedulerMixin"):
        import diffusers

        return getattr(diffusers, name)
    raise AttributeError(f"module 'secateur' has no attribute {name!r}")
