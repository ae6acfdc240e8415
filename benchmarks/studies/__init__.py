"""The studies, each a module with its STUDY or its STUDIES; `python benchmarks/run.py` measures what one has not measured."""

from studies import (  # fmt: skip
    ablations,
    additivity,
    depth,
    front,
    full_depth,
    full_size,
    grids,
    product,
    recovery,
    search_cost,
    stages,
    timing,
    transfer,
)
from studies import zoo as zoo_study

SINGLE = (front, timing, ablations, transfer, grids, stages, additivity, search_cost, depth, zoo_study)
STUDIES = (
    *(module.STUDY for module in SINGLE),
    *(study for module in (recovery, product, full_size, full_depth) for study in module.STUDIES),
)
