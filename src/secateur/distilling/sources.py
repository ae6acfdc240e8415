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
WHITE = "white"


@dataclass(frozen=True)
class Data:
    """What examples are made of: the teacher and pictures from a source, or the teacher and prompts alone.

    subset, split: of a dataset. unpictured: a file of prompts for noisy samples alone. at_called_timesteps: whether samples are
    drawn at the timesteps of the pipe's `steps` alone. background: the colour behind what is transparent in pictures.
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
    background: str = WHITE

    @property
    def pictured(self) -> bool:
        """Whether pictures are read from files."""
        return self.source not in (None, SCENES)


def check_data(data: Data) -> None:
    """Raises ValueError or FileNotFoundError, before any work, if the data cannot be read."""
    from secateur import zoo
    from secateur.distilling import pictures

    source, prompts = data.source, data.prompts
    if (source is None) == (prompts is None):
        raise ValueError("found both --data and --prompts or neither: give pictures with captions, or prompts alone")
    for file in filter(None, (prompts, data.unpictured)):
        if not Path(file).is_file():
            raise FileNotFoundError(f"there is no file {file}: write prompts into it, one a line")
        read_prompts(Path(file))
    check_options(data)
    if source == SCENES and data.teacher not in zoo.NAMES:
        raise ValueError(f"the zoo's scenes are for {' and '.join(zoo.NAMES)}, not for {data.teacher}: give a folder")
    if source is None or not data.pictured:
        return
    pictures.check_background(data.background)
    if not source.startswith((HUB, TARS)):
        pictures.metadata(Path(source), caption=data.caption)
        return
    pictures.loader()
    if source.startswith(TARS) and "://" not in source and not tar_files(source):
        raise FileNotFoundError(f"no file matches {source.removeprefix(TARS)}: give the tar files by name, or with a *")


def check_options(data: Data) -> None:
    """Raises ValueError if an option would do nothing with these data."""
    source = data.source or ""
    idle = {
        f"--subset is of a dataset of the Hub: give --data {HUB}OWNER/NAME": data.subset and not source.startswith(HUB),
        f"--split is of a dataset: give --data {HUB}OWNER/NAME": data.split and not source.startswith((HUB, TARS)),
        "--caption is a column of --data: give data": data.caption and data.source is None,
        "--background is for pictures: give --data": data.background != WHITE and not data.pictured,
        "--guidance-scale is how the teacher draws by --prompts: give prompts": data.guidance_scale is not None
        and data.prompts is None,
    }
    if wrong := [says for says, is_idle in idle.items() if is_idle]:
        raise ValueError(f"{wrong[0]}, or leave it out")


def call_of(data: Data, pipe: Any) -> dict[str, Any]:
    """The arguments of the pipe for conditions: the size of the pictures and, if it draws them, its steps and guidance."""
    from secateur.pipeline.queries import sized

    if data.prompts is None:
        side = data.size or default_side(pipe)
        return sized(pipe, side, side)
    size = sized(pipe, data.size, data.size) if data.size else {}
    if data.size and not size:
        raise ValueError(f"{type(pipe).__name__} draws pictures of one size: leave --size out")
    guidance = guidance_of(pipe, data.teacher, data.guidance_scale)
    return {**size, "num_inference_steps": data.steps, "guidance_scale": guidance}


def called_by(data: Data, pipe: Any, *, labels: bool) -> tuple[float, ...] | None:
    """The timesteps of the pipe's calls, if samples are drawn at these alone. labels: whether the pipe takes classes."""
    from secateur.pipeline import trajectory as trajectories

    if not data.at_called_timesteps:
        return None
    call = {"num_inference_steps": data.steps, **call_of(data, pipe)}
    return trajectories.called(pipe, 0 if labels else "", **call)


def made_of(data: Data, pipe: Any) -> dict[str, Any]:
    """What examples are made of, as JSON: the data, the pipe's weights, how it draws. Other JSON means other examples."""
    from secateur.denoiser import fingerprint
    from secateur.pipeline.schedulers import scheduler_signature

    origin = asdict(replace(data, unpictured=None, at_called_timesteps=False))
    origin |= {"teacher": fingerprint.of_pipe(pipe), "source": source_of(data)}
    if not data.pictured:
        del origin["background"]
    if data.prompts is None:
        return origin | {"steps": None, "guidance_scale": None}
    drawing = {"guidance_scale": call_of(data, pipe)["guidance_scale"], "scheduler": list(scheduler_signature(pipe.scheduler))}
    return origin | drawing | {"prompts": text_of(data.prompts)}


def text_of(file: str) -> str:
    """The name of a file of prompts, with a hash of its text."""
    from secateur.denoiser import fingerprint

    return f"{Path(file)} with text {fingerprint.of_bytes(Path(file).read_bytes())}"


def source_of(data: Data) -> str | None:
    """The source of pictures; of local ones also a hash of the metadata, and of the sizes and times of files."""
    from secateur.denoiser import fingerprint
    from secateur.distilling import pictures

    source = data.source
    if source is None or source == SCENES or source.startswith(HUB):
        return source
    if source.startswith(TARS):
        return f"{source} with files {fingerprint.of_files(tar_files(source))}"
    names = [name for name, _ in pictures.metadata(Path(source), caption=data.caption)[: data.limit]]
    text = fingerprint.of_bytes((Path(source) / pictures.METADATA).read_bytes())
    return f"{Path(source)} with captions {text}, files {fingerprint.of_files(Path(source, name) for name in names)}"


def tar_files(source: str) -> list[Path]:
    """The local tar files that a source names."""
    pattern = Path(source.removeprefix(TARS))
    return list(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))


def make_examples(data: Data, pipe: Any, first: int, *, batch_size: int) -> Iterator[Examples]:
    """The examples from number `first` on, some at a time."""
    from secateur.distilling import encoded
    from secateur.pipeline import examples

    if data.prompts is None:
        pictures = pairs(data, data.size or default_side(pipe))
        return encoded.encoded(pipe, pictures, first=first, limit=data.limit, batch_size=batch_size)
    prompts, call = read_prompts(Path(data.prompts)), call_of(data, pipe)
    return examples.draw_examples(pipe, prompts, first=first, count=data.limit, seed=data.seed, batch_size=batch_size, **call)


def pairs(data: Data, size: int) -> Iterator[Pair]:
    """Pictures with captions, of this side."""
    from secateur.distilling import pictures

    source = data.source or ""
    how: dict[str, Any] = {"size": size, "caption": data.caption, "background": data.background}
    part: dict[str, Any] = {key: value for key, value in (("name", data.subset), ("split", data.split)) if value is not None}
    if source == SCENES:
        return pictures.scenes(data.teacher, seed=data.seed)
    if source.startswith(HUB):
        return pictures.from_datasets(source.removeprefix(HUB), **how, **part)
    if source.startswith(TARS):
        return pictures.from_datasets("webdataset", data_files=source.removeprefix(TARS), **how, **part)
    return pictures.from_folder(source, **how)


def default_side(pipe: Any) -> int:
    """Side of the pictures that a pipe draws, in pixels. Raises ValueError if it does not say."""
    from secateur.denoiser.of_pipe import denoiser_of

    config: Any = denoiser_of(pipe).config
    side = config.get("sample_size") or getattr(pipe, "default_sample_size", None)
    if side is None:
        raise ValueError(f"{type(pipe).__name__} has no size of its own: give the side of the pictures by --size")
    return side * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
