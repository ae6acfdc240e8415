"""Prompts and class labels: read from a file, repeated, checked against a pipe."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.files import read_text

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

CALIBRATION_SEED = 40_000  # what is searched or scored is drawn from here on, what is measured from 0: no image is in both


def read_prompts(path: Path) -> list[str] | list[int]:
    """The prompts in a file, one a line; class labels if all are whole numbers. Raises OSError or ValueError if it has none."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"there is no file {path}: give a text file with one prompt a line") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from error
    if not lines:
        raise ValueError(f"{path} holds no prompt: write one a line")
    return conditions_of(lines)


def conditions_of(lines: list[str]) -> list[str] | list[int]:
    """Class labels if all lines are whole numbers, otherwise prompts."""
    return [int(line) for line in lines] if all(re.fullmatch(r"-?\d+", line) for line in lines) else lines


def repeated(items: list, count: int) -> tuple:
    """`count` of the items, from the first again after the last."""
    return tuple(items[i % len(items)] for i in range(count))


def digest(conditions: tuple) -> str:
    """SHA-256 of prompts or labels, as a schedule's `made` has it of those that it was searched with."""
    return hashlib.sha256("\n".join(map(str, conditions)).encode()).hexdigest()


def check_tokens(pipe, conditions: tuple) -> None:
    """Raises ValueError if a prompt is longer than any tokenizer of the pipe reads: its end would be ignored.

    A tokenizer reads what it is made for, and no more than what the pipe's call cuts prompts at (`max_sequence_length`).
    """
    tokenizers = [part for name, part in pipe.components.items() if name.startswith("tokenizer") and part is not None]
    cut = signature(type(pipe).__call__).parameters.get("max_sequence_length")
    limit = cut.default if cut and cut.default else float("inf")
    for prompt in (c for c in conditions if isinstance(c, str)):
        counts = [(len(tokenizer(prompt).input_ids), min(tokenizer.model_max_length, limit)) for tokenizer in tokenizers]
        if counts and all(tokens > most for tokens, most in counts):
            tokens, most = max(counts, key=lambda count: count[1])
            raise ValueError(f"the prompt {prompt[:40]!r}… has {tokens} tokens and the tokenizer reads {most}: shorten it")


def guidance_of(pipe: DiffusionPipeline, source: str, wanted: float | None) -> float:
    """The guidance scale: `wanted`, else the zoo's for a pipe of the zoo, else the default of the pipe's own call."""
    from secateur import zoo

    if wanted is not None:
        return wanted
    return zoo.GUIDANCE.get(source) or signature(type(pipe).__call__).parameters["guidance_scale"].default


def conditions_for(pipe: DiffusionPipeline, prompts: Sequence[Any] | None, images: int) -> tuple[Any, ...]:
    """What to draw `images` images by: the prompts, repeated; by default those of the zoo for its own pipes.

    Raises ValueError if there are none, or if the pipe's tokenizers would cut one off.
    """
    from secateur import zoo
    from secateur.pipeline.pipes import zoo_name

    if prompts is None:
        if (name := zoo_name(pipe)) is None:
            raise ValueError(f"found no prompts for a {type(pipe).__name__}: give some like those that it will be used with")
        return zoo.conditions(name, images, calibration=True)[0]
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(f"found prompts={prompts!r}, wanted a list of them: give one or more in brackets")
    conditions = repeated(list(prompts), images)
    check_tokens(pipe, conditions)
    return conditions


def conditions_in(
    prompts: Path | None, images: int, *, pipe: str, calibration: bool = False
) -> tuple[tuple, tuple[str, ...] | None]:
    """What to draw, `images` times: a file's prompts, or the zoo's for its pipes; and captions that the zoo's judge can read.

    calibration: the zoo's own captions other than those it is judged by.
    """
    from secateur import zoo

    if prompts is not None:
        return repeated(read_prompts(prompts), images), None
    if pipe not in zoo.NAMES:
        doing = "look at" if calibration else "measure"
        raise ValueError(f"there are no prompts to {doing} {pipe} with: give a file with one a line by --prompts")
    return zoo.conditions(pipe, images, calibration=calibration)
