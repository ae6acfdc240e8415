"""SubNet: a denoiser that follows a Schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Size, nn

from secateur.denoiser.blocks import Blocks
from secateur.denoiser.patch import Handle, Inputs, Patch, Run
from secateur.denoiser.streams import minus, plus, streams
from secateur.schedule.acts import Act, acts
from secateur.schedule.cache import Cache, ghost
from secateur.schedule.holds import LINES, leads
from secateur.schedule.lines import along, line
from secateur.schedule.schedule import Schedule

MOST_BRANCHES = 8  # guidance makes one to three denoiser calls a step; more means that nobody steps the scheduler


@dataclass
class Branch:
    """One chain of denoiser calls that reuse from each other: guidance in two calls has two. t: its latest call."""

    start: int
    acts: tuple[tuple[Act, ...], ...]
    leads: tuple[float, ...]
    shapes: tuple[Size, ...]
    t: int
    ghosts: dict[int, Any] = field(default_factory=dict)

    def act(self, i: int) -> Act:
        """What block i does at the latest call."""
        return self.acts[self.t - self.start][i]

    def lead(self, i: int) -> float:
        """How many calls ahead of the latest one block i reads a line; only the denoiser itself ever does."""
        return self.leads[self.t - self.start] if i == len(self.acts[0]) - 1 else 0.0

    def dies(self, i: int) -> bool:
        """Whether block i is ever passed by without a look at what it gives."""
        return any(row[i] is Act.DEAD for row in self.acts)


class SubNet(Handle):
    """A denoiser following a schedule, until `remove()` or the end of a `with`.

    `apply` and `follow` make it. cached_bytes, peak_bytes: what it keeps for later calls now, and kept at most.
    first_call: from the schedule's number of calls, the index of an image's first one, in a pipeline that calls `restart()` and
    `step()`; None if every denoiser call is the next one.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        schedule: Schedule,
        blocks: Blocks,
        *,
        copy_outputs: bool = False,
        first_call: Callable[[int], int] | None = None,
    ):
        super().__init__()
        self.blocks = blocks
        self._first_call = first_call
        self._streams = [*streams(denoiser, blocks), ()]
        self._lines = [kind in LINES for kind in (*blocks.reuse, schedule.hold)]
        self._cache = Cache(schedule.blocks, copy_outputs=copy_outputs)
        self._set_schedule(schedule)
        self.restart()
        only = decided(self._acts(0))
        patch = Patch(denoiser, schedule.blocks, self._cell, only=only, root=self._root, clock=self._tick, owner=self)
        self.on_remove(patch.remove)
        self.on_remove(self.restart)

    def __repr__(self) -> str:
        one_for_any = self.schedule.calls == 1  # as `apply(pipe, keep=…)` has it until an image says its calls
        return f"SubNet: {'any number of' if one_for_any else self.schedule.calls} calls, until remove()"

    def _set_schedule(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._acts = cache(lambda start: acts(schedule, self.blocks, start=start))
        self._leads = cache(partial(leads_of, schedule))

    def restart_with(self, schedule: Schedule) -> None:
        """Begin a new image by another schedule of the same blocks that holds and runs whole calls, as this one does."""
        self._set_schedule(schedule)
        self.restart()

    @property
    def cached_bytes(self) -> int:
        """Bytes kept for later calls now."""
        return self._cache.bytes

    @property
    def peak_bytes(self) -> int:
        """Most bytes ever kept for later calls."""
        return self._cache.peak_bytes

    def restart(self) -> None:
        """Begin a new image, which sees nothing of the last one."""
        self._first: int | None = None
        self._steps = self._entered = 0
        self._branches: dict[int, Branch] = {}
        self._cache.clear()

    def step(self) -> None:
        """Go on to the next call of the schedule."""
        self._steps += 1
        self._entered = 0

    def _tick(self) -> int:
        if self._first is None:
            self._first = self._first_call(self.schedule.calls) if self._first_call else 0
        t = self._first + self._steps
        if t >= self.schedule.calls:
            raise ValueError(
                f"this is call {t + 1} of a schedule of {self.schedule.calls}: restart() for a new image, or use a longer one"
            )
        return t

    def _root(self, t: int, run: Run, inputs: Inputs) -> Any:
        branch = self._enter(t, shapes_of(inputs))
        out = self._do(branch, len(self.blocks), run, inputs)
        self._entered += 1
        if self._first_call is None:
            self.step()
        return out

    def _cell(self, t: int, i: int, run: Run, inputs: Inputs) -> Any:
        return self._do(self._branches[self._entered], i, run, inputs)

    def _do(self, branch: Branch, i: int, run: Run, inputs: Inputs) -> Any:
        act, key = branch.act(i), (self._entered, i)
        if act is Act.DEAD:
            return branch.ghosts[i]
        if act in (Act.REUSE, Act.LAST):
            value = self._cache.take(key, last=act is Act.LAST)
            return along(value, branch.t + branch.lead(i)) if self._lines[i] else plus(value, self._streams[i], inputs)
        out = run()
        if act is Act.KEEP and self._lines[i]:
            before = self._cache.take(key, last=True) if self._cache.get(key) else None
            self._cache.put(key, line(out, before, branch.t))
        elif act is Act.KEEP:
            self._cache.put(key, minus(out, self._streams[i], inputs))
        if branch.t == branch.start and branch.dies(i):
            branch.ghosts[i] = ghost(out)
        return out

    def _enter(self, t: int, shapes: tuple[Size, ...]) -> Branch:
        """The branch of this call; a new one, so that the call runs dense, if these inputs have another past."""
        n = self._entered
        if n >= MOST_BRANCHES:
            raise ValueError(
                f"the denoiser was called {n + 1} times without a step of the scheduler: use follow() for a loop of your own"
            )
        branch = self._branches.get(n)
        if branch is None or branch.shapes != shapes or branch.t + 1 != t:
            self._cache.clear(n)
            branch = self._branches[n] = Branch(t, self._acts(t), self._leads(t), shapes, t)
        branch.t = t
        return branch


def decided(rows: Sequence[Sequence[Act]]) -> set[int]:
    """Blocks that do anything but run at a call that enters the denoiser; none if calls only run or are held whole."""
    entered = (row[:-1] for row in rows if row[-1] in (Act.RUN, Act.KEEP))
    return {i for row in entered for i, act in enumerate(row) if act is not Act.RUN}


def leads_of(schedule: Schedule, start: int) -> tuple[float, ...]:
    """How many calls ahead of itself each call reads the denoiser's line, from the image's first call, `start`, on."""
    return leads([False, *map(schedule.held, range(start + 1, schedule.calls))], schedule.hold)


def shapes_of(inputs: Inputs) -> tuple[Size, ...]:
    """Shapes of a call's tensors."""
    args, kwargs = inputs
    return tuple(x.shape for x in (*args, *kwargs.values()) if torch.is_tensor(x))
