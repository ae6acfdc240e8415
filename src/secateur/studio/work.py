"""What the studio does for its page, without the page: pictures, searches and schedules of one loaded pipe."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from secateur import zoo
from secateur.denoiser import macs
from secateur.denoiser.blocks import matching
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring import compare, quality
from secateur.measuring.columns import Row
from secateur.measuring.compare import Batch
from secateur.measuring.levels import Call, calls_made, calls_of
from secateur.measuring.records import FOUND
from secateur.measuring.timing import Timing
from secateur.measuring.variants import Variant, fewer_steps
from secateur.pipeline import schedulers
from secateur.pipeline.pipes import base_of
from secateur.pipeline.progress import View
from secateur.pipeline.prompts import check_tokens, conditions_of, guidance_of
from secateur.schedule.apply import holdable
from secateur.schedule.baselines import hold_for, uniform
from secateur.schedule.fit import check_fit, fitting_scheduler
from secateur.schedule.schedule import Schedule
from secateur.searching.search import search_steps, view
from secateur.searching.settings import DEFAULT, SearchSettings
from secateur.searching.stages import BestSoFar
from secateur.studio.live import live
from secateur.zoo.scenes import parse

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

MOST_STEPS = 1000


@dataclass(frozen=True)
class Wish:
    """What is to be drawn: `calls` of the calls that so many steps make. Raises ValueError if that cannot be.

    guidance: a number as it was typed; empty for the pipe's own.
    """

    prompt: str
    calls: int
    steps: int = 50
    seed: int = 0
    guidance: str = ""

    def __post_init__(self):
        if None in (self.calls, self.steps, self.seed):
            raise ValueError("a number is missing: fill in the budget, the steps and the seed")
        if not self.prompt.strip():
            raise ValueError("there is no prompt: write what the picture should show")
        if not 2 <= self.steps <= MOST_STEPS:
            raise ValueError(f"found {self.steps} steps: choose 2 to {MOST_STEPS}")
        if not 1 <= self.calls <= self.steps:
            raise ValueError(f"found a budget of {self.calls} calls for {self.steps} steps: choose 1 to {self.steps}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"found the seed {self.seed}: give a whole number from 0 on")
        if not re.fullmatch(r"(\d+(\.\d*)?)?", self.guidance.strip()):
            raise ValueError(f"found the guidance scale {self.guidance!r:.40}: give a number such as 7.5, or leave it empty")

    @property
    def scale(self) -> float | None:
        """The guidance scale; None for the pipe's own."""
        return float(self.guidance) if self.guidance.strip() else None


@dataclass(frozen=True, eq=False)
class Loaded:
    """A pipe in memory, with the name by which it was loaded, and what has been found out about it."""

    source: str
    pipe: DiffusionPipeline
    counted: dict[Any, macs.Macs] = field(default_factory=dict)
    dense: dict[Wish, Batch] = field(default_factory=dict)  # the last one
    turn: Any = field(default_factory=Lock)  # of the job that runs; one that is stopped may still be ending

    def costs(self, blocks: tuple[str, ...] | None = None) -> macs.Macs:
        """MACs by these blocks, or by the coarsest; counted once, which takes seconds for large denoisers."""
        if blocks not in self.counted:
            denoiser = denoiser_of(self.pipe)
            self.counted[blocks] = macs.count(denoiser, matching(denoiser, blocks) if blocks else None)
        return self.counted[blocks]


class Drawn(NamedTuple):
    """A picture as a data URI, its variant, its figures as a record has them, and at which noise levels it made its calls."""

    variant: Variant
    row: Row
    image: str
    calls: tuple[Call, ...]


def keeper(load: Callable[[str], DiffusionPipeline], *, only: Collection[str] | None = None) -> Callable[[str], Loaded]:
    """A function that loads pipes by name and keeps the last one. only: the names that it takes besides the zoo's.

    It raises PermissionError for others, and what `load` raises.
    """
    held: dict[str, Loaded] = {}

    def loaded(source: str) -> Loaded:
        source = source.strip()
        if only is not None and source not in (*zoo.NAMES, *only):
            raise PermissionError(f"the pipe {source!r:.80} was not named when the studio was started: choose one of the list")
        if source not in held:
            held.clear()  # first, so that there is never room needed for two
            held[source] = Loaded(source, load(source))
        return held[source]

    return loaded


def shipped(source: str) -> tuple[Schedule, ...]:
    """The schedules that come with a pipe: one for each of the zoo's."""
    return (Schedule.load(zoo.schedule(source)),) if source in zoo.NAMES else ()


def conditions(source: str, lines: list[str]) -> list[str] | list[int]:
    """Prompts or class labels as a pipe takes them, one a line. The zoo's pipe of classes takes captions, too."""
    given = conditions_of([line.strip() for line in lines if line.strip()])
    return [zoo.class_label(parse(c)) if isinstance(c, str) else c for c in given] if source == "emoji-dit" else given


def budget(loaded: Loaded, schedule: Schedule) -> int:
    """How many dense calls cost what a schedule does."""
    calls = schedule.dense_calls
    return max(1, round(loaded.costs(schedule.blocks).keep(schedule, calls=calls) * calls))


def dense_calls(loaded: Loaded, steps: int) -> int:
    """How many calls the pipe's own scheduler makes."""
    return schedulers.calls(loaded.pipe, steps)


def variants(loaded: Loaded, wish: Wish, schedules: Sequence[Schedule]) -> tuple[Variant, Variant, Variant]:
    """Dense, plain steps and ours: the last of the schedules that costs what is wished, otherwise evenly held calls."""
    pipe, total = loaded.pipe, dense_calls(loaded, wish.steps)
    keep = wish.calls / total
    own = type(pipe.scheduler).__name__.removesuffix("Scheduler")
    dense = Variant(f"{own}, {wish.steps} steps", "dense", wish.steps)
    [plain] = fewer_steps(pipe, wish.calls, keep=keep, solvers=("DPM-Solver++",))
    for schedule in reversed(schedules):
        if schedule.dense_calls == total and budget(loaded, schedule) == wish.calls:
            name = "found by search" if "stage" in schedule.made else "as loaded"
            return dense, plain, Variant(name, FOUND, wish.steps, schedule, keep=keep)
    scheduler = holdable(pipe.scheduler, strict=False)
    name, options = (None, {}) if scheduler is pipe.scheduler else schedulers.HOLDABLE
    calls = len(schedulers.begun(scheduler, wish.steps).timesteps)
    even = uniform(loaded.costs().blocks, calls, keep=wish.calls / calls, hold=hold_for(wish.calls / calls))
    return dense, plain, Variant("evenly held, not searched", "even", wish.steps, even, name, options, keep)


def pictures(loaded: Loaded, wish: Wish, schedules: Sequence[Schedule]) -> Iterator[View | Drawn]:
    """Dense, plain steps and ours, each when it is drawn, and in between how far it is.

    The dense picture is drawn once, for any budget. Raises ValueError or TypeError if the pipe does not take the wish.
    """
    pipe, prompt = loaded.pipe, conditions(loaded.source, [wish.prompt])
    check_tokens(pipe, tuple(prompt))
    guidance = guidance_of(pipe, loaded.source, wish.scale)
    three, key = variants(loaded, wish, schedules), replace(wish, calls=1)
    with loaded.turn:
        known = loaded.dense.get(key)
        if known:
            yield drawn(loaded, replace(known, variant=three[0]), known, guidance=guidance)
        waiting = list(three[1:] if known else three)
        batches = compare.run(pipe, tuple(waiting), prompt, seeds=[wish.seed], batch_size=1, guidance_scale=guidance)
        for batch in live(denoiser_of(pipe), batches):
            if isinstance(batch, int):
                total = wish.calls if waiting[0].keep else dense_calls(loaded, wish.steps)
                yield View(f"drawing: {waiting[0].name}", min(batch, total), total)
                continue
            if batch.variant is waiting.pop(0) is three[0]:
                loaded.dense.clear()
                loaded.dense[key] = batch
            yield drawn(loaded, batch, loaded.dense[key], guidance=guidance)


def drawn(loaded: Loaded, batch: Batch, dense: Batch, *, guidance: float) -> Drawn:
    """A picture with its figures beside the dense one."""
    variant, schedule = batch.variant, batch.variant.schedule
    costs = loaded.costs(schedule.blocks if schedule else None)
    calls = sum(not schedule.held(t) for t in range(schedule.calls)) if schedule else batch.calls
    row = {
        "name": variant.name,
        "group": variant.group,
        "calls": calls,
        **costs.spent(schedule, batch.calls, samples=2 if guidance > 1 else 1, whole=(loaded.costs(), dense.calls)),
        "latency_s": Timing(variant.name, (batch.seconds,)).as_json(),
        "psnr_db": quality.mean_of(quality.psnr(batch.images, dense.images)),
    }
    return Drawn(variant, row, compare.data_uri(batch.images[0]), calls_in(loaded, variant))


def calls_in(loaded: Loaded, variant: Variant) -> tuple[Call, ...]:
    """The calls that a variant makes, with their noise levels."""
    own = schedulers.scheduler_like(loaded.pipe.scheduler, variant.scheduler, variant.options)
    if variant.schedule:
        return calls_made(fitting_scheduler(own, variant.schedule), variant.schedule)
    return calls_of(own, variant.steps)


def search(
    loaded: Loaded, wish: Wish, prompts: str, *, images: int, settings: SearchSettings = DEFAULT
) -> Iterator[View | BestSoFar]:
    """The best schedule for the wish's budget after each that was measured, and in between how far the search is.

    prompts: one a line; none are needed for the zoo's pipes. Raises ValueError as `secateur.search` does.
    """
    lines, keep = conditions(loaded.source, prompts.splitlines()), share(wish.calls, dense_calls(loaded, wish.steps))
    steps = search_steps(loaded.pipe, lines or None, keep=keep, steps=wish.steps, images=images,
                         guidance_scale=wish.scale, settings=settings)  # fmt: skip
    doing = "recording the dense images"
    with loaded.turn:
        for step in live(denoiser_of(loaded.pipe), steps):
            doing = doing if isinstance(step, int) else view(step).doing
            yield View(doing, step) if isinstance(step, int) else step


def share(calls: int, total: int) -> float:
    """The budget that pays for so many of all calls: rounded up, because a search takes it as it is written."""
    return math.ceil(1e6 * calls / total) / 1e6


def opened(loaded: Loaded, path: str | Path) -> Schedule:
    """The schedule in a file, which fits the pipe. Raises ValueError or FileNotFoundError if it is damaged or for another."""
    try:
        schedule = Schedule.load(path)
        check_fit(denoiser_of(loaded.pipe), schedule)
        fitting_scheduler(loaded.pipe.scheduler, schedule)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), Path(path).name)) from error  # not where the upload lies
    return schedule


def written(loaded: Loaded, schedule: Schedule, folder: Path) -> Path:
    """The file of a schedule in a folder, named by its pipe and its budget."""
    name = re.sub(r"[^\w.-]+", "-", loaded.source).strip("-.")
    path = folder / f"{name}-{budget(loaded, schedule)}-of-{schedule.dense_calls}.json"
    schedule.save(path)
    return path


def push(schedule: Schedule | None, repo: str, *, base: str, private: bool) -> str:
    """The owner/name@commit at which a schedule now is on the Hub, if one was drawn; raises as `Schedule.push_to_hub` does."""
    if schedule is None:
        raise ValueError("there is no schedule to push: draw pictures first")
    return schedule.push_to_hub(repo.strip(), base=base_of(base, schedule.made, option="a pipe"), private=private)
