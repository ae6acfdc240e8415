"""DiP-GO (arXiv 2410.16942): a small network makes a gate for every cell, trained by few gradient updates through the pipeline.

unrolled   the stock pipeline, unrolled with gradients
supernet   the denoiser whose cells are gated between run and reuse
pruner     the network that makes the gates
losses     what the gates should give: nearness to the dense images, and a cost
updates    one update, and the settings of all
progress   the state of a search
gradient   `search(pipe, trajectory, keep=...)`: a generator, one step an update
"""

from secateur.searching.dip_go.gradient import SearchStep, search
from secateur.searching.dip_go.supernet import SuperNet, supernet
from secateur.searching.dip_go.updates import Settings

__all__ = ["SearchStep", "Settings", "SuperNet", "search", "supernet"]
