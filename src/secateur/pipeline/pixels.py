"""Images as tensors, as bytes and as PNG files."""

from __future__ import annotations

from io import BytesIO
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

Images: TypeAlias = np.ndarray | Tensor  # float (B, H, W, 3) in [0, 1]


def as_tensor(images: Images) -> Tensor:
    """Images (B, H, W, 3) in [0, 1] as float32 (B, 3, H, W) on the CPU.

    Raises ValueError if there is no image, or if their shape, type or range is another.
    """
    x = torch.as_tensor(images).detach().cpu()
    if x.ndim != 4 or x.shape[-1] != 3 or not x.is_floating_point() or not len(x):
        raise ValueError(f"images are float (B, H, W, 3); got {x.dtype} of shape {tuple(x.shape)}: divide bytes by 255")
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"images lie in [0, 1]; got [{x.min():.3g}, {x.max():.3g}]: scale them first")
    return x.float().permute(0, 3, 1, 2)


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Images in [0, 1], of any shape, as uint8, rounded; values outside are clipped."""
    return (images * 255).round().clip(0, 255).astype(np.uint8)


def png(image: np.ndarray, *, optimize: bool = False) -> bytes:
    """One image (H, W, 3) in [0, 1] as the bytes of a PNG file; optimize: smaller, but slow for large images."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(as_bytes(image)).save(buffer, "PNG", optimize=optimize)
    return buffer.getvalue()


def webp(image: np.ndarray, *, most_px: int) -> bytes:
    """One image (H, W, 3) in [0, 1] as the bytes of a WebP file of quality 95, made smaller if a side is over `most_px`."""
    from PIL import Image

    buffer, picture = BytesIO(), Image.fromarray(as_bytes(image))
    picture.thumbnail((most_px, most_px), Image.Resampling.LANCZOS)
    picture.save(buffer, "WEBP", quality=95)
    return buffer.getvalue()
