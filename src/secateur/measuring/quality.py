"""How good images are: against the dense ones, against their prompts, and as a set.

Images are float (B, H, W, 3) in [0, 1], numpy or torch, as `calibration.generate` makes them. A score is per image, (B,),
unless it is one of a whole set (Fréchet distances). Functions named after a published metric return a Score, whose
weights are loaded on its first use; each also takes what is loaded already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Images: TypeAlias = np.ndarray | Tensor
Score: TypeAlias = Callable[[Images, Sequence[str]], np.ndarray]  # (images, prompts) -> (B,), higher is better
Distance: TypeAlias = Callable[[Images, Images], np.ndarray]  # (images, reference) -> (B,), lower is better

SSIM_WINDOW_PX, SSIM_SIGMA_PX = 11, 1.5


def psnr(images: Images, reference: Images) -> np.ndarray:
    """Peak signal-to-noise ratio in dB (B,), for a peak of 1; infinite where an image equals its reference."""
    a, b = _pair(images, reference)
    error = (a - b).square().mean(dim=(1, 2, 3))
    return (-10 * error.log10()).numpy()


def ssim(images: Images, reference: Images) -> np.ndarray:
    """Structural similarity (B,), at most 1: the mean over places and channels where the whole window fits.

    Gaussian window of 11 × 11 px, σ = 1.5 px, K = (0.01, 0.03): Wang et al. 2004 (10.1109/TIP.2003.819861), Eq. 13.
    torchmetrics also counts windows that hang over the edge, mirrored, and so differs on small images.
    """
    a, b = _pair(images, reference)
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
    values of R₁R₂ᵀ, so no matrix root is taken, and fewer samples than D do no harm to the arithmetic. They do bias the
    distance upwards: compare only distances from equally many samples.
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
    """Whether the judge reads in each image what its caption tells, bool (B,); the mean is the accuracy.

    judge.read(images) gives one Scene per image. "a left of b" and "b right of a" tell the same.
    """
    from secateur.zoo.scenes import parse

    _check_prompts(images, captions)
    told = [parse(c).canonical for c in captions]
    return np.array([seen.canonical == scene for seen, scene in zip(judge.read(images), told, strict=True)])


def judge_frechet(images: Images, reference: Images, judge) -> float:
    """The Fréchet distance between two sets of images in the judge's feature space: offline stand-in for FID."""
    return frechet(judge.features(images), judge.features(reference))


def clip_score(model: Any = "openai/clip-vit-base-patch16", processor: Any = None, *, device: str = "cpu") -> Score:
    """A Score: 100 × the cosine between image and prompt, at least 0, as torchmetrics scales it (arXiv 2104.08718).

    model, processor: a Hub id or folder (for the processor, the model's unless given), or CLIPModel and CLIPProcessor.
    """
    cosines = _clip_cosines(model, processor, device=device)
    return _batched(lambda images, prompts: 100 * cosines(images, prompts)[0].clamp(min=0))


def pick_score(
    model: Any = "yuvalkirstain/PickScore_v1",
    processor: Any = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    *,
    device: str = "cpu",
) -> Score:
    """A Score: PickScore (arXiv 2305.01569), the cosine times the model's own logit scale; arguments as `clip_score`."""
    cosines = _clip_cosines(model, processor, device=device)
    return _batched(lambda images, prompts: torch.mul(*cosines(images, prompts)))


def _clip_cosines(model: Any, processor: Any, *, device: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """(images, prompts) -> cosines (B,) and the logit scale (), on a CLIPModel loaded at the first call."""
    if processor is None and not isinstance(model, str):
        raise TypeError("a loaded CLIPModel comes without its processor: give the CLIPProcessor, or its Hub id, too")

    @cache
    def load() -> tuple[Any, Any]:
        from transformers import CLIPModel, CLIPProcessor

        source = model if processor is None else processor
        net: Any = CLIPModel.from_pretrained(model).eval() if isinstance(model, str) else model
        return net.to(device) if isinstance(model, str) else net, CLIPProcessor.from_pretrained(source) if isinstance(
            source, str
        ) else source

    def cosines(images: Images, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        net, prepare = load()
        longest = net.config.text_config.max_position_embeddings
        text = {"text": list(prompts), "padding": True, "truncation": True, "max_length": longest}
        out = net(**prepare(**text, images=_pictures(images), return_tensors="pt").to(net.device))
        return (out.image_embeds * out.text_embeds).sum(dim=-1), net.logit_scale.exp()

    return cosines


def hps_v2(loaded: tuple[Any, Callable, Callable] | None = None, *, device: str = "cpu") -> Score:
    """A Score: HPSv2.1 (arXiv 2306.09341), the cosine by a ViT-H/14 trained on human preferences; needs open_clip.

    loaded: (open_clip model, image transform, tokenizer) in place of the published 4 GB.
    """

    @cache
    def load() -> tuple[Any, Callable, Callable]:
        return loaded or _load_hps(device)

    def cosines(images: Images, prompts: Sequence[str]) -> Tensor:
        net, transform, tokenize = load()
        home = net.logit_scale.device
        pixels = torch.stack([transform(p) for p in _pictures(images)]).to(home)
        image, text = net.encode_image(pixels, normalize=True), net.encode_text(tokenize(list(prompts)).to(home), True)
        return (image * text).sum(dim=-1)

    return _batched(cosines)


def _load_hps(device: str) -> tuple[nn.Module, Callable, Callable]:
    import open_clip  # pyright: ignore[reportMissingImports]  # extra: quality
    from huggingface_hub import hf_hub_download

    net, _, transform = open_clip.create_model_and_transforms("ViT-H-14")
    file = hf_hub_download("xswu/HPSv2", "HPS_v2.1_compressed.pt")
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["state_dict"])
    return net.eval().to(device), transform, open_clip.get_tokenizer("ViT-H-14")


SCORES: dict[str, Callable[..., Score]] = {"clip": clip_score, "pick": pick_score, "hps": hps_v2}


def lpips(net: nn.Module | None = None, *, device: str = "cpu") -> Distance:
    """A Distance: LPIPS (arXiv 1801.03924) on AlexNet; needs torchmetrics and torchvision.

    net: a module (a, b, normalize=True) -> one number an image, in place of the published one.
    """

    @cache
    def load() -> nn.Module:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # extra: quality

        return net or LearnedPerceptualImagePatchSimilarity("alex").net.to(device)

    def distance(images: Images, reference: Images) -> Tensor:
        a, b = _pair(images, reference)
        return load()(a.to(device), b.to(device), normalize=True).flatten()

    return _batched(distance)


@torch.no_grad()
def inception_frechet(
    images: Images, reference: Images, *, features: Any = 2048, batch_size: int = 32, device: str = "cpu"
) -> float:
    """FID (arXiv 1706.08500) between two sets of images, at least 2 each; needs torchmetrics and torch-fidelity.

    features: which of Inception's widths, or a module uint8 (B, 3, H, W) -> (B, D) in its place.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # extra: quality

    metric = FrechetInceptionDistance(feature=features).to(device)
    for batches, real in ((_bytes(images).split(batch_size), False), (_bytes(reference).split(batch_size), True)):
        for batch in batches:
            metric.update(batch.to(device), real=real)
    return float(metric.compute())


def _batched(score: Callable[[Any, Any], Tensor], *, batch_size: int = 32) -> Callable[[Any, Any], np.ndarray]:
    """`score` without gradients, `batch_size` pairs at a time, as numpy (B,)."""

    @torch.no_grad()
    def scores(images: Images, others: Any) -> np.ndarray:
        _check_prompts(images, others)
        parts = [slice(k, k + batch_size) for k in range(0, len(images), batch_size)]
        return torch.cat([score(images[p], others[p]).float().cpu() for p in parts]).numpy()

    return scores


def _check_prompts(images: Images, prompts: Sequence[str] | Images) -> None:
    if isinstance(prompts, str) or len(images) != len(prompts) or not len(images):
        found = "one string" if isinstance(prompts, str) else str(len(prompts))
        raise ValueError(f"each image has its own prompt or reference: got {len(images)} images and {found}")


def _tensor(images: Images) -> Tensor:
    """float32 (B, 3, H, W) on the CPU, after a check of shape and range."""
    x = torch.as_tensor(images).detach().cpu()
    if x.ndim != 4 or x.shape[-1] != 3 or not x.is_floating_point():
        raise ValueError(f"images are float (B, H, W, 3); got {x.dtype} of shape {tuple(x.shape)}: divide bytes by 255")
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"images lie in [0, 1]; got [{x.min():.3g}, {x.max():.3g}]: scale them first")
    return x.float().permute(0, 3, 1, 2)


def _pair(images: Images, reference: Images) -> tuple[Tensor, Tensor]:
    a, b = _tensor(images), _tensor(reference)
    if a.shape != b.shape:
        raise ValueError(f"images are compared one to one; got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return a, b


def _bytes(images: Images) -> Tensor:
    return (_tensor(images) * 255).round().to(torch.uint8)


def _pictures(images: Images) -> list:
    from PIL import Image

    return [Image.fromarray(p) for p in _bytes(images).permute(0, 2, 3, 1).numpy()]
