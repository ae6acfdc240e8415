"""What is drawn side by side: schedules and fewer steps of some scheduler, each a Variant. The dense pipe is the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from secateur.denoiser import macs
from secateur.denoiser.blocks import Blocks, matching
from secateur.denoiser.families import family
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring.records import GIVEN
from secateur.pipeline import schedulers
from secateur.schedule import baselines, fit
from secateur.schedule.schedule import Schedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

CLOSE = 0.05  # of a budget in MACs: nearer counts as equal
EVEN = {  # evenly held calls: name → hold
    "uniform hold": "output",
    "uniform hold, extrapolated": "extrapolate",
    "uniform hold, Adams–Bashforth": "adams_bashforth",
}


@dataclass(frozen=True)
class Variant:
    """One way to make the images: `steps` of a scheduler (None: the pipe's own), with a Schedule or without.

    keep: the budget it is for; None for dense. pipe: draws the images instead of the compared pipe, as a student's teacher.
    """

    name: str
    group: str
    steps: int
    schedule: Schedule | None = None
    scheduler: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    keep: float | None = None
    pipe: DiffusionPipeline | None = None


def fewer_steps(
    pipe: DiffusionPipeline, steps: int, *, keep: float, solvers: Iterable[str] | None = None
) -> tuple[Variant, ...]:
    """The baseline that every schedule must beat: `steps` plain steps of these solvers, or of all.

    Only of the pipe's own scheduler if its noise is not theirs (flow matching).
    """
    if "beta_schedule" not in pipe.scheduler.config:
        return (Variant(f"{steps} steps", "fewer steps", steps, keep=keep),)
    return tuple(
        Variant(f"{name}, {steps} steps", f"fewer steps {name}", steps, None, *schedulers.SOLVERS[name], keep=keep)
        for name in solvers or schedulers.SOLVERS
    )


def plainly(pipe: DiffusionPipeline, steps: int, *, keep: float) -> tuple[Variant, ...]:
    """Plainly `steps` steps of every stock solver at every spacing that `schedulers.SOLVERS` has, grouped by solver."""
    every = fewer_steps(pipe, steps, keep=keep)
    return tuple(replace(variant, group=" ".join(variant.group.split()[:3])) for variant in every)


def front(pipe: DiffusionPipeline, *, steps: int, keeps: Sequence[float]) -> tuple[Variant, ...]:
    """Dense, and at each of `keeps`: evenly held calls in three ways, the family's static cache, and fewer steps."""
    budgets = [baselines.check_keep(keep) for keep in keeps]
    denoiser = denoiser_of(pipe)
    costs = macs.count(denoiser, list(family(denoiser).granularities)[-1])  # the finest: caches choose among layers
    rivals = (rival for keep in budgets for rival in _rivals(pipe, costs, steps=steps, keep=keep))
    return (Variant("dense", "dense", steps), *rivals)


def _rivals(pipe: DiffusionPipeline, costs: macs.Macs, *, steps: int, keep: float) -> Iterator[Variant]:
    yield from evenly_held(pipe, costs.blocks, steps=steps, keep=keep)
    yield cached(costs, calls=schedulers.calls(pipe, steps), steps=steps, keep=keep)
    yield from fewer_steps(pipe, max(1, int(keep * steps + 0.5)), keep=keep)


def evenly_held(pipe: DiffusionPipeline, blocks: Blocks, *, steps: int, keep: float) -> Iterator[Variant]:
    """A fraction `keep` of the calls runs, evenly spread; the others are held, in each of the ways in `EVEN`."""
    calls = schedulers.calls(pipe, steps)
    count = max(1, int(keep * calls + 0.5))
    for name, hold in EVEN.items():
        yield Variant(f"{name}, {count} calls", name, steps, baselines.evenly(blocks, calls, count, hold=hold), keep=keep)


def cached(costs: macs.Macs, *, calls: int, steps: int, keep: float) -> Variant:
    """The family's static cache at this budget: DeepCache for U-Nets, FORA for transformers.

    Of the settings within 5 % of the budget in MACs it takes the one that refreshes most often (ours), which measures best
    on both pipelines of the zoo. If there is none, it takes the nearest. `costs` are of the finest blocks, as the papers'
    caches are.
    """
    blocks = costs.blocks
    intervals = range(1, calls + 1)
    if "residual" in blocks.reuse:
        settings = {f"FORA, interval {n}": baselines.fora(blocks, calls, interval=n) for n in intervals}
    else:
        branches = range(1, sum(len(producers) > 1 for producers in blocks.producers) + 1)
        settings = {
            f"DeepCache, interval {n}, branch {depth}": baselines.deepcache(blocks, calls, interval=n, depth=depth)
            for n in intervals
            for depth in branches
        }
    off = {name: abs(costs.keep(schedule) / keep - 1) for name, schedule in settings.items()}
    name = next((name for name in off if off[name] <= CLOSE), min(off, key=lambda name: off[name]))
    return Variant(name, name.partition(",")[0], steps, settings[name], keep=keep)


def beside_teacher(teacher: DiffusionPipeline, variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The variants of a student, the dense one first, after its teacher's dense images."""
    student, *others = variants
    first = replace(student, name="teacher, dense", pipe=teacher)
    return first, replace(student, name="student, dense", group="student"), *others


def given(pipe: DiffusionPipeline, schedules: Mapping[str, Schedule], *, steps: int) -> tuple[Variant, ...]:
    """A Variant for each schedule of a user, by its name; its `keep` is the share of MACs that it keeps."""
    denoiser, calls = denoiser_of(pipe), schedulers.calls(pipe, steps)
    variants = []
    for name, schedule in schedules.items():
        costs = macs.count(denoiser, matching(denoiser, schedule.blocks))
        share = round(costs.keep(schedule, calls=calls), 2)
        solver = fit.scheduler_for(pipe.scheduler, schedule)
        variants.append(Variant(name, GIVEN, steps, schedule, *solver, keep=share))
    return tuple(variants)
