"""Which schedulers of diffusers are linear: each one that can be built without arguments of its own, probed at ten steps."""

import inspect
from collections.abc import Iterator
from functools import partial

import diffusers
from diffusers.utils import logging

from secateur.pipeline.table import probe
from study import Job, Row, Run, Study

STEPS = 10
OPTIONS = {"clip_sample": False, "skip_prk_steps": True, "steps_offset": 1}  # of those that a scheduler takes


def jobs(run: Run) -> Iterator[Job]:
    """A row for each scheduler that diffusers exports."""
    logging.set_verbosity_error()
    for name in (name for name in dir(diffusers) if name.endswith("Scheduler")):
        yield Job(name, partial(row, name))


def row(name: str) -> Row:
    """How many calls ten steps make, and of how many predictions the longest step is made; or why it is no fixed sum."""
    try:
        kind = getattr(diffusers, name)
        known = inspect.signature(kind).parameters
        scheduler = kind(**{option: value for option, value in OPTIONS.items() if option in known})
        scheduler.set_timesteps(STEPS)
        table = probe(scheduler)
    except (ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
        return {"why": " ".join(str(error).split()).removeprefix(f"{name} ")}
    return {"calls": len(table), "predictions": max(len(step) - 1 for step in table.steps)}


HEAD = {"options": {"steps": STEPS, **OPTIONS}}
STUDIES = (Study("schedulers", "Which schedulers of diffusers are linear", jobs, head=HEAD),)
