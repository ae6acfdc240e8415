"""The command that teaches a student: distil."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from filecmp import cmp
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table, box

from secateur.cli.changes import EXTRAS, parse_changes
from secateur.cli.data import check_prompts, examples_of, unpictured_of
from secateur.cli.long_job import last_step
from secateur.cli.terminal import (
    AUTO,
    DEPTH,
    AsJson,
    Device,
    Dtype,
    Force,
    accelerator_for,
    check_pipe,
    check_saved_pipe,
    check_writable,
    command_line,
    console,
    finish,
    load_pipe,
)
from secateur.distilling.sources import HUB, SCENES, TARS, WHITE, Data, call_of, called_by, check_data
from secateur.pipeline.progress import View

if TYPE_CHECKING:
    from secateur.distilling.settings import DistilSettings
    from secateur.distilling.training import DistilStep
    from secateur.pruning.plan import Plan

app = typer.Typer()
EXAMPLES, UNPICTURED, PLAN = "examples.safetensors", "unpictured.safetensors", "plan.json"
DATA, LEARNING = (partial(typer.Option, rich_help_panel=name) for name in ("Data", "Learning"))
Student = Annotated[Path, typer.Argument(metavar="STUDENT", help="folder of the student's pipe, as `secateur prune` saves it")]
Teacher = Annotated[str, typer.Option(help="the pipe that the student was cut from")]
Source = Annotated[str | None, typer.Option(help=f"pictures: a folder, {HUB}OWNER/NAME, {TARS}FILES or {SCENES}")]
Prompts = Annotated[Path | None, typer.Option(help="without pictures: prompts by which the teacher draws, one a line")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="folder for the pipe; default: STUDENT-distilled")]
Updates = Annotated[int, typer.Option(min=1, help="updates of the student's weights")]
BatchSize = Annotated[int, typer.Option(min=1, help="samples at once, over all processes")]
Rate = Annotated[float, typer.Option(help="highest learning rate")]
Seed = Annotated[int, typer.Option(help="seed of the samples' order, timesteps and noise")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="another setting, or a JSON file of them; may be repeated"),
]
Limit = Annotated[int, DATA(min=1, help="examples at most")]
Size = Annotated[int | None, DATA(min=8, help="side of the pictures; default: the pipe's")]
Caption = Annotated[str | None, DATA(help="column with the captions; default: text, caption, …")]
Background = Annotated[str, DATA(help="colour behind what is transparent in pictures")]
Subset = Annotated[str | None, DATA(help="which one of a Hub dataset that has several")]
Split = Annotated[str | None, DATA(help="which one of a dataset; default: train")]
DrawSteps = Annotated[int, DATA(min=1, help="steps by which the teacher draws")]
DrawGuidance = Annotated[float | None, DATA(help="the teacher's guidance scale; default: the pipe's own")]
AtCalled = Annotated[bool, DATA("--at-called-timesteps", help="for few-step models: learn only at the timesteps of --steps")]
Unpictured = Annotated[Path | None, DATA(help="a file of more prompts; --set swap_rate=0.5 gives them to noisy samples")]
Precision = Annotated[str, LEARNING(help="no, bf16 or fp16")]
Checkpoints = Annotated[Path | None, LEARNING(help="folder to go on from; default: OUT-checkpoints")]
Tracker = Annotated[str | None, LEARNING(help="a tracker of accelerate, such as tensorboard")]


@dataclass(frozen=True)
class Folders:
    """Where the student lies, where the pipe is saved, and where checkpoints are."""

    student: Path
    out: Path
    checkpoints: Path


@app.command(rich_help_panel=DEPTH)
def distil(
    student: Student,
    teacher: Teacher,
    data: Source = None,
    prompts: Prompts = None,
    out: Out = None,
    updates: Updates = 1000,
    batch_size: BatchSize = 8,
    lr: Rate = 5e-5,
    changes: Changes = None,
    seed: Seed = 0,
    dtype: Dtype = AUTO,
    device: Device = AUTO,
    force: Force = False,
    json: AsJson = False,
    limit: Limit = 10_000,
    size: Size = None,
    caption: Caption = None,
    background: Background = WHITE,
    subset: Subset = None,
    split: Split = None,
    steps: DrawSteps = 25,
    guidance_scale: DrawGuidance = None,
    at_called_timesteps: AtCalled = False,
    unpictured_prompts: Unpictured = None,
    mixed_precision: Precision = "no",
    checkpoints: Checkpoints = None,
    log_with: Tracker = None,
) -> None:
    """Teach a student what its teacher predicts. Stopped, the same command goes on from its last checkpoint.

    --set takes, for example, lr_schedule=cosine, warmup=50, checkpointing=true (saves memory) or save_every=100.
    docs/howto/students.md lists all settings. --dtype is the teacher's: the student learns in float32.
    """
    from secateur.pruning.plan import Plan

    more = parse_changes(changes or ())
    settings = settings_of(more, updates=updates, batch_size=batch_size, lr=lr, seed=seed, mixed_precision=mixed_precision)
    source = Data(teacher, data, prompts and str(prompts), limit, size, caption, steps, guidance_scale, seed, subset, split,
                  unpictured_prompts and str(unpictured_prompts), at_called_timesteps, background)  # fmt: skip
    out = out or beside(student, "distilled")
    folders = Folders(student, out, checkpoints or beside(out, "checkpoints"))
    check_unpictured(source, settings)
    check_pair(student, teacher)
    check_pipe(teacher, dtype=dtype, device=device)
    check_data(source)
    check_folders(folders, teacher, settings, force=force)
    plan = Plan.load(student / PLAN) if (student / PLAN).is_file() else None
    accelerator = accelerator_for(mixed_precision, log_with, folders.checkpoints, device=device, project="secateur-distil")
    where = device if accelerator is None else str(accelerator.device)
    pipes = load_pipe(str(student), dtype="float32", device=where), load_pipe(teacher, dtype=dtype, device=where)
    last = train(*pipes, source, settings, plan=plan, more=more, folders=folders, accelerator=accelerator)
    if accelerator is None or accelerator.is_main_process:
        console.print(term_table(last), *nearness(last, student), f"wrote {out}", sep="\n", soft_wrap=True)
        finish({"out": str(out), "updates": last.number, "raw": dict(last.raw), "normalized": dict(last.normalized),
                "total": last.total, "untaught": last.untaught, "taught": last.taught,
                "command": command_line()}, as_json=json)  # fmt: skip


def train(
    student: Any,
    teacher: Any,
    source: Data,
    settings: DistilSettings,
    *,
    plan: Plan | None,
    more: Mapping[str, Any],
    folders: Folders,
    accelerator: Any,
) -> DistilStep:
    """The last step of a student that learnt from data; its pipe is saved. more: `sites` and `save_every`, if given."""
    from secateur.denoiser.of_pipe import denoiser_of
    from secateur.distilling import features
    from secateur.distilling.distil import pipe_steps

    net, pupil, folder, batch_size = denoiser_of(teacher), denoiser_of(student), folders.checkpoints, settings.batch_size
    note_teacher(plan, net)
    sites = features.named_sites(more["sites"]) if "sites" in more else None
    features.check_sites(net, pupil, sites or (features.sites(net, pupil, plan=plan) if settings.feature else {}))
    features.check_inputs(net, pupil)
    check_prompts(source, teacher)
    examples = examples_of(folder / EXAMPLES, source, teacher, batch_size, accelerator)
    settings = replace(settings, called=called_by(source, teacher, labels="class_labels" in examples.conditions))
    unpictured = unpictured_of(folder / UNPICTURED, source, teacher, batch_size, accelerator)
    updates = pipe_steps(student, teacher, examples, call=call_of(source, teacher), settings=settings, plan=plan, sites=sites,
                         unpictured=unpictured, folder=folder, save_every=more.get("save_every", 500),
                         accelerator=accelerator)  # fmt: skip
    last = last_step(
        updates,
        lambda step: View("distilling", step.number, settings.updates),
        first="distilling",
        above=term_table,
        stopped=lambda step: f"after {step.number} updates" if step else "before the first update",
        resume=f"the last checkpoint in {folder}",
    )
    save_student(student, folders, plan=plan, accelerator=accelerator)
    return last


def save_student(student: Any, folders: Folders, *, plan: Plan | None, accelerator: Any) -> None:
    """Save the pipe of a trained student, in the dtype that it had in its folder."""
    from secateur.denoiser.of_pipe import denoiser_of
    from secateur.distilling.checkpoints import whole
    from secateur.distilling.training import copy_weights
    from secateur.pipeline import pipes

    weights = {name: whole(p.detach()) for name, p in denoiser_of(student).named_parameters()}
    if accelerator is not None and not accelerator.is_main_process:
        return
    if accelerator is not None:  # what processes have shared out between them cannot be saved as it is
        student = pipes.load(str(folders.student), dtype="float32")
        copy_weights(weights, denoiser_of(student))
    pipes.save(pipes.as_stored(student), folders.out, beside={} if plan is None else {PLAN: plan})


# Settings


def settings_of(more: Mapping[str, Any], **given: Any) -> DistilSettings:
    """The settings of a distillation: the defaults of `secateur.distil`, and what was given. Raises ValueError."""
    from secateur.distilling.distil import DEFAULTS

    own = {name: value for name, value in more.items() if name not in EXTRAS}
    settings = replace(DEFAULTS, **given, **own)
    if "sites" in more and not settings.feature:
        raise ValueError("sites are where features are compared, and feature is 0: leave one of the two out")
    return settings


# What is given


def beside(folder: Path, word: str) -> Path:
    """The folder of this name beside another."""
    return folder.with_name(f"{folder.name}-{word}")


def check_unpictured(source: Data, settings: DistilSettings) -> None:
    """Raises ValueError if no sample would get the prompts without pictures."""
    if source.unpictured and not settings.swap_rate:
        raise ValueError("--unpictured-prompts are for noisy samples, and swap_rate is 0: give both, as --set swap_rate=0.5")


def check_pair(student: Path, teacher: str) -> None:
    """Raises OSError or ValueError, before any weights are loaded, if these are not a student and its kind of teacher."""
    from secateur.distilling.features import check_inputs
    from secateur.pipeline import pipes

    if not student.is_dir():
        raise FileNotFoundError(f"there is no folder {student} of a student's pipe: make one by `secateur prune`")
    pipes.locate(str(student))
    located = pipes.locate(teacher)
    if located is not None and same_denoiser(located, student):
        raise ValueError(f"{student} is both student and teacher: give --teacher the pipe that the student was cut from")
    check_inputs(*map(pipes.denoiser_config, (teacher, str(student))))


def same_denoiser(pipe: Path, other: Path) -> bool:
    """Whether two folders hold one denoiser, by the bytes of its weights."""
    from secateur.denoiser.of_pipe import DENOISERS
    from secateur.pipeline.pipes import weight_files

    ours, theirs = ([file for name in DENOISERS for file in weight_files(folder / name)] for folder in (pipe, other))
    sizes = [[file.stat().st_size for file in files] for files in (ours, theirs)]
    return pipe.samefile(other) or (bool(ours) and sizes[0] == sizes[1] and all(map(partial(cmp, shallow=False), ours, theirs)))


def check_folders(folders: Folders, teacher: str, settings: DistilSettings, *, force: bool) -> None:
    """Raises OSError, before any work, if the pipe could not be saved, or only over one that these checkpoints did not make.

    Raises ValueError if these checkpoints are of other settings.
    """
    from secateur.distilling.checkpoints import FILE, check_settings
    from secateur.pipeline import pipes

    needed = {"teacher": pipes.locate(teacher), "student": folders.student, "checkpoints": folders.checkpoints}
    check_saved_pipe(folders.out, force=force or (folders.checkpoints / FILE).is_file(), needed=needed)
    check_writable(folders.checkpoints, folder=True, option="--checkpoints")
    check_settings(folders.checkpoints, settings)


def note_teacher(plan: Plan | None, teacher: Any) -> None:
    """Print a note if a student was cut from a net of another size than its teacher's."""
    from secateur.pruning.surgery import parameters

    cut_from = plan.made.get("teacher", {}).get("parameters") if plan else None
    if cut_from not in (None, parameters(teacher)):
        console.print(
            f"note: the student was cut from a net of {cut_from:,} parameters, and this teacher has {parameters(teacher):,}"
        )


def nearness(step: DistilStep, student: Path) -> Iterator[str]:
    """How far from its teacher the student was before and after, in a line that says if teaching did not help."""
    if step.untaught is None or step.taught is None:
        return
    told = f"mean square error to the teacher on new noise: {step.untaught:.4g} untaught, {step.taught:.4g} taught"
    kept = f"teaching did not help, so keep {student}, which is as it was, or try another --lr or more --updates"
    yield told if step.taught < step.untaught else f"{told}; {kept}"


def term_table(step: DistilStep) -> Table:
    """Every term of a step."""
    table = Table(box=box.SIMPLE_HEAD, title=f"update {step.number}, total {step.total:.4g}", title_justify="left")
    for heading in ("term", "mean square", "normalized"):
        table.add_column(heading, justify="left" if heading == "term" else "right")
    for name, value in step.raw.items():
        table.add_row(name, f"{value:.4g}", f"{step.normalized[name]:.4g}")
    return table
