"""apply(pipe, schedule), remove(pipe): a denoiser that follows a Schedule inside its own stock pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Size, nn

from secateur.denoiser.blocks import Blocks, matching
from secateur.denoiser.families import bare
from secateur.denoiser.patch import Inputs, Patch, Run, intercept, patch_of
from secateur.denoiser.streams import minus, plus, streams
from secateur.pipeline.pipes import DENOISERS, component
from secateur.pipeline.solvers import place
from secateur.schedule.acts import Act, acts
from secateur.schedule.cache import Cache, Key, ghost
from secateur.schedule.fit import check_fit, check_offload, check_scheduler
from secateur.schedule.lines import along, leads, line
from secateur.schedule.schedule import LINES, Schedule

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

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


class SubNet:
    """A denoiser following a schedule, until `remove()` or the end of a `with`.

    cached_bytes, peak_bytes: what it keeps for later now, and kept at most. Made by `apply` and `follow`.
    first_call: gives the index of an image's first call, in a pipeline that says so by `restart()` and `step()`; None where
    every denoiser call is the next one.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        schedule: Schedule,
        blocks: Blocks,
        *,
        copies: bool = False,
        first_call: Callable[[], int] | None = None,
    ):
        self.schedule, self.blocks = schedule, blocks
        self._first_call = first_call
        self._acts = cache(lambda start: acts(schedule, blocks, start=start))
        self._streams = [*streams(denoiser, blocks), ()]
        self._lines = [kind in LINES for kind in (*blocks.reuse, schedule.hold)]
        self._leads = cache(partial(leads_of, schedule))
        self._cache = Cache(schedule.blocks, copies=copies)
        self.restart()
        self._patch = Patch(
            denoiser, schedule.blocks, self._cell, only=decided(self._acts(0)), root=self._root, clock=self._tick, owner=self
        )
        self._patch.on_remove(self.restart)

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

    def remove(self) -> None:
        """Leave the pipe as it was before; may be called twice."""
        self._patch.remove()

    def _tick(self) -> int:
        if self._first is None:
            self._first = self._first_call() if self._first_call else 0
        t = self._first + self._steps
        if t >= self.schedule.calls:
            raise ValueError(
                f"this is call {t + 1} of a schedule of {self.schedule.calls}: restart() for a new image, or use a longer one"
            )
        return t

    def _root(self, t: int, run: Run, inputs: Inputs) -> Any:
        branch = self._enter(t, shapes(inputs))
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
            kept = self._cache.take(key, last=act is Act.LAST)
            return along(kept, branch.t + branch.lead(i)) if self._lines[i] else plus(kept, self._streams[i], inputs)
        out = run()
        if self._lines[i] and act in (Act.KEEP, Act.AHEAD):
            out = self._continue(branch, key, out, keep=act is Act.KEEP)
        elif act is Act.KEEP:
            self._cache.put(key, minus(out, self._streams[i], inputs))
        if branch.t == branch.start and branch.dies(i):
            branch.ghosts[i] = ghost(out)
        return out

    def _continue(self, branch: Branch, key: Key, out: Any, *, keep: bool) -> Any:
        """The line through what was kept and this output, read as far ahead as this call does; kept for those to come."""
        before = self._cache.take(key, last=True) if self._cache.get(key) else None
        through = line(out, before, branch.t)
        if keep:
            self._cache.put(key, through)
        ahead = branch.lead(key[1])
        return along(through, branch.t + ahead) if ahead else out

    def _enter(self, t: int, found: tuple[Size, ...]) -> Branch:
        """The branch of this call; a new one, so that the call runs dense, where its past is not that of these inputs."""
        n = self._entered
        if n >= MOST_BRANCHES:
            raise ValueError(
                f"the denoiser was called {n + 1} times without a step of the scheduler: use follow() for a loop of your own"
            )
        branch = self._branches.get(n)
        if branch is None or branch.shapes != found or branch.t + 1 != t:
            self._cache.clear(n)
            branch = self._branches[n] = Branch(t, self._acts(t), self._leads(t), found, t)
        branch.t = t
        return branch

    def __enter__(self) -> SubNet:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def decided(rows: Sequence[Sequence[Act]]) -> set[int]:
    """Blocks that do anything but run at a call that enters the denoiser; none where calls are only made or held whole."""
    entered = (row[:-1] for row in rows if row[-1] in (Act.RUN, Act.KEEP, Act.AHEAD))
    return {i for row in entered for i, act in enumerate(row) if act is not Act.RUN}


def leads_of(schedule: Schedule, start: int) -> tuple[float, ...]:
    """How many calls ahead of itself each call from `start` on, the first of an image, reads the denoiser's line."""
    if schedule.ahead is not None:
        return schedule.ahead[start:]
    return leads([False, *map(schedule.held, range(start + 1, schedule.calls))], schedule.hold)


def shapes(inputs: Inputs) -> tuple[Size, ...]:
    """Shapes of a call's tensors."""
    args, kwargs = inputs
    return tuple(x.shape for x in (*args, *kwargs.values()) if torch.is_tensor(x))


def apply(
    pipe: DiffusionPipeline,
    schedule: Schedule,
    *,
    denoiser: str | None = None,
    blocks: Blocks | None = None,
    copies: bool = False,
    strict: bool = True,
) -> SubNet:
    """A SubNet: until its `remove()`, or the end of a `with`, the pipe's denoiser follows the schedule. Replaces another one.

    denoiser: name of the component, found by itself. blocks: what `find_blocks` gives, traced if not given. copies: see
    `Cache`. strict=False only warns where the schedule was made for another scheduler. ValueError: the two do not fit.
    """
    module = bare(component(pipe, denoiser))
    check_fit(module, schedule)
    check_offload(module)
    check_scheduler(pipe.scheduler, schedule, strict=strict)
    blocks = blocks_for(module, schedule, blocks)
    remove(pipe)
    subnet = SubNet(
        module, schedule, blocks, copies=copies, first_call=partial(first_call, pipe, pipe.scheduler, schedule.calls)
    )
    sliced = hasattr(pipe, "get_timesteps")  # image-to-image leaves out the first of as many timesteps as it asked for
    setting = partial(_set_timesteps, pipe.scheduler, subnet, sliced)
    for name, wrapper in (("set_timesteps", setting), ("step", partial(_step, subnet))):
        subnet._patch.on_remove(intercept(pipe.scheduler, name, wrapper, owner=subnet).remove)
    return subnet


def follow(denoiser: nn.Module, schedule: Schedule, *, blocks: Blocks | None = None, copies: bool = False) -> SubNet:
    """A SubNet for a loop of your own: every denoiser call is the schedule's next; `restart()` it before each image."""
    denoiser = bare(denoiser)
    check_fit(denoiser, schedule)
    return SubNet(denoiser, schedule, blocks_for(denoiser, schedule, blocks), copies=copies)


def remove(pipe: DiffusionPipeline) -> None:
    """Leave a pipe as it was before `apply`; nothing happens where nothing was applied."""
    for name in DENOISERS:
        module = pipe.components.get(name)
        patch = patch_of(bare(module)) if module is not None else None
        if patch is not None and isinstance(patch.owner, SubNet):
            patch.remove()


def blocks_for(denoiser: nn.Module, schedule: Schedule, blocks: Blocks | None = None) -> Blocks:
    """The denoiser's blocks at the schedule's granularity, reusing what the schedule says; traced where not given."""
    blocks = matching(denoiser, schedule.blocks) if blocks is None else blocks
    if blocks.names != schedule.blocks:
        raise ValueError(
            f"the schedule has {len(schedule.blocks)} blocks, not these {len(blocks)} in this order: make one for them"
        )
    return replace(blocks, reuse=schedule.reuse)


def first_call(pipe: DiffusionPipeline, scheduler: Any, calls: int) -> int:
    """Index of an image's first call: above 0 where image-to-image or inpainting start part of the way down."""
    if pipe.scheduler is not scheduler:
        raise ValueError("the pipe was given another scheduler after the schedule was applied: apply it again")
    if getattr(scheduler, "begin_index", None) is not None:
        return scheduler.begin_index
    if not hasattr(pipe, "get_timesteps"):  # DDIM and PNDM know no begin_index
        return 0
    if getattr(pipe, "denoising_end", None) is not None:
        raise ValueError(
            f"the pipe stops before the end (denoising_end) and {type(scheduler).__name__} does not tell at which call it "
            "begins: use a scheduler that does, such as EulerDiscreteScheduler"
        )
    return calls - pipe.num_timesteps


def _set_timesteps(scheduler: Any, subnet: SubNet, sliced: bool, original: Callable[..., None], *args, **kwargs) -> None:
    calls, timesteps = subnet.schedule.calls, subnet.schedule.timesteps
    if timesteps:
        asked = inspect.signature(original).bind(*args, **kwargs).arguments
        if sliced and (steps := asked.get("num_inference_steps")) != calls:
            raise ValueError(f"the schedule chooses {calls} timesteps and {steps} were asked for: ask for {calls}")
        place(scheduler, original, timesteps, asked=asked)
    else:
        original(*args, **kwargs)
    subnet.restart()
    if len(scheduler.timesteps) != calls:
        raise ValueError(
            f"{type(scheduler).__name__} makes {len(scheduler.timesteps)} calls and the schedule has {calls}: ask for the "
            "steps that make as many (PNDM makes one call more than steps, Heun nearly twice as many), or use another schedule"
        )


def _step(subnet: SubNet, original: Callable[..., Any], *args, **kwargs) -> Any:
    out = original(*args, **kwargs)
    subnet.step()
    return out
