"""What a search leaves: the best schedule so far, always on disk, and a few lines that say what was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table, box

from secateur.cli.long_job import INTERRUPTED
from secateur.cli.terminal import console

if TYPE_CHECKING:
    from secateur.denoiser.macs import Macs
    from secateur.schedule.schedule import Schedule
    from secateur.searching.stages import BestSoFar

OVER_BUDGET = 3  # exit code of a command whose schedule costs more than was asked for, by over MISSED
MISSED = 0.05  # of the budget asked for: a schedule that differs by more is remarked on


@dataclass
class BestOnDisk:
    """The best schedule of a search, saved as soon as it is found.

    out: None for a process that writes nothing. made: what every schedule says beside what the search says of itself. work:
    where the search keeps what it measured. Until the search is over, the file says that it is not complete.
    """

    out: Path | None
    made: Mapping[str, Any]
    work: Path | None = None
    scored_db: float = float("-inf")  # value of the schedule whose scores were saved

    def last_steps(self, steps: Iterable[BestSoFar]) -> list[BestSoFar]:
        """The last step of every stage. An interrupt ends the command with exit code 130; like an error, it keeps the best."""
        last: dict[str, BestSoFar] = {}
        try:
            for step in steps:
                last[step.stage] = step
                self.save(step)
        except KeyboardInterrupt:
            if self.out:
                best = f"the best so far is in {self.out}" if last else "nothing was found yet"
                console.print(f"stopped; {best}; the same command goes on from {self.work}", soft_wrap=True)
            raise SystemExit(INTERRUPTED) from None
        except Exception:
            if last and self.out:
                console.print(f"the search failed; the best so far is in {self.out}", soft_wrap=True)
            raise
        self.write(list(last.values())[-1])
        return list(last.values())

    def write(self, step: BestSoFar, **more: Any) -> None:
        """Write the schedule."""
        if self.out:
            replace(step.schedule, made={**step.schedule.made, **self.made, **more}).save(self.out)

    def save(self, step: BestSoFar) -> None:
        """Write the schedule if it is new, and the scores of the best that was made from any."""
        if step.improved:
            self.write(step, complete=False)
        if self.out and step.scores is not None and (step.last_db > self.scored_db or step.stage == "gradient"):
            self.scored_db = step.last_db
            replace(step.scores, made={**step.scores.made, **self.made}).save(scores_beside(self.out))


def near_of(schedule: Schedule, images: int) -> str:
    """How near the images of a schedule are, in a sentence."""
    near = [f"{value:.2f} dB to the {target} images" for target, value in schedule.made["calibration_psnr_db"].items()]
    return f"{' and '.join(near)} of {images} calibration samples"


def kept_of(schedule: Schedule, costs: Macs, *, calls: int) -> str:
    """What a schedule keeps of this many dense calls, in a sentence."""
    plain, attention = (costs.keep(schedule, calls=calls, attention=a) for a in (False, True))
    more = f" ({attention:.3f} with attention)" if costs.unit == "macs" else ""
    return f"keeps {plain:.3f} of the {costs.noun}{more}"


def missed(share: float, keep: float) -> str | None:
    """A sentence on a schedule that keeps over 5 % more or less than the budget; None for one that does not."""
    off = share / keep - 1
    word = "more" if off > 0 else "less"
    return f"that is {abs(off):.0%} {word} than --keep {keep:g}" if abs(off) > MISSED else None


def scores_beside(out: Path) -> Path:
    """Where a search writes the scores that it found, for `retarget`."""
    return out.with_suffix(".scores.safetensors")


def stage_table(stages: Iterable[BestSoFar]) -> Table:
    """What each stage added."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading, right in (("stage", False), ("measured", True), ("best, dB", True), ("s", True)):
        table.add_column(heading, justify="right" if right else "left")
    for step in stages:
        table.add_row(step.stage, str(step.measured), f"{step.value_db:.2f}", f"{step.seconds:.1f}")
    return table
