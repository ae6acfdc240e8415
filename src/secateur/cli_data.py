"""What `secateur distil` makes examples of: pictures from a source, or prompts; checked before any work, known again later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.terminal import console, guidance_of, progress, read_prompts

if TYPE_CHECKING:
    from secateur.dataset import Pair
    from secateur.examples import Examples

HUB, TARS, SCENES = "hub:", "tars:", "scenes"


@dataclass(frozen=True)
class Data:
    """What examples are made of: the teacher with pictures from a source, or with prompts alone by which it draws."""

    teacher: str
    source: str | None
    prompts: str | None
    limit: int
    size: int | None
    caption: str | None
    steps: int
    guidance_scale: float | None
    seed: int


def check_data(asked: Data) -> None:
    """Nothing; ValueError, FileNotFoundError before any work where the data cannot be read."""
    from secateur import dataset, zoo

    source, prompts = asked.source, asked.prompts
    if (source is None) == (prompts is None):
        raise ValueError("found both --data and --prompts or neither: give pictures with captions, or prompts alone")
    if prompts is not None and not Path(prompts).is_file():
        raise FileNotFoundError(f"there is no file {prompts}: write prompts into it, one a line")
    if source == SCENES and asked.teacher not in zoo.NAMES:
        raise ValueError(f"the zoo's scenes are for {' and '.join(zoo.NAMES)}, not for {asked.teacher}: give a folder")
    if source is None or source == SCENES:
        return
    if not source.startswith((HUB, TARS)):
        dataset.metadata(Path(source), caption=asked.caption)
        return
    dataset.loader()
    if source.startswith(TARS) and "://" not in source and not tar_files(source):
        raise FileNotFoundError(f"no file matches {source.removeprefix(TARS)}: give the tar files by name, or with a *")


def examples_of(path: Path, asked: Data, pipe: Any, batch_size: int, accelerator: Any) -> Examples:
    """The examples in a file, where they were made of the same data by the same pipe; otherwise they are made, and saved there.

    ValueError: they are others, and a distillation in the same folder goes on from a checkpoint that learnt from them.
    """
    from secateur import store

    made = made_of(asked, pipe)
    if (accelerator is None or accelerator.is_main_process) and not is_made(path, made):
        check_pictures(asked)
        numbers = store.making(partial(parts, asked, pipe, batch_size=batch_size), path, made=made)
        watched(numbers, asked.limit, path.parent)
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return store.load(path, made=made)


def check_pictures(asked: Data) -> None:
    """Nothing; ValueError for a picture of a folder that cannot be read. Once any are encoded, mending it would lose them."""
    from secateur import dataset

    if asked.source is None or asked.source == SCENES or asked.source.startswith((HUB, TARS)):
        return
    names = [name for name, _ in dataset.metadata(Path(asked.source), caption=asked.caption)[: asked.limit]]
    with progress() as bar:
        for name in bar.track(names, description="reading pictures"):
            dataset.read_image(Path(asked.source, name), size=1)


def watched(numbers: Iterator[int], limit: int, folder: Path) -> None:
    """All examples are made; an interrupt says where to go on from."""
    number = 0
    with progress() as bar:
        task = bar.add_task("making examples", total=limit)
        try:
            for number in numbers:
                bar.update(task, completed=number)
        except KeyboardInterrupt:
            console.print(f"stopped after {number} examples; the same command goes on from {folder}", soft_wrap=True)
            raise SystemExit(130) from None


def is_made(path: Path, made: Mapping[str, Any]) -> bool:
    """Whether a file has the examples that would be made; ValueError where it has others and there is a checkpoint of them."""
    from secateur import checkpoints, store

    if not path.exists():
        return False
    try:
        store.load(path, made=made)
    except ValueError:
        if (path.parent / checkpoints.FILE).exists():
            raise
        console.print(f"{path} is damaged, or of other data or another teacher, and is made again", soft_wrap=True)
        return False
    return True


def made_of(asked: Data, pipe: Any) -> dict[str, Any]:
    """What examples are made of, as JSON that differs where they would: the data, the pipe's weights, how it draws."""
    from secateur import fingerprint
    from secateur.schedule import scheduler_signature

    found = asdict(asked) | {"teacher": fingerprint.of_pipe(pipe), "source": source_of(asked)}
    if asked.prompts is None:
        return found | {"steps": None, "guidance_scale": None}
    guidance = guidance_of(pipe, asked.teacher, asked.guidance_scale)
    text = fingerprint.of_bytes(Path(asked.prompts).read_bytes())
    drawn = {"guidance_scale": guidance, "scheduler": list(scheduler_signature(pipe.scheduler))}
    return found | drawn | {"prompts": f"{Path(asked.prompts)} with text {text}"}


def source_of(asked: Data) -> str | None:
    """The source of pictures, and of local ones what tells that they were edited: the metadata, sizes and times of files."""
    from secateur import dataset, fingerprint

    source = asked.source
    if source is None or source == SCENES or source.startswith(HUB):
        return source
    if source.startswith(TARS):
        return f"{source} with files {fingerprint.of_files(tar_files(source))}"
    names = [name for name, _ in dataset.metadata(Path(source), caption=asked.caption)[: asked.limit]]
    text = fingerprint.of_bytes((Path(source) / dataset.METADATA).read_bytes())
    return f"{Path(source)} with captions {text}, files {fingerprint.of_files(Path(source, name) for name in names)}"


def tar_files(source: str) -> list[Path]:
    """The local tar files that a source names."""
    pattern = Path(source.removeprefix(TARS))
    return list(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))


def parts(asked: Data, pipe: Any, first: int, *, batch_size: int) -> Iterator[Examples]:
    """The examples from number `first` on, some at a time."""
    from secateur import dataset

    if asked.prompts is None:
        found = pairs(asked, default_side(pipe))
        return dataset.encoded(pipe, found, first=first, limit=asked.limit, batch_size=batch_size)
    call = {"num_inference_steps": asked.steps, "guidance_scale": guidance_of(pipe, asked.teacher, asked.guidance_scale)}
    prompts = read_prompts(Path(asked.prompts))
    return dataset.drawn(pipe, prompts, first=first, count=asked.limit, seed=asked.seed, batch_size=batch_size, **call)


def pairs(asked: Data, side: int) -> Iterator[Pair]:
    """Pictures with captions, as large as asked, or of this side."""
    from secateur import dataset

    source, size, caption = asked.source or "", asked.size or side, asked.caption
    if source == SCENES:
        return dataset.scenes(asked.teacher, seed=asked.seed)
    if source.startswith(HUB):
        return dataset.from_datasets(source.removeprefix(HUB), size=size, caption=caption)
    if source.startswith(TARS):
        return dataset.from_datasets("webdataset", size=size, caption=caption, data_files=source.removeprefix(TARS))
    return dataset.from_folder(source, size=size, caption=caption)


def default_side(pipe: Any) -> int:
    """Side of the pictures that a pipe draws, in pixels."""
    from secateur.subnet import component

    config: Any = component(pipe).config
    return config["sample_size"] * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
