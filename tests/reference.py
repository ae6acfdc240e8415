"""What a schedule means, in its plainest form: everything is computed, then hooks put the reused values in place.

Independent of Patch and SubNet: y[t] = run ? block(x[t]) : y[t − 1] (or x[t] + the last y − x; or the line through the two
values computed last), DiP-GO, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._pytree import tree_map

from secateur.schedule.schedule import Schedule


def parts(out) -> tuple:
    return out if isinstance(out, tuple) else (out,)


def on_the_line(points: list, t: float):
    """The value at t of the line through the last two points (s, y); the last y where there is only one."""
    (s, new), (u, old) = points[-1], points[-2] if len(points) > 1 else points[-1]
    share = (t - s) / (s - u) if s > u else 0.0
    return tree_map(lambda y, x: torch.lerp(x, y, 1.0 + share) if torch.is_tensor(y) else y, new, old)


@contextmanager
def reference(
    denoiser, schedule: Schedule, *, branches: int = 1, offset: int = 0, streams: dict | None = None
) -> Iterator[None]:
    """While it lasts the denoiser follows the schedule, slowly; one image per use. offset: the image's first call.

    streams: of each block that reuses a residual, the arguments that its outputs continue; its hidden states if not given.
    """
    calls, last, computed = [-1], {}, {}

    def half_of_what_is_missing(t: int) -> float:
        """n steps go by the line's mean, n/2 calls on, where those held would make it (n − 1)/2: shared among the n − 1."""
        first = max(s for s in range(offset, t) if s == offset or not schedule.held(s))
        n = next((s for s in range(t, schedule.calls) if not schedule.held(s)), schedule.calls) - first
        return (n / 2 * n - sum(range(n))) / (n - 1)

    def count(*_):
        calls[0] += 1

    def cell(i: int, run, module, args, kwargs, out):
        t, branch = offset + calls[0] // branches, calls[0] % branches
        key = (i, branch)
        kind = (*schedule.reuse, schedule.hold)[i]
        residual = kind == "residual"
        names = list(type(module).forward.__code__.co_varnames)[1:]
        continued = (streams or {}).get((*schedule.blocks, "")[i], ("hidden_states",))
        before = [n and (kwargs[n] if n in kwargs else args[names.index(n)]) for n in continued] if residual else []
        if kind in ("extrapolate", "adams_bashforth"):
            if t == offset or run(t):
                computed.setdefault(key, []).append((t, out))
                return out
            return on_the_line(computed[key], t + half_of_what_is_missing(t) if kind == "adams_bashforth" else t)
        if t == offset or run(t):
            pairs = zip(parts(out), before, strict=True)
            last[key] = tuple(None if y is None else y - x for y, x in pairs) if residual else out
            return out
        if not residual:
            return last[key]
        found = tuple(None if d is None else x + d for d, x in zip(last[key], before, strict=True))
        return found if isinstance(out, tuple) else found[0]

    def hook(i, run):
        return lambda module, args, kwargs, out: cell(i, run, module, args, kwargs, out)

    handles = [denoiser.register_forward_pre_hook(count)]
    for i, name in enumerate(schedule.blocks):
        module = denoiser.get_submodule(name)
        handles.append(module.register_forward_hook(hook(i, lambda t, i=i: schedule.runs(t)[i]), with_kwargs=True))
    root = hook(len(schedule.blocks), lambda t: not schedule.held(t))
    handles.append(denoiser.register_forward_hook(root, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def random_rows(blocks: int, calls: int, *, seed: int, share: float = 0.6) -> list[list[bool]]:
    """T rows of L at random: some run a part, the third holds, the first runs everything."""
    rows = torch.rand(calls, blocks, generator=torch.Generator().manual_seed(seed)) < share
    rows[0], rows[2] = True, False
    return rows.tolist()


def lined_rows(blocks: int) -> list[list[bool]]:
    """Six rows of L after two whole ones: holds, the first block reused, then one in the middle and all before it."""
    whole, held = [True] * blocks, [False] * blocks
    return [whole, whole, held, [False, *[True] * (blocks - 1)], [i > blocks // 2 for i in range(blocks)], held]
