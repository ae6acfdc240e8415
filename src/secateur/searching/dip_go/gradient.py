"""search(pipe, trajectory, keep=…): which cells to run, learned by gradients through the whole pipeline.

DiP-GO (arXiv 2410.16942): a small network, the Pruner, makes a gate for every cell. It is optimised until the gated pipeline
draws what the dense one draws; the pipeline's weights never change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from secateur.denoiser.macs import Macs, count
from secateur.denoiser.of_pipe import only_denoiser_of
from secateur.knapsack import budget
from secateur.pipeline.generate import check_call
from secateur.pipeline.schedulers import scheduler_signature
from secateur.pipeline.trajectory import Trajectory
from secateur.schedule.allocate import allocate
from secateur.schedule.baselines import check_keep
from secateur.schedule.schedule import Schedule
from secateur.schedule.scores import Scores
from secateur.searching.dip_go.progress import Progress
from secateur.searching.dip_go.unrolled import check_pipe
from secateur.searching.dip_go.updates import GradientSearch, Settings, begun, denoiser_branches, kept_shares, update
from secateur.searching.local import check_start
from secateur.searching.memo import NOTHING, Memo

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import DiffusionPipeline

PAPER = Settings()


@dataclass(frozen=True, eq=False)
class SearchStep:
    """A search after `number` updates.

    losses: of the last update: "consistency" L_c, "sparsity" L_s and "total", the one that is minimised. kept_linear,
    kept_attention: fraction of the dense MACs that the Pruner's own gates keep, in either convention. schedule: closed and
    within the budget, from the scores by the paper's bisection. scores: the Pruner's probability of keeping each cell.
    """

    number: int
    losses: Mapping[str, float]
    kept_linear: float
    kept_attention: float
    schedule: Schedule
    scores: Scores


def search(
    pipe: DiffusionPipeline,
    trajectory: Trajectory,
    *,
    keep: float,
    macs: Macs | None = None,
    settings: Settings = PAPER,
    start: Schedule | None = None,
    memo: Memo = NOTHING,
    accelerator: Accelerator | None = None,
) -> Iterator[SearchStep]:
    """One SearchStep an update, each with a Schedule that takes at most `keep` of the dense MACs: DiP-GO's search.

    Between two steps the pipe is as it was, and free for other use. Raises ValueError or TypeError if arguments do not fit.

    Arguments that matter:
        trajectory: prompts or labels, and how the pipe is called; from `secateur.record`.
        keep: fraction of the dense MACs, in (0, 1].
        settings: updates, loss, optimizer and more; by default the paper's.

    Arguments to tinker with:
        macs: of the denoiser, with the blocks to choose among; by default `secateur.count(denoiser)`.
        start: a Schedule that the gates begin at, and whose kinds of reuse they take.
        memo: of gradients, from `memo_in` with these arguments. The same search, called again, goes on from those.
        accelerator: spreads each batch over its processes, with the same result; losses go to its trackers.
    """
    net = only_denoiser_of(pipe)
    macs = count(net) if macs is None else macs
    if start is not None:
        check_start(start)
        macs.check_schedule(start)
        macs = replace(macs, blocks=replace(macs.blocks, reuse=start.reuse))
    work = GradientSearch(pipe, trajectory, check_keep(keep), macs, settings, start, accelerator, memo)
    check(work)
    return train(work, begun(work))


def check(search: GradientSearch) -> None:
    """Raises ValueError or TypeError if the search could not be done."""
    trajectory, start, whole = search.trajectory, search.start, search.macs.call(attention=search.settings.attention)
    check_pipe(search.pipe)
    search.macs.check_convention(attention=search.settings.attention)
    check_call(search.pipe, trajectory.conditions, seeds=trajectory.seeds, batch_size=1, call=trajectory.options)
    if search.calls < 2:
        raise ValueError(f"the trajectory has {search.calls} denoiser calls, and the first one runs whole: record more steps")
    budget([whole] * (search.calls - 1), keep=search.keep, rest=whole)
    if start is not None and start.timesteps not in (None, trajectory.timesteps):
        raise ValueError("the schedule to start at has other timesteps than the trajectory: record a trajectory with it")


def train(search: GradientSearch, now: Progress) -> Iterator[SearchStep]:
    """A SearchStep for each update; trackers get its losses."""
    chains = denoiser_branches(search)
    while now.number < search.settings.steps:
        update(search, now, chains)
        step = step_of(search, now)
        if search.accelerator is not None:
            shares = {"kept_linear": step.kept_linear, "kept_attention": step.kept_attention}
            search.accelerator.log({**now.losses, **shares}, step=now.number)
        yield step


def step_of(search: GradientSearch, now: Progress) -> SearchStep:
    """The SearchStep of a search as it stands."""
    provenance = {"method": "dip-go", "keep": float(search.keep), "updates": now.number, **asdict(search.settings)}
    values, signature = now.pruner.importance().cpu().numpy(), scheduler_signature(search.pipe.scheduler)
    scores = Scores(values, search.macs, *signature, provenance)
    schedule = allocate(scores, keep=search.keep, method="bisection", attention=search.settings.attention)
    if search.start is not None:
        schedule = replace(schedule, timesteps=search.start.timesteps, hold=search.start.hold)
    return SearchStep(now.number, dict(now.losses), *kept_shares(search, now.pruner), schedule, scores)
