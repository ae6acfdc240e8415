"""The command that writes a schedule's sampler for other programs."""

from __future__ import annotations

import json as jsons
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.terminal import TIME, AsJson, Force, check_new, check_writable, console, finish

app = typer.Typer()


class To(StrEnum):
    """What a sampler can be written as."""

    DIFFUSERS = "diffusers"
    TABLE = "table"
    SIGMAS = "sigmas"


@app.command(rich_help_panel=TIME)
def export(
    schedule: Annotated[Path, typer.Argument(metavar="SCHEDULE", help="one of whole calls")],
    to: Annotated[To, typer.Option(help="a scheduler's folder, a JSON file of its numbers, or sigmas for ComfyUI")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the folder or file to write")],
    pipe: Annotated[str | None, typer.Option(help="whose scheduler to take, if the schedule does not say its settings")] = None,
    force: Force = False,
    json: AsJson = False,
) -> None:
    """Write a schedule as a sampler that needs no patch: for diffusers, ComfyUI or a program of your own."""
    from secateur import artifact
    from secateur.pipeline import schedulers
    from secateur.schedule import schedule as schedules
    from secateur.schedule.export import sampler_numbers, sigmas_for
    from secateur.schedule.fit import stock_scheduler
    from secateur.schedule.fold import sampler_for

    check_writable(out, folder=to is To.DIFFUSERS)
    check_new(out, force=force)
    whole = schedules.load(schedule)
    scheduler = schedulers.scheduler_of(pipe) if pipe else stock_scheduler(whole)
    sampler = sampler_for(whole, scheduler)
    document = {"calls": len(sampler.timesteps), "out": str(out)}
    if to is To.DIFFUSERS:
        sampler.save_pretrained(out)
        use = f'pipe.scheduler = secateur.LinearMultistepScheduler.from_pretrained("{out}")'
    elif to is To.TABLE:
        about = {"denoiser": whole.denoiser, "scheduler": whole.scheduler, **whole.made}
        numbers = artifact.thawed(artifact.frozen({**sampler_numbers(sampler), "made": about}))
        artifact.write_text(jsons.dumps(numbers, indent=1) + "\n", out)
        use = "in ComfyUI: the node Secateur schedule (docs/howto/comfyui.md)"
    else:
        name, sigmas = sigmas_for(whole, scheduler)
        document |= {"sampler": name, "sigmas": sigmas}
        artifact.write_text(", ".join(f"{sigma:.6g}" for sigma in sigmas) + "\n", out)
        use = f"in ComfyUI: ManualSigmas with this list, and the sampler {name}"
    console.print(f"{document['calls']} calls; wrote {out}\n{use}", markup=False, highlight=False, soft_wrap=True)
    finish(document, as_json=json)
