"""The sampler of a search: the pipe's own, or DDIM if its own cannot be searched."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from secateur.pipeline import schedulers
from secateur.pipeline.solvers import check_solver

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Sampler(NamedTuple):
    """A class of diffusers' schedulers, and how it differs from the pipe's own; None: the pipe's own scheduler as it is."""

    name: str | None = None
    options: Mapping[str, Any] = {}

    def on(self, scheduler: Any) -> Any:
        """A scheduler of this class, configured like the given one."""
        return scheduler if self.name is None else schedulers.scheduler_like(scheduler, self.name, self.options)

    def held_by(self, pipe: DiffusionPipeline) -> AbstractContextManager[None]:
        """The pipe with this sampler; with its own again afterwards."""
        return nullcontext() if self.name is None else schedulers.scheduled(pipe, self.name, self.options)


def sampler_for(scheduler: Any) -> tuple[Sampler, str]:
    """A sampler that can be searched, and a sentence on it: the given scheduler if possible, and then no sentence.

    Otherwise DPM-Solver++ and UniPC become as the search knows them, and every other scheduler of noise prediction becomes
    DDIM (ours). Raises ValueError if a scheduler of flow matching cannot be searched.
    """
    try:
        check_solver(scheduler)
        return Sampler(), ""
    except ValueError:
        if "beta_schedule" not in scheduler.config:
            raise
    name = type(scheduler).__name__
    sampler = Sampler(name) if name in schedulers.PLAIN else Sampler(*schedulers.SEARCHABLE)
    check_solver(sampler.on(scheduler))
    becomes = f"{name} as it knows it" if sampler.name == name else f"{sampler.name} in its place"
    return sampler, f"the pipe's {name} cannot be searched as it is, so the search takes {becomes}"
