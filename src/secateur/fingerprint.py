"""Fingerprints: short hashes by which a file says of which weights and of which data it was made."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from secateur.families import bare, class_name

DIGITS = 16
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number


def of_module(net: nn.Module) -> str:
    """The class of a module and a hash of the names, shapes, dtypes and weights of all its parameters and buffers."""
    found = hashlib.sha256()
    for name, x in bare(net).state_dict().items():
        found.update(f"{name} {tuple(x.shape)} {x.dtype} {bits(x)}\n".encode())
    return f"{class_name(net)} with weights {found.hexdigest()[:DIGITS]}"


def bits(x: Tensor) -> int:
    """The sum of a tensor's numbers, their bits read as whole numbers: exact, on every device and by any number of threads."""
    return int(x.detach().contiguous().view(BITS[x.element_size()]).sum(dtype=torch.int64))
