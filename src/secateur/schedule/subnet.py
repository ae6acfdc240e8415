"""SubNet: a denoiser that follows a Schedule."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Size, Tensor, nn

from secateur.denoiser.blocks import Blocks
from secateur.denoiser.patch import Handle, Inputs, Patch, Run, intercept
from secateur.denoiser.streams import minus, plus, streams
from secateur.schedule.acts import Act, acts
from secateur.schedule.cache import Cache, ghost
from secateur.schedule.holds import LINES, leads
from secateur.schedule.lines import along, line
from secateur.schedule.schedule import Schedule

ONE_GRAPH = (
    "the denoiser is compiled as one graph (fullgraph=True), and a schedule decides outside of graphs which blocks run: "
    "compile the blocks instead, by secateur.compile_blocks before apply"
)
MOST_BRANCHES = 64  # guidance makes one to three denoiser calls a step, several views more
NOT_BEGUN = (
    "the schedule follows the scheduler that the pipe had when it was applied, and another one draws: apply it to the pipe "
    "that draws, once it has its scheduler, or use follow() for a loop of your own"
)


@dataclass
class Branch:
    """One chain of denoiser calls that reuse from each other: guidance in two calls has two.

    who: which denoiser is called, and the shapes of its inputs. t: its latest call.
    """

    start: int
    acts: tuple[tuple[Act, ...], ...]
    leads: tuple[float, ...]
    who: tuple[Any, ...]
    t: int
    ghosts: dict[int, Any] = field(default_factory=dict)
    nans: dict[Any, Tensor] = field(default_factory=dict)

    def act(self, i: int) -> Act:
        """What block i does at the latest call."""
        return self.acts[self.t - self.start][i]

    def lead(self, i: int) -> float:
        """How many calls ahead of the latest one block i reads a line; only the denoiser itself ever does."""
        return self.leads[self.t - self.start] if i == len(self.acts[0]) - 1 else 0.0

    def dies(self, i: int) -> bool:
        """Whether block i is ever passed by without a look at what it gives."""
        return any(row[i] is Act.DEAD for row in self.acts)


@dataclass
class Image:
    """An image that is being drawn: by which schedule, from which call on, how far it is, and what it keeps for later calls.

    first_call: from its first denoiser inputs, the index of that call. first: that index; None before that call. entered:
    denoiser calls since the scheduler's last step.
    """

    schedule: Schedule
    acts: Callable[[int], tuple[tuple[Act, ...], ...]]
    leads: Callable[[int], tuple[float, ...]]
    cache: Cache
    first_call: Callable[[Inputs], int]
    first: int | None = None
    steps: int = 0
    entered: int = 0
    branches: dict[int, Branch] = field(default_factory=dict)

    def step(self) -> None:
        """Go on to the next call of the schedule."""
        self.steps, self.entered = self.steps + 1, 0


class Drawing(threading.local):
    """The image that each thread draws; None before it has begun one."""

    image: Image | None = None


class SubNet(Handle):
    """One or two denoisers following a schedule, until `remove()` or the end of a `with`; each thread draws its own image.

    `apply` and `follow` make it. cached_bytes, peak_bytes: what the thread keeps for later calls now, and kept at most.
    stepped: whether a scheduler calls `restart()` and `step()`; otherwise every denoiser call is the next one.
    """

    def __init__(
        self,
        denoisers: Sequence[nn.Module],
        schedule: Schedule,
        blocks: Blocks,
        *,
        copy_outputs: bool = False,
        stepped: bool = False,
    ):
        super().__init__()
        self.denoisers, self.blocks, self.applied = denoisers, blocks, True
        self._given, self._stepped, self._drawing, self._peak_bytes = schedule, stepped, Drawing(), 0
        self._streams = [*streams(denoisers[0], blocks), ()]
        self._lines = [kind in LINES for kind in (*blocks.reuse, schedule.hold)]
        self._cache = partial(Cache, schedule.blocks, copy_outputs=copy_outputs)
        self._rows = rows_of(schedule, blocks)
        if not stepped:
            self.restart()
        only = decided(self._rows[0](0))
        for k, net in enumerate(denoisers):
            self.on_remove(Patch(net, schedule.blocks, self._cell, only=only, root=partial(self._root, k), owner=self).remove)
            self.on_remove(intercept(net, "compile", in_graphs, owner=self).remove)
        self.on_remove(self._forget)

    def __repr__(self) -> str:
        one_for_any = self.schedule.calls == 1  # as `apply(pipe, keep=…)` has it until an image says its calls
        return f"SubNet: {'any number of' if one_for_any else self.schedule.calls} calls, until remove()"

    @property
    def schedule(self) -> Schedule:
        """The schedule of the thread's latest image, or of any."""
        return self._drawing.image.schedule if self._drawing.image else self._given

    @property
    def cached_bytes(self) -> int:
        """Bytes kept for later calls now."""
        return self._drawing.image.cache.bytes if self._drawing.image else 0

    @property
    def peak_bytes(self) -> int:
        """Most bytes kept for later calls, of the latest image."""
        return self._drawing.image.cache.peak_bytes if self._drawing.image else self._peak_bytes

    def restart(self, schedule: Schedule | None = None, first_call: Callable[[Inputs], int] = lambda _: 0) -> None:
        """Begin a new image, which sees nothing of the last one. schedule: another one of the same blocks, for this image."""
        rows = self._rows if schedule is None else rows_of(schedule, self.blocks)
        self._drawing.image = Image(schedule or self._given, *rows, self._cache(), first_call)

    def step(self) -> None:
        """Go on to the next call of the schedule."""
        self._image().step()

    def _forget(self) -> None:
        self.applied, self._peak_bytes, self._drawing = False, self.peak_bytes, Drawing()

    def _image(self) -> Image:
        if self._drawing.image is None:
            raise ValueError(NOT_BEGUN)
        return self._drawing.image

    def _root(self, k: int, _: int, run: Run, inputs: Inputs) -> Any:
        image = self._image()
        branch = entered(image, self._call(image, inputs), (k, *shapes_of(inputs)))
        try:
            out = self._do(image, branch, len(self.blocks), run, inputs)
        except RuntimeError as error:
            if type(error).__name__ == "Unsupported":  # torch.compile's
                raise ValueError(ONE_GRAPH) from error
            raise
        image.entered += 1
        if not self._stepped:
            image.step()
        return out

    def _call(self, image: Image, inputs: Inputs) -> int:
        if image.first is None:
            image.first = image.first_call(inputs)
        t, calls = image.first + image.steps, image.schedule.calls
        if t >= calls:
            more = NOT_BEGUN if self._stepped else "restart() for a new image, or use a longer one"
            raise ValueError(f"this is call {t + 1} of a schedule of {calls}: {more}")
        return t

    def _cell(self, _: int, i: int, run: Run, inputs: Inputs) -> Any:
        image = self._image()
        return self._do(image, image.branches[image.entered], i, run, inputs)

    def _do(self, image: Image, branch: Branch, i: int, run: Run, inputs: Inputs) -> Any:
        act, cache, key = branch.act(i), image.cache, (image.entered, i)
        if act is Act.DEAD:
            return branch.ghosts[i]
        if act in (Act.REUSE, Act.LAST):
            value = cache.take(key, last=act is Act.LAST)
            return along(value, branch.t + branch.lead(i)) if self._lines[i] else plus(value, self._streams[i], inputs)
        out = run()
        if act is Act.KEEP and self._lines[i]:
            before = cache.take(key, last=True) if cache.get(key) else None
            cache.put(key, line(out, before, branch.t))
        elif act is Act.KEEP:
            cache.put(key, minus(out, self._streams[i], inputs))
        if branch.t == branch.start and branch.dies(i):
            branch.ghosts[i] = ghost(out, branch.nans)
        return out


def in_graphs(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The denoiser's own `compile`. Raises ValueError if it is to be one graph, which cannot be around what decides."""
    if kwargs.get("fullgraph"):
        raise ValueError("found fullgraph=True while a schedule is applied: compile the denoiser first, then apply it")
    return original(*args, **kwargs)


def entered(image: Image, t: int, who: tuple[Any, ...]) -> Branch:
    """The branch of a call; a new one, so that the call runs dense, if another denoiser or other inputs came before."""
    n = image.entered
    if n >= MOST_BRANCHES:
        raise ValueError(f"the denoiser was called {n + 1} times without a step of the scheduler: {NOT_BEGUN}")
    branch = image.branches.get(n)
    if branch is None or branch.who != who or branch.t + 1 != t:
        image.cache.clear(n)
        branch = image.branches[n] = Branch(t, image.acts(t), image.leads(t), who, t)
    branch.t = t
    return branch


def rows_of(schedule: Schedule, blocks: Blocks) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
    """What each block does at each call, and how far ahead each call reads the denoiser's line, by an image's first call."""
    return cache(lambda start: acts(schedule, blocks, start=start)), cache(partial(leads_of, schedule))


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
