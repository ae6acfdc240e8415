"""The commands that compare: demo and compare draw variants side by side and write a record and a page."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    Seed,
    check_new,
    check_pipe,
    check_writable,
    command_line,
    console,
    drawn_with,
    finish,
    load_pipe,
    tell_drawn_with,
)
from secateur.pipeline.progress import View, watched
from secateur.pipeline.prompts import check_tokens, conditions_in, digest, guidance_of, read_prompts, repeated
from secateur.pruning.plan import of_teacher

if TYPE_CHECKING:
    from secateur.measuring.compare import Batch
    from secateur.schedule.schedule import Schedule

app = typer.Typer()
Out = Annotated[Path, typer.Option("--out", "-o", help="folder for the page and the record")]
Images = Annotated[int, typer.Option(min=1, help="images of each variant")]
RECORD, PAGE = "record.json", "report.html"
SECONDS = 5  # for one image of the demo in all ways, on a core of AMD EPYC


@app.command(rich_help_panel=DRAW)
def demo(
    pipe: Annotated[str, typer.Option(help="emoji-sd or emoji-dit")] = "emoji-sd",
    out: Out = Path("secateur-demo"),
    images: Images = 40,
    seed: Annotated[int, typer.Option(help="seed of the first image; guidance was chosen on those from 0 on")] = 20_000,
    batch_size: BatchSize = 8,
    device: Device = AUTO,
    force: Force = False,
    json: AsJson = False,
    search: Annotated[bool, typer.Option("--search", help="find the schedule first, instead of taking the package's")] = False,
) -> None:
    """What a found schedule gains over fewer steps, on a pipeline of the zoo: a table and a page."""
    from secateur import zoo
    from secateur.measuring import gain
    from secateur.schedule import schedule as schedules
    from secateur.searching.search import search as find

    schedule = schedules.load(zoo.schedule(pipe))
    check_pipe(pipe, device=device)
    check_folder(out, force=force)
    conditions, captions = zoo.conditions(pipe, images)
    one_thread()
    loaded = load_pipe(pipe, device=device)
    schedule = find(loaded, keep=schedule.made["keep"]) if search else schedule
    call = {"guidance_scale": guidance_of(loaded, pipe, None)}
    seeds = range(seed, seed + images)
    variants = gain.variants(loaded, schedule)
    ways, minutes = len(variants) + len(gain.MORE_STEPS), -(-images * SECONDS // 60)
    print(f"drawing {images} images in {ways} ways with {pipe}: about {minutes} min on a CPU", file=sys.stderr, flush=True)
    batches = gain.run(loaded, variants, conditions, seeds=seeds, batch_size=batch_size, **call)
    drawn = draw_all(batches, ways * -(-images // batch_size))
    record = gain.document(loaded, drawn, conditions, seeds=seeds, command=command_line(),
                           title=f"A schedule of ten calls and its rivals on {pipe}", source=pipe, captions=captions,
                           options=call)  # fmt: skip
    report(record, out, as_json=json)


@app.command("compare", rich_help_panel=DRAW)
def compare_command(
    pipe: Pipe,
    schedules: Annotated[list[Path], typer.Argument(metavar="[SCHEDULE]…", help="schedules, of any budgets")] = [],  # noqa: B006
    keep: Annotated[list[float], typer.Option(help="also the rivals at this fraction of MACs; may be repeated")] = [],  # noqa: B006
    teacher: Annotated[str | None, typer.Option(help="of a student: the pipe that all rows are compared with")] = None,
    prompts: Prompts = None,
    images: Images = 16,
    out: Out = Path("secateur-compare"),
    steps: SameSteps = None,
    guidance_scale: SameGuidance = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    dtype: Dtype = AUTO,
    device: Device = AUTO,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Your schedules, of one or several budgets, beside every rival that needs no search; writes a record and a page."""
    from secateur import zoo
    from secateur.measuring import variants
    from secateur.schedule import baselines

    keeps = [baselines.check_keep(k) for k in keep]
    for needed in filter(None, (pipe, teacher)):
        check_pipe(needed, dtype=dtype, device=device)
    if not (schedules or keeps or teacher):
        raise ValueError("there is nothing to compare: give a schedule's file, or a fraction of MACs by --keep")
    source = teacher if teacher is not None and pipe not in zoo.NAMES else pipe
    conditions, captions = conditions_in(prompts, images, pipe=source)
    check_folder(out, force=force)
    yours = schedules_by_name(schedules)
    steps, scale = drawn_with(yours.values(), steps, guidance_scale)
    check_schedules(pipe, yours.values(), steps)
    loaded = load_pipe(pipe, dtype=dtype, device=device)
    own = variants.given(loaded, yours, steps=steps)
    note_searched(yours, prompts)
    keeps = dict.fromkeys([*(variant.keep for variant in own if variant.keep), *keeps])
    dense, *rivals = variants.front(loaded, steps=steps, keeps=tuple(keeps))
    rows = (dense, *own, *rivals)
    if teacher is not None:
        other = load_pipe(teacher, dtype=dtype, device=device)
        check_tokens(other, conditions)
        rows = variants.beside_teacher(other, rows)
    call = {"guidance_scale": guidance_of(loaded, source, scale)}
    tell_drawn_with(steps, call["guidance_scale"])
    side_by_side(loaded, pipe, rows, conditions, captions=captions, seeds=range(seed, seed + images),
                 batch_size=batch_size, call=call, out=out, as_json=json)  # fmt: skip


def one_thread() -> None:
    """Let torch compute in one thread if nobody set OMP_NUM_THREADS.

    Small networks gain little by more threads, and take ten times as long when other programs hold one of them up.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def schedules_by_name(paths: Sequence[Path]) -> dict[str, Schedule]:
    """The schedules by their files' names. `schedule.json`, which says nothing, is "your schedule"."""
    from secateur.schedule import schedule as schedules

    stems = [path.stem for path in paths]
    names = ({"schedule": "your schedule"}.get(stem, stem) if stems.count(stem) == 1 else None for stem in stems)
    return {name or str(path): schedules.load(path) for name, path in zip(names, paths, strict=True)}


def check_schedules(source: str, schedules: Collection[Schedule], steps: int) -> None:
    """Raises ValueError, before any weights are loaded, if one is for another denoiser or other calls than the steps make."""
    from secateur.pipeline import pipes, schedulers
    from secateur.schedule import fit

    own, config = (schedulers.scheduler_of(source), pipes.denoiser_config(source)) if schedules else (None, {})
    for schedule in schedules:
        fit.check_denoiser(config, schedule)
        fit.check_steps(fit.fitting_scheduler(own, schedule), schedule, steps)


def check_folder(out: Path, *, force: bool) -> None:
    """Raises OSError if the folder cannot be written to, or holds another comparison or something that no comparison wrote."""
    check_writable(out, folder=True)
    others = sorted(path.name for path in out.iterdir() if path.name not in (RECORD, PAGE)) if out.is_dir() else []
    if others:
        raise FileExistsError(f"{out} holds {others[0]}, and not only a record and a page: give another folder by --out")
    check_new(out / RECORD, force=force)


def note_searched(schedules: Mapping[str, Schedule], prompts: Path | None) -> None:
    """Say so if a schedule was searched with the prompts that it is measured on: other prompts tell more."""
    for name, schedule in schedules.items():
        seeds = [*schedule.made.get("seeds", ()), *schedule.made.get("more_seeds", ())]
        if prompts and seeds and digest(repeated(read_prompts(prompts), len(seeds))) == schedule.made.get("conditions_sha256"):
            console.print(f"note: {name} was searched with these prompts, so measure it on others too", soft_wrap=True)


def side_by_side(pipe, source, variants, conditions, *, captions, seeds, batch_size, call, out, as_json) -> None:
    """Draw the variants, and write and print what was measured."""
    from secateur.denoiser import macs as counting
    from secateur.denoiser.of_pipe import denoiser_of
    from secateur.measuring import compare

    check_tokens(pipe, conditions)
    yours = ", ".join(variant.name for variant in variants if variant.group == compare.GIVEN)
    batches = compare.run(pipe, variants, conditions, seeds=seeds, batch_size=batch_size, **call)
    record = compare.document(pipe, draw_all(batches, len(variants) * -(-len(conditions) // batch_size)), conditions,
                              seeds=seeds, title=f"{yours or 'Secateur'} on {source}", command=command_line(), source=source,
                              captions=captions, options=call)  # fmt: skip
    if not any(variant.pipe for variant in variants) and (share := of_teacher(source, counting.count(denoiser_of(pipe)))):
        record["rows"] = [{**row, "macs_of_teacher": row["keep_linear"] * share} for row in record["rows"]]
    report(record, out, as_json=as_json)


def draw_all(batches: Iterator[Batch], total: int) -> list[Batch]:
    """All the batches, drawn with a progress bar."""

    def view(step: tuple[int, Batch]) -> View:
        return View(step[1].variant.name, step[0], total)

    return [batch for _, batch in watched(enumerate(batches, 1), view, first="warming up")]


def report(record: dict[str, Any], out: Path, *, as_json: bool) -> None:
    """Write the record and the page; print the finding, the table, and which rivals miss their budget."""
    from secateur.measuring import report as reports

    out.mkdir(parents=True, exist_ok=True)
    reports.save(record, out / RECORD)
    reports.save_html(record, out / PAGE)
    print_record(record)
    console.print(f"the page with the pictures: {out / PAGE}", soft_wrap=True)
    finish(record, as_json=as_json)


def print_record(record: dict[str, Any]) -> None:
    """Print a record: its finding in one sentence, its table, and which rows miss their budget in MACs."""
    from secateur.measuring import report as reports

    if finding := reports.headline(record):
        console.print(finding, soft_wrap=True, markup=False, highlight=False)
    console.print(reports.table(record, width=console.width))
    if missed := reports.missed(record):
        console.print(missed, soft_wrap=True, markup=False, highlight=False)
