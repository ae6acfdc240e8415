"""Fingerprints: short hashes by which a file says of which weights and of which data it was made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.denoiser.families import bare, class_name

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

DIGITS = 16
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number


def of_module(net: nn.Module) -> str:
    """The class of a module and a hash of the names, shapes, dtypes and weights of all its parameters and buffers."""
    digest = hashlib.sha256()
    for name, x in bare(net).state_dict().items():
        digest.update(f"{name} {tuple(x.shape)} {x.dtype} {bits(x)}\n".encode())
    return f"{class_name(net)} with weights {digest.hexdigest()[:DIGITS]}"


def bits(x: Tensor) -> int:
    """The sum of a tensor's numbers, their bits read as whole numbers: exact, on every device and by any number of threads."""
    return int(x.detach().contiguous().view(BITS[x.element_size()]).sum(dtype=torch.int64))


def of_pipe(pipe: DiffusionPipeline) -> str:
    """The class of a pipe and a hash of the weights of all its components."""
    lines = "\n".join(f"{name} {of_module(x)}" for name, x in pipe.components.items() if isinstance(x, nn.Module))
    return f"{type(pipe).__name__} with weights {of_bytes(lines.encode())}"


def of_values(nest: Any) -> str:
    """A hash of all tensors, to the bit, and of whatever else is in a nest of mappings and sequences."""
    digest = hashlib.sha256()
    for x in tree_leaves(nest):
        if torch.is_tensor(x):
            digest.update(f"{tuple(x.shape)} {x.dtype}".encode())
            digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            digest.update(repr(x).encode())
    return digest.hexdigest()[:DIGITS]


def of_files(paths: Iterable[str | Path]) -> str:
    """A hash of the names, sizes and times of files, which are not read."""
    entries = sorted((Path(path).name, status.st_size, status.st_mtime_ns) for path in paths if (status := Path(path).stat()))
    return of_bytes(repr(entries).encode())


def of_bytes(content: bytes) -> str:
    """A hash of bytes."""
    return hashlib.sha256(content).hexdigest()[:DIGITS]
