"""The commands that look for schedules: search, retarget for another budget, and fold into fewer steps."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.search_result import BestOnDisk, kept_of, missed, near_of, stage_table
from secateur.cli.terminal import (
    AUTO,
    TIME,
    AsJson,
    Attention,
    BatchSize,
    CalibrationSeed,
    Device,
    Dtype,
    Force,
    Guidance,
    Keep,
    Pipe,
    Prompts,
    ScheduleOut,
    SearchScheduler,
    Steps,
    accelerator_for,
    check_new,
    check_pipe,
    check_writable,
    command_line,
    console,
    finish,
    load_pipe,
)
from secateur.pipeline.prompts import CALIBRATION_SEED, conditions_in
from secateur.pruning.plan import of_teacher

if TYPE_CHECKING:
    from secateur.denoiser.macs import Macs
    from secateur.searching.stages import BestSoFar

app = typer.Typer()
BUDGET, LOCAL, GRADIENT = (
    partial(typer.Option, rich_help_panel=name) for name in ("Cost and calibration", "Local search", "Gradient stage")
)


@app.command(rich_help_panel=TIME)
def search(
    pipe: Pipe,
    keep: Keep,
    prompts: Prompts = None,
    out: ScheduleOut = Path("schedule.json"),
    steps: Steps = 50,
    scheduler: SearchScheduler = None,
    target: Annotated[str, typer.Option(help="dense: near its own images; converged: near those of many steps")] = "dense",
    stages: Annotated[
        str | None,
        typer.Option(
            help="with commas: stock, additive, refresh, cells, local, gradient-steps, gradient; "
            "default: stock, additive, and if calls are few refresh and local"
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="calibration images")] = 16,
    guidance_scale: Guidance = None,
    seed: CalibrationSeed = CALIBRATION_SEED,
    batch_size: BatchSize = 8,
    device: Device = AUTO,
    dtype: Dtype = AUTO,
    force: Force = False,
    work: Annotated[Path | None, typer.Option(help="folder of what it measures, until it ends; default: .OUT.search")] = None,
    json: AsJson = False,
    cost: Annotated[str, BUDGET(help="what keep is a fraction of: macs, or ms as measured on this device")] = "macs",
    granularity: Annotated[str | None, BUDGET(help="blocks by stage or layer; default: the coarsest")] = None,
    more_images: Annotated[int, BUDGET(min=0, help="further images, drawn only while a gain is in doubt")] = 48,
    trials: Annotated[int, LOCAL(min=1, help="schedules that the local search tries at most")] = 80,
    patience: Annotated[int, LOCAL(min=1, help="trials in a row without a gain, after which it ends")] = 20,
    updates: Annotated[int, GRADIENT(min=1, help="updates of the Pruner")] = 100,
    log_with: Annotated[str | None, GRADIENT(help="where to log its losses, such as tensorboard or wandb")] = None,
) -> None:
    """Find a schedule for a pipe: which calls of the denoiser run, and which blocks run in them.

    Stopped or killed, the same command goes on from what it measured.
    """
    from secateur.denoiser import macs
    from secateur.denoiser.of_pipe import denoiser_of
    from secateur.pipeline.schedulers import scheduled
    from secateur.searching.search import few_images, search_steps, watched
    from secateur.searching.settings import SearchSettings

    chosen = tuple(name.strip() for name in stages.split(",")) if stages else None
    check_writable(out)
    work = work or out.with_name(f".{out.name}.search")
    settings = SearchSettings(stages=chosen, more_images=more_images, trials=trials, patience=patience, updates=updates,
                              work=work, afresh=force, granularity=granularity, cost=cost)  # fmt: skip
    check_pipe(pipe, dtype=dtype, device=device)
    conditions = conditions_in(prompts, images + more_images, pipe=pipe, calibration=True)[0]
    check_new(out, force=force)
    check_writable(work, folder=True, option="--work")
    calls = checked_calls(pipe, scheduler, keep=keep, steps=steps, target=target, stages=chosen)
    accelerator = accelerator_for("no", log_with, out.parent, device=device, project="secateur-search")
    settings.check_processes(accelerator)
    main = accelerator is None or accelerator.is_main_process
    if main and (note := few_images(images)):
        console.print(note, soft_wrap=True)
    loaded = load_pipe(pipe, dtype=dtype, device=str(accelerator.device) if accelerator else device)
    with scheduled(loaded, scheduler, {}):
        records = search_steps(loaded, conditions, keep=keep, steps=steps, target=target, images=images,
                               guidance_scale=guidance_scale, seed=seed, batch_size=batch_size, settings=settings,
                               accelerator=accelerator)  # fmt: skip
        best = BestOnDisk(out if main else None, {"command": command_line()}, work).last_steps(watched(records))
    if main:
        costs = macs.count(denoiser_of(loaded), granularity)
        report(best, out, pipe=pipe, prompts=prompts, costs=costs, calls=calls, keep=keep, images=images, json=json)


def checked_calls(
    pipe: str, scheduler: str | None, *, keep: float, steps: int, target: str, stages: tuple[str, ...] | None
) -> int:
    """The dense calls of a search with the pipe's scheduler, or with one of another class. No weights are loaded.

    Raises ValueError if the search could not begin, as with a `scheduler` that draws noise.
    """
    from secateur.pipeline.schedulers import begun, scheduler_like, scheduler_of
    from secateur.searching.search import check_search

    used = scheduler_like(scheduler_of(pipe), scheduler, {})
    check_search(used, keep=keep, steps=steps, target=target, stages=stages)
    return len(begun(used, steps).timesteps)


def report(
    stages: list[BestSoFar],
    out: Path,
    *,
    pipe: str,
    prompts: Path | None,
    costs: Macs,
    calls: int,
    keep: float,
    images: int,
    json: bool,
) -> None:
    """Show the schedule, what each stage added, how near its images are, what it keeps, and how to use it."""
    from secateur.schedule import schedule as schedules

    schedule, share = schedules.load(out), stages[-1].kept
    console.print(str(schedule), markup=False, highlight=False)
    console.print(stage_table(stages))
    console.print(near_of(schedule, images), soft_wrap=True)
    in_time = f", {share:.3f} of the time, as it was measured on one device" if schedule.made["unit"] == "ns" else ""
    console.print(f"{kept_of(schedule, costs, calls=calls)}{in_time}; wrote {out}", soft_wrap=True)
    if remark := missed(share, keep):
        console.print(remark, soft_wrap=True)
    if teacher := of_teacher(pipe, costs):
        console.print(
            f"that is {costs.keep(schedule, calls=calls) * teacher:.3f} of the MACs of the student's teacher", soft_wrap=True
        )
    others = ("--prompts", "others.txt") if prompts else ()
    compare = shlex.join(("secateur", "compare", pipe, str(out), *others))
    console.print(f"beside fewer steps, on other prompts: {compare}", soft_wrap=True, markup=False, highlight=False)
    show_use(out, steps=schedule.made["num_inference_steps"])
    if schedule.whole:
        console.print("in ComfyUI: copy it to models/secateur, for the node Secateur schedule", soft_wrap=True)
    finish(schedule.document(), as_json=json)


def show_use(out: Path, *, steps: int) -> None:
    """Print the line of Python that draws an image by a schedule."""
    line = f'with secateur.apply(pipe, "{out}"): image = pipe(prompt, num_inference_steps={steps}).images[0]'
    console.print(f"in Python: {line}", soft_wrap=True, markup=False, highlight=False)


@app.command("fold", rich_help_panel=TIME)
def fold_command(
    pipe: Pipe,
    schedule: Annotated[Path, typer.Argument(metavar="SCHEDULE", help="one that holds whole calls")],
    out: ScheduleOut = Path("folded.json"),
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Leave out the held calls of a schedule: the same images from fewer, longer steps. Needs no weights."""
    from secateur.pipeline import pipes, schedulers
    from secateur.schedule import fit
    from secateur.schedule import schedule as schedules
    from secateur.schedule.fit import check_denoiser
    from secateur.schedule.fold import fold

    check_new(out, force=force)
    whole = schedules.load(schedule)
    check_denoiser(pipes.denoiser_config(pipe), whole)
    own = schedulers.scheduler_of(pipe)
    folded = fold(whole, schedulers.scheduler_like(own, *fit.scheduler_for(own, whole)))
    folded.save(out)
    console.print(str(folded), markup=False, highlight=False)
    console.print(f"{folded.calls} steps give the images of {whole.calls} calls; wrote {out}", soft_wrap=True)
    show_use(out, steps=folded.calls)
    finish(folded.document(), as_json=json)


@app.command(rich_help_panel=TIME)
def retarget(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="the scores that a search saved, one a cell")],
    keep: Keep,
    method: Annotated[str, typer.Option(help="exact, bisection or greedy")] = "exact",
    attention: Attention = False,
    out: ScheduleOut = Path("schedule.json"),
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Write the schedule of another budget, from the scores that a search saved. Needs no weights."""
    from secateur.schedule.allocate import allocate
    from secateur.schedule.scores import Scores

    check_new(out, force=force)
    saved = Scores.load(scores)
    schedule = allocate(saved, keep=keep, method=method, attention=attention)
    schedule.save(out)
    console.print(str(schedule), markup=False, highlight=False)
    console.print(f"{kept_of(schedule, saved.macs, calls=schedule.calls)}; wrote {out}", soft_wrap=True)
    if remark := missed(saved.macs.keep(schedule, attention=attention), keep):
        console.print(remark, soft_wrap=True)
    finish(schedule.document(), as_json=json)
