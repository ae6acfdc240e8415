"""The ablations that DiP-GO publishes, and the rows measured here that stand beside them."""

from collections.abc import Sequence
from typing import Any

TABLES = {  # what the paper compares → its name for it and ours
    "loss": {"L1": "L1", "L2": "L2", "SSIM": "DiP-GO", "L1 + SSIM": "L1 + SSIM"},
    "alpha": {"0.1": "α = 0.1", "0.5": "α = 0.5", "1": "DiP-GO", "2": "α = 2"},
    "gamma": {"with γ": "DiP-GO", "without γ": "without γ"},
}
PAPER = {
    "source": "DiP-GO: A Diffusion Pruner via Few-step Gradient Optimization, NeurIPS 2024, arXiv 2410.16942, ablation tables",
    "measure": "CLIP score (ViT-g/14) of 5,000 COCO-2017 captions, SD-1.5, 50 calls, higher is better",
    "pruned": 0.8,
    "loss": {"L1": 29.94, "L2": 29.71, "SSIM": 30.29, "L1 + SSIM": 29.77},
    "alpha": {"0.1": 29.77, "0.5": 29.93, "1": 30.29, "2": 30.17},
    "gamma": {"with γ": 30.29, "without γ": 29.50},
    "search": {"random": 28.73, "genetic": 29.37, "DiP-GO": 30.29},
    "search_at_0.85": {"random": 27.22, "genetic": 28.61, "DiP-GO": 29.84},
    "search_at_0.90": {"random": 24.07, "genetic": 25.14, "DiP-GO": 28.72},
    "search_gpu_hours": {"random": 25, "genetic": 25, "DiP-GO": 2.3},
}


def last(rows: Sequence[dict[str, Any]], variant: str, keep: float, *, exact: bool = False) -> list[dict[str, Any]]:
    """What each search of a variant ended with, its scores, if it has any, allocated by the paper's bisection or exactly."""
    allocations = ("exact",) if exact else ("bisection", None)
    fits = [row for row in rows if (row["variant"], row["keep"]) == (variant, keep) and row["allocation"] in allocations]
    ends = {row["job"]: row for row in sorted(fits, key=lambda row: row["evaluations"])}  # the later one stays
    return list(ends.values())
