"""Secateur: pruning shears for diffusion models.

with secateur.apply(pipe, secateur.load("schedule.json")):
    image = pipe(prompt).images[0]
"""

from secateur import zoo
from secateur.allocate import allocate
from secateur.baselines import chosen, deepcache, delta_dit, dense, fora, published_dip_go, uniform
from secateur.blocks import Blocks, find_blocks
from secateur.calibration import Trajectory, record
from secateur.families import FAMILIES, Family
from secateur.fold import fold
from secateur.macs import Macs, count
from secateur.patch import Patch, compile_blocks
from secateur.plan import Plan
from secateur.retime import retime
from secateur.schedule import Schedule, load, save
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
    "Family",
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
    "drop_layers",
    "find_blocks",
    "fold",
    "follow",
    "fora",
    "knapsack",
    "load",
    "published_dip_go",
    "record",
    "remove",
    "retime",
    "save",
    "search",
    "supernet",
    "uniform",
    "zoo",
]
