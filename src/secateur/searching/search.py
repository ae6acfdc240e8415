"""search(pipe, prompts, keep=0.2): the best schedule for a pipe; what the command `secateur search` runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch

from secateur.denoiser import fingerprint, times
from secateur.denoiser.families import bare
from secateur.denoiser.macs import Macs, count
from secateur.denoiser.of_pipe import denoiser_of
from secateur.measuring.quality import NotFiniteError
from secateur.pipeline import progress as progress_bar
from secateur.pipeline import prompts as conditioning
from secateur.pipeline.pipes import public_name, zoo_name
from secateur.pipeline.progress import View
from secateur.pipeline.prompts import CALIBRATION_SEED
from secateur.pipeline.schedulers import begun, scheduler_signature, steps_within
from secateur.pipeline.table import probe
from secateur.pipeline.trajectory import Trajectory, record
from secateur.schedule.baselines import check_keep
from secateur.schedule.schedule import Schedule
from secateur.searching.memo import Memo, memo_in, recorded, tensors_of, trajectory_of
from secateur.searching.objective import TARGETS, check_target, more_for, objective_for
from secateur.searching.paired_gain import PairedGain
from secateur.searching.settings import DEFAULT, SearchSettings
from secateur.searching.stages import BestSoFar, run_stages
from secateur.searching.task import Search, affordable_calls, check_calls

IMAGES, ENOUGH = 16, 8  # calibration images: by default, and those below which a search remarks on it (ours: four lost)

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import DiffusionPipeline


def search(
    pipe: DiffusionPipeline,
    prompts: Sequence[str] | Sequence[int] | None = None,
    *,
    keep: float = 0.2,
    steps: int = 50,
    target: str = "dense",
    images: int = IMAGES,
    guidance_scale: float | None = None,
    seed: int = CALIBRATION_SEED,
    batch_size: int = 8,
    progress: bool = True,
    settings: SearchSettings = DEFAULT,
    accelerator: Accelerator | None = None,
) -> Schedule:
    """The best Schedule found for a pipe: which denoiser calls run, which blocks run in them, and what is reused.

    The pipe's weights never change. With the schedule, the pipe draws nearly the same images for a fraction of the compute:

        schedule = secateur.search(pipe, ["a fox in the snow", "a red bicycle"], keep=0.2)
        schedule.save("schedule.json")
        with secateur.apply(pipe, schedule):
            image = pipe("an owl at night", num_inference_steps=50).images[0]

    The search records the images that the whole ("dense") pipe draws. It then measures, stage by stage, how near the images of
    cheaper schedules come, and keeps one only if its gain is statistically significant. It takes about as long as a
    hundred dense images. A schedule suits images like those that it was searched on, so give prompts like those you will use.

    Arguments that matter:
        pipe: a diffusers pipeline with one denoiser, on the device and in the dtype that it is used in.
        prompts: texts, or class labels (int); repeated if they are fewer than the images. A pipe of `secateur.zoo` needs none.
        keep: fraction of the dense pipe's multiply-accumulates (MACs) that the schedule may spend, in (0, 1].
        steps: steps of the dense pipe; call it with the same number while the schedule is applied.
        target: "dense" searches for images near the dense ones; "converged" for images near those of very many steps.
        guidance_scale: as the pipe is used; by default the pipe's own.

    The schedule is a sampler of few calls, whose coefficients are fitted to the recorded latents. If its calls all run whole,
    `pipe.scheduler = schedule.sampler(pipe.scheduler)` draws by it without a patch.

    The pipe's scheduler may be any that draws no noise at its steps and clips nothing: only what its latents go through is
    needed. Calls are chosen among the steps of the dense pipe, or among 200 levels if the target is "converged".

    Arguments to tinker with:
        images: calibration images; more of them make a surer choice, and a slower search. Fewer than 8 get a warning.
        seed: of the first image; the others count on. The search itself is seeded by it too. The default is far from the
            seeds that images are measured on, which count from 0.
        batch_size: images drawn at once.
        progress: show a progress bar on stderr.
        settings: stages, trials, patience, blocks and more, see `secateur.SearchSettings`.
        accelerator: of accelerate; it spreads the gradient stage over processes.

    Raises ValueError, before anything is drawn, if an argument is out of its range, if a prompt is longer than the pipe reads,
    or if the pipe cannot be searched. To log a search or to stop it early, use `secateur.search_steps`.
    """
    stages = search_steps(pipe, prompts, keep=keep, steps=steps, target=target, images=images, guidance_scale=guidance_scale,
                          seed=seed, batch_size=batch_size, settings=settings, accelerator=accelerator)  # fmt: skip
    if remark := few_images(images):
        warnings.warn(remark, stacklevel=2)
    *_, best = watched(stages, show=progress)
    return best.schedule


def search_steps(
    pipe: DiffusionPipeline,
    prompts: Sequence[str] | Sequence[int] | None = None,
    *,
    keep: float = 0.2,
    steps: int = 50,
    target: str = "dense",
    images: int = IMAGES,
    guidance_scale: float | None = None,
    seed: int = CALIBRATION_SEED,
    batch_size: int = 8,
    settings: SearchSettings = DEFAULT,
    accelerator: Accelerator | None = None,
) -> Iterator[BestSoFar]:
    """What `secateur.search` does, one record for each schedule that it measures, with the best so far.

        for step in secateur.search_steps(pipe, prompts, keep=0.2):
            print(step.stage, step.value_db)
        step.schedule.save("schedule.json")

    Every schedule's `made` says how it was found and how near its images are; the last record's says how near they are to
    both targets. Arguments and errors are those of `search`.
    """
    denoiser = denoiser_of(pipe)
    if images < 1:
        raise ValueError(f"found images={images}: a search needs 1 calibration image or more")
    check_search(pipe.scheduler, keep=keep, steps=steps, target=target, stages=settings.stages)
    settings.check_processes(accelerator)
    conditions = conditioning.conditions_for(pipe, prompts, images + settings.more_images)
    guidance = conditioning.guidance_of(pipe, zoo_name(pipe) or "", guidance_scale)
    call = {"num_inference_steps": steps, "guidance_scale": guidance}
    macs = count(denoiser, settings.granularity)
    asked = {"keep": float(keep), "target": target, "images": images, "seed": seed, "batch_size": batch_size, **call}
    memo = memo_of(pipe, {**asked, "prompts": conditioning.digest(conditions)}, settings, accelerator)

    def run_search() -> Iterator[BestSoFar]:
        try:
            yield from whole_search()
        except ValueError:  # to which the same search would come again
            memo.end()
            raise
        if accelerator is not None:
            accelerator.wait_for_everyone()
        memo.end()

    def whole_search() -> Iterator[BestSoFar]:
        seeds = tuple(range(seed, seed + len(conditions)))
        costs, trajectory = record_costs(memo, pipe, macs, conditions[:images], cost=settings.cost, seeds=seeds[:images],
                                         batch_size=batch_size, **call)  # fmt: skip
        objective = objective_for(pipe, trajectory, target=target, blocks=macs.blocks, batch_size=batch_size, memo=memo)
        gain = PairedGain(objective, more_for(objective, conditions[images:], seeds[images:], target=target))
        whole = Search(pipe, trajectory, costs, keep, gain, settings, seed, batch_size, accelerator, target, memo)
        yield from described(whole, target, {**provenance(whole, conditions, seeds), **call})

    return run_search()


def check_search(scheduler: Any, *, keep: float, steps: int, target: str, stages: Sequence[str] | None) -> None:
    """Raises ValueError if a search with this scheduler could not begin; needs no weights."""
    check_keep(keep)
    check_target(target)
    if steps < 1:
        raise ValueError(f"found steps={steps}: ask for 2 or more")
    probe(begun(scheduler, steps))  # refuses what draws noise or clips
    calls = len(begun(scheduler, steps).timesteps)
    check_calls(calls, keep=keep)
    if stages is None or "stock" in stages:
        steps_within(scheduler, affordable_calls(calls, keep=keep))


def few_images(images: int) -> str:
    """A sentence on calibration images that are too few to trust a gain; none if they are enough."""
    if images >= ENOUGH:
        return ""
    few = f"{images} calibration image{'s are' if images > 1 else ' is'} few"
    return f"{few}, and the schedule may be worse than evenly held calls on others: give {ENOUGH} or more, better {IMAGES}"


def memo_of(
    pipe: DiffusionPipeline, asked: Mapping[str, Any], settings: SearchSettings, accelerator: Accelerator | None
) -> Memo:
    """What an earlier run of the same search measured, in the folder that the settings name."""
    if settings.work is None:
        return Memo()
    how = {name: value for name, value in asdict(settings).items() if name not in ("work", "afresh")}
    arguments = {"pipe": fingerprint.of_pipe(pipe), "scheduler": [*scheduler_signature(pipe.scheduler)], **asked, **how}
    return memo_in(settings.work, arguments, afresh=settings.afresh, accelerator=accelerator)


def record_costs(
    memo: Memo, pipe: DiffusionPipeline, macs: Macs, conditions: Sequence[Any], *, cost: str, seeds: Sequence[int], **call: Any
) -> tuple[Macs, Trajectory]:
    """What blocks cost, in MACs or in the time that they take meanwhile, and the dense trajectory."""
    if cost == "macs":
        return macs, recorded(memo, pipe, conditions, seeds=seeds, **call)

    def timed() -> dict[str, torch.Tensor]:
        seen: list[Trajectory] = []
        run = lambda: seen.append(record(pipe, conditions, seeds=seeds, **call))  # noqa: E731
        costs = times.block_times(bare(denoiser_of(pipe)), macs.blocks, run)
        return tensors_of(seen[0]) | {"ns": torch.tensor([*costs.linear, costs.rest_linear])}

    found = memo("timed", [], timed)
    options = {name: value for name, value in call.items() if name != "batch_size"}
    *cells, rest = found["ns"].tolist()
    costs = Macs(macs.blocks, tuple(cells), (0,) * len(cells), rest, 0, unit="ns")
    return costs, trajectory_of(found, conditions, seeds, options)


def provenance(search: Search, conditions: Sequence[Any], seeds: Sequence[int]) -> dict[str, Any]:
    """What a schedule's `made` says of the search that found it."""
    from importlib.metadata import version

    images = len(search.trajectory.seeds)
    return {
        "keep": search.keep,
        "dense_calls": search.calls,
        "cost": search.settings.cost,
        "unit": search.macs.unit,
        "seeds": list(seeds[:images]),
        "more_seeds": list(seeds[images:]),
        "conditions_sha256": conditioning.digest(tuple(conditions)),
        **public_name(search.pipe),
        **{name: version(name) for name in ("secateur", "torch", "diffusers")},
    }


def described(search: Search, target: str, facts: Mapping[str, Any]) -> Iterator[BestSoFar]:
    """The steps of a search, whose schedules and scores say how they were found; in the end once more, near both targets."""
    last: BestSoFar | None = None
    stage = ""
    for last in run_stages(search):
        stage = last.stage if last.improved else stage
        yield with_made(last, {**facts, "target": target, "stage": stage, "calibration_psnr_db": {target: last.value_db}})
    assert last is not None  # every stage measures something
    [other] = TARGETS.keys() - {target}
    near = {target: last.value_db, **other_target(search, last.schedule, other)}
    yield with_made(replace(last, improved=False), {**facts, "target": target, "stage": stage, "calibration_psnr_db": near})


def with_made(best: BestSoFar, known: Mapping[str, Any]) -> BestSoFar:
    """The same step, with what is known of the search in the `made` of its schedule and of its scores."""
    schedule, scores = best.schedule, best.scores
    facts = {name: value for name, value in known.items() if name != "calibration_psnr_db"}
    return replace(
        best,
        schedule=replace(schedule, made={**schedule.made, **known}),
        scores=scores and replace(scores, made={**scores.made, **facts, "stage": best.stage}),
    )


def other_target(search: Search, schedule: Schedule, target: str) -> dict[str, float]:
    """How near a schedule's images are to the other target, by its name; nothing if that target is not finite."""
    how = {"blocks": search.macs.blocks, "batch_size": search.batch_size, "memo": search.memo}
    try:
        objective = objective_for(search.pipe, search.trajectory, target=target, **how)
        return {target: objective(schedule)}
    except NotFiniteError:
        return {}


def watched(steps: Iterator[BestSoFar], *, show: bool = True) -> Iterator[BestSoFar]:
    """The same steps, while a progress bar on stderr says how the search stands."""
    return progress_bar.watched(steps, view, first="recording the dense images", show=show)


def view(step: BestSoFar) -> View:
    """What the progress bar shows of a search: its stage, its best so far, and the trials done."""
    losses = "".join(f", {name} {value:.3g}" for name, value in step.losses.items() if name != "total")
    return View(f"{step.stage}: {step.value_db:.2f} dB, keeps {step.kept:.3f}{losses}", step.measured, step.most)
