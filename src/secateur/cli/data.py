"""What `secateur distil` makes examples of: pictures from a source, or prompts; checked before any work, known again later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.cli.long_job import last_step
from secateur.cli.terminal import console
from secateur.distilling.sources import HUB, SCENES, TARS, Data, call_of, made_of, make_examples, text_of
from secateur.pipeline.progress import View, bar
from secateur.pipeline.prompts import check_tokens, read_prompts

if TYPE_CHECKING:
    from secateur.pipeline.examples import Examples


def examples_of(path: Path, data: Data, pipe: Any, batch_size: int, accelerator: Any) -> Examples:
    """The examples in a file, if the same pipe made them of the same data; otherwise they are made, and saved there.

    Raises ValueError if they are others, and a checkpoint in the same folder has learnt from them.
    """
    some, names = partial(make_examples, data, pipe, batch_size=batch_size), pictures_of(data)
    most = data.limit if names is None else len(names)
    return made_once(path, some, made=made_of(data, pipe), limit=most, accelerator=accelerator,
                     before=partial(check_pictures, data))  # fmt: skip


def unpictured_of(path: Path, data: Data, pipe: Any, batch_size: int, accelerator: Any) -> Examples | None:
    """The conditions of prompts without pictures, if there are any, kept like the examples."""
    from secateur.denoiser import fingerprint
    from secateur.distilling import encoded

    if data.unpictured is None:
        return None
    prompts = read_prompts(Path(data.unpictured))
    call = call_of(data, pipe)
    made = {"teacher": fingerprint.of_pipe(pipe), "--unpictured-prompts": text_of(data.unpictured), "call": call}

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
    """The examples in a file; one process makes them if it has none or others.

    some: gives those from a number on. before: what is checked first.
    """
    from secateur.distilling import store

    if (accelerator is None or accelerator.is_main_process) and not is_made(path, made):
        before()
        last_step(
            store.making(some, path, made=made),
            lambda number: View("making examples", number, limit),
            first="making examples",
            stopped=lambda number: f"after {number or 0} examples",
            resume=f"the examples in {path.parent}",
        )
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return store.load(path, made=made)


def check_prompts(data: Data, pipe: Any) -> None:
    """Raises ValueError or TypeError if the pipe does not take the prompts; prints a note if it cuts one short."""
    from secateur.pipeline import generate as generating

    for file in filter(None, (data.prompts, data.unpictured)):
        prompts = read_prompts(Path(file))
        generating.check_call(pipe, prompts, seeds=range(len(prompts)), batch_size=1, call={})
        try:
            check_tokens(pipe, tuple(prompts))
        except ValueError as error:
            console.print(f"note: {error}", soft_wrap=True)


def pictures_of(data: Data) -> list[str] | None:
    """The names of the pictures in a folder, as many as are wanted; None for another source."""
    from secateur.distilling import pictures

    if data.source is None or data.source == SCENES or data.source.startswith((HUB, TARS)):
        return None
    return [name for name, _ in pictures.metadata(Path(data.source), caption=data.caption)[: data.limit]]


def check_pictures(data: Data) -> None:
    """Raises ValueError if a picture of a folder cannot be read: later, mending it would lose those that are encoded."""
    from secateur.distilling import pictures

    with bar() as shown:
        for name in shown.track(pictures_of(data) or (), description="reading pictures"):
            pictures.read_image(Path(data.source or "", name), size=1, background=data.background)


def is_made(path: Path, made: Mapping[str, Any]) -> bool:
    """Whether a file has these examples. Raises ValueError if it has others, and a checkpoint has learnt from them."""
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
