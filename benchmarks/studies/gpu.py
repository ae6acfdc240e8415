"""What only a GPU can say: full-size denoisers with random weights in stock pipelines, so speed and memory, not pictures.

Jobs are in order of worth, and each is saved when it is done. None is begun later than `--minutes` after the study began, and
one that is under way then measures no further round. What raises leaves a row with its `error`, and the same command tries
that job again. `--rehearse 1` does all of it with tiny networks, into another record.
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

import secateur
from bench import DEVICE
from secateur import SearchSettings, count, deepcache, fold, fora, published_dip_go, search_steps, uniform
from secateur.denoiser.of_pipe import denoiser_of
from secateur.schedule.baselines import hold_for
from stock import Way, around, call_of, coder, embedded, latencies, one_line, random_net, side_of
from studies.full_size import examples_for, phases, update_row
from study import Job, Row, Run, Study

CALLS, ROUNDS = {"flux-dev": 20}, {"sd15": 5, "dit-xl-2": 5}  # dense calls if not 50; rounds if not 3
RUNNING, INTERVAL = 0.2, 5  # the fraction of the calls that run whole; from one to the next where blocks are reused
COMPILING_S = 60.0  # that must be left for it
Made = Row | Iterable[Row]


class On(NamedTuple):
    """What jobs share. end: when the study stops. tiny: it rehearses, with tiny networks in one round."""

    end: float
    tiny: bool

    @property
    def left_s(self) -> float:
        return self.end - time.monotonic()

    def pipe(self, name: str, *, decodes: bool = False) -> Any:
        net = random_net(name, tiny=self.tiny).requires_grad_(False)
        return around(name, net, vae=coder(tiny=self.tiny) if decodes else None)

    def side(self, name: str) -> int:
        return side_of(name, tiny=self.tiny)

    def rows(self, name: str, ways: Mapping[str, Way], *, batch: int = 1) -> Iterator[Row]:
        """Latency, memory and ms for MACs of these ways, in as many rounds as there is time for."""
        call = call_of(next(iter(ways.values())).pipe, side=self.side(name), batch=batch)
        rounds, samples = 1 if self.tiny else ROUNDS.get(name, 3), 1 if name == "flux-dev" else 2
        for row in latencies(ways, call, samples=samples, rounds=rounds, stop=lambda: self.left_s < 0):
            yield {"denoiser": name, "batch": batch} | row

    def ways(self, name: str, pipe: Any) -> dict[str, Way]:
        """Dense, the sampler of few calls, as many plain steps, and schedules that reuse blocks."""
        calls, unet, flow = CALLS.get(name, 50), name.startswith("sd"), name == "flux-dev"
        macs, few = count(denoiser_of(pipe), "layer", size=self.side(name)), round(RUNNING * calls)
        evenly = uniform(macs.blocks, calls, keep=RUNNING, hold=hold_for(RUNNING))
        sampler = fold(evenly, pipe.scheduler, **({"sigmas": np.linspace(1, 1 / calls, calls)} if flow else {}))
        reusing = (deepcache if unet else fora)(macs.blocks, calls, interval=INTERVAL)
        ways = {
            f"dense, {calls} calls": Way(pipe, macs, calls),
            f"sampler of {few} calls": Way(pipe, macs, calls, sampler),
            f"plain, {few} steps": Way(pipe, macs, few),
            f"{'DeepCache' if unet else 'FORA'}, interval {INTERVAL}": Way(pipe, macs, calls, reusing),
        }
        if name == "sd15":
            stages = count(pipe.unet, "stage", size=self.side(name))
            ways["DiP-GO, published"] = Way(pipe, stages, calls, published_dip_go(stages.blocks))
        return ways


def eager(on: On, name: str, batch: int = 1) -> Iterator[Row]:
    """Every way of a denoiser."""
    return on.rows(name, on.ways(name, on.pipe(name)), batch=batch)


def compiled(on: On, name: str) -> Iterator[Row]:
    """The ways that do not patch the denoiser, which is compiled whole: first_s says how long that takes."""
    pipe = on.pipe(name)
    how = {"backend": "aot_eager", "fullgraph": True} if on.tiny else {}  # a rehearsal shows that it is one graph
    pipe.unet.compile(**how)
    return on.rows(name, {key: way for key, way in on.ways(name, pipe).items() if not way.schedule or way.schedule.whole})


def cut(on: On, name: str, *, keep: float = 0.5, steps: int = 10) -> Iterator[Row]:
    """A teacher and its student, whose layers of least magnitude are gone, each in plain steps."""
    pipe, side = on.pipe(name), on.side(name)
    score = secateur.scored(pipe.unet, examples_for(pipe.unet, side=side), pipe.scheduler, criterion="magnitude", samples=1)
    plan = secateur.planned(list(score)[-1].scores, keep=keep)
    pipes = {"teacher": pipe, "student": around(name, secateur.drop_layers(pipe.unet, plan))}
    ways = {key: Way(one, count(one.unet, "layer", size=side), steps) for key, one in pipes.items()}
    for row in on.rows(name, ways):
        yield row | {"parameters_kept": plan.made["kept"] if row["name"] == "student" else 1.0}


def searched(on: On, name: str, *, images: int) -> Row:
    """Seconds of a whole search, its dense images and the final look at both targets among them, and of its stages."""
    pipe, start, settings = on.pipe(name, decodes=True), time.perf_counter(), SearchSettings(more_images=0)
    prompts = [{key: text[k] for key, text in embedded(pipe, images).items()} for k in range(images)]
    seconds = {step.stage: step.seconds for step in search_steps(pipe, prompts, keep=RUNNING, images=images, settings=settings)}
    return {"denoiser": name, "seconds": time.perf_counter() - start, "stages_s": seconds, "calibration_images": images}


JOBS: dict[str, Callable[[On], Made]] = {
    "sd15": lambda on: eager(on, "sd15"),
    "sd15, batch 8": lambda on: eager(on, "sd15", batch=8),
    **{name: partial(eager, name=name) for name in ("sdxl", "dit-xl-2", "pixart-alpha-1024")},
    "sd15, one update of DiP-GO": lambda on: update_row(8 if on.tiny else 50, tiny=on.tiny),
    "sdxl, cut": lambda on: cut(on, "sdxl"),
    "sd15, depth": lambda on: phases("sd15", side=on.side("sd15"), tiny=on.tiny),
    "sd15, search": lambda on: searched(on, "sd15", images=2 if on.tiny else 8),
    "sd15, compiled": lambda on: compiled(on, "sd15"),
    "flux-dev": lambda on: eager(on, "flux-dev"),
}


def gpu_jobs(run: Run) -> Iterator[Job]:
    """Jobs in order of worth, while there is time; those that failed before come last."""
    on, left = On(time.monotonic() + 60 * run.options["minutes"], bool(run.options["rehearse"])), list[str]()
    tried, failed = ({row["job"] for row in run.record["rows"] if "error" in row or every} for every in (True, False))
    for name, maker in sorted(JOBS.items(), key=lambda item: item[0] in failed):
        done = name in tried - failed
        if done or on.left_s > (COMPILING_S if name.endswith("compiled") and not on.tiny else 0):
            yield Job(name, partial(safely, name, partial(maker, on)), done=done)
        else:
            left.append(name)
    if left:
        print(f"time ran out before {'; '.join(left)}: the same command goes on with them")


def safely(job: str, maker: Callable[[], Made]) -> Iterator[Row]:
    """The rows of a job; one with its error if it raises, so that the others go on."""
    start, rows = time.perf_counter(), list[Row]()
    try:
        made = maker()
        rows.extend([made] if isinstance(made, dict) else made)
    except Exception as error:
        rows.append({"error": one_line(error)})
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    for row in rows:
        yield row | {"name": ": ".join(filter(None, (job, row.get("name")))), "job": job}
    print(f"{job} took {time.perf_counter() - start:.1f} s", flush=True)


STUDIES = (
    Study(
        "gpu",
        "Full-size denoisers on a GPU (random weights: speed and memory, not pictures)",
        gpu_jobs,
        options={"minutes": 8.0, "rehearse": 0},
        head={"options": {"dtype": "bfloat16"}},
        file=lambda pipe, options: "gpu-rehearsal" if options["rehearse"] else "gpu",
    ),
)
