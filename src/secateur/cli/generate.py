"""The command that draws pictures and keeps them as files."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.terminal import (
    AUTO,
    DRAW,
    AsJson,
    BatchSize,
    Device,
    Dtype,
    Force,
    Pipe,
    Prompts,
    SameGuidance,
    SameSteps,
    Scheduler,
    Seed,
    check_pipe,
    check_writable,
    console,
    drawn_with,
    finish,
    load_pipe,
    tell_drawn_with,
)
from secateur.pipeline.progress import bar
from secateur.pipeline.prompts import check_tokens, conditions_of, guidance_of, read_prompts

if TYPE_CHECKING:
    from secateur.schedule.schedule import Schedule

app = typer.Typer()


@app.command(rich_help_panel=DRAW)
def generate(
    pipe: Pipe,
    prompt: Annotated[list[str], typer.Option(help="a prompt (or class label); may be repeated")] = [],  # noqa: B006
    prompts: Prompts = None,
    schedule: Annotated[Path | None, typer.Option(help="follow this schedule")] = None,
    scheduler: Scheduler = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the pictures")] = Path("secateur-images"),
    steps: SameSteps = None,
    guidance_scale: SameGuidance = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    dtype: Dtype = AUTO,
    device: Device = AUTO,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Draw pictures with a pipe, dense or following a schedule. Each is written as soon as it is drawn, named by its seed."""
    from secateur.denoiser.of_pipe import denoiser_of
    from secateur.pipeline import pipes, schedulers
    from secateur.pipeline.generate import check_call
    from secateur.schedule import fit
    from secateur.schedule import schedule as schedules

    conditions = tuple(conditions_of([*prompt, *(map(str, read_prompts(prompts)) if prompts else ())]))
    if not conditions:
        raise ValueError("there is no prompt: give one by --prompt, or a file with one a line by --prompts")
    seeds = range(seed, seed + len(conditions))
    check_pipe(pipe, dtype=dtype, device=device)
    check_writable(out, folder=True)
    if not force:
        check_no_picture(out, seeds)
    followed = schedules.load(schedule) if schedule else None
    steps, scale = drawn_with(filter(None, [followed]), steps, guidance_scale)
    if followed:
        fit.check_denoiser(pipes.denoiser_config(pipe), followed)
    own = schedulers.scheduler_of(pipe)
    if followed:
        named = schedulers.scheduler_like(own, scheduler, {}) if scheduler else own
        if scheduler:
            fit.check_scheduler(named, followed)
        fit.check_steps(fit.fitting_scheduler(named, followed), followed, steps)
    loaded = load_pipe(pipe, dtype=dtype, device=device)
    check_tokens(loaded, conditions)
    check_call(loaded, conditions, seeds=seeds, batch_size=batch_size, call={})
    guidance = guidance_of(loaded, pipe, scale)
    if followed:
        fit.check_fit(denoiser_of(loaded), followed)
    note_guidance(followed, guidance)
    if followed:
        tell_drawn_with(steps, guidance)
    with schedulers.scheduled(loaded, scheduler, {}):
        files = draw(loaded, followed, conditions, seeds=seeds, out=out, batch_size=batch_size,
                     num_inference_steps=steps, guidance_scale=guidance)  # fmt: skip
    console.print("\n".join(map(str, files)), markup=False, highlight=False)
    finish({"files": [str(file) for file in files]}, as_json=json)


def check_no_picture(folder: Path, seeds: range) -> None:
    """Raises FileExistsError if the picture of one of these seeds is in the folder already."""
    from secateur.pipeline.generate import image_file

    there = [file for seed in seeds if (file := image_file(folder, seed)).exists()]
    if there:
        raise FileExistsError(f"{there[0]} is there already: give another folder by --out, other seeds by --seed, or --force")


def note_guidance(schedule: Schedule | None, guidance: float) -> None:
    """Say so in one line if a schedule was found with another guidance scale."""
    searched = schedule.made.get("guidance_scale") if schedule else None
    if searched is not None and searched != guidance:
        console.print(f"note: the schedule was found with guidance {searched:g}, and this is drawn with {guidance:g}")


def draw(pipe: Any, schedule: Schedule | None, conditions: tuple, *, seeds: range, out: Path, **call: Any) -> list[Path]:
    """The files, each written when its batch is drawn, with a progress bar; an interrupt keeps those written."""
    from secateur.measuring.quality import check_finite
    from secateur.pipeline.generate import generate_batches, save_images
    from secateur.schedule.apply import apply

    files: list[Path] = []
    with apply(pipe, schedule) if schedule else nullcontext(), bar() as shown:
        task = shown.add_task("drawing", total=len(seeds))
        for images in generate_batches(pipe, conditions, seeds=seeds, **call):
            check_finite(images, "the images")
            files += save_images(images, out, first=seeds[len(files)])
            shown.update(task, advance=len(images))
    return files
