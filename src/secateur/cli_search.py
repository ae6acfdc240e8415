"""The commands that look for schedules: search, and retarget for another budget."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table, box

from secateur.terminal import (
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
    command_line,
    console,
    finish,
    load_pipe,
    progress,
    read_prompts,
    repeated,
)

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
    granularity: Granularity = None,
    steps: Steps = 50,
    guidance_scale: Guidance = None,
    seed: Seed = 40_000,
    batch_size: BatchSize = 8,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    json: AsJson = False,
) -> None:
    """Find settings for a pipe: at which noise levels it calls its denoiser, and what each call refreshes."""
    from secateur import baselines, find, macs, pipes
    from secateur import schedule as schedules
    from secateur.calibration import record
    from secateur.solvers import check_solver
    from secateur.subnet import component

    wanted, order = baselines.check_keep(keep), find.check_stages(stages.split(",")) if stages else None
    if budget not in ("macs", "ms"):
        raise ValueError(f"found budget {budget!r}: choose macs or ms")
    pipes.locate(pipe)
    check_writable(out)
    conditions = calibration_conditions(pipe, prompts, images + more_images)
    loaded = load_pipe(pipe, dtype=dtype, device=device)
    check_tokens(loaded, conditions)
    seeds = range(seed, seed + len(conditions))
    first, further = (conditions[:images], seeds[:images]), (conditions[images:], seeds[images:])
    find.check_target(target)
    with pipes.scheduled(loaded, scheduler, {}), progress() as bar:
        check_solver(loaded.scheduler)
        task = bar.add_task("recording the dense images", total=None)
        options = {"num_inference_steps": steps, "guidance_scale": guidance_of(loaded, pipe, guidance_scale)}
        counted = macs.count(component(loaded), granularity)
        costs, trajectory = costs_of(loaded, counted, budget, lambda: record(loaded, first[0], seeds=first[1],
                                                                             batch_size=batch_size, **options))  # fmt: skip
        objective = find.objective_for(loaded, trajectory, target=target, blocks=counted.blocks, batch_size=batch_size)
        more = find.more_for(objective, *further, target=target)
        looked = find.find(loaded, trajectory, macs=costs, keep=wanted, objective=objective, more=more, stages=order,
                           trials=trials, patience=patience, updates=updates, seed=seed, batch_size=batch_size)  # fmt: skip
        known = {"command": command_line(), "target": target, "keep": wanted, "budget": budget, "seeds": list(first[1]),
                 "more_seeds": list(further[1]), "unit": costs.unit, "conditions_sha256": digest(conditions), **options,
                 **versions()}  # fmt: skip
        found = watched(looked, bar, task, out, known)
    made = schedules.load(out)
    console.print(str(made), markup=False, highlight=False)
    console.print(stage_table(found))
    console.print(
        f"{kept_of(made, dict.fromkeys((counted, costs)), calls=len(trajectory.timesteps))}; wrote {out}", soft_wrap=True
    )
    finish(schedules.document(made), as_json=json)


def watched(looked, bar, task, out: Path, known: dict[str, Any]) -> list:
    """The last Found of every stage; what is best is saved as soon as it is found, so that an interrupt keeps it."""
    last: dict[str, Any] = {}
    try:
        for found in looked:
            if found.improved:
                with_provenance(found, known).save(out)
            if found.scores is not None and (found.improved or found.stage == "gradient"):
                found.scores.save(scores_beside(out))
            last[found.stage] = found
            bar.update(task, total=found.most, completed=found.measured, description=f"{found.stage}: {found.value_db:.2f} dB")
    except KeyboardInterrupt:
        if not last:
            raise
        console.print(f"stopped; the best so far is in {out}", soft_wrap=True)
    return list(last.values())


def costs_of(pipe, counted, budget: str, run):
    """What blocks cost, in MACs or as timed while `run` makes its images, and what it gives."""
    from secateur import measure
    from secateur.families import bare
    from secateur.subnet import component

    if budget == "macs":
        return counted, run()
    made: list = []
    return measure.block_times(bare(component(pipe)), counted.blocks, lambda: made.append(run())), made[0]


def kept_of(made, costs, *, calls: int) -> str:
    """What a schedule keeps of so many dense calls, in a sentence."""
    parts = []
    for cost in costs:
        plain, attention = (cost.of(made, attention=a) / (calls * cost.call(attention=a)) for a in (False, True))
        more = f" ({attention:.3f} with attention)" if cost.unit == "macs" else ""
        parts.append(f"{plain:.3f} of the {cost.noun}{more}")
    return f"keeps {', '.join(parts)}"


def scores_beside(out: Path) -> Path:
    """Where the scores go that a search found on the way, for `retarget`."""
    return out.with_suffix(".scores.safetensors")


def with_provenance(found, known: dict[str, Any]):
    """The schedule, saying how it was found and how good it was on the calibration images."""
    from dataclasses import replace

    made = {**found.schedule.made, **known, "stage": found.stage, "calibration_psnr_db": found.value_db}
    return replace(found.schedule, made=made)


def stage_table(found: list) -> Table:
    """What each stage added."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading, right in (("stage", False), ("measured", True), ("best, dB", True), ("s", True)):
        table.add_column(heading, justify="right" if right else "left")
    for part in found:
        table.add_row(part.stage, str(part.measured), f"{part.value_db:.2f}", f"{part.seconds:.1f}")
    return table


def calibration_conditions(pipe: str, prompts: Path | None, images: int) -> tuple:
    """What to record the dense images of: the file's prompts, or the zoo's own captions other than those it is judged by."""
    from secateur import zoo

    if prompts is not None:
        return repeated(read_prompts(prompts), images)
    if pipe not in zoo.NAMES:
        raise ValueError(f"there are no prompts to search {pipe} with: give a file with one a line by --prompts")
    return zoo.conditions(pipe, images, calibration=True)[0]


def check_tokens(pipe, conditions: tuple) -> None:
    """Nothing; ValueError where a prompt is longer than any tokenizer of the pipe reads: the search would not hear its end."""
    found = [part for name, part in pipe.components.items() if name.startswith("tokenizer") and part is not None]
    for prompt in (c for c in conditions if isinstance(c, str)):
        counts = [(len(tokenizer(prompt).input_ids), tokenizer.model_max_length) for tokenizer in found]
        if counts and all(tokens > most for tokens, most in counts):
            tokens, most = max(counts, key=lambda count: count[1])
            raise ValueError(f"the prompt {prompt[:40]!r}… has {tokens} tokens and the tokenizer reads {most}: shorten it")


def guidance_of(loaded, pipe: str, wanted: float | None) -> float:
    from secateur import compare

    return compare.guidance(loaded, pipe, wanted)


def check_writable(out: Path) -> None:
    """Nothing; OSError before any work where the schedule could not be written at its end."""
    from tempfile import TemporaryFile

    folder = out.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to save {out.name} in: make it first")
    try:
        TemporaryFile(dir=folder).close()  # a permission may be there and the file system read-only
    except OSError as error:
        raise PermissionError(f"{out} cannot be written ({error.strerror}): give another file by --out") from error
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder and cannot be written: give a file by --out")


def digest(conditions: tuple) -> str:
    """SHA-256 of the prompts or labels."""
    return hashlib.sha256("\n".join(map(str, conditions)).encode()).hexdigest()


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("secateur", "torch", "diffusers")}


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
    from secateur import schedule as schedules
    from secateur.allocate import allocate
    from secateur.scores import Scores

    found = Scores.load(scores)
    made = allocate(found, keep=keep, method=method, attention=attention)
    schedules.save(made, out)
    console.print(str(made), markup=False, highlight=False)
    console.print(f"{kept_of(made, [found.macs], calls=made.calls)}; wrote {out}", soft_wrap=True)
    finish(schedules.document(made), as_json=json)
