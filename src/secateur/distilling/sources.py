"""Where a distillation's examples come from, checked before any work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.pipeline.prompts import guidance_of, read_prompts

if TYPE_CHECKING:
    from secateur.distilling.pictures import Pair
    from secateur.pipeline.examples import Examples

HUB, TARS, SCENES = "hub:", "tars:", "scenes"


@dataclass(frozen=True)
class Data:
    """What examples are made of: the teacher with pictures from a source, or with prompts alone by which it draws.

    subset, split: of a dataset. Beside the examples, unpictured: file of prompts that are heard at noisy samples alone;
    at_called_timesteps: whether noise is of the timesteps of so many `steps` alone.
    """

    teacher: str
    source: str | None
    prompts: str | None
    limit: int
    size: int | None
    caption: str | None
    steps: int
    guidance_scale: float | None
    seed: int
    subset: str | None = None
    split: str | None = None
    unpictured: str | None = None
    at_called_timesteps: bool = False


def check_data(asked: Data) -> None:
    """Nothing; ValueError, FileNotFoundError before any work where the data cannot be read."""
    from secateur import zoo
    from secateur.distilling import pictures

    source, prompts = asked.source, asked.prompts
    if (source is None) == (prompts is None):
        raise ValueError("found both --data and --prompts or neither: give pictures with captions, or prompts alone")
    for file in filter(None, (prompts, asked.unpictured)):
        if not Path(file).is_file():
            raise FileNotFoundError(f"there is no file {file}: write prompts into it, one a line")
        read_prompts(Path(file))
    check_options(asked)
    if source == SCENES and asked.teacher not in zoo.NAMES:
        raise ValueError(f"the zoo's scenes are for {' and '.join(zoo.NAMES)}, not for {asked.teacher}: give a folder")
    if source is None or source == SCENES:
        return
    if not source.startswith((HUB, TARS)):
        pictures.metadata(Path(source), caption=asked.caption)
        return
    pictures.loader()
    if source.startswith(TARS) and "://" not in source and not tar_files(source):
        raise FileNotFoundError(f"no file matches {source.removeprefix(TARS)}: give the tar files by name, or with a *")


def check_options(asked: Data) -> None:
    """Nothing; ValueError for options that would do nothing with these data."""
    source = asked.source or ""
    idle = {
        f"--subset is of a dataset of the Hub: give --data {HUB}OWNER/NAME": asked.subset and not source.startswith(HUB),
        f"--split is of a dataset: give --data {HUB}OWNER/NAME": asked.split and not source.startswith((HUB, TARS)),
        "--caption is a column of --data: give data": asked.caption and asked.source is None,
        "--guidance-scale is how the teacher draws by --prompts: give prompts": asked.guidance_scale is not None
        and asked.prompts is None,
    }
    if wrong := [says for says, is_idle in idle.items() if is_idle]:
        raise ValueError(f"{wrong[0]}, or leave it out")


def call_of(asked: Data, pipe: Any) -> dict[str, Any]:
    """How the pipe is called for conditions: by the size of the pictures and, where it draws them, its steps and guidance."""
    from secateur.pipeline.asked import sized

    if asked.prompts is None:
        side = asked.size or default_side(pipe)
        return sized(pipe, side, side)
    size = sized(pipe, asked.size, asked.size) if asked.size else {}
    if asked.size and not size:
        raise ValueError(f"{type(pipe).__name__} draws pictures of one size: leave --size out")
    guidance = guidance_of(pipe, asked.teacher, asked.guidance_scale)
    return {**size, "num_inference_steps": asked.steps, "guidance_scale": guidance}


def called_by(asked: Data, pipe: Any, *, labels: bool) -> tuple[float, ...] | None:
    """The timesteps of the pipe's calls, where they are all that is taught; else None. labels: whether it takes classes."""
    from secateur.pipeline import trajectory as trajectories

    if not asked.at_called_timesteps:
        return None
    call = {"num_inference_steps": asked.steps, **call_of(asked, pipe)}
    return trajectories.called(pipe, 0 if labels else "", **call)


def made_of(asked: Data, pipe: Any) -> dict[str, Any]:
    """What examples are made of, as JSON that differs where they would: the data, the pipe's weights, how it draws."""
    from secateur.denoiser import fingerprint
    from secateur.pipeline.schedulers import scheduler_signature

    found = asdict(replace(asked, unpictured=None, at_called_timesteps=False))
    found |= {"teacher": fingerprint.of_pipe(pipe), "source": source_of(asked)}
    if asked.prompts is None:
        return found | {"steps": None, "guidance_scale": None}
    drawn = {"guidance_scale": call_of(asked, pipe)["guidance_scale"], "scheduler": list(scheduler_signature(pipe.scheduler))}
    return found | drawn | {"prompts": text_of(asked.prompts)}


def text_of(file: str) -> str:
    """The name of a file of prompts with what tells that they were edited."""
    from secateur.denoiser import fingerprint

    return f"{Path(file)} with text {fingerprint.of_bytes(Path(file).read_bytes())}"


def source_of(asked: Data) -> str | None:
    """The source of pictures, and of local ones what tells that they were edited: the metadata, sizes and times of files."""
    from secateur.denoiser import fingerprint
    from secateur.distilling import pictures

    source = asked.source
    if source is None or source == SCENES or source.startswith(HUB):
        return source
    if source.startswith(TARS):
        return f"{source} with files {fingerprint.of_files(tar_files(source))}"
    names = [name for name, _ in pictures.metadata(Path(source), caption=asked.caption)[: asked.limit]]
    text = fingerprint.of_bytes((Path(source) / pictures.METADATA).read_bytes())
    return f"{Path(source)} with captions {text}, files {fingerprint.of_files(Path(source, name) for name in names)}"


def tar_files(source: str) -> list[Path]:
    """The local tar files that a source names."""
    pattern = Path(source.removeprefix(TARS))
    return list(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))


def make_examples(asked: Data, pipe: Any, first: int, *, batch_size: int) -> Iterator[Examples]:
    """The examples from number `first` on, some at a time."""
    from secateur.distilling import encoded
    from secateur.pipeline import examples

    if asked.prompts is None:
        found = pairs(asked, asked.size or default_side(pipe))
        return encoded.encoded(pipe, found, first=first, limit=asked.limit, batch_size=batch_size)
    prompts, call = read_prompts(Path(asked.prompts)), call_of(asked, pipe)
    return examples.draw_examples(pipe, prompts, first=first, count=asked.limit, seed=asked.seed, batch_size=batch_size, **call)


def pairs(asked: Data, size: int) -> Iterator[Pair]:
    """Pictures with captions, of this side."""
    from secateur.distilling import pictures

    source, caption = asked.source or "", asked.caption
    part = {key: value for key, value in {"name": asked.subset, "split": asked.split}.items() if value is not None}
    if source == SCENES:
        return pictures.scenes(asked.teacher, seed=asked.seed)
    if source.startswith(HUB):
        return pictures.from_datasets(source.removeprefix(HUB), size=size, caption=caption, **part)
    if source.startswith(TARS):
        return pictures.from_datasets("webdataset", size=size, caption=caption, data_files=source.removeprefix(TARS), **part)
    return pictures.from_folder(source, size=size, caption=caption)


def default_side(pipe: Any) -> int:
    """Side of the pictures that a pipe draws, in pixels; ValueError where it does not say."""
    from secateur.pipeline.pipes import component

    config: Any = component(pipe).config
    side = config.get("sample_size") or getattr(pipe, "default_sample_size", None)
    if side is None:
        raise ValueError(f"{type(pipe).__name__} has no size of its own: give the side of the pictures by --size")
    return side * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
