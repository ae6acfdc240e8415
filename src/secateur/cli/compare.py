"""The commands that draw: demo, measure and compare side by side, with a record and a page; generate for pictures alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.terminal import (
    AUTO,
    AsJson,
    BatchSize,
    Device,
    Dtype,
    Guidance,
    Keeps,
    Pipe,
    Prompts,
    Scheduler,
    Seed,
    Steps,
    check_writable,
    command_line,
    console,
    finish,
    load_pipe,
    progress,
)
from secateur.pipeline.prompts import check_tokens, conditions_of, guidance_of, read_prompts, repeated
from secateur.pruning.plan import of_teacher

app = typer.Typer()
KEEPS = [0.5, 0.33, 0.2]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the page and the record")] = Path("secateur-demo"),
    pipe: Annotated[str, typer.Option(help="emoji-sd or emoji-dit")] = "emoji-sd",
    images: Annotated[int, typer.Option(min=1, help="images of each variant")] = 40,
    keep: Keeps = KEEPS,
    steps: Steps = 50,
    seed: Seed = 20_000,  # guidance was chosen on seeds from 0 on
    batch_size: BatchSize = 8,
    json: AsJson = False,
) -> None:
    """The main job on the zoo: dense against static schedules and fewer steps, a table and a page with pictures."""
    from secateur import zoo
    from secateur.measuring import variants
    from secateur.schedule import baselines

    zoo.folder(pipe)
    wanted = [baselines.check_keep(k) for k in keep]
    conditions, captions = zoo.conditions(pipe, images)
    loaded = load_pipe(pipe)
    _measure(loaded, pipe, variants.front(loaded, steps=steps, keeps=wanted), conditions, captions=captions, seed=seed,
             batch_size=batch_size, guidance_scale=None, out=out, as_json=json)  # fmt: skip


@app.command()
def measure(
    pipe: Pipe,
    schedule: Annotated[list[Path], typer.Option(help="a schedule to measure; may be repeated")] = [],  # noqa: B006
    keep: Annotated[list[float], typer.Option(help="also the static rivals at this fraction of MACs; may be repeated")] = [],  # noqa: B006
    teacher: Annotated[str | None, typer.Option(help="of a student: the pipe that all rows are compared with")] = None,
    prompts: Prompts = None,
    images: Annotated[int, typer.Option(min=1, help="images of each variant")] = 16,
    out: Annotated[Path, typer.Option(help="folder for the page and the record")] = Path("secateur-measure"),
    steps: Steps = 50,
    guidance_scale: Guidance = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    dtype: Dtype = AUTO,
    device: Device = AUTO,
    json: AsJson = False,
) -> None:
    """Latency, fidelity and cost of schedules beside the dense pipe and fewer steps; writes a record and a page."""
    from secateur import zoo
    from secateur.measuring import variants
    from secateur.pipeline import pipes
    from secateur.schedule import baselines
    from secateur.schedule import schedule as schedules

    pipes.locate(pipe)
    wanted = [baselines.check_keep(k) for k in keep]
    found = [(path.stem, schedules.load(path)) for path in schedule]
    if teacher is not None:
        pipes.locate(teacher)
    asked = teacher if teacher is not None and pipe not in zoo.NAMES else pipe
    conditions, captions = _conditions(asked, prompts, images)
    loaded = load_pipe(pipe, dtype=dtype, device=device)
    shown = (*variants.front(loaded, steps=steps, keeps=wanted), *variants.given(loaded, found, steps=steps))
    guidance = guidance_of(loaded, asked, guidance_scale)
    if teacher is not None:
        other = load_pipe(teacher, dtype=dtype, device=device)
        check_tokens(other, conditions)
        shown = variants.beside_teacher(other, shown)
    _measure(loaded, pipe, shown, conditions, captions=captions, seed=seed, batch_size=batch_size,
             guidance_scale=guidance, out=out, as_json=json)  # fmt: skip


@app.command("compare")
def compare_command(
    pipe: Pipe,
    schedules: Annotated[list[Path], typer.Argument(metavar="SCHEDULE…", help="schedules, of any budgets")],
    prompts: Prompts = None,
    images: Annotated[int, typer.Option(min=1, help="images of each variant")] = 16,
    out: Annotated[Path, typer.Option(help="folder for the page and the record")] = Path("secateur-compare"),
    steps: Steps = 50,
    guidance_scale: Guidance = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    dtype: Dtype = AUTO,
    device: Device = AUTO,
    json: AsJson = False,
) -> None:
    """The front: schedules of several budgets beside every rival that needs no search; a record and a page."""
    from secateur.measuring import variants
    from secateur.pipeline import pipes, schedulers
    from secateur.schedule.schedule import load

    pipes.locate(pipe)
    found = [(path.stem, load(path)) for path in schedules]
    conditions, captions = _conditions(pipe, prompts, images)
    loaded = load_pipe(pipe, dtype=dtype, device=device)
    named = variants.given(loaded, found, steps=steps, solvers=())
    keeps = dict.fromkeys(variant.keep for variant in named)
    rivals = variants.front(loaded, steps=steps, keeps=[k for k in keeps if k], solvers=tuple(schedulers.SOLVERS))
    _measure(loaded, pipe, (*rivals, *named), conditions, captions=captions, seed=seed, batch_size=batch_size,
             guidance_scale=guidance_scale, out=out, as_json=json)  # fmt: skip


def _conditions(pipe: str, prompts: Path | None, images: int) -> tuple[tuple, tuple[str, ...] | None]:
    """What to ask for, `images` times, and the captions where the zoo's judge can read the answers."""
    from secateur import zoo

    if prompts is None:
        if pipe not in zoo.NAMES:
            raise ValueError(f"there are no prompts to measure {pipe} with: give a file with one a line by --prompts")
        return zoo.conditions(pipe, images)
    return repeated(read_prompts(prompts), images), None


def _measure(pipe, source, variants, conditions, *, captions, seed, batch_size, guidance_scale, out, as_json) -> None:
    """Run the comparison with a progress bar, print the table, write record and page."""
    from secateur.denoiser import macs as counting
    from secateur.measuring import compare, report
    from secateur.pipeline.pipes import component

    check_writable(out, folder=True)
    check_tokens(pipe, conditions)
    seeds = range(seed, seed + len(conditions))
    guidance = guidance_of(pipe, source, guidance_scale)
    batches = []
    with progress() as bar:
        task = bar.add_task("warming up", total=len(variants) * -(-len(conditions) // batch_size))
        for batch in compare.run(pipe, variants, conditions, seeds=seeds, batch_size=batch_size, guidance_scale=guidance):
            batches.append(batch)
            bar.update(task, advance=1, description=batch.variant.name)
    found = compare.document(pipe, batches, conditions, seeds=seeds, title=f"Secateur on {source}", command=command_line(),
                           source=source, captions=captions, options={"guidance_scale": guidance})  # fmt: skip
    if not any(variant.pipe for variant in variants) and (share := of_teacher(source, counting.count(component(pipe)))):
        found["rows"] = [{**row, "macs_of_teacher": row["keep_linear"] * share} for row in found["rows"]]
    out.mkdir(parents=True, exist_ok=True)
    report.save(found, out / "record.json")
    report.save_html(found, out / "report.html")
    console.print(report.table(found, width=console.width))
    console.print(f"the page with the pictures: {out / 'report.html'}", soft_wrap=True)
    finish(found, as_json=as_json)


@app.command()
def generate(
    pipe: Pipe,
    prompt: Annotated[list[str], typer.Option(help="a prompt (or class label); may be repeated")],
    schedule: Annotated[Path | None, typer.Option(help="follow this schedule")] = None,
    scheduler: Scheduler = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("secateur-images"),
    steps: Steps = 50,
    guidance_scale: Guidance = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    dtype: Dtype = AUTO,
    device: Device = AUTO,
    json: AsJson = False,
) -> None:
    """Make pictures with a pipe, following a schedule where one is given, with the scheduler that it is for."""
    from secateur.measuring import compare
    from secateur.pipeline import schedulers
    from secateur.pipeline.generate import save_images
    from secateur.schedule import fit
    from secateur.schedule import schedule as schedules

    plan = schedules.load(schedule) if schedule else None
    asked = conditions_of(prompt)
    check_writable(out, folder=True)
    loaded = load_pipe(pipe, dtype=dtype, device=device)
    check_tokens(loaded, tuple(asked))
    guidance = guidance_of(loaded, pipe, guidance_scale)
    with schedulers.scheduled(loaded, *((scheduler, {}) if scheduler else fit.scheduler_for(loaded.scheduler, plan))):
        images = compare.draw(loaded, plan, asked, seeds=range(seed, seed + len(asked)), batch_size=batch_size,
                              num_inference_steps=steps, guidance_scale=guidance)  # fmt: skip
    files = save_images(images, out, first=seed)
    console.print("\n".join(map(str, files)), markup=False, highlight=False)
    finish({"files": [str(f) for f in files]}, as_json=json)
