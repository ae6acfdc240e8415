"""Metrics against independent implementations; adapters on tiny random weights of the real classes."""

from __future__ import annotations

import base64
import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from torch import nn

from secateur.measuring import compare, learned_scores, quality
from secateur.zoo import judge
from secateur.zoo.scenes import Scene

PROMPTS = ["a fox", "a red cat", "blue"]


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.random((3, 24, 20, 3), dtype=np.float32)
    noise = rng.standard_normal(a.shape).astype(np.float32) * np.float32([0.01, 0.1, 0.5]).reshape(3, 1, 1, 1)
    return a, (a + noise).clip(0, 1)


def features(n: int, width: int, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, width)) @ rng.standard_normal((width, width)) + rng.standard_normal(width)


def test_psnr_of_a_known_error() -> None:
    a = np.full((2, 16, 16, 3), 0.5, dtype=np.float32)
    b = a + np.float32([0.1, 0.01]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(quality.psnr(a, b), [20, 40], atol=1e-3)
    assert np.isposinf(quality.psnr(a, a)).all()


def ssim_by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    def blur(x: np.ndarray) -> np.ndarray:
        whole = gaussian_filter(x.astype(np.float64), sigma=(1.5, 1.5, 0), radius=(5, 5, 0))
        return whole[5:-5, 5:-5]

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    return ((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))).mean()


def test_ssim_equals_scipy_s_filters(images) -> None:
    a, b = (x.astype(np.float64) for x in images)
    np.testing.assert_allclose(quality.ssim(*images), [ssim_by_scipy(*pair) for pair in zip(a, b, strict=True)], atol=1e-4)
    np.testing.assert_allclose(quality.ssim(images[0], images[0]), 1, atol=1e-6)


def test_psnr_and_ssim_equal_torchmetrics(images) -> None:
    tm = pytest.importorskip("torchmetrics.functional.image")
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in images)
    full = tm.structural_similarity_index_measure(a, b, data_range=1.0, reduction="none", return_full_image=True)[1]
    ssim = full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))  # its own mean takes in windows that hang over the edge, mirrored
    psnr = tm.peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))
    np.testing.assert_allclose(quality.ssim(*images), ssim, atol=1e-4)
    np.testing.assert_allclose(quality.psnr(*images), psnr, atol=1e-3)


def test_torch_images_score_as_numpy_ones(images) -> None:
    as_torch = tuple(torch.from_numpy(x) for x in images)
    assert np.array_equal(quality.psnr(*as_torch), quality.psnr(*images))


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 3)), "at least 11 px"),
        (np.zeros((1, 16, 16, 3)), np.zeros((2, 16, 16, 3)), "one to one"),
        (np.zeros((1, 3, 16, 16)), np.zeros((1, 3, 16, 16)), r"\(B, H, W, 3\)"),
        (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 16, 3), np.uint8), "divide bytes"),
        (np.full((1, 16, 16, 3), 2.0), np.zeros((1, 16, 16, 3)), r"got \[2, 2\]"),
    ],
)
def test_what_is_no_image_is_refused(a, b, words) -> None:
    with pytest.raises(ValueError, match=words):
        quality.ssim(a, b)


@pytest.mark.parametrize(("n", "m", "width"), [(200, 150, 6), (300, 300, 1)])
def test_frechet_equals_the_matrix_root(n, m, width) -> None:
    a, b = features(n, width, seed=1), features(m, width, seed=2)
    sa, sb = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(sa + sb - 2 * sqrtm(sa @ sb).real)
    assert quality.frechet(a, b) == pytest.approx(wanted, rel=1e-9)


def test_frechet_of_a_shift_is_its_square_also_with_few_samples() -> None:
    a = features(5, 40, seed=3)
    assert quality.frechet(a, a) == pytest.approx(0, abs=1e-8)
    assert quality.frechet(a, a + 0.5) == pytest.approx(40 * 0.25, rel=1e-9)


@pytest.mark.parametrize(("a", "b", "words"), [((1, 4), (5, 4), "at least 2"), ((5, 4), (5, 3), "widths 4 and 3")])
def test_frechet_refuses_what_has_no_covariance(a, b, words) -> None:
    with pytest.raises(ValueError, match=words):
        quality.frechet(np.zeros(a), np.zeros(b))


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (7, 10), (10, 10), (95, 100)])
def test_wilson_equals_scipy(successes, trials) -> None:
    from scipy.stats import binomtest

    wanted = binomtest(successes, trials).proportion_ci(method="wilson")
    assert quality.wilson(successes, trials) == pytest.approx((wanted.low, wanted.high), abs=2e-5)


def test_wilson_refuses_more_successes_than_trials() -> None:
    with pytest.raises(ValueError, match="got 3 of 2"):
        quality.wilson(3, 2)


def test_mean_interval_equals_scipy() -> None:
    from scipy.stats import ttest_1samp

    x = [1.0, 4.0, 2.0, 8.0]
    assert quality.mean_interval(x) == pytest.approx(tuple(ttest_1samp(x, 0).confidence_interval()))
    assert np.isnan(quality.mean_interval([1.0])).all()


class Reader:
    """A judge that reads the same scenes in whatever it is shown."""

    def read(self, images):
        right, left = Scene("car", "red", "to the right of", "cat"), Scene("cat", "red", "to the left of", "car")
        return [Scene("fox", "blue"), right, left][: len(images)]


def test_prompt_accuracy_knows_that_right_of_is_left_of(images) -> None:
    left = "a cat to the left of a car on a red background"
    right = "a car to the right of a cat on a red background"
    assert quality.prompt_accuracy(images[0], ["a cat on a blue background", left, right], Reader()).tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="got 3 images and 2"):
        quality.prompt_accuracy(images[0], [left, right], Reader())


@pytest.fixture(scope="module")
def clip():
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    letters = [c + end for c in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocab = {token: k for k, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 54, "max_position_embeddings": 6, "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    prepare = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return model, CLIPProcessor(prepare, CLIPTokenizer(vocab=vocab, merges=[]))


def test_pick_score_is_the_model_s_own_logit(clip, images) -> None:
    model, processor = clip
    pictures = list((images[0] * 255).round().astype(np.uint8))
    inputs = processor(text=PROMPTS, images=pictures, return_tensors="pt", padding=True, truncation=True, max_length=6)
    wanted = model(**inputs).logits_per_image.diagonal().detach()
    scores = learned_scores.pick_score(model, processor)(images[0], PROMPTS)
    np.testing.assert_allclose(scores, wanted, rtol=1e-4)
    assert scores.std() > 0
    cosines = (wanted / model.logit_scale.exp().detach()).clamp(min=0)
    np.testing.assert_allclose(
        learned_scores.clip_score(model, processor)(images[0], PROMPTS), 100 * cosines, rtol=1e-4, atol=1e-6
    )


def test_clip_score_loads_a_folder_on_first_use(clip, images, tmp_path) -> None:
    model, processor = clip
    score = learned_scores.clip_score(str(tmp_path))  # an empty folder still: nothing is read yet
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    wanted = learned_scores.clip_score(model, processor)(images[0], PROMPTS)
    np.testing.assert_allclose(score(images[0], PROMPTS), wanted, rtol=1e-5)


def test_scores_refuse_what_does_not_pair(clip, images) -> None:
    score = learned_scores.clip_score(*clip)
    with pytest.raises(ValueError, match="got 3 images and one string"):
        score(images[0], "cat")
    with pytest.raises(TypeError, match="give the CLIPProcessor"):
        learned_scores.clip_score(clip[0])


def test_more_images_than_a_batch_score_the_same() -> None:
    score = learned_scores._batched(lambda a, b: torch.as_tensor(a[:, 0, 0, 0] - b[:, 0, 0, 0]), batch_size=2)
    a = np.random.default_rng(0).random((5, 2, 2, 3))
    np.testing.assert_allclose(score(a, a * 0.5), a[:, 0, 0, 0] * 0.5, rtol=1e-6)


def test_hps_v2_is_the_cosine_of_an_open_clip_model(images) -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
    text = {"layers": 1, "width": 16, "heads": 2, "context_length": 8}
    model = open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text).eval()
    transform = open_clip.image_transform(16, is_train=False)
    tokenize = open_clip.SimpleTokenizer(context_length=8)
    scores = learned_scores.hps_v2((model, transform, tokenize))(images[0], PROMPTS)
    from PIL import Image

    pictures = [Image.fromarray(p) for p in (images[0] * 255).round().astype(np.uint8)]
    with torch.no_grad():
        image, text, _ = model(torch.stack([transform(p) for p in pictures]), tokenize(PROMPTS))
    np.testing.assert_allclose(scores, torch.cosine_similarity(image, text), rtol=1e-4, atol=1e-6)


class Slices(nn.Module):
    """Five random feature maps of AlexNet's widths, for LPIPS without torchvision."""

    def __init__(self, **_) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, width, 3, stride=2) for width in (64, 192, 384, 256, 256))

    def forward(self, x):
        return [conv(x).relu() for conv in self.convs]


def test_lpips_per_image_on_random_features(images, monkeypatch) -> None:
    module = pytest.importorskip("torchmetrics.functional.image.lpips")
    monkeypatch.setattr(module, "Alexnet", Slices)
    net = module._LPIPS(pnet_rand=True)
    distance = learned_scores.lpips(net)
    a, b = images
    scores = distance(a, b)
    signed = (2 * torch.from_numpy(x).permute(0, 3, 1, 2) - 1 for x in images)
    np.testing.assert_allclose(scores, net(*signed).flatten().detach(), rtol=1e-5)
    assert 0 < scores[0] < scores[1] < scores[2]  # more noise, further away
    np.testing.assert_allclose(distance(b[1:2], a[1:2]), scores[1:2], rtol=1e-5)
    assert distance(a, a).tolist() == [0, 0, 0]


def test_lpips_stands_beside_psnr_where_it_is_measured(images) -> None:
    a, b = images
    far = lambda one, other: np.abs(one - other).mean(axis=(1, 2, 3))  # noqa: E731
    figures = quality.measured(b, a, lpips=far)
    assert figures["lpips"]["mean"] == pytest.approx(np.abs(a - b).mean())
    assert figures["lpips"] == quality.mean_of(far(b, a))
    assert quality.measured(a, None, lpips=far)["lpips"] is None
    assert "lpips" not in quality.measured(b, a)


def test_lpips_is_installed_if_its_packages_and_weights_are_there(tmp_path, monkeypatch) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").touch()
    (tmp_path / "torchvision/models.py").write_text("class AlexNet_Weights:\n    class DEFAULT:\n        url = 'x/alex.pth'\n")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(learned_scores, "find_spec", lambda name: None if name == "torchvision" else name)
    assert learned_scores.lpips_if_installed() is None
    monkeypatch.setattr(learned_scores, "find_spec", lambda name: name)
    monkeypatch.syspath_prepend(tmp_path)
    with monkeypatch.context() as modules:
        for name in ("torchvision", "torchvision.models"):
            modules.delitem(sys.modules, name, raising=False)
        assert learned_scores.lpips_if_installed() is None  # no weights: they would be downloaded
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints/alex.pth").touch()
        assert callable(learned_scores.lpips_if_installed())
        for name in ("torchvision", "torchvision.models"):
            sys.modules.pop(name)


def test_inception_frechet_is_frechet_of_the_features() -> None:
    pytest.importorskip("torchmetrics")

    class Features(nn.Module):
        num_features = 3

        def forward(self, x):
            assert x.dtype == torch.uint8
            return x.float().mean(dim=(2, 3))

    rng = np.random.default_rng(0)
    a, b = np.round(rng.random((2, 12, 8, 8, 3)) * 255) / 255
    wanted = quality.frechet(255 * a.mean((1, 2)), 255 * b.mean((1, 2)))
    assert learned_scores.inception_frechet(a, b, features=Features(), batch_size=5) == pytest.approx(wanted, rel=1e-3)


def test_measured_is_the_figures_of_a_row() -> None:
    a, b = np.random.default_rng(0).random((2, 3, 64, 64, 3), dtype=np.float32)
    captions = ["a fox on a blue background", "a cat to the left of a car on a red background", "a fox on a blue background"]
    figures = quality.measured(a, b, converged=a, captions=captions)
    assert list(figures) == ["psnr_db", "ssim", "converged_psnr_db", "converged_ssim", "accuracy"]
    assert figures["psnr_db"] == {"mean": quality.psnr(a, b).mean(), "ci95": list(quality.mean_interval(quality.psnr(a, b)))}
    assert figures["converged_psnr_db"] is None  # infinite
    assert figures["converged_ssim"]["mean"] == pytest.approx(1)
    assert quality.measured(a, None) == {"psnr_db": None, "ssim": None}
    assert quality.measured(a[:1], b[:1])["psnr_db"]["ci95"] is None
    seen = judge.features(b.repeat(2, axis=0))
    assert quality.measured(a, None, features=seen)["frechet"] == quality.frechet(judge.features(a), seen)


def test_a_rate_has_wilson_s_interval() -> None:
    assert quality.rate_of([True, True, False]) == {"mean": 2 / 3, "ci95": list(quality.wilson(2, 3))}


def kept(image: np.ndarray) -> Image.Image:
    """The picture that a record keeps of an image."""
    return Image.open(io.BytesIO(base64.b64decode(compare.data_uri(image).partition(",")[2])))


def test_a_record_keeps_small_pictures_exactly_and_large_ones_as_small_files() -> None:
    small = np.random.default_rng(0).random((64, 48, 3), dtype=np.float32)
    assert kept(small).format == "PNG"
    np.testing.assert_array_equal(np.asarray(kept(small)), (small * 255).round().astype(np.uint8))
    down, across = np.mgrid[0:1, 0:1:1024j, 0:1:768j][1:, 0]
    large = np.stack([down, across, down * across], axis=-1).astype(np.float32)
    picture = kept(large)
    assert (picture.format, picture.size) == ("WEBP", (384, 512))
    wanted = large.reshape(512, 2, 384, 2, 3).mean(axis=(1, 3))
    assert np.square(np.asarray(picture) / 255 - wanted).mean() < 1e-4  # 40 dB
    assert len(compare.data_uri(large)) < 150_000
