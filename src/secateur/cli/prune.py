"""The command that cuts layers out of a pipe's denoiser: prune."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table, box

from secateur.artifact import check_word
from secateur.cli.criterion import check_scoring, check_texts, criterion_for
from secateur.cli.long_job import last_step
from secateur.cli.search_result import missed
from secateur.cli.terminal import (
    AUTO,
    DEPTH,
    AsJson,
    BatchSize,
    CalibrationSeed,
    Device,
    Dtype,
    Force,
    Guidance,
    Pipe,
    Prompts,
    Steps,
    accelerator_for,
    check_pipe,
    check_saved_pipe,
    command_line,
    console,
    device_of,
    finish,
    load_pipe,
)
from secateur.pipeline.prompts import CALIBRATION_SEED, check_tokens, conditions_in

if TYPE_CHECKING:
    from secateur.pruning.layer_scores import LayerScores
    from secateur.pruning.plan import Plan
    from secateur.pruning.prune import PruneSettings, PruneStep

app = typer.Typer()
LEADING = 5  # layers shown while there is scoring
CRITERIA = "output, task, taylor, cosine or magnitude: what a layer's absence changes; clip, pick or hps: the images' score"
GIVEN, CHOICE = (partial(typer.Option, rich_help_panel=name) for name in ("Without scoring", "How layers are chosen"))
Keep = Annotated[
    float | None,
    typer.Option(help="fraction that stays of --cost (by default of the denoiser's parameters), above 0 and below 1"),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="folder for the student's pipe")]
Cost = Annotated[str, typer.Option(help="what --keep is a fraction of: parameters, macs, macs_attention or ms")]
PlanFile = Annotated[Path | None, GIVEN(help="cut the layers that this plan names")]
Preset = Annotated[str | None, GIVEN(help="cut by a published plan: bk-sdm-small, ssd-1b, koala-700m, …")]
Scores = Annotated[Path | None, GIVEN(help="cut to --keep by these scores: STUDENT/layer_scores.safetensors")]
Images = Annotated[int, typer.Option(min=1, help="images that the pipe draws, to score layers on")]
Samples = Annotated[int, CHOICE(min=1, help="noisy samples of these images, the same for every layer")]
Weighting = Annotated[str | None, CHOICE(help="min_snr: weight samples by their timesteps; default: all alike")]
AtCalled = Annotated[bool, CHOICE("--at-called-timesteps", help="for few-step models: score only at the timesteps of --steps")]
Method = Annotated[str, CHOICE(help="exact, greedy or greedy_ratio")]
EveryStage = Annotated[bool, CHOICE("--keep-every-stage", help="keep one layer or more in each stage of a U-Net")]


@app.command(rich_help_panel=DEPTH)
def prune(
    pipe: Pipe,
    keep: Keep = None,
    prompts: Prompts = None,
    out: Out = Path("student"),
    cost: Cost = "parameters",
    criterion: Annotated[str, typer.Option(help=CRITERIA)] = "output",
    images: Images = 16,
    steps: Steps = 50,
    guidance_scale: Guidance = None,
    seed: CalibrationSeed = CALIBRATION_SEED,
    dtype: Dtype = AUTO,
    device: Device = AUTO,
    force: Force = False,
    json: AsJson = False,
    plan: PlanFile = None,
    preset: Preset = None,
    scores: Scores = None,
    samples: Samples = 64,
    weighting: Weighting = None,
    at_called_timesteps: AtCalled = False,
    method: Method = "exact",
    keep_every_stage: EveryStage = False,
    batch_size: BatchSize = 8,
) -> None:
    """Cut the layers out of a pipe's denoiser that it needs least, and save the student's pipe.

    Stopped while it scores layers, the same command goes on from the last one scored.
    Processes that accelerate launches share the samples. Next, `secateur distil` teaches the student.
    """
    from secateur.denoiser.of_pipe import denoiser_of
    from secateur.pipeline.pipes import locate
    from secateur.pruning.prune import PruneSettings, prune_steps

    partial_scores = out.with_name(f".{out.name}.scores.safetensors")
    settings = PruneSettings(weighting=weighting, at_called_timesteps=at_called_timesteps, method=method,
                             keep_every_stage=keep_every_stage, batch_size=batch_size, scores_path=partial_scores)  # fmt: skip
    check_given(keep=keep, plan=plan, preset=preset, scores=scores, settings=settings)
    if keep is not None:
        check_scoring(criterion, keep=keep, cost=cost, settings=settings)
    check_pipe(pipe, dtype=dtype, device=device)
    chosen, scored = fixed_plan(plan, preset), None
    if scores is not None:
        chosen, scored = plan_from(scores, keep=keep or 0.0, cost=cost, method=method, keep_every_stage=keep_every_stage)
    conditions = () if chosen else conditions_in(prompts, images, pipe=pipe, calibration=True)[0]
    check_saved_pipe(out, force=force, needed={"pipe": locate(pipe)})
    accelerator = accelerator_for("no", None, out.parent, device=device, project="secateur-prune")
    where = device_of(device) if accelerator is None else str(accelerator.device)
    by = criterion_for(criterion, accelerator, where)
    loaded = load_pipe(pipe, dtype=dtype, device=where)
    check_tokens(loaded, conditions)
    check_texts(criterion, conditions)
    if scored is not None:
        check_scores(scores, scored, denoiser_of(loaded))
    if chosen is None:
        last = watched(prune_steps(loaded, keep or 0.0, prompts=conditions, cost=cost, criterion=by, images=images,
                                   samples=samples, steps=steps, guidance_scale=guidance_scale, seed=seed,
                                   settings=settings, accelerator=accelerator), partial_scores, accelerator)  # fmt: skip
        chosen, scored = last.plan, last.scores
    if chosen is not None and (accelerator is None or accelerator.is_main_process):
        cut_and_save(loaded, chosen, out, teacher=pipe, scores=scored, json=json)
        if scores is None and plan is None and preset is None:
            partial_scores.unlink(missing_ok=True)


def watched(steps: Iterator[PruneStep], path: Path, accelerator: Any) -> PruneStep:
    """The last step of a pruning; the layers that would go first are shown while it scores."""
    from secateur.pruning.prune import view_of

    return last_step(
        steps,
        view_of,
        first="counting what each layer costs",
        above=lambda step: leading(step.scores) if step.scores else "",
        stopped=lambda last: f"after {last.done} of {last.total} layers" if last and last.scores else "before the first layer",
        resume=f"the layers scored so far, which it keeps in {path}",
        shown=accelerator is None or accelerator.is_main_process,
    )


def leading(scores: LayerScores) -> str:
    """The layers that would go first, of those scored."""
    losses = dict(zip(scores.layers, scores.values, strict=True))
    return "first to go: " + ", ".join(f"{layer} ({losses[layer]:.3g})" for layer in scores.ranking()[:LEADING])


def check_given(
    *, keep: float | None, plan: Path | None, preset: str | None, scores: Path | None, settings: PruneSettings
) -> None:
    """Raises ValueError if options contradict each other."""
    if sum(given is not None for given in (keep, plan, preset)) != 1:
        raise ValueError("give one of --keep, --plan and --preset: what to keep, or which layers go")
    if scores is not None and keep is None:
        raise ValueError("found --scores without --keep: say how much to keep, or leave the scores out")
    if settings.about_samples and (keep is None or scores is not None):
        raise ValueError(
            f"found {settings.about_samples[0]}, and no layer is scored: give it with --keep alone, or leave it out"
        )


def fixed_plan(plan: Path | None, preset: str | None) -> Plan | None:
    """The plan in a file, or a published one; None if layers are to be scored."""
    from secateur.pruning.plan import Plan
    from secateur.pruning.presets import PRESETS

    if plan is not None:
        return Plan.load(plan)
    if preset is None:
        return None
    check_word("preset", preset, PRESETS)
    return PRESETS[preset]()


def plan_from(path: Path, **how: Any) -> tuple[Plan, LayerScores]:
    """The plan that saved scores give, and those scores."""
    from secateur.pruning import planning
    from secateur.pruning.layer_scores import LayerScores

    scores = LayerScores.load(path)
    return planning.planned(scores, **how), scores


def check_scores(path: Path | None, scores: LayerScores, denoiser: Any) -> None:
    """Raises ValueError if scores are of another denoiser than this one."""
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
    """Rank correlations of the ranking with rankings of samples drawn again; None without scores, or with one sample."""
    from secateur.pruning.layer_scores import stability

    if scores is None or len(scores.weights) < 2:
        return None
    measure = stability(scores)
    return {"spearman": measure.spearman, "spearman_low": measure.spearman_low}


def cut_and_save(pipe: Any, plan: Plan, out: Path, *, teacher: str, scores: LayerScores | None, json: bool) -> None:
    """Save the student's pipe in its folder, with the plan (and scores) beside it, and print what it keeps."""
    from dataclasses import replace

    from secateur.denoiser.of_pipe import denoiser_of
    from secateur.pipeline import pipes
    from secateur.pruning.prune import with_plan

    student = with_plan(pipes.unrounded(pipe), plan)
    sizes = {"teacher": figures(denoiser_of(pipe)), "student": figures(denoiser_of(student))}
    plan = replace(plan, made={**plan.made, **pipes.public_name(pipe), "command": command_line(), "teacher": sizes["teacher"]})
    beside = {"plan.json": plan} | ({"layer_scores.safetensors": scores} if scores is not None else {})
    pipes.save(pipes.as_stored(student), out, beside=beside)
    sure = certainty(scores)
    console.print(table(sizes, layers=len(plan.layers)))
    for sentence in sentences(plan, denoiser_of(student), scores, sure, teacher=teacher, out=out):
        console.print(sentence, highlight=False, soft_wrap=True)
    finish({"out": str(out), "plan": dict(plan.items()), "stability": sure, **sizes}, as_json=json)


def sentences(
    plan: Plan, student: Any, scores: LayerScores | None, sure: dict[str, float] | None, *, teacher: str, out: Path
) -> Iterator[str]:
    """What a pruning says below its table."""
    from secateur.pruning.planning import next_larger

    if (kept := plan.made.get("kept")) and (remark := missed(kept, plan.made["keep"])):
        more = next_larger(scores, plan) if scores else None
        larger = "; the next larger choice is --keep {:g}, which keeps {:.3f}".format(*more) if more else ""
        yield f"keeps {kept:.3f} of the {plan.made['cost']}; {remark}{larger}"
    if plan.made.get("cost") == "ms":
        yield f"by the times of its layers, a call of the student takes about {100 * plan.made['kept']:.1f} % of the teacher's"
    if sure is not None:
        yield (
            f"the ranking of layers has a rank correlation of {sure['spearman']:.2f} with itself over samples drawn again "
            f"({sure['spearman_low']:.2f} at the 5th percentile): more --samples make it surer"
        )
    first = " after `import secateur`" if type(student).__module__ == "secateur" else ""
    yield f"{out}: DiffusionPipeline.from_pretrained loads it{first}; next: secateur distil {out} --teacher {teacher}"


def figures(denoiser: Any) -> dict[str, int]:
    """Parameters, and MACs of one call in both conventions."""
    from secateur.denoiser import macs
    from secateur.pruning.surgery import parameters

    costs = macs.count(denoiser)
    return {
        "parameters": parameters(denoiser),
        "macs_linear": costs.call(),
        "macs_attention": costs.call(attention=True),
    }


def table(sizes: dict[str, dict[str, int]], *, layers: int) -> Table:
    """What the student keeps of its teacher."""
    output = Table(box=box.SIMPLE_HEAD, title=f"{layers} layers removed", title_justify="left")
    for head in ("", "teacher", "student", "kept"):
        output.add_column(head, justify="left" if not head else "right")
    names = {
        "parameters": "parameters (size)",
        "macs_linear": "multiply-accumulates (MACs) of a call",
        "macs_attention": "the same, with attention's products",
    }
    for key, name in names.items():
        whole, left = sizes["teacher"][key], sizes["student"][key]
        output.add_row(name, f"{whole / 1e6:,.2f} M", f"{left / 1e6:,.2f} M", f"{100 * left / whole:.1f} %")
    return output
