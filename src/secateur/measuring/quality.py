"""How good images are: against the dense ones, against their prompts, and as a set.

Images are float (B, H, W, 3) in [0, 1], numpy or torch, as `generate` draws them. A score is per image, (B,); a Fréchet
distance is of a whole set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.pipeline.pixels import Images, as_tensor

SSIM_WINDOW_PX, SSIM_SIGMA_PX = 11, 1.5


def psnr(images: Images, reference: Images) -> np.ndarray:
    """Peak signal-to-noise ratio in dB (B,), for a peak of 1; infinite if an image equals its reference."""
    a, b = paired(images, reference)
    error = (a - b).square().mean(dim=(1, 2, 3))
    return (-10 * error.log10()).numpy()


def ssim(images: Images, reference: Images) -> np.ndarray:
    """Structural similarity (B,), at most 1: the mean over the channels and the places where the whole window fits.

    Gaussian window of 11 × 11 px, σ = 1.5 px, K = (0.01, 0.03): Wang et al. 2004 (10.1109/TIP.2003.819861), Eq. 13.
    torchmetrics also counts windows that hang over the edge, mirrored, and so differs on small images.
    """
    a, b = paired(images, reference)
    return structural_similarity(a, b).numpy()


def structural_similarity(a: Tensor, b: Tensor, *, peak: float = 1.0) -> Tensor:
    """SSIM (B,) of images (B, C, H, W) whose values span `peak`, as `ssim` defines it, differentiably."""
    if min(a.shape[-2:]) < SSIM_WINDOW_PX:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW_PX} px a side; got {tuple(a.shape[-2:])}")
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _blur(x: Tensor) -> Tensor:
    """(B, 3, H − 10, W − 10): the Gaussian means of every whole window."""
    places = torch.arange(SSIM_WINDOW_PX, dtype=x.dtype, device=x.device) - SSIM_WINDOW_PX // 2
    weights = torch.softmax(-places.square() / (2 * SSIM_SIGMA_PX**2), dim=0)
    kernel = weights.expand(x.shape[1], 1, 1, -1)
    return F.conv2d(F.conv2d(x, kernel, groups=len(kernel)), kernel.mT, groups=len(kernel))


def frechet(features: Images, reference: Images) -> float:
    """Squared Fréchet distance between the Gaussians fitted to two sets of features, (n, D) and (m, D).

    Heusel et al. 2017 (arXiv 1706.08500), Eq. 6. With Σ = RᵀR the trace of the root of Σ₁Σ₂ is the sum of the singular
    values of R₁R₂ᵀ, so no matrix root is taken. Fewer samples than D do no harm to the arithmetic, but bias the distance
    upwards: compare only distances of the same number of samples.
    """
    (mean_a, root_a), (mean_b, root_b) = _gaussian(features), _gaussian(reference)
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"features of one kind are compared; got widths {len(mean_a)} and {len(mean_b)}")
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = np.square(root_a).sum() + np.square(root_b).sum() - 2 * cross
    return float(np.square(mean_a - mean_b).sum() + spread)


def _gaussian(features: Images) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and a root R (min(n, D), D) of the covariance RᵀR."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"a Fréchet distance needs features (n, D) of at least 2 samples; got shape {x.shape}")
    mean = x.mean(axis=0)
    return mean, np.asarray(np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r"))


def wilson(successes: int, trials: int, *, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a success rate: Wilson 1927 (10.1080/01621459.1927.10502953)."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"a success rate needs 0 ≤ successes ≤ trials and a trial; got {successes} of {trials}")
    rate, shrink = successes / trials, 1 + z**2 / trials
    centre = (rate + z**2 / (2 * trials)) / shrink
    half = z * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2)) / shrink
    return float(max(centre - half, 0)), float(min(centre + half, 1))


def mean_interval(scores: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of independent scores, by Student's t; nan for a single one."""
    from scipy.stats import t

    x = np.asarray(scores, dtype=np.float64)
    half = t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan
    return float(x.mean() - half), float(x.mean() + half)


def prompt_accuracy(images: Images, captions: Sequence[str], judge) -> np.ndarray:
    """Whether the judge reads in each image what its caption says, bool (B,); the mean is the accuracy.

    judge.read(images) gives one Scene per image. "a left of b" and "b right of a" say the same.
    """
    from secateur.zoo.scenes import parse

    check_prompts(images, captions)
    scenes = [parse(caption).canonical for caption in captions]
    return np.array([seen.canonical == scene for seen, scene in zip(judge.read(images), scenes, strict=True)])


def paired(images: Images, reference: Images) -> tuple[Tensor, Tensor]:
    """Both as float32 (B, 3, H, W). Raises ValueError if their shapes differ."""
    a, b = as_tensor(images), as_tensor(reference)
    if a.shape != b.shape:
        raise ValueError(f"images are compared one to one; got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return a, b


def measured(
    images: np.ndarray,
    dense: np.ndarray | None,
    *,
    converged: np.ndarray | None = None,
    captions: Sequence[str] | None = None,
    features: Images | None = None,
    lpips: Callable[[Images, Images], np.ndarray] | None = None,
) -> dict[str, Any]:
    """The figures of a row: "psnr_db" and "ssim" to the dense images, None for the dense images themselves.

    converged: also "converged_psnr_db" and "converged_ssim", to these images. captions: also "accuracy", as the zoo's judge
    reads the images. features: also "frechet", the distance to these features (M, D) of true pictures, an offline stand-in for
    FID. lpips: also "lpips", this distance to the dense images.
    """
    from secateur.zoo import judge

    figures = nearness(images, dense)
    if lpips is not None:
        figures["lpips"] = None if dense is None else mean_of(lpips(images, dense))
    if converged is not None:
        figures |= nearness(images, converged, prefix="converged_")
    if captions is not None:
        figures["accuracy"] = rate_of(prompt_accuracy(images, captions, judge))
    if features is not None:
        figures["frechet"] = frechet(judge.features(images), features)
    return figures


def nearness(images: np.ndarray, target: np.ndarray | None, *, prefix: str = "") -> dict[str, Any]:
    """{"psnr_db", "ssim"} to a target, each with its interval; None if there is no target or an image equals its own."""
    names = {f"{prefix}psnr_db": psnr, f"{prefix}ssim": ssim}
    return {name: None if target is None else mean_of(score(images, target)) for name, score in names.items()}


def mean_of(scores: Sequence[float] | np.ndarray) -> dict[str, Any] | None:
    """{"mean", "ci95"}: the mean and its 95 % interval by Student's t, None for a single score.

    None instead of both if a score is infinite, as the PSNR is when an image equals its reference.
    """
    if not np.isfinite(scores).all():
        return None
    return {"mean": float(np.mean(scores)), "ci95": list(mean_interval(scores)) if len(scores) > 1 else None}


def rate_of(successes: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    """{"mean", "ci95"}: the rate of successes and its 95 % interval by Wilson."""
    return {"mean": float(np.mean(successes)), "ci95": list(wilson(int(np.sum(successes)), len(successes)))}


class NotFiniteError(ValueError):
    """Images with a pixel that is NaN or infinite."""


def check_finite(images: np.ndarray, what: str) -> None:
    """Raises NotFiniteError if a pixel is NaN or infinite. what: names the images in the message."""
    wrong = sum(not np.isfinite(image).all() for image in images)
    if wrong:
        raise NotFiniteError(f"{wrong} of {len(images)} of {what} are not finite: use a wider dtype or another schedule")


def check_prompts(images: Images, prompts: Sequence[str] | Images) -> None:
    """Raises ValueError if there is not one prompt or reference for each image."""
    if isinstance(prompts, str) or len(images) != len(prompts) or not len(images):
        count = "one string" if isinstance(prompts, str) else str(len(prompts))
        raise ValueError(f"each image has its own prompt or reference: got {len(images)} images and {count}")
