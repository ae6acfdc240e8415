"""Data: pictures with captions from folders and datasets, what is refused, and Examples made and kept."""

from __future__ import annotations

import struct
import sys
import tarfile
import zlib
from io import BytesIO
from itertools import islice
from pathlib import Path
from types import ModuleType

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from commands import folder, labelled
from secateur import zoo
from secateur.distilling import encoded, pictures
from secateur.pipeline.examples import concatenate, draw_examples, from_images
from secateur.zoo import judge
from tiny_pipes import dit, noise, sdxl

# Pictures


def test_a_folder_gives_pictures_with_their_captions(tmp_path):
    found = list(pictures.from_folder(folder(tmp_path), size=8))
    assert [text for _, text in found] == ["caption 0", "caption 1", "caption 2"]
    for image, _ in found:
        assert (image.shape, image.dtype) == ((8, 8, 3), np.float32)
        assert 0 <= image.min() < image.max() <= 1


def test_the_middle_is_cut_out_and_a_right_size_left_alone():
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 255
    assert (pictures.squared(Image.fromarray(wide), size=4) == 1).all()
    exact = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(pictures.squared(Image.fromarray(exact), size=4), exact.astype(np.float32) / 255)
    assert pictures.squared(Image.fromarray(exact).convert("L"), size=7).shape == (7, 7, 3)


def test_grey_of_sixteen_bits_keeps_its_shades(tmp_path):
    shades = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(shades).save(tmp_path / "0.png")
    found = pictures.read_image(tmp_path / "0.png", size=8)
    np.testing.assert_allclose(found, np.repeat(shades[..., None] / 65535, 3, axis=-1), atol=1 / 255)


SHADES = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
TURNED = {  # by EXIF orientation, how the stored pixels become upright
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x.swapaxes(0, 1), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_pictures_of_phones_are_stored(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[274] = orientation
    lossless = {"lossless": True} if kind == "webp" else {}
    Image.fromarray(SHADES).save(tmp_path / f"0.{kind}", exif=exif, **lossless)
    found = pictures.read_image(tmp_path / f"0.{kind}", size=6)
    np.testing.assert_array_equal(found, TURNED[orientation](SHADES).astype(np.float32) / 255)


def test_an_orientation_that_cannot_be_read_turns_nothing(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(SHADES).save(tmp_path / "0.jpg", exif=exif)
    whole = (tmp_path / "0.jpg").read_bytes()
    (tmp_path / "0.jpg").write_bytes(whole.replace(b"MM\0*", b"MM\0?"))
    Image.fromarray(SHADES).save(tmp_path / "1.jpg")
    found, plain = (pictures.read_image(tmp_path / name, size=6) for name in ("0.jpg", "1.jpg"))
    np.testing.assert_array_equal(found, plain)
    (tmp_path / "0.jpg").write_bytes(whole)
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "0.jpg", size=6), np.rot90(plain, -1))


def stored(tmp_path, shades, kind="png", **options):
    """What is read of an array, or of a picture, that was saved."""
    (shades if isinstance(shades, Image.Image) else Image.fromarray(shades)).save(tmp_path / f"0.{kind}")
    return pictures.read_image(tmp_path / f"0.{kind}", size=6, **options)


@pytest.mark.parametrize(("colour", "behind"), [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#3366cc", (51, 102, 204))])
def test_what_is_transparent_shows_the_background(tmp_path, colour, behind):
    alpha = np.linspace(0, 255, 36).round().astype(np.uint8).reshape(6, 6, 1)
    laid = lambda x: (x * (alpha / 255) + np.array(behind) * (1 - alpha / 255)) / 255  # noqa: E731
    found = stored(tmp_path, np.concatenate([SHADES, alpha], axis=-1), background=colour)
    np.testing.assert_allclose(found, laid(SHADES), atol=1.01 / 255)
    found = stored(tmp_path, np.concatenate([SHADES[..., :1], alpha], axis=-1), background=colour)  # LA
    np.testing.assert_allclose(found, laid(SHADES[..., :1]), atol=1.01 / 255)


def test_one_colour_of_a_palette_may_be_transparent(tmp_path):
    places = np.arange(36, dtype=np.uint8).reshape(6, 6) % 3
    image = Image.frombytes("P", (6, 6), places.tobytes())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "0.png", transparency=1)
    colours = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "0.png", size=6), colours[places])


def test_every_mode_is_read_rightly(tmp_path):
    grey = SHADES[..., 0]
    as_rgb = lambda x: np.repeat(x[..., None], 3, axis=-1)  # noqa: E731
    floats = np.random.default_rng(1).random((6, 6), dtype=np.float32)
    wide = (floats * 65535).astype(np.uint16)
    close = lambda found, wanted: np.testing.assert_allclose(found, wanted, atol=0.51 / 255)  # noqa: E731
    close(stored(tmp_path, floats, "tiff"), as_rgb(floats))
    close(stored(tmp_path, wide, "tiff"), as_rgb(wide / 65535))
    close(stored(tmp_path, wide, "pgm"), as_rgb(wide / 65535))
    close(stored(tmp_path, grey), as_rgb(grey / 255))
    close(stored(tmp_path, grey > 99), as_rgb(grey > 99))
    inks = np.random.default_rng(2).integers(0, 256, (6, 6, 4), dtype=np.uint8)
    printed = stored(tmp_path, Image.frombytes("CMYK", (6, 6), inks.tobytes()), "tiff")
    paper = (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255)
    np.testing.assert_allclose(printed, paper, atol=2 / 255)


@pytest.mark.parametrize(
    ("shades", "says"),
    [
        (np.full((6, 6), 200, np.float32), "its mode is F with 200 to 200, and 0 to 1 are read"),
        (np.full((6, 6), np.nan, np.float32), "its mode is F with nan to nan"),
        (np.full((6, 6), -5, np.int32), "its mode is I with -5 to -5, and 0 to 65535 are read"),
    ],
)
def test_a_mode_that_cannot_be_read_rightly_is_refused_by_name(tmp_path, shades, says):
    with pytest.raises(ValueError, match=rf"0.tiff cannot be used \(.*{says}.*\): save it in RGB, or take its line out"):
        stored(tmp_path, shades, "tiff")


@pytest.mark.parametrize("colour", ["whit", "#ffcc0080", ""])
def test_a_background_is_a_colour(colour):
    with pytest.raises(ValueError, match=f"found background '{colour}': give a colour such as white, grey or '#ffcc00'"):
        pictures.check_background(colour)


def test_other_columns_and_labels(tmp_path):
    named = folder(tmp_path, text="said")
    assert next(pictures.from_folder(named, size=4, caption="said"))[1] == "caption 0"
    with pytest.raises(ValueError, match=r"line 1 of .*metadata.jsonl has no caption .*, but file_name, said: add it"):
        pictures.from_folder(named, size=4)
    assert [label for _, label in pictures.from_folder(labelled(tmp_path, [3, 0]), size=4)] == [3, 0]


def broken(path, case: str):
    """A folder with one thing wrong."""
    good = folder(path / "data" if case == "nowhere" else path) if case != "nowhere" else path / "data"
    metadata, first = good / pictures.METADATA, good / "1.png"
    match case:
        case "no metadata":
            metadata.unlink()
        case "empty":
            metadata.write_text("\n")
        case "Latin-1":
            metadata.write_text('{"file_name": "0.png", "text": "Füchse"}', encoding="latin-1")
        case "no file":
            first.unlink()
        case "no json":
            metadata.write_text('{"file_name": ')
        case "no name":
            metadata.write_text('{"text": "a fox"}')
        case "no caption":
            metadata.write_text('{"file_name": "0.png"}\n')
        case "cut":
            first.write_bytes(first.read_bytes()[:200])
        case "no picture":
            first.write_text("a fox")
        case "huge":
            header = struct.pack(">II5B", 100_000, 100_000, 8, 2, 0, 0, 0)
            chunk = b"IHDR" + header
            first.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)))
    return good


@pytest.mark.parametrize(
    ("case", "error", "says"),
    [
        ("nowhere", FileNotFoundError, "there is no folder"),
        ("no metadata", FileNotFoundError, "has no metadata.jsonl, so its pictures have no captions: write one"),
        ("empty", ValueError, "metadata.jsonl is empty"),
        ("Latin-1", ValueError, "metadata.jsonl is not in UTF-8 .*: save it as UTF-8"),
        ("no file", FileNotFoundError, "names 1.png, which is not in"),
        ("no json", ValueError, "line 1 of .* is no JSON"),
        ("no name", ValueError, "line 1 of .* names no file_name"),
        ("no caption", ValueError, "line 1 of .* has no caption"),
        ("cut", ValueError, "1.png is no whole picture: replace it"),
        ("no picture", ValueError, "1.png is no whole picture: replace it"),
        ("huge", ValueError, "1.png is no whole picture: replace it"),
    ],
)
def test_a_folder_with_something_wrong_is_refused_in_a_sentence(tmp_path, case, error, says):
    with pytest.raises(error, match=says) as caught:
        list(pictures.from_folder(broken(tmp_path, case), size=8))
    assert "\n" not in str(caught.value)


def test_a_caption_in_bytes_that_are_no_text_is_refused():
    assert pictures.caption_in({"txt": "Füchse".encode()}, "row 1", caption=None) == "Füchse"
    with pytest.raises(ValueError, match=r"the caption in row 1 is not in UTF-8 .*: write it so"):
        pictures.caption_in({"txt": "Füchse".encode("latin-1")}, "row 1", caption=None)


def test_what_is_wrong_in_the_metadata_is_found_before_the_first_picture(tmp_path):
    (folder(tmp_path) / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2\.png"):
        pictures.from_folder(tmp_path, size=8)


def test_tar_files_are_streamed_by_datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for n in range(2):
        with tarfile.open(tmp_path / f"part-{n}.tar", "w") as tar:
            for name, content in ((f"{n}.png", png(100 * n)), (f"{n}.txt", f"fox {n}".encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, BytesIO(content))
    rows = pictures.from_datasets("webdataset", size=8, data_files=str(tmp_path / "part-*.tar"))
    found = [(image.shape, float(image.mean()), text) for image, text in rows]
    assert found == [((8, 8, 3), pytest.approx(n * 100 / 255), f"fox {n}") for n in range(2)]


def test_subsets_and_splits_are_those_of_a_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    repository = Path("owner/name")
    repository.mkdir(parents=True)
    kinds = datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    for k, part in enumerate(("train", "test")):
        rows = {"image": [Image.new("RGB", (10, 12), (100 * k,) * 3)], "text": [part]}
        datasets.Dataset.from_dict(rows, features=kinds).to_parquet(repository / f"{part}.parquet")
    splits = "".join(f"\n  - split: {part}\n    path: {part}.parquet" for part in ("train", "test"))
    subsets = "".join(f"- config_name: {name}\n  data_files:{splits}\n" for name in ("small", "large"))
    (repository / "README.md").write_text(f"---\nconfigs:\n{subsets}---\n")
    [(image, text)] = pictures.from_datasets("owner/name", size=8, name="small", split="test")
    assert (float(image.mean()), text) == (pytest.approx(100 / 255), "test")
    [(image, text)] = pictures.from_datasets("owner/name", size=8, name="large")
    assert (float(image.mean()), text) == (0, "train")
    says = {
        "Config name is missing.*small": {},
        "'huge' not found": {"name": "huge"},
        "Bad split": {"name": "small", "split": "none"},
    }
    for message, options in says.items():
        with pytest.raises(ValueError, match=rf"^owner/name cannot be read as a dataset \(.*{message}.*\): name one") as caught:
            pictures.from_datasets("owner/name", size=8, **options)
        assert len(str(caught.value).splitlines()) == 1


def png(grey: int) -> bytes:
    """A picture of one grey."""
    file = BytesIO()
    Image.new("RGB", (10, 12), (grey,) * 3).save(file, "PNG")
    return file.getvalue()


def test_rows_of_datasets(monkeypatch):
    picture = Image.new("RGB", (6, 9), (255, 0, 0))
    asked = {}

    def load_dataset(path, **options):
        asked.update(options, path=path)
        return iter([{"jpg": picture, "txt": b"a fox"}, {"image": picture, "label": 3}, {"image": "0.png", "text": "a"}])

    module = ModuleType("datasets")
    monkeypatch.setattr(module, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", module)
    rows = pictures.from_datasets("webdataset", size=6, data_files="x.tar", name="small")
    assert [next(rows)[1], next(rows)[1]] == ["a fox", 3]
    with pytest.raises(ValueError, match=r"row 2 of x.tar has no picture \(image or jpg"):
        next(rows)
    cut = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(cut, "JPEG")
    half = Image.open(BytesIO(cut.getvalue()[:-2000]))
    with pytest.raises(ValueError, match=r"the picture of row 3 of web cannot be read .*: take the row out"):
        pictures.pair({"jpg": half, "txt": "a"}, "row 3 of web", size=8, caption=None)

    def torn():
        yield {"jpg": picture, "txt": "a fox"}
        raise OSError("image file is truncated")

    monkeypatch.setattr(module, "load_dataset", lambda *_, **__: torn())
    with pytest.raises(ValueError, match=r"row 1 of x.tar cannot be read \(image file is truncated\): mend it"):
        list(pictures.from_datasets("webdataset", size=6, data_files="x.tar"))
    assert asked == {"path": "webdataset", "name": "small", "split": "train", "streaming": True, "data_files": "x.tar"}


def test_without_datasets_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'secateur\[data\]'"):
        pictures.from_datasets("owner/name", size=8)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_scenes_of_the_zoo_show_what_they_say(name):
    found = list(islice(pictures.scenes(name), 24))
    captions = [text if isinstance(text, str) else zoo.caption_of(text) for _, text in found]
    images, told = np.stack([image for image, _ in found]), [zoo.scenes.parse(caption) for caption in captions]
    seen = judge.read(images)
    assert np.mean([s.canonical.caption == t.canonical.caption for s, t in zip(seen, told, strict=True)]) > 0.9
    right, wrong = judge.likelihoods(images, told), judge.likelihoods(images, told[1:] + told[:1])
    assert right.max() <= 0
    assert np.median(np.exp(right)) > 0.8
    assert np.median(np.exp(wrong)) < 0.1
    again = list(islice(pictures.scenes(name), 24))
    assert all(np.array_equal(a, b) and s == t for (a, s), (b, t) in zip(found, again, strict=True))


# Examples


def test_pictures_are_encoded_in_parts_as_at_once(tmp_path):
    pipe, _ = dit()
    pairs = list(pictures.from_folder(labelled(tmp_path, [5, 1, 5, 0, 2]), size=16))
    found = concatenate(encoded.encoded(pipe, iter(pairs), batch_size=2, limit=4))
    whole = from_images(pipe, np.stack([image for image, _ in pairs[:4]]), [5, 1, 5, 0])
    torch.testing.assert_close(found.latents, whole.latents)
    assert torch.equal(found.conditions["class_labels"], whole.conditions["class_labels"])
    with pytest.raises(ValueError, match="there is no picture in the data"):
        list(encoded.encoded(pipe, iter(())))


def test_prompts_alone_give_what_the_teacher_draws():
    pipe, _ = dit()
    call = {"num_inference_steps": 2, "guidance_scale": 1.0}
    found = concatenate(draw_examples(pipe, [4, 7], count=3, seed=10, batch_size=2, **call))
    assert found.conditions["class_labels"].tolist() == [4, 7, 4]
    generators = [torch.Generator().manual_seed(s) for s in (10, 11, 12)]
    drawn = pipe(class_labels=[4, 7, 4], generator=generators, output_type="pt", **call).images
    decoded = pipe.vae.decode(found.latents / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close((decoded / 2 + 0.5).clamp(0, 1), torch.as_tensor(drawn), atol=1e-5, rtol=1e-4)


def test_prompts_without_pictures_have_the_conditions_of_those_with():
    pipe, _ = dit()
    found = concatenate(encoded.unpictured(pipe, [4, 7, 1], first=1, batch_size=1))
    assert found.conditions["class_labels"].tolist() == [7, 1]
    assert found.latents.shape == (2, 1, 1)
    assert not found.latents.any()


def test_no_prompt_is_what_guidance_compares_with():
    pipe, _ = dit()
    assert encoded.null(pipe, labels=True)["class_labels"].tolist() == [1000]
    pipe, _ = sdxl()
    pipe.encode_prompt = lambda prompt, **_: (noise(1, 1, 5, 8), noise(2, 1, 5, 8), noise(3, 1, 8), noise(4, 1, 8))
    pipe.register_to_config(force_zeros_for_empty_prompt=True)
    found = encoded.null(pipe)
    assert not found["encoder_hidden_states"].any()
    assert not found["added_cond_kwargs"]["text_embeds"].any()
    assert found["added_cond_kwargs"]["time_ids"].any()
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    assert encoded.null(pipe)["encoder_hidden_states"].any()
