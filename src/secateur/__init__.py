"""Secateur: pruning shears for diffusion models.

with secateur.apply(pipe, secateur.load("schedule.json")):
    image = pipe(prompt).images[0]
"""

from secateur import zoo
from secateur.allocate import allocate
from secateur.baselines import chosen, deepcache, delta_dit, dense, fora, published_dip_go, uniform
from secateur.blocks import Blocks, find_blocks
from secateur.calibration import Trajectory, record
from secateur.distil import DistilStep, distil
from secateur.examples import Examples, from_images, from_trajectory
from secateur.families import FAMILIES, Family
from secateur.fold import fold
from secateur.layer_scores import LayerScores
from secateur.lessons import DistilSettings
from secateur.macs import Macs, count
from secateur.patch import Patch, compile_blocks
from secateur.plan import Plan
from secateur.planning import planned
from secateur.retime import retime
from secateur.schedule import Schedule, load, save
from secateur.score import joint_loss, output_loss, scored
from secateur.scores import Scores
from secateur.search import SearchStep, search
from secateur.solve import knapsack
from secateur.subnet import SubNet, apply, follow, remove
from secateur.supernet import SuperNet, supernet
from secateur.surgery import drop_layers
from secateur.updates import Settings

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
    "Schedule",
    "Scores",
    "SearchStep",
    "Settings",
    "SubNet",
    "SuperNet",
    "Trajectory",
    "allocate",
    "apply",
    "chosen",
    "compile_blocks",
    "count",
    "deepcache",
    "delta_dit",
    "dense",
    "distil",
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
    "output_loss",
    "planned",
    "published_dip_go",
    "record",
    "remove",
    "retime",
    "save",
    "scored",
    "search",
    "supernet",
    "uniform",
    "zoo",
]
