"""What the commands share: their options, one console, progress bars, and how they load a pipe and end."""

from __future__ import annotations

import json as jsons
import os
import re
import shlex
import sys
from datetime import timedelta
from inspect import signature
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from secateur.denoiser.macs import Macs

DTYPES = ("float32", "bfloat16", "float16")
console = Console()

Pipe = Annotated[str, typer.Argument(metavar="PIPE", help="emoji-sd, emoji-dit, a local folder, or a Hub id owner/name")]
Denoiser = Annotated[str, typer.Argument(metavar="PIPE", help="as elsewhere, or a full-size name such as sd15 or sdxl")]
Granularity = Annotated[str | None, typer.Option(help="stage or layer; default: the coarsest that the denoiser has")]
AsJson = Annotated[bool, typer.Option("--json", help="make the last line one JSON document")]
Steps = Annotated[int, typer.Option(min=1, help="steps of the dense pipeline")]
Guidance = Annotated[float | None, typer.Option(help="guidance scale; default: the pipe's own")]
Seed = Annotated[int, typer.Option(help="seed of the first image; the others count on")]
BatchSize = Annotated[int, typer.Option(min=1, help="images made at once; does not change them")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps")]
Keep = Annotated[float, typer.Option(help="fraction of the dense MACs to keep, in (0, 1]")]
Keeps = Annotated[list[float], typer.Option(help="fraction of the dense MACs to keep, in (0, 1]; may be repeated")]
Attention = Annotated[bool, typer.Option("--attention", help="count the attention products too")]
Prompts = Annotated[Path | None, typer.Option(help="a text file, one prompt (or class label) a line")]
Scheduler = Annotated[str | None, typer.Option(help="class of diffusers' schedulers; default: the schedule's, the pipe's own")]
ScheduleOut = Annotated[Path, typer.Option("--out", "-o", help="where to write the schedule")]


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["secateur", *sys.argv[1:]])


def finish(document: dict[str, Any], *, as_json: bool) -> None:
    """With --json, the last line."""
    if as_json:
        print(jsons.dumps(document, ensure_ascii=False))


def progress() -> Progress:
    """A bar on stderr that vanishes when the work is done."""
    columns = (TextColumn("{task.description:40.80s}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def load_pipe(pipe: str, *, dtype: str = "float32", device: str = "cpu"):
    """The pipe, without the libraries' own bars and remarks on the way; ValueError for a dtype or device that is none here."""
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from secateur.pipeline import pipes

    if dtype not in DTYPES:
        raise ValueError(f"found dtype {dtype!r}: choose {', '.join(DTYPES)}")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.partition(":")[0]):
        raise ValueError(
            f"there is no device {device!r} here: choose {', '.join(name for name, found in there.items() if found)}"
        )
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    return pipes.load(pipe, dtype=dtype).to(device)


def accelerator_for(mixed_precision: str, log_with: str | None, folder: Path, *, device: str, project: str):
    """An Accelerator where accelerate or torchrun has launched this, or a tracker is wanted; otherwise None."""
    if log_with is None and not {"LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"} & set(os.environ):
        return None
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    check_tracker(log_with)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        mixed_precision = "no"  # by which DeepSpeed would round weights; see `zero`
    patient = InitProcessGroupKwargs(timeout=timedelta(days=7))  # the others wait while one encodes all pictures
    made = Accelerator(
        cpu=device == "cpu", mixed_precision=mixed_precision, log_with=log_with, project_dir=folder, kwargs_handlers=[patient]
    )
    if log_with is not None:
        made.init_trackers(project)
    return made


def check_tracker(name: str | None) -> None:
    """Nothing; ValueError for a tracker that is not installed, which accelerate would leave out."""
    from accelerate.tracking import get_available_trackers

    found = [str(tracker) for tracker in get_available_trackers()]
    if name not in (None, "all", *found):
        there = f", or choose {', '.join(found)}" if found else ""
        raise ValueError(f"the tracker {name} is not installed: pip install {name}{there}, or leave --log-with out")


def read_prompts(path: Path) -> list[str] | list[int]:
    """The prompts in a file, one a line, or class labels where all lines are whole numbers; ValueError where there is none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from error
    if not lines:
        raise ValueError(f"{path} holds no prompt: write one a line")
    return conditions_of(lines)


def conditions_of(lines: list[str]) -> list[str] | list[int]:
    """Class labels where all lines are whole numbers, otherwise the prompts that they are."""
    return [int(line) for line in lines] if all(re.fullmatch(r"-?\d+", line) for line in lines) else lines


def repeated(items: list, count: int) -> tuple:
    """`count` of the items, from the first again after the last."""
    return tuple(items[i % len(items)] for i in range(count))


def of_teacher(pipe: str, counted: Macs) -> float | None:
    """The fraction of its teacher's MACs that a student's call takes, by the plan in its folder; None without one."""
    from secateur.pipeline import pipes
    from secateur.pruning.plan import load

    folder = pipes.locate(pipe)
    path = folder / "plan.json" if folder else None
    teacher = load(path).made.get("teacher") if path and path.is_file() else None
    return counted.call() / teacher["macs_linear"] if teacher else None


def check_tokens(pipe, conditions: tuple) -> None:
    """Nothing; ValueError where a prompt is longer than any tokenizer of the pipe reads: its end would not be heard.

    A tokenizer reads what it is made for, and no more than what the pipe's call cuts prompts at (`max_sequence_length`).
    """
    found = [part for name, part in pipe.components.items() if name.startswith("tokenizer") and part is not None]
    cut = signature(type(pipe).__call__).parameters.get("max_sequence_length")
    limit = cut.default if cut and cut.default else float("inf")
    for prompt in (c for c in conditions if isinstance(c, str)):
        counts = [(len(tokenizer(prompt).input_ids), min(tokenizer.model_max_length, limit)) for tokenizer in found]
        if counts and all(tokens > most for tokens, most in counts):
            tokens, most = max(counts, key=lambda count: count[1])
            raise ValueError(f"the prompt {prompt[:40]!r}… has {tokens} tokens and the tokenizer reads {most}: shorten it")


def check_writable(out: Path, *, folder: bool = False, option: str = "--out") -> None:
    """Nothing; OSError before any work where a file, or a folder with those above it, could not be written at the end."""
    if out.is_dir() and not folder:
        raise IsADirectoryError(f"{out} is a folder and cannot be written: give a file by {option}")
    if out.exists() and not out.is_dir() and folder:
        raise NotADirectoryError(f"{out} is a file and a folder is wanted: give another name by {option}")
    above = next(path for path in (out.absolute(), *out.absolute().parents) if path.is_dir()) if folder else out.parent
    if above.exists() and not above.is_dir():
        raise NotADirectoryError(f"{above} is a file, in which {out.name} cannot be saved: give another name by {option}")
    if not above.is_dir():
        raise FileNotFoundError(f"there is no folder {above} to save {out.name} in: make it first")
    try:
        TemporaryFile(dir=above).close()  # a permission may be there and the file system read-only
    except OSError as error:
        raise PermissionError(f"{out} cannot be written ({error.strerror}): give another place by {option}") from error


def guidance_of(pipe: DiffusionPipeline, source: str, wanted: float | None) -> float:
    """The guidance scale: `wanted`, else the zoo's for a pipe of the zoo, else the default of the pipe's own call."""
    from secateur import zoo

    if wanted is not None:
        return wanted
    return zoo.GUIDANCE.get(source) or signature(type(pipe).__call__).parameters["guidance_scale"].default


def calibration_conditions(pipe: str, prompts: Path | None, images: int) -> tuple:
    """What to record the dense images of: the file's prompts, or the zoo's own captions other than those it is judged by."""
    from secateur import zoo

    if prompts is not None:
        return repeated(read_prompts(prompts), images)
    if pipe not in zoo.NAMES:
        raise ValueError(f"there are no prompts to look at {pipe} with: give a file with one a line by --prompts")
    return zoo.conditions(pipe, images, calibration=True)[0]
