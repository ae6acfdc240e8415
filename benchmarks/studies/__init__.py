"""The studies, each a module with its STUDY or its STUDIES; `python benchmarks/run.py` measures what one has not measured."""

from studies import (
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

STUDIES = (
    front.STUDY,
    timing.STUDY,
    ablations.STUDY,
    transfer.STUDY,
    grids.STUDY,
    stages.STUDY,
    additivity.STUDY,
    search_cost.STUDY,
    depth.STUDY,
    *recovery.STUDIES,
    *product.STUDIES,
    *full_size.STUDIES,
    *full_depth.STUDIES,
    zoo_study.STUDY,
)
