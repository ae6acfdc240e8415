"""Pipelines by name: of the zoo, in a local folder, or on the Hugging Face Hub."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur import hub, zoo
from secateur.artifact import orphans, own_name
from secateur.denoiser.of_pipe import DENOISERS
from secateur.files import read_json

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from torch import nn

STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # by the names of safetensors
DTYPES = tuple(STORED.values())
STUDENT = "StudentUNet"  # a class of ours, see `pruning.student`


def load(source: str, *, dtype: str = "auto", device: str = "cpu") -> DiffusionPipeline:
    """The pipeline `source`: a name of the zoo, a local folder in diffusers' format, or a Hub id such as "owner/name".

    dtype: "float32", "bfloat16", "float16", or "auto", the dtype of the stored weights. The CPU takes float32 for
    float16, in which it cannot run a pipeline. Raises OSError or ValueError if there is no such pipeline.
    """
    import torch
    from diffusers import DiffusionPipeline

    check_dtype(dtype)
    folder = folder_of(source)
    with plainly(source):
        if dtype == "auto":
            stored = "float32" if source in zoo.NAMES else stored_dtype(source)  # the zoo is kept small on disk alone
            dtype = "float32" if (device, stored) == ("cpu", "float16") else stored
        options = {"dtype": getattr(torch, dtype), "variant": variant_of(folder)}
        pipe = DiffusionPipeline.from_pretrained(str(folder), **options)
    pipe.to(device)
    if locate(source) is None:
        pipe.register_to_config(_name_or_path=source)  # as if diffusers had downloaded it
    return pipe


@contextmanager
def plainly(source: str) -> Iterator[None]:
    """What goes wrong inside, in a folder that is damaged or lacks files, becomes a ValueError of one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, LookupError, AttributeError, TypeError, ValueError, OSError, RuntimeError, ImportError) as error:
        if "memory" in str(error).lower():
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{source} cannot be loaded ({reason}): mend it, or save or download it again") from error


def folder_of(source: str) -> Path:
    """The folder of a pipeline; one of the Hub is downloaded."""
    if local := locate(source):
        return local
    from diffusers import DiffusionPipeline

    index = read_json(hub.take(source, hub.INDEX).path, "pipeline's index")
    if ["secateur", STUDENT] in index.values():  # diffusers would look for that class among the repository's own files
        return hub.take_all(source, hub.FILES).path
    repo, revision = hub.split(source)
    with hub.plainly(source):
        return Path(DiffusionPipeline.download(repo, revision=revision))


def check_dtype(dtype: str) -> None:
    """Raises ValueError if `load` knows no dtype of this name."""
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"found dtype {dtype!r}: choose auto, {', '.join(DTYPES)}")


def stored_dtype(source: str) -> str:
    """The dtype of a pipeline's denoiser on disk, see `load`; "float32" if its weights are not safetensors.

    diffusers itself loads everything in float32 unless it is told. A pipeline of the Hub is downloaded.
    """
    folder = folder_of(source)
    return next((main_dtype(stored) for name in DENOISERS if (stored := stored_dtypes(folder / name))), "float32")


def stored_dtypes(folder: Path) -> dict[str, tuple[str, int]]:
    """(dtype, number of values) of a component's tensors on disk, by name; nothing of what is not in safetensors."""
    from safetensors import safe_open

    found = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no dict
            found |= {name: (STORED.get(x.get_dtype(), ""), math.prod(x.get_shape())) for name, x in slices.items()}
    return {name: (dtype, size) for name, (dtype, size) in found.items() if dtype}


def main_dtype(stored: Mapping[str, tuple[str, int]]) -> str:
    """The dtype that most values have."""
    sizes = Counter[str]()
    for dtype, size in stored.values():
        sizes[dtype] += size
    return sizes.most_common(1)[0][0]


def weight_files(folder: Path) -> list[Path]:
    """A component's weights: those that diffusers reads by itself or, without them, those of a variant such as fp16."""
    files = sorted(folder.glob("*.safetensors"))
    return [path for path in files if "." not in path.stem] or files


def variant_of(folder: Path) -> str | None:
    """The variant of a pipeline's denoiser if its folder has no other weights, such as "fp16"."""
    names = [path.stem.partition(".")[2].partition("-")[0] for name in DENOISERS for path in weight_files(folder / name)]
    return names[0] or None if names else None


def locate(source: str) -> Path | None:
    """The folder of a local pipeline or one of the zoo's; None for an id to be looked up on the Hub."""
    if source in zoo.NAMES:
        return zoo.folder(source)
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise FileNotFoundError(
                f"{source} is no diffusers pipeline: it has no model_index.json; give the pipeline's folder"
            )
        return path
    if path.is_file():
        raise ValueError(
            f"{source} is a single file and a pipeline's folder is wanted: save one by from_single_file({path.name!r}) of its "
            "pipeline class, and save_pretrained"
        )
    owner, slash, name = source.partition("/")
    if slash and owner and name and "/" not in name and not source.startswith((".", "~")):
        return None
    if slash:
        raise FileNotFoundError(f"there is no folder {source}: give a pipeline's folder, a Hub id, or {' or '.join(zoo.NAMES)}")
    raise ValueError(f"the zoo has no pipeline {source!r}: choose {' or '.join(zoo.NAMES)}, a folder, or a Hub id owner/name")


def zoo_name(pipe: DiffusionPipeline) -> str | None:
    """The name of a pipe that was loaded from the zoo; None for every other."""
    return zoo.name_at(Path(pipe.name_or_path or ""))


def as_stored(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """The pipe, each weight in the dtype that it has in the pipe's folder; a zoo pipe, small on disk alone, as it is."""
    import torch

    if zoo_name(pipe):
        return pipe
    folder = folder_of(str(pipe.name_or_path))
    for name, model in pipe.components.items():
        if isinstance(model, torch.nn.Module) and (stored := stored_dtypes(folder / name)):
            dtypes, main = {name: dtype for name, (dtype, _) in stored.items()}, main_dtype(stored)
            cast(model, {name: getattr(torch, dtypes.get(name, main)) for name in model.state_dict()})
    return pipe


def unrounded(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """The pipe or, if its dtype rounds weights of its folder, another one with these as they are, which may not run."""
    import torch
    from diffusers import DiffusionPipeline

    folder = folder_of(zoo_name(pipe) or str(pipe.name_or_path))
    models = {name: model for name, model in pipe.components.items() if isinstance(model, torch.nn.Module)}
    stored = {name: main_dtype(found) for name in models if not zoo_name(pipe) and (found := stored_dtypes(folder / name))}
    dtypes = {name: getattr(torch, stored.get(name, "float32")) for name in models}
    if all(model.dtype in (torch.float32, dtypes[name]) for name, model in models.items()):
        return pipe
    return DiffusionPipeline.from_pretrained(str(folder), dtype=dtypes, variant=variant_of(folder))


def cast(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Bring a model's floating-point tensors to dtypes, by name."""
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        if name in dtypes and x.is_floating_point():
            x.data = x.data.to(dtypes[name])


def save(pipe: DiffusionPipeline, folder: str | Path, *, beside: Mapping[str, Any] | None = None) -> None:
    """Write a pipeline's folder; until all of it is there, what was there before stays. Raises OSError if there is no room.

    What a killed saving left behind is cleared away, and the folder that it had put aside is put back.
    beside: artifacts to save in the folder too, by the names of their files.
    """
    from safetensors import SafetensorError

    out = Path(folder)
    part, old = (own_name(out, word) for word in ("part", "old"))
    clear(out)
    try:
        pipe.save_pretrained(part)
        for name, artifact in (beside or {}).items():
            artifact.save(part / name)
        with suppress(FileNotFoundError):  # the first one here, or another process is just saving its own
            out.replace(old)
        part.replace(out)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{out} cannot be written ({error}), and is as it was: make room, and run the same command") from error
    finally:
        if old.exists() and not out.exists():
            old.replace(out)
        shutil.rmtree(part, ignore_errors=True)


def clear(out: Path) -> None:
    """Take away what killed savings left beside a folder; if the folder is gone, what one had put aside is put back."""
    for old in orphans(out, "old") if out.parent.is_dir() else ():
        if not out.exists():
            old.replace(out)
        shutil.rmtree(old, ignore_errors=True)
    for part in orphans(out, "part") if out.parent.is_dir() else ():
        shutil.rmtree(part, ignore_errors=True)


def denoiser_config(source: str) -> dict[str, Any]:
    """The configuration of a pipeline's denoiser, read without loading any weights; also of the full-size names of `macs`."""
    from secateur.denoiser import macs

    if source in macs.denoiser_names():
        return macs.denoiser_config(source)
    folder = locate(source)
    index = read_json(file_of(source, folder, "model_index.json"), "pipeline's index")
    names = [name for name in DENOISERS if index.get(name, [None])[0] is not None]
    if not names:
        raise ValueError(f"{source} has neither a unet nor a transformer among its components: give a diffusion pipeline")
    return read_json(file_of(source, folder, f"{names[0]}/config.json"), "configuration")


def file_of(source: str, folder: Path | None, name: str) -> Path:
    if folder is not None:
        return folder / name
    return hub.take(source, name).path


def public_name(pipe: DiffusionPipeline) -> dict[str, str]:
    """{"pipe": the zoo's name or the Hub id of a pipe}, for an artifact's `made`; nothing for a folder of somebody's own."""
    name = zoo_name(pipe) or str(pipe.name_or_path)
    return {"pipe": name} if name in zoo.NAMES or hub.is_name(name) else {}


def base_of(base: str | None, made: Mapping[str, Any], *, option: str = "base=") -> str:
    """The pipe that something is for, to be named in public. Raises ValueError if nobody says it, or if it is a folder."""
    base = base or made.get("pipe")
    if base is None or (base not in zoo.NAMES and not hub.is_name(base)):
        found = f"{base!r} is not on the Hub" if base else "nothing says it"
        raise ValueError(f"which Hub model is it for? {found}: give {option}, its owner/name on the Hub")
    return base.partition("@")[0]
