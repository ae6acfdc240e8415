"""Patch: replaces block forwards reversibly and counts calls. The only file that touches a model's attributes.

Everything else (the SubNet, tracing, counting, scoring) is a short function given to a Patch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from copy import deepcopy
from functools import cache, partial, update_wrapper
from typing import Any, Self

import torch
from torch import nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Run = Callable[[], Any]
COMPILED = "_compiled_call_impl"  # attribute of a module that torch calls instead of its forward, once it is compiled


@cache
def unseen() -> None:
    """Have torch.compile look past what decides which blocks run; it still sees what that calls, the blocks.

    `torch.compiler.disable(recursive=False)` would not do: since 2.9 or so it hides a wrapper and compiles what is in it.
    """
    from torch._dynamo import trace_rules  # takes a second, and diffusers has it loaded anyway

    for package in ("secateur.denoiser", "secateur.schedule"):
        trace_rules.add(package)


class Intercept:
    """While it lives, `obj.name(...)` is `wrapper(original, ...)`, for this one instance.

    `remove()` puts back the very object that was there, may be called twice, and does not mind what others have put around
    it since: a wrapper that it cannot reach any more passes straight through. A copy of the instance has its own method.
    """

    def __init__(self, obj: Any, name: str, wrapper: Callable[..., Any], *, owner: Any = None):
        self.alive, self.owner, self._wrapper = True, owner, wrapper
        # What `module.compile()` made goes first; our decisions stay outside of it.
        name = COMPILED if name == "forward" and vars(obj).get(COMPILED) else name
        self._obj, self._slots = obj, (name, f"_old_{name}")
        # accelerate keeps the forward it wrapped in `_old_forward`, and puts it back whenever it renews its hook (after each
        # image under model offload): only a wrapper underneath accelerate's survives that.
        slot = self._slots[1] if self._slots[1] in vars(obj) else name
        self._found = vars(obj).get(slot)
        self._original = getattr(obj, slot)
        update_wrapper(self, self._original, updated=())  # others read what a method takes off its signature
        unseen()
        setattr(obj, slot, self)

    def __call__(self, *args, **kwargs) -> Any:
        return self._wrapper(self._original, *args, **kwargs) if self.alive else self._original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return deepcopy(self._original, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._obj, self._slots[0])

    def remove(self) -> None:
        """Put the original back."""
        self.alive = False
        for slot in self._slots:
            if vars(self._obj).get(slot) is self:
                self._restore(slot)

    def _restore(self, slot: str) -> None:
        if self._found is None and slot == self._slots[0]:
            delattr(self._obj, slot)  # uncovers the class's own
        else:
            setattr(self._obj, slot, self._original)


def intercept(obj: Any, name: str, wrapper: Callable[..., Any], *, owner: Any = None) -> Intercept:
    """A handle with `remove()`; until then `obj.name(...)` is `wrapper(original, ...)`, on this instance alone."""
    return Intercept(obj, name, wrapper, owner=owner)


def owner_of(module: nn.Module) -> Any:
    """Who has intercepted a module's forward, or None; also if accelerate has put its own around it."""
    for slot in (COMPILED, "forward", "_old_forward"):
        patch = vars(module).get(slot)
        if isinstance(patch, Intercept) and patch.alive:
            return patch.owner
    return None


def find_modules(denoiser: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules of these names. Raises ValueError with the names that the denoiser lacks."""
    modules = dict(denoiser.named_modules())
    if missing := [name for name in names if name not in modules]:
        raise ValueError(
            f"{type(denoiser).__name__} has no block named {', '.join(missing[:3])}{', …' * (len(missing) > 3)}, so use "
            "names that `find_blocks` gives for it"
        )
    return [modules[name] for name in names]


class Handle:
    """What was done to a model or a pipe, until `remove()`, which may be called twice, or the end of a `with`."""

    def __init__(self) -> None:
        self._undo = ExitStack()

    def on_remove(self, undo: Callable[[], Any]) -> None:
        """Have `undo()` called when it is removed."""
        self._undo.callback(undo)

    def remove(self) -> None:
        """Leave everything as it was before; may be called twice."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class Calls(threading.local):
    """The index of the latest call, in each thread."""

    t = -1


class Patch(Handle):
    """While it lives, block i's forward is `call(t, i, run, inputs)`, and the denoiser's own `root(t, run, inputs)`.

    t: index of the denoiser call, counted where the denoiser is entered, in each thread from 0 after `restart()`. run(): the
    block's own forward on its inputs. inputs: its (args, kwargs). only: leave all blocks but these alone, which costs them
    nothing. State lives here, never on a module: `remove()`, or the end of a `with`, leaves the denoiser as it was.
    Raises ValueError if the denoiser has a Patch.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        names: Sequence[str],
        call: Callable[[int, int, Run, Inputs], Any],
        *,
        only: Collection[int] | None = None,
        root: Callable[[int, Run, Inputs], Any] | None = None,
        owner: Any = None,
    ):
        super().__init__()
        modules = find_modules(denoiser, names)
        if any(isinstance(owner_of(module), Patch) for module in (denoiser, *modules)):
            raise ValueError(f"this {type(denoiser).__name__} is already patched, so remove() what was applied to it first")
        self.owner, self._calls = owner, Calls()
        self._call, self._root = call, root
        with ExitStack() as building:  # an error half-way leaves nothing behind
            building.callback(self.remove)
            self._cover(denoiser, self._enter)
            for i in range(len(modules)) if only is None else only:
                self._cover(modules[i], self._cell(i))
            building.pop_all()

    def _cover(self, module: nn.Module, wrapper: Callable[..., Any]) -> None:
        self.on_remove(intercept(module, "forward", wrapper, owner=self).remove)

    def _enter(self, original: Callable[..., Any], *args, **kwargs) -> Any:
        self._calls.t += 1
        if self._root is None:
            return original(*args, **kwargs)
        return self._root(self._calls.t, partial(original, *args, **kwargs), (args, kwargs))

    def _cell(self, i: int) -> Callable[..., Any]:
        def cell(original: Callable[..., Any], *args, **kwargs) -> Any:
            # A partial has no Python frame, which torch.compile would otherwise compile anew for every block.
            return self._call(self._calls.t, i, partial(original, *args, **kwargs), (args, kwargs))

        return cell

    def restart(self) -> None:
        """Count from 0 again: the next call is the first of an image."""
        self._calls.t = -1


def patch_of(denoiser: nn.Module) -> Patch | None:
    """The Patch that lives on a denoiser, or None."""
    owner = owner_of(denoiser)
    return owner if isinstance(owner, Patch) else None


class Compiled(Handle):
    """Blocks whose forwards are compiled, until `remove()` or the end of a `with`."""

    def __init__(self, denoiser: nn.Module, names: Sequence[str], options: dict[str, Any]):
        super().__init__()
        modules = find_modules(denoiser, names)
        if patch_of(denoiser):
            raise ValueError(
                "a schedule is applied already, and what decides what runs must stay outside: compile the blocks first"
            )
        for module in modules:
            compiled = torch.compile(module.forward, **options)
            self.on_remove(intercept(module, "forward", partial(_instead, compiled), owner=self).remove)


def _instead(compiled: Callable[..., Any], original: Callable[..., Any], *args, **kwargs) -> Any:
    return compiled(*args, **kwargs)


def compile_blocks(denoiser: nn.Module, names: Sequence[str], **options: Any) -> Compiled:
    """A handle with `remove()`; until then each block's forward is compiled by itself. Do this before applying a schedule.

    Blocks of one shape share a graph, and no schedule changes how many there are, since what decides what runs stays
    outside. options: of `torch.compile`. By default torch allows 8 graphs, and silently leaves further shapes uncompiled.
    U-Nets have more shapes of block, so the limit is raised for them.
    """
    return Compiled(denoiser, names, {"recompile_limit": 4 * len(names), **options})
