"""The command that cuts layers out of a pipe's denoiser: prune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table, box

from secateur.cli.terminal import (
    AUTO,
    AsJson,
    BatchSize,
    Device,
    Dtype,
    Guidance,
    Pipe,
    Prompts,
    Seed,
    Steps,
    accelerator_for,
    check_writable,
    command_line,
    console,
    finish,
    load_pipe,
)
from secateur.pipeline.prompts import calibration_conditions, check_tokens, guidance_of

if TYPE_CHECKING:
    from secateur.pruning.layer_scores import LayerScores
    from secateur.pruning.plan import Plan

app = typer.Typer()
CRITERIA = "output, task, taylor, cosine, magnitude; or clip, pick, hps: how the images' score falls"


@app.command()
def prune(
    pipe: Pipe,
    keep: Annotated[float | None, typer.Option(help="fraction of the cost to keep, in (0, 1)")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the student's pipe")] = Path("student"),
    plan: Annotated[Path | None, typer.Option(help="cut by this plan, without scoring")] = None,
    preset: Annotated[str | None, typer.Option(help="cut by a published plan: bk-sdm-small, ssd-1b, koala-700m, …")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="cut to --keep by scores saved before, STUDENT/layer_scores.safetensors")
    ] = None,
    cost: Annotated[str, typer.Option(help="what keep is a fraction of: parameters, macs, macs_attention, ms")] = "parameters",
    criterion: Annotated[str, typer.Option(help=f"of layers: {CRITERIA}")] = "output",
    weighting: Annotated[str | None, typer.Option(help="of samples by their timesteps: min_snr; default: all alike")] = None,
    at_called_timesteps: Annotated[
        bool,
        typer.Option(
            "--at-called-timesteps", help="score at the timesteps of the pipe's own --steps alone: for few-step models"
        ),
    ] = False,
    method: Annotated[str, typer.Option(help="exact, greedy or greedy_ratio")] = "exact",
    keep_every_stage: Annotated[
        bool, typer.Option("--keep-every-stage", help="leave a layer in each stage of a U-Net")
    ] = False,
    prompts: Prompts = None,
    images: Annotated[int, typer.Option(min=1, help="images that the pipe draws to be scored on")] = 16,
    samples: Annotated[int, typer.Option(min=1, help="noisy samples of them, the same for every layer")] = 64,
    steps: Steps = 50,
    guidance_scale: Guidance = None,
    seed: Seed = 40_000,
    batch_size: BatchSize = 8,
    dtype: Dtype = AUTO,
    device: Device = AUTO,
    json: AsJson = False,
) -> None:
    """Cut the layers out of a pipe's denoiser that it needs least, and save the student's pipe.

    Stopped while scoring, it goes on from the last layer scored by the same command. Launched by accelerate, its processes
    share the samples.
    """
    from secateur.cli import score
    from secateur.pipeline import pipes
    from secateur.pipeline.pipes import component
    from secateur.schedule import baselines

    check_asked(
        keep=keep,
        plan=plan,
        preset=preset,
        scores=scores,
        weighting=weighting,
        at_called_timesteps=at_called_timesteps,
        out=out,
    )
    pipes.locate(pipe)
    if keep is not None:
        baselines.check_keep(keep)
        if keep == 1:
            raise ValueError("--keep 1 would remove no layer: ask for less")
        check_choices(criterion=criterion, method=method, cost=cost, weighting=weighting)
        check_noisy(criterion, weighting=weighting, at_called_timesteps=at_called_timesteps)
    chosen, found = fixed_plan(plan, preset), None
    if scores is not None:
        chosen, found = plan_from(scores, keep=keep or 0.0, cost=cost, method=method, keep_every_stage=keep_every_stage)
    conditions = () if chosen else calibration_conditions(pipe, prompts, images)
    accelerator = accelerator_for("no", None, out.parent, device=device, project="secateur-prune")
    score.check_shared(criterion, accelerator)
    loaded = load_pipe(pipe, dtype=dtype, device=device if accelerator is None else str(accelerator.device))
    check_tokens(loaded, conditions)
    check_texts(criterion, conditions)
    if found is not None:
        check_scores(scores, found, component(loaded))
    partial, scoring = out.with_name(f".{out.name}.scores.safetensors"), chosen is None
    if chosen is None:
        call = {"num_inference_steps": steps, "guidance_scale": guidance_of(loaded, pipe, guidance_scale)}
        asked = score.Scoring(
            keep=keep or 0.0, cost=cost, criterion=criterion, weighting=weighting, method=method,
            keep_every_stage=keep_every_stage, conditions=conditions, samples=samples, seed=seed, batch_size=batch_size,
            call=call, path=partial,
            at_called_timesteps=at_called_timesteps, accelerator=accelerator)  # fmt: skip
        chosen, found = score.scored_plan(loaded, asked)
    if accelerator is not None and not accelerator.is_main_process:
        return
    cut_and_save(loaded, component(loaded), chosen, out, scores=found, json=json)
    if scoring:
        partial.unlink(missing_ok=True)


def check_asked(
    *,
    keep: float | None,
    plan: Path | None,
    preset: str | None,
    scores: Path | None,
    weighting: str | None,
    at_called_timesteps: bool,
    out: Path,
) -> None:
    """Nothing; ValueError, OSError for options that do not go together, or a folder that cannot be written."""
    if sum(given is not None for given in (keep, plan, preset)) != 1:
        raise ValueError("give one of --keep, --plan and --preset: what to keep, or which layers go")
    if scores is not None and keep is None:
        raise ValueError("found --scores without --keep: say how much to keep, or leave the scores out")
    if (weighting or at_called_timesteps) and (keep is None or scores is not None):
        option = "--weighting" if weighting else "--at-called-timesteps"
        raise ValueError(f"found {option} where no layer is scored: give it with --keep alone, or leave it out")
    if out.exists():
        raise FileExistsError(f"{out} exists already: give another folder by --out, or remove it first")
    check_writable(out)


def check_choices(**chosen: str | None) -> None:
    """Nothing; ValueError for a word that is none of those to choose among."""
    from secateur.measuring.learned_scores import SCORES
    from secateur.pruning.criteria import CRITERIA
    from secateur.pruning.planning import METHODS
    from secateur.pruning.scoring import WEIGHTINGS

    words = {"criterion": (*CRITERIA, *SCORES), "method": METHODS, "cost": ("parameters", "macs", "macs_attention", "ms"),
             "weighting": (*WEIGHTINGS,)}  # fmt: skip
    for name, word in chosen.items():
        if word is not None and word not in words[name]:
            raise ValueError(f"there is no {name} {word!r}: choose {', '.join(words[name])}")


def check_noisy(criterion: str, *, weighting: str | None, at_called_timesteps: bool) -> None:
    """Nothing; ValueError for options about noisy samples where the criterion looks at none."""
    from secateur.measuring.learned_scores import SCORES

    if (weighting or at_called_timesteps) and criterion in ("magnitude", *SCORES):
        option = "--weighting" if weighting else "--at-called-timesteps"
        raise ValueError(f"{criterion} looks at no noisy samples: leave {option} out")


def check_texts(criterion: str, conditions: tuple[Any, ...]) -> None:
    """Nothing; ValueError where images shall be compared with prompts, and there are class labels."""
    from secateur.measuring.learned_scores import SCORES

    if criterion in SCORES and any(not isinstance(condition, str) for condition in conditions):
        raise ValueError(f"found class labels, which {criterion} cannot compare images with: choose another --criterion")


def fixed_plan(plan: Path | None, preset: str | None) -> Plan | None:
    """The plan in a file, or a published one; None where layers are to be scored."""
    from secateur.pruning.plan import Plan
    from secateur.pruning.presets import PRESETS

    if plan is not None:
        return Plan.load(plan)
    if preset is None:
        return None
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}: choose {', '.join(PRESETS)}")
    return PRESETS[preset]()


def plan_from(path: Path, **how: Any) -> tuple[Plan, LayerScores]:
    """The plan made of scores that were saved, and those scores."""
    from secateur.pruning import planning
    from secateur.pruning.layer_scores import LayerScores

    scores = LayerScores.load(path)
    return planning.planned(scores, **how), scores


def check_scores(path: Path | None, scores: LayerScores, denoiser: Any) -> None:
    """Nothing; ValueError where scores are of another denoiser than this one."""
    from secateur.denoiser import fingerprint
    from secateur.denoiser.families import class_name
    from secateur.pruning.surgery import parameters

    theirs = scores.denoiser, scores.costs["parameters"].total
    ours = class_name(denoiser), parameters(denoiser)
    if theirs != ours:
        raise ValueError(
            f"{path} holds scores of a {theirs[0]} of {theirs[1]:,} parameters and this is a {ours[0]} of {ours[1]:,}: give "
            "the pipe that was scored, or leave --scores out"
        )
    if scores.made.get("teacher") not in (None, fingerprint.of_module(denoiser)):
        console.print(f"note: {path} was scored with other weights, or in another precision, than this pipe has")


def certainty(scores: LayerScores | None) -> dict[str, float] | None:
    """Rank correlations of the ranking with those of samples drawn again; None where there are no scores, or of one sample."""
    from secateur.pruning.layer_scores import stability

    if scores is None or len(scores.weights) < 2:
        return None
    found = stability(scores)
    return {"spearman": found.spearman, "spearman_low": found.spearman_low}


def cut_and_save(loaded: Any, teacher: Any, plan: Plan, out: Path, *, scores: LayerScores | None, json: bool) -> None:
    """The student's pipe in its folder, with the plan (and scores) beside it; what came of it as a table."""
    from dataclasses import replace

    from secateur.pipeline import pipes
    from secateur.pruning.surgery import drop_layers

    student = drop_layers(teacher, plan)
    name = "unet" if loaded.components.get("unet") is not None else "transformer"
    loaded.register_modules(**{name: student})
    plan = replace(plan, made={**plan.made, "command": command_line(), "teacher": figures(teacher)})
    beside = {"plan.json": plan} | ({"layer_scores.safetensors": scores} if scores is not None else {})
    pipes.save(loaded, out, beside=beside)
    found = {"teacher": figures(teacher), "student": figures(student)}
    console.print(table(found, layers=len(plan.layers)))
    if plan.made.get("cost") == "ms":
        share = f"{100 * plan.made['kept']:.1f} %"
        console.print(
            f"by the times of its layers, a call of the student takes about {share} of the teacher's", highlight=False
        )
    sure = certainty(scores)
    if sure is not None:
        console.print(
            f"the ranking of layers has a rank correlation of {sure['spearman']:.2f} with itself over samples drawn again "
            f"({sure['spearman_low']:.2f} at the 5th percentile): more --samples make it surer",
            highlight=False,
        )
    console.print(
        f"{out}: DiffusionPipeline.from_pretrained loads it{imported(student)}; next: secateur distil {out} --teacher …",
        highlight=False,
    )
    finish({"out": str(out), "plan": dict(plan.items()), "stability": sure, **found}, as_json=json)


def imported(student: Any) -> str:
    """What has to come before loading a student: nothing where its class is diffusers' own."""
    return " after `import secateur`" if type(student).__module__ == "secateur" else ""


def figures(denoiser: Any) -> dict[str, int]:
    """Parameters, and MACs of one call in both conventions."""
    from secateur.denoiser import macs
    from secateur.pruning.surgery import parameters

    counted = macs.count(denoiser)
    return {
        "parameters": parameters(denoiser),
        "macs_linear": counted.call(),
        "macs_attention": counted.call(attention=True),
    }


def table(found: dict[str, dict[str, int]], *, layers: int) -> Table:
    """What the student has of its teacher."""
    drawn = Table(box=box.SIMPLE_HEAD, title=f"{layers} layers went", title_justify="left")
    for head in ("", "teacher", "student", "kept"):
        drawn.add_column(head, justify="left" if not head else "right")
    names = {"parameters": "parameters", "macs_linear": "MACs a call, conv + linear", "macs_attention": "with attention"}
    for key, name in names.items():
        whole, left = found["teacher"][key], found["student"][key]
        drawn.add_row(name, f"{whole / 1e6:,.2f} M", f"{left / 1e6:,.2f} M", f"{100 * left / whole:.1f} %")
    return drawn
