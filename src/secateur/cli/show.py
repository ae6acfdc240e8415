"""The commands that run no model: macs, blocks, schedule, show and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.search_result import OVER_BUDGET, missed
from secateur.cli.terminal import (
    LOOK,
    TIME,
    AsJson,
    Denoiser,
    Force,
    Granularity,
    ScheduleOut,
    check_new,
    check_writable,
    console,
    finish,
)

app = typer.Typer()


@app.command(rich_help_panel=LOOK)
def macs(
    pipe: Denoiser,
    granularity: Granularity = None,
    size: Annotated[int | None, typer.Option(help="latent side; default: the denoiser's own")] = None,
    tokens: Annotated[int | None, typer.Option(help="text tokens; default: the denoiser's own")] = None,
    calls: Annotated[int | None, typer.Option(min=1, help="also the MACs of this number of dense calls")] = None,
    guidance: Annotated[bool, typer.Option("--guidance", help="two samples a call, as classifier-free guidance has")] = False,
    schedule: Annotated[Path | None, typer.Option(help="also the MACs of this schedule")] = None,
    json: AsJson = False,
) -> None:
    """Multiply-accumulates by block, in both conventions. No weights are read."""
    import torch

    from secateur.cli import tables
    from secateur.denoiser import blocks
    from secateur.denoiser import macs as counting
    from secateur.denoiser.families import dummy_inputs
    from secateur.pipeline import pipes
    from secateur.pruning import surgery
    from secateur.schedule import schedule as schedules

    config = pipes.denoiser_config(pipe)
    plan = schedules.load(schedule) if schedule else None
    chosen = blocks.matching(config, plan.blocks) if plan else granularity
    batch = 2 if guidance else 1
    costs = counting.count(config, chosen, size=size, tokens=tokens, batch=batch)
    weights = surgery.parameters(blocks.meta_twin(config))
    with torch.device("meta"):
        inputs = dummy_inputs(config, size=size, tokens=tokens, batch=batch)
    shapes = {name: list(x.shape) for name, x in inputs.items() if torch.is_tensor(x) and x.dim() > 1}
    console.print(f"{weights / 1e6:,.1f} M parameters", highlight=False)
    console.print(f"counted with {tables.of_shapes(shapes)}: --size and --tokens change it", highlight=False, soft_wrap=True)
    console.print(tables.macs(costs, plan, calls=calls, batch=batch))
    finish({"parameters": weights, "inputs": shapes, **tables.macs_document(costs, plan, calls=calls)}, as_json=json)


@app.command("blocks", rich_help_panel=LOOK)
def blocks_command(pipe: Denoiser, granularity: Granularity = None, json: AsJson = False) -> None:
    """The blocks of a denoiser in execution order, what each reuses and which blocks it reads."""
    from dataclasses import asdict

    from secateur.cli import tables
    from secateur.denoiser.blocks import find_blocks
    from secateur.pipeline import pipes

    blocks = find_blocks(pipes.denoiser_config(pipe), granularity)
    console.print(tables.blocks(blocks))
    finish(asdict(blocks), as_json=json)


@app.command(rich_help_panel=TIME)
def schedule(
    pipe: Denoiser,
    method: Annotated[str, typer.Option(help="dense, uniform, deepcache, fora, delta-dit or dip-go-published")] = "uniform",
    out: ScheduleOut = Path("schedule.json"),
    keep: Annotated[float | None, typer.Option(help="fraction of the dense MACs to keep, in (0, 1]")] = None,
    interval: Annotated[int | None, typer.Option(help="instead of --keep: calls from one full call to the next")] = None,
    calls: Annotated[int, typer.Option(min=1, help="denoiser calls an image (steps, for most schedulers)")] = 50,
    granularity: Annotated[str | None, typer.Option(help="stage or layer; default: layer for deepcache, else stage")] = None,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Write a static schedule: the rivals that need no search. Exit code 3: it keeps over 5 % more than --keep."""
    from secateur.denoiser import macs as counting
    from secateur.pipeline import pipes
    from secateur.schedule import baselines

    check_new(out, force=force)
    chosen = granularity or ("layer" if method == "deepcache" else None)  # what DeepCache's authors choose among
    costs = counting.count(pipes.denoiser_config(pipe), chosen)
    static = baselines.make(method, costs, calls=calls, keep=keep, interval=interval)
    static.save(out)
    console.print(str(static), markup=False, highlight=False)
    shares = f"{costs.keep(static):.3f} of the MACs ({costs.keep(static, attention=True):.3f} with attention)"
    console.print(f"keeps {shares}; wrote {out}")
    remark = missed(costs.keep(static), keep) if keep is not None else None
    if remark:
        console.print(remark, soft_wrap=True)
    finish(static.document(), as_json=json)
    if remark and costs.keep(static) > (keep or 0.0):
        raise typer.Exit(OVER_BUDGET)


@app.command(rich_help_panel=LOOK)
def show(artifact: Annotated[Path, typer.Argument(metavar="FILE")], json: AsJson = False) -> None:
    """Draw a schedule (# runs, . reuses), or list the layers of a plan or of a file of layer scores."""
    from secateur.pruning.layer_scores import LayerScores
    from secateur.pruning.plan import Plan, is_plan
    from secateur.schedule.schedule import Schedule

    kind = LayerScores if artifact.suffix == ".safetensors" else Plan if is_plan(artifact) else Schedule
    shown = kind.load(artifact)
    console.print(str(shown), markup=False, highlight=False)
    if kind is Schedule and (keep := shown.made.get("keep")) is not None:
        console.print(f"made to keep {keep:.3f} of the dense {shown.made.get('unit', 'macs')}", highlight=False)
    if shown.made.get("complete") is False:
        console.print("not complete: the search was stopped; the same command goes on with it")
    finish(shown.document(), as_json=json)


@app.command(rich_help_panel=LOOK)
def report(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="JSON that demo, measure or a benchmark wrote")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the page; default: beside the record")] = None,
    json: AsJson = False,
) -> None:
    """A record as a table here and as one self-contained HTML page."""
    from secateur.cli.compare import PAGE, RECORD, print_record
    from secateur.measuring import report as reports

    page = out or (record.with_name(PAGE) if record.name == RECORD else record.with_suffix(".html"))
    check_writable(page)
    loaded = reports.load(record)
    reports.save_html(loaded, page)
    print_record(loaded)
    console.print(f"the page: {page}", soft_wrap=True)
    finish(loaded, as_json=json)
