"""What `secateur distil` makes examples of: pictures from a source, or prompts; checked before any work, known again later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli.follow import follow
from secateur.cli.terminal import console, progress
from secateur.distilling.sources import HUB, SCENES, TARS, Data, call_of, made_of, make_examples, text_of
from secateur.pipeline.progress import View
from secateur.pipeline.prompts import check_tokens, read_prompts

if TYPE_CHECKING:
    from secateur.pipeline.examples import Examples


def examples_of(path: Path, asked: Data, pipe: Any, batch_size: int, accelerator: Any) -> Examples:
    """The examples in a file, where they were made of the same data by the same pipe; otherwise they are made, and saved there.

    ValueError: they are others, and a distillation in the same folder goes on from a checkpoint that learnt from them.
    """
    some = partial(make_examples, asked, pipe, batch_size=batch_size)
    return made_once(path, some, made=made_of(asked, pipe), limit=asked.limit, accelerator=accelerator,
                     before=partial(check_pictures, asked))  # fmt: skip


def unpictured_of(path: Path, asked: Data, pipe: Any, batch_size: int, accelerator: Any) -> Examples | None:
    """The conditions of prompts without pictures, where there are some, kept like the examples."""
    from secateur.denoiser import fingerprint
    from secateur.distilling import encoded

    if asked.unpictured is None:
        return None
    prompts = read_prompts(Path(asked.unpictured))
    call = call_of(asked, pipe)
    made = {"teacher": fingerprint.of_pipe(pipe), "--unpictured-prompts": text_of(asked.unpictured), "call": call}

    def some(first: int) -> Iterator[Examples]:
        return encoded.unpictured(pipe, prompts, first=first, batch_size=batch_size, **call)

    return made_once(path, some, made=made, limit=len(prompts), accelerator=accelerator)


def made_once(
    path: Path,
    some: Callable[[int], Iterator[Examples]],
    *,
    made: Mapping[str, Any],
    limit: int,
    accelerator: Any,
    before: Callable[[], None] = lambda: None,
) -> Examples:
    """The examples in a file, made by one process where it has none or others.

    some: gives those from a number on. before: what is checked first.
    """
    from secateur.distilling import store

    if (accelerator is None or accelerator.is_main_process) and not is_made(path, made):
        before()
        follow(
            store.making(some, path, made=made),
            lambda number: View("making examples", number, limit),
            first="making examples",
            stopped=lambda number: f"after {number or 0} examples",
            resume=str(path.parent),
        )
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return store.load(path, made=made)


def check_prompts(asked: Data, pipe: Any) -> None:
    """Nothing; ValueError, TypeError before any drawing for prompts that the pipe does not take. One cut short is noted."""
    from secateur.pipeline import generate as generating

    for file in filter(None, (asked.prompts, asked.unpictured)):
        prompts = read_prompts(Path(file))
        generating.check(pipe, prompts, seeds=range(len(prompts)), batch_size=1, call={})
        try:
            check_tokens(pipe, tuple(prompts))
        except ValueError as error:
            console.print(f"note: {error}", soft_wrap=True)


def check_pictures(asked: Data) -> None:
    """Nothing; ValueError for a picture of a folder that cannot be read. Once any are encoded, mending it would lose them."""
    from secateur.distilling import pictures

    if asked.source is None or asked.source == SCENES or asked.source.startswith((HUB, TARS)):
        return
    names = [name for name, _ in pictures.metadata(Path(asked.source), caption=asked.caption)[: asked.limit]]
    with progress() as bar:
        for name in bar.track(names, description="reading pictures"):
            pictures.read_image(Path(asked.source, name), size=1)


def is_made(path: Path, made: Mapping[str, Any]) -> bool:
    """Whether a file has the examples that would be made; ValueError where it has others and there is a checkpoint of them."""
    from secateur.distilling import checkpoints, store

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
