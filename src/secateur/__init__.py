"""Secateur: pruning shears for diffusion models.

with secateur.apply(pipe, secateur.load("schedule.json")):
    image = pipe(prompt).images[0]
"""

from secateur import zoo
from secateur.baselines import chosen, deepcache, delta_dit, dense, fora, published_dip_go, uniform
from secateur.blocks import Blocks, find_blocks
from secateur.families import FAMILIES, Family
from secateur.macs import Macs, count
from secateur.patch import Patch, compile_blocks
from secateur.schedule import Schedule, load, save
from secateur.subnet import SubNet, apply, follow, remove

__version__ = "0.1.0"
__all__ = [
    "FAMILIES",
    "Blocks",
    "Family",
    "Macs",
    "Patch",
    "Schedule",
    "SubNet",
    "apply",
    "chosen",
    "compile_blocks",
    "count",
    "deepcache",
    "delta_dit",
    "dense",
    "find_blocks",
    "follow",
    "fora",
    "load",
    "published_dip_go",
    "remove",
    "save",
    "uniform",
    "zoo",
]
