"""What the commands share: their options, one console, and how they load a pipe and end."""

from __future__ import annotations

import json as jsons
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from secateur.artifact import check_place
from secateur.files import read_json, shown
from secateur.schedule.baselines import check_keep

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from secateur.schedule.schedule import Schedule


class Terminal(Console):
    """A console on which every text is `shown`."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(shown(text), **how)


console = Terminal()
AUTO = "auto"
TIME, DEPTH, DRAW, LOOK = "Fewer calls", "Fewer layers", "Draw and measure", "Look, without weights"  # groups of --help
SHARE = "Share"

Pipe = Annotated[str, typer.Argument(metavar="PIPE", help="emoji-sd, emoji-dit, a local folder, or a Hub id owner/name")]
Denoiser = Annotated[str, typer.Argument(metavar="PIPE", help="as elsewhere, or a full-size name such as sd15 or sdxl")]
Granularity = Annotated[str | None, typer.Option(help="stage or layer; default: the coarsest that the denoiser has")]
AsJson = Annotated[bool, typer.Option("--json", help="make the last line one JSON document")]
Steps = Annotated[int, typer.Option(min=1, help="steps of the dense pipeline")]
SameSteps = Annotated[int | None, typer.Option(min=1, help="steps of the dense pipeline; default: as the schedule says, or 50")]
SameGuidance = Annotated[float | None, typer.Option(help="guidance scale; default: as the schedule says, or the pipe's own")]
Guidance = Annotated[float | None, typer.Option(help="guidance scale; default: the pipe's own")]
Seed = Annotated[int, typer.Option(help="seed of the first image; the others count on")]
CalibrationSeed = Annotated[
    int, typer.Option(help="seed of the first image; far from 0, from which generate and measure count")
]
BatchSize = Annotated[int, typer.Option(min=1, help="images made at once; does not change them")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16; auto: as the pipe's weights are stored")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, …; auto: the accelerator if there is one")]
Keep = Annotated[float, typer.Option(callback=check_keep, help="fraction of the dense MACs to keep, in (0, 1]")]
Attention = Annotated[bool, typer.Option("--attention", help="count the attention products too")]
Prompts = Annotated[Path | None, typer.Option(help="a text file, one prompt (or class label) a line")]
_SCHEDULER = "a class of diffusers or, for example, 'DPM-Solver++ Karras'; default: "
Scheduler = Annotated[str | None, typer.Option(help=f"{_SCHEDULER}the schedule's, the pipe's own")]
SearchScheduler = Annotated[str | None, typer.Option(help=f"{_SCHEDULER}the pipe's own")]
Force = Annotated[bool, typer.Option("--force", help="replace what another command left there")]
ScheduleOut = Annotated[Path, typer.Option("--out", "-o", help="where to write the schedule")]


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["secateur", *sys.argv[1:]])


def finish(document: dict[str, Any], *, as_json: bool) -> None:
    """With --json, the last line."""
    if as_json:
        print(shown(jsons.dumps(document, ensure_ascii=False)))


def drawn_with(schedules: Iterable[Schedule], steps: int | None, guidance_scale: float | None) -> tuple[int, float | None]:
    """Steps and guidance: the options', else what the schedules were found with, else 50 and None, for the pipe's own.

    Raises ValueError if an option is left out and the schedules disagree.
    """
    schedules = tuple(schedules)
    if guidance_scale is None:
        guidance_scale = agreed(schedules, "guidance_scale", "--guidance-scale")
    return steps or agreed(schedules, "num_inference_steps", "--steps") or 50, guidance_scale


def agreed(schedules: Iterable[Schedule], name: str, option: str) -> Any:
    """The one number by which the schedules were found, if any says it. Raises ValueError if there are several."""
    found = sorted({value for one in schedules if isinstance(value := one.made.get(name), (int, float))})
    if len(found) > 1:
        numbers = ", ".join(f"{value:g}" for value in found)
        raise ValueError(f"the schedules were found with different {name}, {numbers}: say by {option} which to draw with")
    return found[0] if found else None


def tell_drawn_with(steps: int, guidance: float) -> None:
    """Print the steps and the guidance that pictures are drawn with."""
    console.print(f"drawing with {steps} steps and guidance {guidance:g}", soft_wrap=True, highlight=False)


def check_pipe(pipe: str, *, dtype: str = AUTO, device: str = AUTO) -> None:
    """Raises ValueError or OSError if there is no such pipe, dtype or device; without diffusers, whose import takes seconds."""
    from secateur.pipeline import pipes

    pipes.locate(pipe)
    pipes.check_dtype(dtype)
    device_of(device)


def load_pipe(pipe: str, *, dtype: str = AUTO, device: str = AUTO) -> DiffusionPipeline:
    """The pipe on a device, without the libraries' own bars and remarks. Raises ValueError if dtype or device is unknown."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from secateur.pipeline import pipes

    where = device_of(device)
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    return pipes.load(pipe, dtype=dtype, device=where)


def device_of(name: str) -> str:
    """The device of this name; "auto" is the accelerator if there is one. Raises ValueError if it is not here."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    there = ["cpu", *([accelerator.type] if accelerator else [])]
    if name == AUTO:
        return there[-1]
    if name.partition(":")[0] not in there:
        raise ValueError(f"there is no device {name!r} here: choose {' or '.join(there)}")
    return name


def accelerator_for(mixed_precision: str, log_with: str | None, folder: Path, *, device: str, project: str):
    """An Accelerator if accelerate or torchrun launched this process, or if a tracker is wanted; otherwise None."""
    if log_with is None and not {"LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"} & set(os.environ):
        return None
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    check_tracker(log_with)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        mixed_precision = "no"  # by which DeepSpeed would round weights; see `zero`
    patient = InitProcessGroupKwargs(timeout=timedelta(days=7))  # the others wait while one encodes all pictures
    accelerator = Accelerator(
        cpu=device_of(device) == "cpu",
        mixed_precision=mixed_precision,
        log_with=log_with,
        project_dir=folder,
        kwargs_handlers=[patient],
    )
    if log_with is not None:
        accelerator.init_trackers(project)
    return accelerator


def check_tracker(name: str | None) -> None:
    """Raises ValueError if a tracker is not installed; accelerate would leave it out without a word."""
    from accelerate.tracking import get_available_trackers

    trackers = [str(tracker) for tracker in get_available_trackers()]
    if name not in (None, "all", *trackers):
        there = f", or choose {', '.join(trackers)}" if trackers else ""
        raise ValueError(f"the tracker {name} is not installed: pip install {name}{there}, or leave --log-with out")


def check_new(out: Path, *, force: bool = False) -> None:
    """Raises FileExistsError if a file is there already; one that this very command wrote may be replaced."""
    if out.exists() and not force and command_of(out) != command_line():
        raise FileExistsError(f"{out} is there already: give another name by --out, or --force to replace it")


def check_saved_pipe(out: Path, *, force: bool, needed: Mapping[str, Path | None]) -> None:
    """Raises OSError, before any work, if the folder of a new pipe cannot be written, or would replace what it must not.

    A pipe that this very command saved may be replaced: the command was killed afterwards, or is run again.
    needed: folders that the command reads, by what lies there. force: whether another pipe that is there may go.
    """
    for name, folder in needed.items():
        if folder is not None and folder.resolve().is_relative_to(out.resolve()):
            raise FileExistsError(f"{out} is or holds the folder of the {name}, which saving would delete: give another --out")
    if out.exists() and not (out / "model_index.json").is_file():
        raise FileExistsError(f"{out} is there and no pipeline, so it will not be replaced: give another folder by --out")
    if out.exists() and not force and command_of(out / "plan.json") != command_line():
        raise FileExistsError(f"{out} is there already: give another folder by --out, or --force to replace it")
    check_writable(out.parent, folder=True) if out.exists() else check_writable(out)


def command_of(path: Path) -> str | None:
    """The command that wrote a schedule or a record, if the file says so."""
    try:
        document = read_json(path, "file")
    except (OSError, ValueError):
        return None
    told = document if isinstance(document, dict) else {}
    return told.get("command") or (told.get("made") or {}).get("command")


def check_writable(out: Path, *, folder: bool = False, option: str = "--out") -> None:
    """Raises OSError, before any work, if a file, or a folder with its parents, could not be written at the end."""
    if out.is_dir() and not folder:
        raise IsADirectoryError(f"{out} is a folder and cannot be written: give a file by {option}")
    if out.exists() and not out.is_dir() and folder:
        raise NotADirectoryError(f"{out} is a file and a folder is wanted: give another name by {option}")
    check_place(out, folder=folder, otherwise=f"give another place by {option}")
