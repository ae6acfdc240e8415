"""Evaluations on the meta device: shapes without numbers, except for what follows from shapes and inputs alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

LARGEST = 1 << 16  # numbers of a tensor whose values are kept: those that a forward asks for are smaller
FACTORIES = ("ones", "zeros", "full", "arange", "linspace", "tensor", "scalar_tensor")
autocast = torch.autocast


def autocast_but_meta(device_type: str, *args, **kwargs) -> Any:
    """`torch.autocast`, which knows no meta device: nothing is computed there, and so in no other dtype."""
    return nullcontext() if device_type == "meta" else autocast(device_type, *args, **kwargs)


class OnMeta(TorchFunctionMode):
    """While it lives, a forward on the meta device may ask for values that follow from its inputs, such as a mask's sum.

    values: the CPU tensor behind a meta tensor, for the inputs and for what is computed from nothing else. Functions of
    these are evaluated on the CPU; where weights come in, only shapes are left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values = WeakTensorKeyDictionary()
        self._autocast = mock.patch.object(torch, "autocast", autocast_but_meta)

    def __enter__(self) -> Self:
        self._autocast.start()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._autocast.stop()

    def hollow(self, value: Tensor) -> Tensor:
        """A meta tensor with this CPU tensor behind it, unless that is large."""
        out = torch.empty_like(value, device="meta")
        if value.numel() <= LARGEST:
            self.values[out] = value
        return out

    def hollowed(self, nest: Any) -> Any:
        """A nest with such a tensor for each of its own."""
        return tree_map_only(Tensor, lambda x: x if x.is_meta else self.hollow(x), nest)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in FACTORIES and not kwargs.get("requires_grad"):
            out = func(*args, **kwargs)
            return self.hollow(func(*args, **kwargs | {"device": "cpu"})) if out.is_meta and out.numel() <= LARGEST else out
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        known = [x in self.values for x in tensors]
        if not any(known) or name in ("__get__", "__set__"):
            return func(*args, **kwargs)
        if all(known):
            return self.evaluated(func, args, kwargs)
        if name in ("__getitem__", "__setitem__", "repeat_interleave", "masked_scatter"):  # how many depends on values
            args = (args[0], *tree_map_only(Tensor, lambda x: self.values.get(x, x), args[1:]))
        return func(*args, **kwargs)

    def evaluated(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """What a function gives for the values, which lie behind its tensors."""
        real_args, real_kwargs = tree_map_only(Tensor, self.values.__getitem__, (args, kwargs))
        real = func(*real_args, **real_kwargs)
        if isinstance(real, Tensor) and real.is_meta:  # moved there
            real = real_args[0].to(real.dtype)
        return tree_map_only(Tensor, self.hollow, real)
