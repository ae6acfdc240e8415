"""The command line: each command calls public functions, prints a table, and with --json one JSON document as its last line."""

from __future__ import annotations

import json as jsons
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Secateur: pruning shears for diffusion models.")
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
Keep = Annotated[list[float], typer.Option(help="fraction of the dense MACs to keep, in (0, 1]; may be repeated")]
KEEPS = [0.5, 0.33, 0.2]


def main() -> None:
    """Run the command; bad input ends in one sentence on stderr and exit code 1."""
    try:
        app()
    except (ValueError, TypeError, OSError) as error:
        sentence = " ".join(str(error).split())
        print(f"secateur: {sentence}", file=sys.stderr)
        raise SystemExit(1) from None


def _finish(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(jsons.dumps(document, ensure_ascii=False))


def _command() -> str:
    return shlex.join(["secateur", *sys.argv[1:]])


def _load(pipe: str, *, dtype: str = "float32", device: str = "cpu"):
    """The pipe, without the libraries' own bars and remarks on the way."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from secateur import pipes

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    return pipes.load(pipe, dtype=dtype).to(device)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the page and the record")] = Path("secateur-demo"),
    pipe: Annotated[str, typer.Option(help="emoji-sd or emoji-dit")] = "emoji-sd",
    images: Annotated[int, typer.Option(min=1, help="images of each variant")] = 40,
    keep: Keep = KEEPS,
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
    loaded = _load(pipe)
    _measure(loaded, pipe, compare.front(loaded, steps=steps, keeps=wanted), conditions, captions=captions, seed=seed,
             batch_size=batch_size, guidance_scale=None, out=out, as_json=json)  # fmt: skip


@app.command()
def measure(
    pipe: Pipe,
    schedule: Annotated[list[Path], typer.Option(help="a schedule to measure; may be repeated")] = [],  # noqa: B006
    keep: Annotated[list[float], typer.Option(help="also the static rivals at this fraction of MACs; may be repeated")] = [],  # noqa: B006
    prompts: Annotated[Path | None, typer.Option(help="a text file, one prompt (or class label) a line")] = None,
    images: Annotated[int, typer.Option(min=1, help="images of each variant")] = 16,
    out: Annotated[Path, typer.Option(help="folder for the page and the record")] = Path("secateur-measure"),
    steps: Steps = 50,
    guidance_scale: Guidance = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    dtype: Dtype = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps")] = "cpu",
    json: AsJson = False,
) -> None:
    """Latency, fidelity and cost of schedules beside the dense pipe and fewer steps; writes a record and a page."""
    from secateur import baselines, compare, pipes
    from secateur import schedule as schedules

    pipes.locate(pipe)
    wanted = [baselines.check_keep(k) for k in keep]
    found = [(path.stem, schedules.load(path)) for path in schedule]
    conditions, captions = _conditions(pipe, prompts, images)
    loaded = _load(pipe, dtype=dtype, device=device)
    variants = (*compare.front(loaded, steps=steps, keeps=wanted), *compare.given(loaded, found, steps=steps))
    _measure(loaded, pipe, variants, conditions, captions=captions, seed=seed, batch_size=batch_size,
             guidance_scale=guidance_scale, out=out, as_json=json)  # fmt: skip


def _conditions(pipe: str, prompts: Path | None, images: int) -> tuple[tuple, tuple[str, ...] | None]:
    """What to ask for, `images` times, and the captions where the zoo's judge can read the answers."""
    from secateur import zoo

    if prompts is None:
        if pipe not in zoo.NAMES:
            raise ValueError(f"there are no prompts to measure {pipe} with: give a file with one a line by --prompts")
        return zoo.conditions(pipe, images)
    lines = [line.strip() for line in prompts.read_text().splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{prompts} holds no prompt: write one a line")
    asked = [lines[i % len(lines)] for i in range(images)]
    return (tuple(int(a) for a in asked) if all(a.isdigit() for a in asked) else tuple(asked)), None


def _measure(pipe, source, variants, conditions, *, captions, seed, batch_size, guidance_scale, out, as_json) -> None:
    """Run the comparison with a progress bar, print the table, write record and page."""
    from secateur import compare, report

    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file and a folder is wanted: give another name by --out")
    seeds = range(seed, seed + len(conditions))
    guidance = compare.guidance(pipe, source, guidance_scale)
    batches = []
    with _progress() as bar:
        task = bar.add_task("warming up", total=len(variants) * -(-len(conditions) // batch_size))
        for batch in compare.run(pipe, variants, conditions, seeds=seeds, batch_size=batch_size, guidance_scale=guidance):
            batches.append(batch)
            bar.update(task, advance=1, description=batch.variant.name)
    found = compare.record(pipe, batches, conditions, seeds=seeds, title=f"Secateur on {source}", command=_command(),
                           source=source, captions=captions, options={"guidance_scale": guidance})  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    report.save(found, out / "record.json")
    report.save_html(found, out / "report.html")
    console.print(report.table(found, width=console.width))
    console.print(f"the page with the pictures: {out / 'report.html'}", soft_wrap=True)
    _finish(found, as_json=as_json)


def _progress() -> Progress:
    columns = (TextColumn("{task.description:32.32s}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


@app.command()
def macs(
    pipe: Denoiser,
    granularity: Granularity = None,
    size: Annotated[int | None, typer.Option(help="latent side; default: the denoiser's own")] = None,
    tokens: Annotated[int | None, typer.Option(help="text tokens; default: the denoiser's own")] = None,
    schedule: Annotated[Path | None, typer.Option(help="also the MACs of this schedule")] = None,
    json: AsJson = False,
) -> None:
    """Multiply-accumulates by block, in both conventions, per sample; from class and configuration alone."""
    from secateur import blocks, pipes, tables
    from secateur import macs as counting
    from secateur import schedule as schedules

    config = pipes.denoiser_config(pipe)
    plan = schedules.load(schedule) if schedule else None
    chosen = blocks.matching(config, plan.blocks) if plan else granularity
    counted = counting.count(config, chosen, size=size, tokens=tokens)
    console.print(tables.macs(counted, plan))
    _finish(tables.macs_document(counted, plan), as_json=json)


@app.command("blocks")
def blocks_command(pipe: Denoiser, granularity: Granularity = None, json: AsJson = False) -> None:
    """The blocks of a denoiser in execution order, what each reuses and which blocks it reads."""
    from dataclasses import asdict

    from secateur import pipes, tables
    from secateur.blocks import find_blocks

    found = find_blocks(pipes.denoiser_config(pipe), granularity)
    console.print(tables.blocks(found))
    _finish(asdict(found), as_json=json)


@app.command()
def schedule(
    pipe: Denoiser,
    method: Annotated[str, typer.Option(help="dense, uniform, deepcache, fora or delta-dit")] = "uniform",
    out: Annotated[Path, typer.Option("--out", "-o", help="where to write the schedule")] = Path("schedule.json"),
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
    _finish(schedules.document(made), as_json=json)


@app.command()
def show(schedule: Annotated[Path, typer.Argument(metavar="SCHEDULE")], json: AsJson = False) -> None:
    """Draw a schedule: # runs, . reuses."""
    from secateur import schedule as schedules

    found = schedules.load(schedule)
    console.print(str(found), markup=False, highlight=False)
    _finish(schedules.document(found), as_json=json)


@app.command()
def generate(
    pipe: Pipe,
    prompt: Annotated[list[str], typer.Option(help="a prompt (or class label); may be repeated")],
    schedule: Annotated[Path | None, typer.Option(help="follow this schedule")] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("secateur-images"),
    steps: Steps = 50,
    guidance_scale: Guidance = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    dtype: Dtype = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps")] = "cpu",
    json: AsJson = False,
) -> None:
    """Make pictures with a pipe, following a schedule where one is given."""
    from secateur import compare
    from secateur import schedule as schedules
    from secateur.calibration import save_images

    plan = schedules.load(schedule) if schedule else None
    asked = [int(p) for p in prompt] if all(p.isdigit() for p in prompt) else prompt
    loaded = _load(pipe, dtype=dtype, device=device)
    guidance = compare.guidance(loaded, pipe, guidance_scale)
    images = compare.draw(loaded, plan, asked, seeds=range(seed, seed + len(asked)), batch_size=batch_size,
                          num_inference_steps=steps, guidance_scale=guidance)  # fmt: skip
    files = save_images(images, out, first=seed)
    console.print("\n".join(map(str, files)), markup=False, highlight=False)
    _finish({"files": [str(f) for f in files]}, as_json=json)


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
    _finish(found, as_json=json)


if __name__ == "__main__":
    main()
