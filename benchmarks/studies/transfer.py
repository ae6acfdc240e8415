"""What a schedule is worth elsewhere: found at 50 DDIM calls, retimed to other numbers of calls and other schedulers.

Rows are measured to their target's own dense images, beside as many evenly held calls and as many plain steps."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from bench import FIRST_SEED, NONE, Bench
from secateur import Schedule, load, retime, zoo
from secateur.measuring.variants import EVEN
from secateur.pipeline.schedulers import SOLVERS
from secateur.schedule import baselines
from study import Job, Record, Row, Run, Study
from tables import RESULTS

PIPE, IMAGES = "emoji-sd", 64
FOUND = ("emoji-sd-secateur-ddim-10-seed-40000", "emoji-sd-secateur-ddim-5-seed-40000")
EULER = "EulerDiscreteScheduler"


class Target(NamedTuple):
    """A dense run: a scheduler, by name and options (None: the pipe's own DDIM), and its steps."""

    name: str
    steps: int
    scheduler: str | None = None
    options: Mapping[str, Any] = NONE

    @property
    def title(self) -> str:
        return f"{self.name}, {self.steps} calls"


TARGETS = (Target("DDIM", 25), Target("Euler", 50, EULER), Target("DDIM", 100), Target("DDIM", 50), Target("Euler", 25, EULER))
STRONG = {"DPM-Solver++, linspace": SOLVERS["DPM-Solver++"], "DPM-Solver++, Karras": SOLVERS["DPM-Solver++ Karras"]}


def stored(name: str) -> Schedule:
    return load(RESULTS / "schedules" / f"{name}.json")


def jobs(run: Run) -> Iterator[Job]:
    """Every row that is drawn, one target after the other: dense, and each schedule beside what else makes as many calls."""
    bench, known = Bench(PIPE, images=IMAGES), [stored(name) for name in FOUND]
    for target in TARGETS:
        yield Job(f"{target.title}: dense", partial(row, bench, target, "dense", target.steps))
        for given in known:
            count = sum(not given.held(t) for t in range(given.calls))
            makes = {"retimed": partial(retimed, bench, given, target)}
            for group, hold in EVEN.items():
                makes[group] = partial(baselines.evenly, bench.macs.blocks, target.steps, count, hold=hold)
            plain = {f"{target.name}, {s}": (target.scheduler, {"timestep_spacing": s}) for s in ("leading", "trailing")}
            fewer = {f"fewer steps, {name}": solver for name, solver in {**plain, **STRONG}.items()}
            for group in (*makes, *fewer):
                how = {"make": makes.get(group), "fewer": fewer.get(group)}
                yield Job(f"{target.title}: {count} of them, {group}", partial(row, bench, target, group, count, **how))


def row(bench: Bench, target: Target, group: str, calls: int, *, make: Any = None, fewer: Any = None) -> Row:
    """A schedule, fewer steps or a target itself, drawn and measured to the target's dense images."""
    given, whole = make and make(), bench.plain(target.steps, target.scheduler, target.options)
    images = bench.plain(calls, *fewer) if fewer else whole
    if given:
        with bench.scheduled(target.scheduler, target.options):
            images = bench.draw(given, steps=target.steps)
    return {
        "group": group,
        "scheduler": target.scheduler or type(bench.pipe.scheduler).__name__,
        "steps": target.steps,
        "target": target.title,
        "entered": calls,
        **bench.measured(images, given, calls=calls, dense_calls=target.steps, dense=whole),
        "run": [t for t in range(given.calls) if not given.held(t)] if given else None,
        "hold": given.hold if given else None,
    }


def retimed(bench: Bench, given: Schedule, target: Target) -> Schedule:
    """The schedule for a target; raises ValueError if `retime` refuses."""
    home = bench.pipe.scheduler
    with bench.scheduled(target.scheduler, target.options):
        return retime(given, home, bench.pipe.scheduler, calls=target.steps)


def head(pipe: str, options: Mapping[str, Any]) -> Record:
    known = {name: {"hold": given.hold, "grid": given.grid} for name, given in ((name, stored(name)) for name in FOUND)}
    measured = {"guidance_scale": zoo.GUIDANCE[PIPE], "samples_an_image": 2, "schedules": known}
    return {"pipe": PIPE, "seeds": range(FIRST_SEED, FIRST_SEED + IMAGES), "options": measured}


STUDIES = (Study("transfer", f"Schedules of {PIPE} found at 50 DDIM calls, carried over", jobs, head=head),)
