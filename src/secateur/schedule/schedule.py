"""Schedule: which block runs at which call, as an artifact that a person can read, diff and mail. Needs no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from secateur import artifact, hub
from secateur.artifact import TEXT, TEXT_OR_NONE, Form, are_numbers, document_of, frozen
from secateur.denoiser.reuse import KINDS
from secateur.schedule.holds import FOLDED, HOLDS

RUN, REUSE = "#", "."
NUMBERS = ("rows", "input_scales", "signal_rates", "noise_rates", "init_noise_sigma")  # of a table, beside its timesteps
LEAST_TIMESTEP, MOST_TIMESTEP = -100, 100_000  # stage gradient-steps may end a little below 0 (ours)
BAND_CALLS = 84  # this many calls across fit beside the names of SD-1.5's layers in 120 columns
FORM = Form(
    noun="schedule",
    number=2,
    older=(1,),
    fields={
        "denoiser": TEXT,
        "scheduler": TEXT_OR_NONE,
        "scheduler_hash": TEXT_OR_NONE,
        "made": (dict,),
        "timesteps": (list, type(None)),
        "blocks": (dict,),
        "grid": (list,),
        "hold": TEXT,
        "table": (dict, type(None)),
    },
    ordered="blocks",
    texts=("blocks", "grid"),
    defaults={"hold": "output", "table": None},
)


@dataclass(frozen=True)
class Schedule:
    """A T × L grid, `#` if a block runs and `.` if it reuses, with what it is for and how it was made.

    blocks: (L,) names in execution order. grid: T rows of L characters; the first runs everything, and one without `#`
    holds the whole denoiser. reuse: (L,) what a block gives that does not run: its last "output", its input plus the last
    "residual", or "extrapolate", the line through its last two outputs over the calls. hold: what a held call gives,
    "output", "extrapolate" or "adams_bashforth" (see `holds`). denoiser, scheduler: class names. scheduler_hash: of the
    scheduler's configuration. timesteps: (T,) if the schedule chooses them. table: if held calls were left out or rows fitted,
    the other numbers of the sampler (see `Table.numbers`). made: how it was made, any JSON.
    """

    blocks: tuple[str, ...]
    grid: tuple[str, ...]
    reuse: tuple[str, ...]
    denoiser: str
    scheduler: str | None = None
    scheduler_hash: str | None = None
    timesteps: tuple[float, ...] | None = None
    made: Mapping[str, Any] = field(default_factory=dict, hash=False)
    hold: str = "output"
    table: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self):
        object.__setattr__(self, "made", frozen(self.made))
        object.__setattr__(self, "table", frozen(self.table))
        check_blocks(self)
        check_grid(self)
        check_table(self)
        check_made(self)

    @property
    def calls(self) -> int:
        """T, the denoiser calls of one image."""
        return len(self.grid)

    @property
    def share(self) -> float:
        """Fraction of the cells that run, in (0, 1]; what they cost is for `macs`."""
        return sum(row.count(RUN) for row in self.grid) / (self.calls * len(self.blocks))

    @property
    def dense_calls(self) -> int:
        """The calls of the dense sampler that this one stands for, as far as it says; otherwise its own."""
        return self.made.get("dense_calls") or self.made.get(FOLDED, {}).get("calls") or self.calls

    @property
    def whole(self) -> bool:
        """Whether each call runs every block or none, so that the schedule is a sampler of the calls that run."""
        return not any(RUN in row and REUSE in row for row in self.grid)

    def runs(self, t: int) -> tuple[bool, ...]:
        """Which blocks are told to run at call t, (L,)."""
        return tuple(cell == RUN for cell in self.grid[t])

    def held(self, t: int) -> bool:
        """Whether call t gives what earlier calls gave, see `hold`: the denoiser is not entered."""
        return RUN not in self.grid[t]

    def bound_to(self, scheduler: Any) -> Schedule:
        """The same schedule, good for this scheduler's class and configuration alone, which `made` says."""
        from secateur.pipeline.schedulers import SETTINGS, scheduler_signature, settings_of  # which import torch

        name, digest = scheduler_signature(scheduler)
        return replace(self, scheduler=name, scheduler_hash=digest, made={**self.made, SETTINGS: settings_of(scheduler)})

    def sampler(self, scheduler: Any) -> Any:
        """A diffusers scheduler that makes only the calls of this schedule that run: `pipe.scheduler = schedule.sampler(...)`.

        scheduler: the pipe's own one, or another that the schedule is for. The denoiser needs no patch. Ask the pipe for as
        many steps as the sampler has timesteps. Raises ValueError if the schedule reuses blocks, or fits the scheduler not.
        """
        from secateur.schedule.fold import sampler_for  # which imports torch

        return sampler_for(self, scheduler)

    def document(self) -> dict[str, Any]:
        """Its JSON document, format 2, as `save` writes it."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        return document_of(content | {"blocks": dict(zip(self.blocks, self.reuse, strict=True))}, FORM)

    def save(self, path: str | Path) -> None:
        """Write it to a file; a reader sees the old file or the new one, never half of it."""
        artifact.save(self.document(), path)

    def push_to_hub(self, repo: str, *, base: str | None = None, private: bool = False) -> str:
        """The owner/name@commit at which it now is on the Hugging Face Hub, for `secateur.load`, with a card and a drawing.

        repo: "owner/name", made if there is none. base: the pipe it is for, a Hub id, unless a search wrote that into `made`;
        its license goes into the card. Raises ValueError or OSError, one sentence, if something is wrong; then nothing changed.
        """
        from secateur.schedule.card import push  # which imports torch

        return push(self, repo, base=base, private=private)

    @staticmethod
    def load(path: str | Path, *, edited: bool = False) -> Schedule:
        """The Schedule in a JSON file, as `secateur search`, `secateur schedule` or `save` wrote it, for `secateur.apply`.

            schedule = secateur.load("schedule.json")
            print(schedule)  # a row for each block, a column for each call: # runs, . reuses
            with secateur.apply(pipe, schedule):
                image = pipe("an owl at night", num_inference_steps=schedule.calls).images[0]

        Raises FileNotFoundError or ValueError, one sentence with the file's name, if it is missing, damaged or something else.

        path: of the file, or the repository "owner/name" on the Hub, "owner/name@commit" to pin it: then `made` says which
        commit it was. edited: take a schedule that was changed by hand, whose checksum no longer fits.
        """
        if hub.is_name(path):
            from secateur.schedule.card import FILE

            return hub.load(hub.take(str(path), FILE), partial(Schedule.load, edited=edited))
        return artifact.load(path, FORM, schedule_from, edited=edited)

    def __reduce__(self):  # what is frozen in `made` cannot be pickled or copied as it is
        return schedule_from, (self.document(),)

    def __str__(self) -> str:
        return "\n".join(lines_of(self))


load, save = Schedule.load, Schedule.save


def check_blocks(schedule: Schedule) -> None:
    """Raises ValueError if the block names and what they reuse make no sense."""
    names, reuse = schedule.blocks, schedule.reuse
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"found {len(names)} block names, {len(set(names))} of them different: name one or more blocks, each once"
        )
    if len(reuse) != len(names):
        raise ValueError(f"found {len(names)} blocks but {len(reuse)} kinds of reuse: give one for each block")
    if wrong := set(reuse) - set(KINDS):
        raise ValueError(f"found reuse {', '.join(sorted(map(repr, wrong)))}: use {' or '.join(map(repr, KINDS))}")
    if schedule.hold not in HOLDS:
        raise ValueError(f"found hold {schedule.hold!r}: use {' or '.join(map(repr, HOLDS))}")


def check_grid(schedule: Schedule) -> None:
    """Raises ValueError if the grid is not T rows of L cells whose first runs everything."""
    width = len(schedule.blocks)
    for t, row in enumerate(schedule.grid):
        if len(row) != width:
            raise ValueError(f"row {t} of the grid has {len(row)} cells for {width} blocks: give one cell a block")
        if wrong := set(row) - {RUN, REUSE}:
            raise ValueError(
                f"row {t} of the grid has {''.join(sorted(wrong))!r}: use only {RUN!r} (runs) and {REUSE!r} (reuses)"
            )
    if not schedule.grid or REUSE in schedule.grid[0]:
        first = schedule.grid[0] if schedule.grid else "no row at all"
        raise ValueError(f"call 0 has nothing to reuse, so the first row must be all {RUN!r}; found {first}")
    if schedule.timesteps is not None:
        check_timesteps(schedule.timesteps, schedule.calls)


def check_timesteps(timesteps: Sequence[Any], calls: int) -> None:
    """Raises ValueError if these are not a finite number for each call, from the noisiest on."""
    if len(timesteps) != calls:
        raise ValueError(f"found {len(timesteps)} timesteps for {calls} calls: give one for each call")
    if not are_numbers(timesteps) or not LEAST_TIMESTEP <= min(timesteps) <= max(timesteps) <= MOST_TIMESTEP:
        shown = ", ".join(map(str, timesteps[:4]))
        raise ValueError(
            f"found the timesteps {shown:.60} and so on: give finite numbers from {LEAST_TIMESTEP} to {MOST_TIMESTEP}"
        )
    if rising := [pair for pair in pairwise(timesteps) if pair[0] < pair[1]]:
        raise ValueError("found timestep {:g} before {:g}: give them from the noisiest on, falling".format(*rising[0]))


def check_made(schedule: Schedule) -> None:
    """Raises ValueError if what others read of `made` is of another kind than a search writes."""
    made, folded = schedule.made, schedule.made.get(FOLDED, {})
    counts = [made.get("dense_calls"), made.get("num_inference_steps"), isinstance(folded, Mapping) and folded.get("calls")]
    if not all(count is None or (type(count) is int and count > 0) for count in counts):
        raise ValueError(
            f"its `made` counts {counts[0]!r:.20} calls, {counts[1]!r:.20} steps, folded {folded!r:.40}: give whole numbers"
        )
    scalars = [made.get("keep"), made.get("guidance_scale")]
    if not are_numbers([number for number in scalars if number is not None]):
        raise ValueError(f"its `made` has keep {scalars[0]!r:.40} and guidance {scalars[1]!r:.40}: give numbers")


def check_table(schedule: Schedule) -> None:
    """Raises ValueError if a table is of other calls than the schedule, or if some of these are held."""
    if schedule.table is None:
        return
    if wrong := set(NUMBERS) ^ set(schedule.table):
        raise ValueError(f"found a table with other entries ({', '.join(sorted(wrong))}): give {', '.join(NUMBERS)}")
    rows, times = len(schedule.table["rows"]), len(schedule.timesteps or ())
    if not rows == times == schedule.calls:
        raise ValueError(
            f"found a table of {rows} rows and {times} timesteps for {schedule.calls} calls: give one of each for every call"
        )
    wrong = [name for name in NUMBERS[1:-1] if not are_numbers(schedule.table[name])]
    lengths = range(2, rows + 2)
    wrong += [f"row {k}" for k, row in enumerate(schedule.table["rows"]) if not are_numbers(row) or len(row) not in lengths]
    if wrong or not are_numbers([schedule.table["init_noise_sigma"]]):
        raise ValueError(f"found a table whose {(wrong or NUMBERS[-1:])[0]} is no list of as many numbers: take the original")
    if held := sum(map(schedule.held, range(schedule.calls))):
        raise ValueError(f"found a table and {held} held calls: leave them out by fold()")


def schedule_from(document: Mapping[str, Any]) -> Schedule:
    """The schedule of a JSON document."""
    return Schedule(
        blocks=tuple(document["blocks"]),
        grid=tuple(document["grid"]),
        reuse=tuple(document["blocks"].values()),
        denoiser=document["denoiser"],
        scheduler=document["scheduler"],
        scheduler_hash=document["scheduler_hash"],
        timesteps=None if document["timesteps"] is None else tuple(document["timesteps"]),
        made=document["made"],
        hold=document.get("hold", FORM.defaults["hold"]),
        table=document.get("table"),
    )


def lines_of(schedule: Schedule) -> Iterator[str]:
    """Lines that show a schedule in a terminal: blocks down, calls across, a new band after every 84 calls.

    The timesteps instead, if every call runs whole and the schedule chooses them.
    """
    name = f"{schedule.denoiser}, {schedule.scheduler or 'any scheduler'}"
    if schedule.timesteps and schedule.share == 1:
        of = f" for {schedule.dense_calls}" if schedule.dense_calls != schedule.calls else ""
        yield f"{name}: a sampler of {schedule.calls} calls{of}, whole, at the timesteps"
        yield from textwrap.wrap(" ".join(f"{t:g}" for t in schedule.timesteps), 100)
        return
    holds = sum(schedule.held(t) for t in range(schedule.calls))
    yield (
        f"{name}: {schedule.calls} calls × {len(schedule.blocks)} blocks, {schedule.share:.1%} of the cells run, "
        f"{holds} calls held whole"
    )
    head, *labels = labelled(schedule.blocks)
    for start in range(0, schedule.calls, BAND_CALLS):
        rows = schedule.grid[start : start + BAND_CALLS]
        ruler = "".join(f"{t:<10}" for t in range(start, start + len(rows), 10))
        yield f"{head}  {ruler[: max(len(rows), len(str(start)))]}".rstrip()
        yield from (f"{label}  {''.join(cells)}" for label, cells in zip(labels, zip(*rows, strict=True), strict=True))


def labelled(names: Sequence[str]) -> Iterator[str]:
    """A heading and the names in one width; what a block has in common with the one above it is left out."""
    parts = [(".".join(n.split(".")[:-2]), ".".join(n.split(".")[-2:])) for n in names]
    groups, rests = (max(len(part[k]) for part in parts) for k in (0, 1))
    width = max(len("call"), groups + bool(groups) + rests)
    yield f"{'call':<{width}}"
    for before, (group, rest) in zip([("", ""), *parts], parts, strict=False):
        shown = "" if group == before[0] else group
        label = f"{shown:<{groups}} {rest}" if groups else rest
        yield f"{label:<{width}}"
