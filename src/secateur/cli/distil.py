"""The command that teaches a student: distil."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table, box

from secateur.cli.data import check_prompts, examples_of, unpictured_of
from secateur.cli.terminal import (
    AUTO,
    AsJson,
    Device,
    Dtype,
    Guidance,
    Steps,
    accelerator_for,
    check_writable,
    command_line,
    console,
    finish,
    load_pipe,
    progress,
)
from secateur.distilling.sources import HUB, SCENES, TARS, Data, call_of, called_by, check_data

if TYPE_CHECKING:
    from secateur.distilling.settings import DistilSettings
    from secateur.distilling.training import DistilStep
    from secateur.pruning.plan import Plan

app = typer.Typer()
DATA, TERMS, LEARNING = (partial(typer.Option, rich_help_panel=name) for name in ("Data", "What is minimised", "Learning"))
EXAMPLES, UNPICTURED, PLAN = "examples.safetensors", "unpictured.safetensors", "plan.json"


@app.command()
def distil(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="folder of the student's pipeline")],
    teacher: Annotated[str, typer.Option(help="the pipe that the student was cut from")],
    data: Annotated[
        str | None, DATA(help=f"a folder with metadata.jsonl, {HUB}OWNER/NAME, {TARS}FILES, or {SCENES} (the zoo's)")
    ] = None,
    prompts: Annotated[Path | None, DATA(help="without pictures: prompts by which the teacher draws, one a line")] = None,
    unpictured_prompts: Annotated[
        Path | None, DATA(help="prompts without pictures that --swap-rate hands round too, one a line")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for the pipe; default: STUDENT-distilled")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="of a transformer: the plan it was cut by; default: STUDENT/plan.json")
    ] = None,
    checkpoints: Annotated[Path | None, typer.Option(help="folder to go on from; default: OUT-checkpoints")] = None,
    limit: Annotated[int, DATA(min=1, help="examples at most; of prompts and scenes just as many")] = 10_000,
    size: Annotated[int | None, DATA(min=8, help="side of the pictures; default: what the pipe draws")] = None,
    caption: Annotated[str | None, DATA(help="column with the captions; default: text, caption, …")] = None,
    subset: Annotated[str | None, DATA(help="of a Hub dataset that has several")] = None,
    split: Annotated[str | None, DATA(help="of a dataset; default: train")] = None,
    updates: Annotated[int, LEARNING(min=1, help="updates of the student")] = 1000,
    batch_size: Annotated[int, LEARNING(min=1, help="samples at once, over all processes")] = 8,
    accumulation: Annotated[int, LEARNING(min=1, help="batches for one update")] = 1,
    lr: Annotated[float, LEARNING(help="highest learning rate")] = 5e-5,
    warmup: Annotated[int, LEARNING(min=0, help="updates until it is reached")] = 0,
    lr_schedule: Annotated[str, LEARNING(help="of the learning rate: constant or cosine")] = "constant",
    weight_decay: Annotated[float, LEARNING(help="of AdamW")] = 0.01,
    clip: Annotated[float, LEARNING(help="longest gradient; 0: any")] = 1.0,
    normalize: Annotated[str, TERMS(help="of features: mean_square, norm, running or none")] = "mean_square",
    task: Annotated[float, TERMS(help="weight of the task term")] = 1.0,
    output: Annotated[float, TERMS(help="weight of the output term")] = 1.0,
    feature: Annotated[float, TERMS(help="weight of each feature term")] = 0.1,
    sites: Annotated[
        str | None, TERMS(help="where features are compared: STUDENT[=TEACHER],…; default: every stage or block")
    ] = None,
    at_called_timesteps: Annotated[
        bool, DATA("--at-called-timesteps", help="noise of the timesteps of the pipe's own --steps alone: for few-step models")
    ] = False,
    null_rate: Annotated[float, DATA(help="how often a sample has no prompt, for guidance")] = 0.1,
    swap_rate: Annotated[float, DATA(help="how often the noisiest samples get another's prompt")] = 0.0,
    ema: Annotated[float, LEARNING(help="decay of the averaged weights, which are what is saved; 0: none")] = 0.999,
    mixed_precision: Annotated[str, LEARNING(help="no, bf16 or fp16")] = "no",
    checkpointing: Annotated[bool, LEARNING("--checkpointing", help="gradient checkpointing: less memory, slower")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="updates from one checkpoint to the next")] = 500,
    log_with: Annotated[str | None, typer.Option(help="a tracker of accelerate, such as tensorboard or wandb")] = None,
    steps: Steps = 25,
    guidance_scale: Guidance = None,
    seed: Annotated[int, typer.Option(help="of the order, noise and conditions of samples")] = 0,
    dtype: Dtype = AUTO,
    device: Device = AUTO,
    json: AsJson = False,
) -> None:
    """Teach a student what its teacher says. Stopped, it goes on from its last checkpoint by the same command.

    --steps, --guidance-scale: how the teacher draws by --prompts; --steps also names the
    timesteps of --at-called-timesteps. --dtype: of the teacher; the student learns in float32.
    """
    from secateur.distilling.features import named_sites
    from secateur.distilling.settings import DistilSettings

    named = named_sites(sites) if sites else None
    if named and not feature:
        raise ValueError("sites are where features are compared, and --feature is 0: leave one of the two out")
    settings = DistilSettings(
        updates=updates, batch_size=batch_size, accumulation=accumulation, lr=lr, warmup=warmup, lr_schedule=lr_schedule,
        weight_decay=weight_decay, clip=clip or None, task=task, output=output, feature=feature, normalize=normalize,
        timesteps="stratified", null_rate=null_rate, swap_rate=swap_rate, ema=ema or None, mixed_precision=mixed_precision,
        checkpointing=checkpointing, seed=seed)  # fmt: skip
    asked = Data(teacher, data, None if prompts is None else str(prompts), limit, size, caption, steps, guidance_scale, seed,
                 subset, split, None if unpictured_prompts is None else str(unpictured_prompts),
                 at_called_timesteps)  # fmt: skip
    if unpictured_prompts and not swap_rate:
        raise ValueError("--unpictured-prompts are for noisy samples, and --swap-rate is 0: give both, such as --swap-rate 0.5")
    out = out or beside(student, "distilled")
    checkpoints = checkpoints or beside(out, "checkpoints")
    check_folders(student, teacher, out, checkpoints)
    check_data(asked)
    cut = plan_of(student, plan)
    accelerator = accelerator_for(mixed_precision, log_with, checkpoints, device=device, project="secateur-distil")
    last = taught(student, asked, settings, cut, named, out, checkpoints, save_every, accelerator, dtype=dtype, device=device)
    if accelerator is None or accelerator.is_main_process:
        console.print(terms(last), f"wrote {out}", soft_wrap=True)
        finish({"out": str(out), "updates": last.number, "raw": dict(last.raw), "normalized": dict(last.normalized),
                "total": last.total, "command": command_line()}, as_json=json)  # fmt: skip


def taught(student: Path, asked: Data, settings: DistilSettings, plan: Plan | None, named: dict[str, str] | None, out: Path,
           checkpoints: Path, save_every: int, accelerator: Any, *, dtype: str, device: str) -> DistilStep:  # fmt: skip
    """The last step of teaching the student in a folder, whose pipeline is then saved. named: sites that were asked for."""
    from secateur.distilling import encoded, features
    from secateur.distilling.checkpoints import whole
    from secateur.distilling.training import copy_weights, distil_steps
    from secateur.pipeline import pipes
    from secateur.pipeline.pipes import component

    where = device if accelerator is None else str(accelerator.device)
    teacher, pipe = (
        load_pipe(name, dtype=kind, device=where) for name, kind in ((asked.teacher, dtype), (str(student), "float32"))
    )
    net, pupil = component(teacher), component(pipe)
    note_teacher(plan, net)
    sites = named or (features.sites(net, pupil, plan=plan) if settings.feature else {})
    features.check_sites(net, pupil, sites)
    features.check_inputs(net, pupil)
    check_prompts(asked, teacher)
    examples = examples_of(checkpoints / EXAMPLES, asked, teacher, settings.batch_size, accelerator)
    labels = "class_labels" in examples.conditions
    null = encoded.null(teacher, labels=labels, **call_of(asked, teacher)) if settings.null_rate else None
    settings = replace(settings, called=called_by(asked, teacher, labels=labels))
    others = unpictured_of(checkpoints / UNPICTURED, asked, teacher, settings.batch_size, accelerator)
    steps = distil_steps(net, pupil, examples, teacher.scheduler, settings=settings, sites=sites, null=null, others=others,
                   folder=checkpoints, save_every=save_every, accelerator=accelerator)  # fmt: skip
    last = watched(steps, settings.updates, checkpoints)
    weights = {name: whole(p.detach()) for name, p in pupil.named_parameters()}
    if accelerator is None or accelerator.is_main_process:
        # What processes have shared out between them cannot be saved as it is.
        fresh = pipe if accelerator is None else pipes.load(str(student))
        copy_weights(weights, component(fresh))
        pipes.save(fresh, out, beside={} if plan is None else {PLAN: plan})
    return last


# What is asked


def beside(folder: Path, word: str) -> Path:
    """The folder of this name beside another."""
    return folder.with_name(f"{folder.name}-{word}")


def check_folders(student: Path, teacher: str, out: Path, checkpoints: Path) -> None:
    """Nothing; OSError before any work where a folder is missing, or the pipe could not be saved, or only over another one."""
    from secateur.pipeline import pipes

    if not student.is_dir():
        raise FileNotFoundError(f"there is no folder {student} of a student's pipeline: make one by `secateur prune`")
    pipes.locate(str(student))
    needed = {"teacher": pipes.locate(teacher), "student": student, "checkpoints": checkpoints}
    for name, folder in needed.items():
        if folder is not None and folder.resolve().is_relative_to(out.resolve()):
            raise FileExistsError(f"{out} is or holds the folder of the {name}, which saving would delete: give another --out")
    if out.exists() and not (out / "model_index.json").is_file():
        raise FileExistsError(f"{out} is there and no pipeline, so it will not be replaced: give another folder by --out")
    check_writable(out.parent, folder=True) if out.exists() else check_writable(out)
    check_writable(checkpoints, folder=True, option="--checkpoints")


def plan_of(student: Path, plan: Path | None) -> Plan | None:
    """The plan that a student was cut by, where it is known."""
    from secateur.pruning.plan import Plan

    beside_it = student / PLAN
    return Plan.load(plan or beside_it) if plan or beside_it.is_file() else None


def note_teacher(plan: Plan | None, teacher: Any) -> None:
    """Say so where a student was cut from a net of another size than its teacher's."""
    from secateur.pruning.surgery import parameters

    cut_from = plan.made.get("teacher", {}).get("parameters") if plan else None
    if cut_from not in (None, parameters(teacher)):
        console.print(
            f"note: the student was cut from a net of {cut_from:,} parameters, and this teacher has {parameters(teacher):,}"
        )


# What is done


def watched(steps: Iterator[DistilStep], updates: int, folder: Path) -> DistilStep:
    """The last step; every one is shown as it comes. An interrupt says where to go on from."""
    bar, last = progress(), None
    task = bar.add_task("distilling", total=updates)
    try:
        with Live(console=Console(stderr=True), transient=True, refresh_per_second=2) as live:
            for last in steps:
                bar.update(task, completed=last.number)
                live.update(Group(terms(last), bar))
    except KeyboardInterrupt:
        where = f"after {last.number} updates" if last else "before the first update"
        console.print(f"stopped {where}; the same command goes on from the last checkpoint in {folder}", soft_wrap=True)
        raise SystemExit(130) from None
    if last is None:
        raise ValueError(f"{folder} holds no update: give --updates 1 or more")
    return last


def terms(step: DistilStep) -> Table:
    """Every term of a step."""
    table = Table(box=box.SIMPLE_HEAD, title=f"update {step.number}, total {step.total:.4g}", title_justify="left")
    for heading in ("term", "mean square", "normalized"):
        table.add_column(heading, justify="left" if heading == "term" else "right")
    for name, value in step.raw.items():
        table.add_row(name, f"{value:.4g}", f"{step.normalized[name]:.4g}")
    return table
