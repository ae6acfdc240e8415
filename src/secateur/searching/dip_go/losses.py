"""What the gradient search minimises: how far its images are from the dense ones, and what its gates cost.

DiP-GO (arXiv 2410.16942), Eq. 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from secateur.denoiser.blocks import without
from secateur.denoiser.macs import Macs
from secateur.measuring.quality import structural_similarity

PEAK = 2.0  # images lie in [−1, 1]
TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ssim": lambda a, b: 1 - structural_similarity(a, b, peak=PEAK),
    "l1": lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)),
    "l2": lambda a, b: (a - b).square().mean(dim=(1, 2, 3)),
}


def terms(kind: str) -> tuple[str, ...]:
    """The names in a mixture such as "l1+ssim". Raises ValueError if one is unknown."""
    names = tuple(kind.split("+"))
    if wrong := [name for name in names if name not in TERMS]:
        raise ValueError(f"there is no loss {wrong[0]!r}: choose among {', '.join(TERMS)}, or join them as in l1+ssim")
    return names


def consistency(images: Tensor, target: Tensor, *, kind: str = "ssim") -> Tensor:
    """L_c of each image (B,), the sum of the terms of `kind`; images (B, C, H, W), values in [−1, 1].

    Both are clamped to that range, since nothing outside of it is visible (ours).
    """
    a, b = images.clamp(-1, 1), target.clamp(-1, 1)
    return sum((TERMS[name](a, b) for name in terms(kind)), start=a.new_zeros(len(a)))


def closure_shares(macs: Macs, *, attention: bool = False) -> tuple[float, ...]:
    """γ (L,): the share of a dense call's MACs that is saved if this block alone is reused, with its closure."""
    cells, whole, count = macs.cells(attention=attention), macs.call(attention=attention), len(macs.blocks)
    rows = (without((True,) * count, i, macs.blocks) for i in range(count))
    return tuple(sum(cost for cost, runs in zip(cells, row, strict=True) if not runs) / whole for row in rows)


def sparsity(gates: Tensor, shares: Sequence[float]) -> Tensor:
    """L_s = (1/T) Σ_i Σ_b γ_b g[i, b] of gates (T, L)."""
    return (gates * gates.new_tensor(shares)).sum() / len(gates)
