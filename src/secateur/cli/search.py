"""The commands that look for schedules: search, retarget for another budget, and fold into fewer steps."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.terminal import (
    AUTO,
    AsJson,
    Attention,
    BatchSize,
    Device,
    Dtype,
    Granularity,
    Guidance,
    Keep,
    Pipe,
    Prompts,
    ScheduleOut,
    Scheduler,
    Seed,
    Steps,
    accelerator_for,
    check_writable,
    command_line,
    console,
    finish,
    load_pipe,
    progress,
)
from secateur.cli.watch import Watch, kept_of, near_of, stage_table
from secateur.pipeline.prompts import calibration_conditions, check_tokens, guidance_of
from secateur.pruning.plan import of_teacher

if TYPE_CHECKING:
    from secateur.denoiser.macs import Macs
    from secateur.schedule.schedule import Schedule
    from secateur.searching.find import Found

app = typer.Typer()


@app.command()
def search(
    pipe: Pipe,
    keep: Keep,
    prompts: Prompts = None,
    out: ScheduleOut = Path("schedule.json"),
    scheduler: Scheduler = None,
    stages: Annotated[
        str | None, typer.Option(help="of stock, additive, refresh, cells, local, gradient; chosen by the steps if not given")
    ] = None,
    target: Annotated[str, typer.Option(help="dense: its own images; converged: those of many steps")] = "dense",
    images: Annotated[int, typer.Option(min=1, help="calibration images")] = 16,
    more_images: Annotated[int, typer.Option(min=0, help="further ones at most, made only where a gain is in doubt")] = 48,
    budget: Annotated[str, typer.Option(help="what keep is a fraction of: macs, or ms as measured on this device")] = "macs",
    trials: Annotated[int, typer.Option(min=1, help="schedules that the local search measures")] = 80,
    patience: Annotated[int, typer.Option(min=1, help="trials without anything better that end the local search")] = 20,
    updates: Annotated[int, typer.Option(min=1, help="updates of the gradient stage")] = 100,
    checkpoints: Annotated[
        Path | None, typer.Option(help="folder that the gradient stage is saved in and goes on from")
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="updates from one checkpoint to the next")] = 50,
    log_with: Annotated[str | None, typer.Option(help="tracker of the gradient stage, such as tensorboard or wandb")] = None,
    granularity: Granularity = None,
    steps: Steps = 50,
    guidance_scale: Guidance = None,
    seed: Seed = 40_000,
    batch_size: BatchSize = 8,
    dtype: Dtype = AUTO,
    device: Device = AUTO,
    json: AsJson = False,
) -> None:
    """Find settings for a pipe: at which noise levels it calls its denoiser, and what each call refreshes."""
    from secateur.denoiser import macs
    from secateur.pipeline import pipes, schedulers
    from secateur.pipeline.pipes import component
    from secateur.pipeline.solvers import check_solver
    from secateur.pipeline.trajectory import record
    from secateur.schedule import baselines
    from secateur.schedule import schedule as schedules
    from secateur.searching import find, task

    wanted = baselines.check_keep(keep)
    order = find.check_stages([name.strip() for name in stages.split(",")]) if stages else None
    find.check_target(target)
    if budget not in ("macs", "ms"):
        raise ValueError(f"found budget {budget!r}: choose macs or ms")
    pipes.locate(pipe)
    check_writable(out)
    if checkpoints:
        check_writable(checkpoints, folder=True, option="--checkpoints")
    conditions = calibration_conditions(pipe, prompts, images + more_images)
    accelerator = accelerator_for("no", log_with, checkpoints or out.parent, device=device, project="secateur-search")
    main = accelerator is None or accelerator.is_main_process
    shared = accelerator is not None and accelerator.num_processes > 1
    if budget == "ms" and order and "gradient" in order and (checkpoints or shared):
        raise ValueError(
            "blocks are timed anew by every run and process, so what the gradient stage did by --budget ms cannot be gone on "
            "with or shared: leave --checkpoints and other processes out, or take --budget macs"
        )
    loaded = load_pipe(pipe, dtype=dtype, device=device if accelerator is None else str(accelerator.device))
    check_tokens(loaded, conditions)
    seeds = range(seed, seed + len(conditions))
    first, further = (conditions[:images], seeds[:images]), (conditions[images:], seeds[images:])
    with schedulers.scheduled(loaded, scheduler, {}), progress() as bar:
        check_solver(loaded.scheduler)
        task.check_calls(schedulers.calls(loaded, steps), keep=wanted)
        shown = bar.add_task("recording the dense images", total=None)
        options = {"num_inference_steps": steps, "guidance_scale": guidance_of(loaded, pipe, guidance_scale)}
        counted = macs.count(component(loaded), granularity)
        costs, trajectory = costs_of(loaded, counted, budget, lambda: record(loaded, first[0], seeds=first[1],
                                                                             batch_size=batch_size, **options))  # fmt: skip
        objective = find.objective_for(loaded, trajectory, target=target, blocks=counted.blocks, batch_size=batch_size)
        more = find.more_for(objective, *further, target=target)
        looked = find.find(loaded, trajectory, macs=costs, keep=wanted, objective=objective, more=more, stages=order,
                           trials=trials, patience=patience, updates=updates, seed=seed, batch_size=batch_size,
                           folder=checkpoints, save_every=save_every, accelerator=accelerator)  # fmt: skip
        known = {"command": command_line(), "target": target, "keep": wanted, "budget": budget, "seeds": list(first[1]),
                 "more_seeds": list(further[1]), "unit": costs.unit, "conditions_sha256": digest(conditions), **options,
                 **versions()}  # fmt: skip
        watch = Watch(out if main else None, costs, len(trajectory.timesteps), known, target)
        found = watch.all(looked, bar, shown)
        if not watch.stopped:
            bar.update(shown, total=None, description="measuring the distance to the other target")
            watch.measure_other(loaded, trajectory, found[-1], blocks=counted.blocks, batch_size=batch_size)
    if main:
        tell(schedules.load(out), found, watch, images=images, counted=counted, teacher=of_teacher(pipe, counted), json=json)


def tell(
    made: Schedule, found: list[Found], watch: Watch, *, images: int, counted: Macs, teacher: float | None, json: bool
) -> None:
    """Show the schedule, what each stage added, how near it is and what it keeps. teacher: see `of_teacher`."""
    from secateur.schedule import schedule as schedules

    console.print(str(made), markup=False, highlight=False)
    console.print(stage_table(found))
    console.print(near_of(made, images), soft_wrap=True)
    kept = kept_of(made, dict.fromkeys((counted, watch.costs)), calls=watch.calls)
    console.print(f"{kept}; wrote {watch.out}", soft_wrap=True)
    if teacher:
        share = counted.of(made) / (watch.calls * counted.call())
        console.print(
            f"that is {share * teacher:.3f} of the MACs of the teacher, of whose calls the student's take {teacher:.3f}"
        )
    finish(schedules.document(made), as_json=json)


def costs_of(pipe, counted, budget: str, run):
    """What blocks cost, in MACs or as timed while `run` makes its images, and what it gives."""
    from secateur.denoiser import times
    from secateur.denoiser.families import bare
    from secateur.pipeline.pipes import component

    if budget == "macs":
        return counted, run()
    made: list = []
    return times.block_times(bare(component(pipe)), counted.blocks, lambda: made.append(run())), made[0]


def digest(conditions: tuple) -> str:
    """SHA-256 of the prompts or labels."""
    return hashlib.sha256("\n".join(map(str, conditions)).encode()).hexdigest()


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("secateur", "torch", "diffusers")}


@app.command("fold")
def fold_command(
    pipe: Pipe,
    schedule: Annotated[Path, typer.Argument(metavar="SCHEDULE", help="one that holds calls of DDIM, Euler or flow matching")],
    out: ScheduleOut = Path("folded.json"),
    json: AsJson = False,
) -> None:
    """Leave held calls out: the same images from fewer steps, each as long as those that it stands for; no weights are read."""
    from secateur.pipeline import pipes, schedulers
    from secateur.schedule import fit
    from secateur.schedule import schedule as schedules
    from secateur.schedule.fit import check_denoiser
    from secateur.schedule.fold import fold

    found = schedules.load(schedule)
    check_denoiser(pipes.denoiser_config(pipe), found)
    own = schedulers.scheduler_of(pipe)
    made, _ = fold(found, schedulers.scheduler_like(own, *fit.scheduler_for(own, found)))
    schedules.save(made, out)
    console.print(str(made), markup=False, highlight=False)
    console.print(f"{made.calls} steps give the images of {found.calls} calls; wrote {out}", soft_wrap=True)
    name, options = fit.scheduler_for(own, made)
    if name:
        other = {
            k: v for k, v in {**schedulers.PLAIN.get(name, {}), **options}.items() if own.config.get(k, v) != v or k in options
        }
        given = "".join(f", {key}={value!r}" for key, value in other.items())
        line = f"pipe.scheduler = {name}.from_config(pipe.scheduler.config{given})"
        console.print(f"in Python, before it is applied: {line}", soft_wrap=True, markup=False, highlight=False)
    finish(schedules.document(made), as_json=json)


@app.command()
def retarget(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="what a search saved: a score for every cell")],
    keep: Keep,
    method: Annotated[str, typer.Option(help="exact, bisection or greedy")] = "exact",
    attention: Attention = False,
    out: ScheduleOut = Path("schedule.json"),
    json: AsJson = False,
) -> None:
    """Write the schedule of another budget from scores already found: no search, no model."""
    from secateur.schedule import schedule as schedules
    from secateur.schedule.allocate import allocate
    from secateur.schedule.scores import Scores

    found = Scores.load(scores)
    made = allocate(found, keep=keep, method=method, attention=attention)
    schedules.save(made, out)
    console.print(str(made), markup=False, highlight=False)
    console.print(f"{kept_of(made, [found.macs], calls=made.calls)}; wrote {out}", soft_wrap=True)
    finish(schedules.document(made), as_json=json)
