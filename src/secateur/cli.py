"""The command line: each command calls public functions, prints a table, and with --json one JSON document as its last line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from secateur import cli_depth, cli_distil, cli_search
from secateur.terminal import (
    AsJson,
    BatchSize,
    Denoiser,
    Device,
    Dtype,
    Granularity,
    Guidance,
    Keeps,
    Pipe,
    Prompts,
    ScheduleOut,
    Scheduler,
    Seed,
    Steps,
    check_tokens,
    check_writable,
    command_line,
    conditions_of,
    console,
    finish,
    load_pipe,
    of_teacher,
    progress,
    read_prompts,
    repeated,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Secateur: pruning shears for diffusion models.")
KEEPS, INTERRUPTED = [0.5, 0.33, 0.2], 130


def main() -> None:
    """Run the command; bad input ends in one sentence on stderr and exit code 1."""
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("secateur: stopped; every file that it left is whole", file=sys.stderr)
        raise
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        stop(str(error))
    except (MemoryError, RuntimeError) as error:
        if "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        stop(f"out of memory ({str(error)[:120]}): make fewer images at once by --batch-size, or use --dtype bfloat16")


def stop(sentence: str) -> NoReturn:
    """The end of a command that could not do what was asked."""
    print(f"secateur: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(1) from None


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
    from secateur import baselines, compare, zoo

    zoo.folder(pipe)
    wanted = [baselines.check_keep(k) for k in keep]
    conditions, captions = zoo.conditions(pipe, images)
    loaded = load_pipe(pipe)
    _measure(loaded, pipe, compare.front(loaded, steps=steps, keeps=wanted), conditions, captions=captions, seed=seed,
             batch_size=batch_size, guidance_scale=None, out=out, as_json=json)  # fmt: skip


@app.command()
def measure(
    pipe: Pipe,
    schedule: Annotated[list[Path], typer.Option(help="a schedule to measure; may be repeated")] = [],  # noqa: B006
    keep: Annotated[list[float], typer.Option(help="also the static rivals at this fraction of MACs; may be repeated")] = [],  # noqa: B006
    prompts: Prompts = None,
    images: Annotated[int, typer.Option(min=1, help="images of each variant")] = 16,
    out: Annotated[Path, typer.Option(help="folder for the page and the record")] = Path("secateur-measure"),
    steps: Steps = 50,
    guidance_scale: Guidance = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    json: AsJson = False,
) -> None:
    """Latency, fidelity and cost of schedules beside the dense pipe and fewer steps; writes a record and a page."""
    from secateur import baselines, compare, pipes
    from secateur import schedule as schedules

    pipes.locate(pipe)
    wanted = [baselines.check_keep(k) for k in keep]
    found = [(path.stem, schedules.load(path)) for path in schedule]
    conditions, captions = _conditions(pipe, prompts, images)
    loaded = load_pipe(pipe, dtype=dtype, device=device)
    variants = (*compare.front(loaded, steps=steps, keeps=wanted), *compare.given(loaded, found, steps=steps))
    _measure(loaded, pipe, variants, conditions, captions=captions, seed=seed, batch_size=batch_size,
             guidance_scale=guidance_scale, out=out, as_json=json)  # fmt: skip


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
    dtype: Dtype = "float32",
    device: Device = "cpu",
    json: AsJson = False,
) -> None:
    """The front: schedules of several budgets beside every rival that needs no search; a record and a page."""
    from secateur import compare, pipes
    from secateur.schedule import load

    pipes.locate(pipe)
    found = [(path.stem, load(path)) for path in schedules]
    conditions, captions = _conditions(pipe, prompts, images)
    loaded = load_pipe(pipe, dtype=dtype, device=device)
    named = compare.given(loaded, found, steps=steps, solvers=())
    keeps = dict.fromkeys(variant.keep for variant in named)
    rivals = compare.front(loaded, steps=steps, keeps=[k for k in keeps if k], solvers=tuple(pipes.SOLVERS))
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
    from secateur import compare, report
    from secateur import macs as counting
    from secateur.subnet import component

    check_writable(out, folder=True)
    check_tokens(pipe, conditions)
    seeds = range(seed, seed + len(conditions))
    guidance = compare.guidance(pipe, source, guidance_scale)
    batches = []
    with progress() as bar:
        task = bar.add_task("warming up", total=len(variants) * -(-len(conditions) // batch_size))
        for batch in compare.run(pipe, variants, conditions, seeds=seeds, batch_size=batch_size, guidance_scale=guidance):
            batches.append(batch)
            bar.update(task, advance=1, description=batch.variant.name)
    found = compare.record(pipe, batches, conditions, seeds=seeds, title=f"Secateur on {source}", command=command_line(),
                           source=source, captions=captions, options={"guidance_scale": guidance})  # fmt: skip
    if share := of_teacher(source, counting.count(component(pipe))):
        found["rows"] = [{**row, "macs_of_teacher": row["keep_linear"] * share} for row in found["rows"]]
    out.mkdir(parents=True, exist_ok=True)
    report.save(found, out / "record.json")
    report.save_html(found, out / "report.html")
    console.print(report.table(found, width=console.width))
    console.print(f"the page with the pictures: {out / 'report.html'}", soft_wrap=True)
    finish(found, as_json=as_json)


@app.command()
def macs(
    pipe: Denoiser,
    granularity: Granularity = None,
    size: Annotated[int | None, typer.Option(help="latent side; default: the denoiser's own")] = None,
    tokens: Annotated[int | None, typer.Option(help="text tokens; default: the denoiser's own")] = None,
    calls: Annotated[int | None, typer.Option(min=1, help="also the MACs of so many dense calls")] = None,
    guidance: Annotated[bool, typer.Option("--guidance", help="two samples a call, as classifier-free guidance has")] = False,
    schedule: Annotated[Path | None, typer.Option(help="also the MACs of this schedule")] = None,
    json: AsJson = False,
) -> None:
    """Multiply-accumulates by block, in both conventions; from class and configuration alone."""
    from secateur import blocks, pipes, tables
    from secateur import macs as counting
    from secateur import schedule as schedules

    config = pipes.denoiser_config(pipe)
    plan = schedules.load(schedule) if schedule else None
    chosen = blocks.matching(config, plan.blocks) if plan else granularity
    batch = 2 if guidance else 1
    counted = counting.count(config, chosen, size=size, tokens=tokens, batch=batch)
    console.print(tables.macs(counted, plan, calls=calls, batch=batch))
    finish(tables.macs_document(counted, plan, calls=calls), as_json=json)


@app.command("blocks")
def blocks_command(pipe: Denoiser, granularity: Granularity = None, json: AsJson = False) -> None:
    """The blocks of a denoiser in execution order, what each reuses and which blocks it reads."""
    from dataclasses import asdict

    from secateur import pipes, tables
    from secateur.blocks import find_blocks

    found = find_blocks(pipes.denoiser_config(pipe), granularity)
    console.print(tables.blocks(found))
    finish(asdict(found), as_json=json)


@app.command()
def schedule(
    pipe: Denoiser,
    method: Annotated[str, typer.Option(help="dense, uniform, deepcache, fora, delta-dit or dip-go-published")] = "uniform",
    out: ScheduleOut = Path("schedule.json"),
    keep: Annotated[float | None, typer.Option(help="fraction of the dense MACs to keep, in (0, 1]")] = None,
    interval: Annotated[int | None, typer.Option(help="instead of --keep: every so many calls everything runs")] = None,
    calls: Annotated[int, typer.Option(min=1, help="denoiser calls an image (steps, for most schedulers)")] = 50,
    granularity: Granularity = None,
    json: AsJson = False,
) -> None:
    """Write a static schedule: the rivals that need no search."""
    from secateur import baselines, pipes
    from secateur import macs as counting
    from secateur import schedule as schedules

    counted = counting.count(pipes.denoiser_config(pipe), granularity)
    made = baselines.make(method, counted, calls=calls, keep=keep, interval=interval)
    schedules.save(made, out)
    console.print(str(made), markup=False, highlight=False)
    console.print(
        f"keeps {counted.keep(made):.3f} of the MACs ({counted.keep(made, attention=True):.3f} with attention); wrote {out}"
    )
    finish(schedules.document(made), as_json=json)


@app.command()
def show(artifact: Annotated[Path, typer.Argument(metavar="FILE")], json: AsJson = False) -> None:
    """Draw a schedule (# runs, . reuses), or list the layers of a plan."""
    from secateur import plan as plans
    from secateur import schedule as schedules

    if plans.is_plan(artifact):
        plan = plans.load(artifact)
        console.print(str(plan), markup=False, highlight=False)
        finish(plans.document(plan), as_json=json)
        return
    found = schedules.load(artifact)
    console.print(str(found), markup=False, highlight=False)
    if (keep := found.made.get("keep")) is not None:
        console.print(f"made to keep {keep:.3f} of the dense {found.made.get('unit', 'macs')}", highlight=False)
    finish(schedules.document(found), as_json=json)


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
    dtype: Dtype = "float32",
    device: Device = "cpu",
    json: AsJson = False,
) -> None:
    """Make pictures with a pipe, following a schedule where one is given, with the scheduler that it is for."""
    from secateur import compare, pipes
    from secateur import schedule as schedules
    from secateur.calibration import save_images

    plan = schedules.load(schedule) if schedule else None
    asked = conditions_of(prompt)
    check_writable(out, folder=True)
    loaded = load_pipe(pipe, dtype=dtype, device=device)
    check_tokens(loaded, tuple(asked))
    guidance = compare.guidance(loaded, pipe, guidance_scale)
    with pipes.scheduled(loaded, scheduler or compare.scheduler_for(loaded, plan), {}):
        images = compare.draw(loaded, plan, asked, seeds=range(seed, seed + len(asked)), batch_size=batch_size,
                              num_inference_steps=steps, guidance_scale=guidance)  # fmt: skip
    files = save_images(images, out, first=seed)
    console.print("\n".join(map(str, files)), markup=False, highlight=False)
    finish({"files": [str(f) for f in files]}, as_json=json)


@app.command()
def report(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="JSON that demo, measure or a benchmark wrote")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the page; default: beside the record")] = None,
    json: AsJson = False,
) -> None:
    """A record as a table here and as one self-contained HTML page."""
    from secateur import report as reports

    found, page = reports.load(record), out or record.with_suffix(".html")
    reports.save_html(found, page)
    console.print(reports.table(found, width=console.width))
    console.print(f"the page: {page}", soft_wrap=True)
    finish(found, as_json=json)


for commands in (cli_search, cli_depth, cli_distil):
    app.add_typer(commands.app)

if __name__ == "__main__":
    main()
