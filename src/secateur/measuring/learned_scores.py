"""Scores by learned models: CLIP, PickScore, HPSv2, LPIPS and Inception's FID.

A function named after a published metric returns a Score, whose weights are loaded on its first use. Each also takes a
model that is loaded already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from secateur.measuring.quality import check_prompts, paired
from secateur.pipeline.pixels import Images, as_bytes, as_tensor

Score: TypeAlias = Callable[[Images, Sequence[str]], np.ndarray]  # (images, prompts) -> (B,), higher is better
Distance: TypeAlias = Callable[[Images, Images], np.ndarray]  # (images, reference) -> (B,), lower is better


def clip_score(model: Any = "openai/clip-vit-base-patch16", processor: Any = None, *, device: str = "cpu") -> Score:
    """A Score: 100 × the cosine between image and prompt, at least 0, as torchmetrics scales it (arXiv 2104.08718).

    model, processor: a Hub id or folder (of the processor: the model's by default), or CLIPModel and CLIPProcessor.
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
        a, b = paired(images, reference)
        return load()(a.to(device), b.to(device), normalize=True).flatten()

    return _batched(distance)


def lpips_if_installed(*, device: str = "cpu") -> Distance | None:
    """`lpips` if its packages and AlexNet's weights are on this machine, otherwise None: nothing is downloaded."""
    if not all(map(find_spec, ("torchmetrics", "torchvision"))):
        return None
    from torchvision.models import AlexNet_Weights  # pyright: ignore[reportMissingImports]  # extra: quality

    weights = Path(torch.hub.get_dir(), "checkpoints", Path(AlexNet_Weights.DEFAULT.url).name)
    return lpips(device=device) if weights.is_file() else None


@torch.no_grad()
def inception_frechet(
    images: Images, reference: Images, *, features: Any = 2048, batch_size: int = 32, device: str = "cpu"
) -> float:
    """FID (arXiv 1706.08500) between two sets of images, at least 2 each; needs torchmetrics and torch-fidelity.

    features: which of Inception's widths, or a module uint8 (B, 3, H, W) -> (B, D) in its place.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # extra: quality

    metric = FrechetInceptionDistance(feature=features).to(device)
    for pictures, real in ((images, False), (reference, True)):
        for batch in torch.from_numpy(_bytes(pictures)).permute(0, 3, 1, 2).split(batch_size):
            metric.update(batch.to(device), real=real)
    return float(metric.compute())


def _batched(score: Callable[[Any, Any], Tensor], *, batch_size: int = 32) -> Callable[[Any, Any], np.ndarray]:
    """`score` without gradients, `batch_size` pairs at a time, as numpy (B,)."""

    @torch.no_grad()
    def scores(images: Images, others: Any) -> np.ndarray:
        check_prompts(images, others)
        parts = [slice(k, k + batch_size) for k in range(0, len(images), batch_size)]
        return torch.cat([score(images[p], others[p]).float().cpu() for p in parts]).numpy()

    return scores


def _pictures(images: Images) -> list:
    from PIL import Image

    return [Image.fromarray(p) for p in _bytes(images)]


def _bytes(images: Images) -> np.ndarray:
    """uint8 (B, H, W, 3). Raises ValueError if these are no images."""
    return as_bytes(as_tensor(images).permute(0, 2, 3, 1).numpy())
