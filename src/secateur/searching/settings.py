"""SearchSettings: what a search tries, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import rich.repr

if TYPE_CHECKING:
    from accelerate import Accelerator

ALL_STAGES = ("stock", "additive", "refresh", "cells", "local", "gradient-steps", "gradient")
STAGES = ("stock", "additive")
FEW_CALLS = 20  # dense ones, up to which `refresh` is one of the default stages: it paid there, and did not at 50 (ours)
FEW_WHOLE = 8  # calls that the budget pays for, up to which `local` is one: it found 0.8 dB at 5, and nothing at 10 (ours)
COSTS = ("macs", "ms")


@rich.repr.auto
@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What a search tries, and for how long; the defaults are ours.

    stages: of stock, additive, refresh, cells, local, gradient-steps and gradient, in this order; None: see `stages_for`.
    more_images: further calibration images; they are drawn only while a gain is in doubt.
    trials: schedules that the local search measures at most.
    patience: trials in a row without a gain that end the local search; None: it never ends early.
    updates: updates of the gradient stage.
    work: folder for what the search records and measures. The same search goes on from there if it was stopped; at its end the
        folder goes.
    afresh: whether what another search left there may go too; otherwise it is refused.
    granularity: size of the blocks, such as "stage" or "layer"; None: the coarsest that the denoiser has.
    cost: what `keep` is a fraction of: "macs", or "ms" as measured on the pipe's device.
    Raises ValueError if a value is out of its range.
    """

    stages: tuple[str, ...] | None = None
    more_images: int = 48
    trials: int = 80
    patience: int | None = 20
    updates: int = 100
    work: str | Path | None = None
    afresh: bool = False
    granularity: str | None = None
    cost: str = "macs"

    def __post_init__(self):
        if self.stages is not None:
            object.__setattr__(self, "stages", check_stages(self.stages))
        if self.cost not in COSTS:
            raise ValueError(f"found cost {self.cost!r}: choose {' or '.join(COSTS)}")
        least = {"more_images": 0, "trials": 1, "patience": 1, "updates": 1}
        values = {name: getattr(self, name) for name in least}
        if wrong := [name for name, value in values.items() if value is not None and value < least[name]]:
            raise ValueError(f"found {wrong[0]}={values[wrong[0]]}, wanted {least[wrong[0]]} or more: change it")

    def check_processes(self, accelerator: Accelerator | None) -> None:
        """Raises ValueError if several processes would work with different measured times."""
        timed = self.cost == "ms" and "gradient" in (self.stages or ())
        if timed and accelerator is not None and accelerator.num_processes > 1:
            raise ValueError(
                "each process times the blocks anew, so a gradient stage with cost ms cannot use several of them: leave the "
                "others out, or take cost macs"
            )


DEFAULT = SearchSettings()


def check_stages(stages: tuple[str, ...]) -> tuple[str, ...]:
    """The stages. Raises ValueError if there is none, or one that is unknown."""
    if not stages or (wrong := [stage for stage in stages if stage not in ALL_STAGES]):
        raise ValueError(f"there is no stage {wrong[0] if stages else ''!r}: choose among {', '.join(ALL_STAGES)}")
    return tuple(stages)


def stages_for(calls: int, *, whole_calls: int, replayed: bool) -> tuple[str, ...]:
    """The default stages of a search with so many dense calls, and so many that its budget pays for.

    replayed: whether partial calls can be looked for on the dense sampler's grid.
    """
    refresh = ("refresh",) if calls <= FEW_CALLS and replayed else ()
    return (*STAGES, *refresh, *(("local",) if whole_calls <= FEW_WHOLE else ()))
