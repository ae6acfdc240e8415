"""A search seen from the terminal: how it stands, what is best so far on disk, and what it found in a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, TaskID
from rich.table import Table, box

from secateur.cli.terminal import console

if TYPE_CHECKING:
    from secateur.denoiser.macs import Macs
    from secateur.pipeline.trajectory import Trajectory
    from secateur.schedule.schedule import Schedule
    from secateur.searching.find import Found


@dataclass
class Watch:
    """A search seen from the terminal: the bar moves on, and what is best is saved as soon as it is found.

    out: None for a process that writes nothing. costs: of blocks; calls: dense ones. known: how the search was asked for.
    """

    out: Path | None
    costs: Macs
    calls: int
    known: dict[str, Any]
    target: str
    stopped: bool = False

    def all(self, looked: Iterator[Found], bar: Progress, task: TaskID) -> list[Found]:
        """The last Found of every stage; an interrupt keeps what was found, and so does an error, which is raised."""
        last: dict[str, Found] = {}
        try:
            for found in looked:
                if found.improved:
                    self.save(found.schedule, found, {self.target: found.value_db})
                if self.out and found.scores is not None and (found.improved or found.stage == "gradient"):
                    made = {**found.scores.made, **self.known, "stage": found.stage}
                    replace(found.scores, made=made).save(scores_beside(self.out))
                last[found.stage] = found
                bar.update(task, total=found.most, completed=found.measured, description=self.says(found))
        except KeyboardInterrupt:
            if not last:
                raise
            self.stopped = True
            console.print(f"stopped; the best so far is in {self.out}", soft_wrap=True)
        except Exception:
            if last and self.out:
                console.print(f"failed on the way; the best so far is in {self.out}", soft_wrap=True)
            raise
        return list(last.values())

    def says(self, found: Found) -> str:
        """How a search stands, in a line."""
        kept = self.costs.of(found.schedule) / (self.calls * self.costs.call())
        losses = "".join(f", {name} {value:.3g}" for name, value in found.losses.items() if name != "total")
        return f"{found.stage}: {found.value_db:.2f} dB, keeps {kept:.3f}{losses}"

    def measure_other(self, pipe: Any, trajectory: Trajectory, best: Found, **how: Any) -> None:
        """Save the best with its distance to the target that it was not searched for too, where that target is finite."""
        from secateur.measuring.quality import NotFiniteError
        from secateur.searching import find

        [other] = find.TARGETS.keys() - {self.target}
        try:
            value = find.objective_for(pipe, trajectory, target=other, **how)(best.schedule)
        except NotFiniteError as error:
            console.print(f"the distance to the {other} images is not known: {error}", soft_wrap=True)
            return
        self.save(best.schedule, best, {self.target: best.value_db, other: value})

    def save(self, schedule: Schedule, found: Found, near: dict[str, float]) -> None:
        """Write the schedule, saying how it was found and how near it is to each target on the calibration images."""
        if self.out:
            made = {**schedule.made, **self.known, "stage": found.stage, "calibration_psnr_db": near}
            replace(schedule, made=made).save(self.out)


def near_of(made: Schedule, images: int) -> str:
    """How near the images of a schedule are, in a sentence."""
    near = [f"{value:.2f} dB to the {target} images" for target, value in made.made["calibration_psnr_db"].items()]
    return f"{' and '.join(near)} of {images} calibration samples"


def kept_of(made, costs, *, calls: int) -> str:
    """What a schedule keeps of so many dense calls, in a sentence."""
    parts = []
    for cost in costs:
        plain, attention = (cost.of(made, attention=a) / (calls * cost.call(attention=a)) for a in (False, True))
        more = f" ({attention:.3f} with attention)" if cost.unit == "macs" else ""
        parts.append(f"{plain:.3f} of the {cost.noun}{more}")
    return f"keeps {', '.join(parts)}"


def scores_beside(out: Path) -> Path:
    """Where the scores go that a search found on the way, for `retarget`."""
    return out.with_suffix(".scores.safetensors")


def stage_table(found: list) -> Table:
    """What each stage added."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading, right in (("stage", False), ("measured", True), ("best, dB", True), ("s", True)):
        table.add_column(heading, justify="right" if right else "left")
    for part in found:
        table.add_row(part.stage, str(part.measured), f"{part.value_db:.2f}", f"{part.seconds:.1f}")
    return table
