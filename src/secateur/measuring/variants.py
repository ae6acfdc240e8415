"""What is drawn side by side: schedules, and fewer steps of some scheduler, each a Variant; the first one is the dense pipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from secateur.denoiser import macs
from secateur.denoiser.blocks import matching
from secateur.denoiser.families import family
from secateur.pipeline import schedulers
from secateur.pipeline.pipes import component
from secateur.schedule import baselines, fit
from secateur.schedule.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

PLAIN = ("DDIM", "DPM-Solver++")  # enough for a quick look
EVEN = {  # evenly held calls: name → hold
    "uniform hold": "output",
    "uniform hold, extrapolated": "extrapolate",
    "uniform hold, Adams–Bashforth": "adams_bashforth",
}


@dataclass(frozen=True)
class Variant:
    """One way to make the images: `steps` of a scheduler (the pipe's own where None), with a Schedule or without.

    keep: what was aimed at; None for dense. pipe: that draws them instead of the one compared: a student's teacher.
    """

    name: str
    group: str
    steps: int
    schedule: Schedule | None = None
    scheduler: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    keep: float | None = None
    pipe: DiffusionPipeline | None = None


def fewer_steps(pipe: DiffusionPipeline, steps: int, *, keep: float, solvers: Sequence[str] = PLAIN) -> tuple[Variant, ...]:
    """The baseline that every schedule must beat: plainly `steps` steps, of these solvers of `pipes.SOLVERS`.

    Of the pipe's own scheduler alone where its noise is not theirs (flow matching).
    """
    if "beta_schedule" not in pipe.scheduler.config:
        return (Variant(f"{steps} steps", "fewer steps", steps, keep=keep),)
    return tuple(
        Variant(f"{name}, {steps} steps", f"fewer steps {name}", steps, None, *schedulers.SOLVERS[name], keep=keep)
        for name in solvers
    )


def front(
    pipe: DiffusionPipeline, *, steps: int, keeps: Sequence[float], solvers: Sequence[str] = PLAIN
) -> tuple[Variant, ...]:
    """Dense, and at each of `keeps`: uniform hold in three ways, the family's static cache, and fewer steps."""
    wanted = [baselines.check_keep(keep) for keep in keeps]
    denoiser = component(pipe)
    counted = macs.count(denoiser, list(family(denoiser).granularities)[-1])  # the finest: caches choose among layers
    rivals = (rival for keep in wanted for rival in _rivals(pipe, counted, steps=steps, keep=keep, solvers=solvers))
    return (Variant("dense", "dense", steps), *rivals)


def _rivals(
    pipe: DiffusionPipeline, counted: macs.Macs, *, steps: int, keep: float, solvers: Sequence[str]
) -> Iterator[Variant]:
    calls = schedulers.calls(pipe, steps)
    count = max(1, int(keep * calls + 0.5))
    for name, hold in EVEN.items():
        held = baselines.evenly(counted.blocks, calls, count, hold=hold)
        yield Variant(f"{name}, {count} calls", name, steps, held, keep=keep)
    cache = "fora" if "residual" in counted.blocks.reuse else "deepcache"
    cached = baselines.make(cache, counted, calls=calls, keep=keep)
    name = {"fora": "FORA", "deepcache": "DeepCache"}[cache]
    interval = next((t for t in range(1, calls) if "." not in cached.grid[t]), calls)
    yield Variant(f"{name}, interval {interval}", name, steps, cached, keep=keep)
    yield from fewer_steps(pipe, max(1, int(keep * steps + 0.5)), keep=keep, solvers=solvers)


def beside_teacher(teacher: DiffusionPipeline, variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The variants of a student, whose first is dense, behind its teacher's dense images."""
    student, *others = variants
    first = replace(student, name="teacher, dense", pipe=teacher)
    return first, replace(student, name="student, dense", group="student"), *others


def given(
    pipe: DiffusionPipeline, found: Sequence[tuple[str, Schedule]], *, steps: int, solvers: Sequence[str] = PLAIN
) -> tuple[Variant, ...]:
    """A Variant for each named schedule, and fewer steps of these solvers at equal MACs beside it."""
    denoiser = component(pipe)
    variants: list[Variant] = []
    for name, schedule in found:
        counted = macs.count(denoiser, matching(denoiser, schedule.blocks))
        share = counted.of(schedule) / (schedulers.calls(pipe, steps) * counted.call())
        keep = round(share, 2)
        variants.append(Variant(name, "schedule", steps, schedule, *fit.scheduler_for(pipe.scheduler, schedule), keep=keep))
        variants.extend(fewer_steps(pipe, max(1, round(share * steps)), keep=keep, solvers=solvers))
    return tuple(variants)
