"""How students recover under distillation: prompt accuracy and judge-Fréchet against updates, equal budgets.

emoji-sd: LAPTOP-Diff's plans, BK-SDM's and random ones, and LAPTOP's under other losses; emoji-dit: six of its twelve blocks in
four ways (does a low loss foretell what is recovered, which TinyFusion, arXiv 2412.01199, denies?), and without pictures."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any

from bench import Bench
from secateur import DistilSettings, Examples, LayerScores, Plan, count, drop_layers, joint_loss, output_loss, planned, zoo
from secateur.denoiser.of_pipe import denoiser_of
from secateur.distilling import encoded, pictures, store
from secateur.distilling.distil import pipe_steps
from secateur.distilling.training import holding
from secateur.measuring import quality
from secateur.pipeline.examples import concatenate, draw_examples
from secateur.pruning.presets import bk_sdm_small, bk_sdm_tiny
from secateur.pruning.prune import with_plan
from secateur.pruning.surgery import parameters, plan_without
from study import Job, Row, Run, Study

KEEP, TUPLES, STEPS = 0.5, 64, 25
FIRST_SEED, DRAWN_SEED = 60_000, 200_000  # of the images that are judged, and of those that are taught with
DRAWN, CLASSES, HALF = 1024, 256, 128  # images that the teacher draws; classes of emoji-dit, and half of them
SHARES = (0.1, 0.3, 1.0)  # of the updates, where students are judged; before training once for each plan
WATCHED, SHOWN = 200, 40  # records of the terms in a run, and those that the results keep
HOW: dict[str, Any] = {"timesteps": "stratified", "null_rate": 0.1, "ema": 0.995}
NORMALIZED = DistilSettings(batch_size=16, lr=5e-4, warmup=50, lr_schedule="cosine", **HOW)
WAYS: dict[str, dict[str, Any]] = {
    "normalized": {},
    "plain": {"normalize": "none"},
    "output-only": {"task": 0.0, "feature": 0.0},
    "task-only": {"output": 0.0, "feature": 0.0},
    "normalized, features weigh 1": {"feature": 1.0},
    "normalized, features weigh 0.01": {"feature": 0.01},
    "drawn by the teacher": {},
    "drawn by the teacher, prompts swapped": {"swap_rate": 0.5},
    "half of the classes drawn": {},
    "half of the classes drawn, all swapped": {"swap_rate": 0.5},
}
FEATURED = ("normalized", "plain")  # ways that look at features
LAPTOP = ("plain", "output-only", "task-only")
Arm = tuple[str, str]  # plan, and how it is distilled
MACS = (*LAPTOP, "normalized, features weigh 1", "normalized, features weigh 0.01")
PLANS = {  # what matters most first
    "emoji-sd": ("laptop", "bk-small", "random"),
    "emoji-sd-macs": ("laptop", "bk-tiny", "random"),
    "emoji-dit": ("laptop", "every second block", "random", "middle blocks"),
}
TAUGHT = {"emoji-sd": LAPTOP, "emoji-sd-macs": MACS, "emoji-dit": ("plain", *(way for way in WAYS if "drawn" in way))}
ARMS: dict[str, list[Arm]] = {
    kind: [*((plan, "normalized") for plan in plans), *(("laptop", way) for way in TAUGHT[kind])]
    for kind, plans in PLANS.items()
}
ARMS["emoji-sd"] += [("laptop at BK-Small's size", "normalized")]


class School:
    """What all runs share: the pipe, its examples (encoded once), the scores of its layers, and the plans."""

    def __init__(self, name: str, *, cost: str, images: int, examples: int, work: Path):
        self.name, self.cost, self.count = name, cost, examples
        self.bench = Bench(name, steps=STEPS, images=images, seed=FIRST_SEED)
        self.call = {"num_inference_steps": STEPS, **self.bench.call}
        self.shared, self.folder = work / name, work / case(name, cost)

    @property
    def pipe(self) -> Any:
        return self.bench.pipe

    @property
    def teacher(self) -> Any:
        return denoiser_of(self.pipe)

    @cached_property
    def examples(self) -> Examples:
        """The renderer's pictures."""
        make = partial(encoded.encoded, self.pipe, pictures.scenes(self.name), limit=self.count, batch_size=64)
        made = {"pipe": self.name, "examples": self.count}
        return examples_in(self.shared / f"examples-{self.count}.safetensors", make, made=made)

    @cached_property
    def drawn(self) -> Examples:
        """What the teacher draws, made once."""
        asked, _ = zoo.conditions(self.name, DRAWN, calibration=True)
        make = partial(draw_examples, self.pipe, asked, count=DRAWN, seed=DRAWN_SEED, **self.call)
        return examples_in(self.folder / f"drawn-{DRAWN}.safetensors", make, made={"pipe": self.name, "drawn": DRAWN})

    @cached_property
    def scores(self) -> LayerScores:
        path = self.shared / "scores.safetensors"
        *_, last = output_loss(self.teacher, self.examples, self.pipe.scheduler, path=path, samples=TUPLES)
        return last.scores

    @cached_property
    def keep(self) -> float:
        """The fraction that students keep: six blocks of the transformer, or half."""
        return KEEP if self.name == "emoji-sd" else self.left(blocks_gone(self.teacher, range(1, 12, 2)))

    def left(self, plan: Plan) -> float:
        return parameters(drop_layers(self.teacher, plan)) / parameters(self.teacher)

    def plan(self, name: str, seed: int) -> Plan:
        """The plan of a name; a random one for each seed."""
        plans: dict[str, Callable[[], Plan]] = {
            "laptop": lambda: planned(self.scores, keep=self.keep, cost=self.cost),
            "laptop at BK-Small's size": lambda: planned(self.scores, keep=self.left(bk_sdm_small()), cost=self.cost),
            "bk-small": bk_sdm_small,
            "bk-tiny": bk_sdm_tiny,
            "every second block": lambda: blocks_gone(self.teacher, range(1, 12, 2)),
            "middle blocks": lambda: blocks_gone(self.teacher, range(3, 9)),
            "random": lambda: random_plan(self, seed),
        }
        return plans[name]()

    def kept(self, student: Any) -> dict[str, float]:
        """The fractions of the teacher's parameters and MACs that a student keeps."""
        macs = count(student).call() / count(self.teacher).call()
        return {"keep": parameters(student) / parameters(self.teacher), "keep_macs": macs}

    def taught_with(self, way: str) -> tuple[Examples, Examples | None]:
        """The renderer's pictures, or what the teacher draws by prompts alone; and prompts that are only heard."""
        if "drawn" not in way:
            return self.examples, None
        if not way.startswith("half"):
            return self.drawn, None
        labels = self.drawn.conditions["class_labels"]
        [places] = (labels < HALF).nonzero(as_tuple=True)
        half = replace(self.drawn, latents=self.drawn.latents[places], conditions={"class_labels": labels[places]})
        others = concatenate(encoded.unpictured(self.pipe, range(HALF, CLASSES)))
        return half, others if way.endswith("swapped") else None

    def judged(self, pipe: Any = None) -> Row:
        """Accuracy with its interval and judge-Fréchet of what a pipe draws, by default the teacher's."""
        images, bench = self.bench.draw(pipe=pipe), self.bench
        figures = quality.measured(images, None, captions=bench.captions, renders=bench.renders)
        return {key: figures[key] for key in ("accuracy", "frechet")}


def examples_in(path: Path, make: Callable[..., Iterator[Examples]], *, made: dict[str, Any]) -> Examples:
    """The examples in a file, made if there are none yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        list(store.making(lambda first: make(first=first), path, made=made))
    return store.load(path, made=made)


def case(name: str, cost: str) -> str:
    """What the files of students of a pipe with a fraction of its parameters, or of its MACs, are called."""
    return name if cost == "parameters" else f"{name}-{cost}"


def blocks_gone(transformer: Any, numbers: Iterable[int]) -> Plan:
    """A transformer without some of its blocks."""
    return plan_without(transformer, [f"transformer_blocks.{n}" for n in numbers], made={"method": "handcrafted"})


def random_plan(school: School, seed: int) -> Plan:
    """Layers taken out in random order until no more than the fraction kept is left."""
    costs = school.scores.costs[school.cost]
    sizes = dict(zip(school.scores.layers, costs.layers, strict=True))
    order, gone, left = list(sizes), [], costs.total
    Random(seed).shuffle(order)
    while left > school.keep * costs.total:
        gone.append(order.pop())
        left -= sizes[gone[-1]]
    return plan_without(school.teacher, gone, made={"method": "random", "seed": seed})


def jobs(run: Run) -> Iterator[Job]:
    """The teacher; then for each seed and arm the student before training and at each mark."""
    given, updates, known = run.options, run.options["updates"], set[str]()
    kind = case(run.pipe, given["cost"])
    if kind not in ARMS:
        raise SystemExit(f"the blocks of {run.pipe} are all alike, and half of them is half of either: leave --cost out")
    school = School(run.pipe, cost=given["cost"], images=given["images"], examples=given["examples"], work=run.work)
    yield Job("teacher", lambda: {"plan": "teacher", "keep": 1.0, **school.judged()})
    for seed in range(given["seeds"]):
        for arm in ARMS[kind]:
            before = f"{arm[0]}, seed {seed}, untrained" if arm[0] == "random" else f"{arm[0]}, untrained"
            if before not in known:
                yield Job(before, partial(untrained, school, arm[0], seed))
            known.add(before)
            name = f"{', '.join(arm)}, seed {seed}"
            ended = run.row(f"{name}, {updates} updates") is not None  # then marks before are not made again
            for mark in marks(updates):
                make = partial(taught, school, arm, seed=seed, updates=updates, mark=mark)
                yield Job(f"{name}, {mark} updates", make, done=ended or None)


def marks(updates: int) -> list[int]:
    return sorted({round(share * updates) for share in SHARES} - {0})


def untrained(school: School, name: str, seed: int) -> Row:
    """The row of a plan's student before any training."""
    plan = school.plan(name, seed)
    student = with_plan(school.pipe, plan)
    [loss] = joint_loss(school.teacher, school.examples, school.pipe.scheduler, [plan], samples=TUPLES)
    known = {"plan": name, "way": None, "seed": seed, **school.kept(denoiser_of(student)), "updates": 0}
    return {**known, "joint_loss": float(loss.mean()), **school.judged(student)}


def taught(school: School, arm: Arm, *, seed: int, updates: int, mark: int) -> Row:
    """The row of a run after so many of its updates; training goes on from the checkpoint of the mark before."""
    plan, folder, start = school.plan(arm[0], seed), folder_of(school.folder, arm, seed), time.perf_counter()
    student, (examples, others) = with_plan(school.pipe, plan), school.taught_with(arm[1])
    settings = replace(NORMALIZED, **WAYS[arm[1]], updates=updates, seed=seed)
    steps = pipe_steps(student, school.pipe, examples, call={}, settings=settings, plan=plan, unpictured=others,
                       folder=folder, save_every=marks(updates)[0])  # fmt: skip
    for step in steps:
        if step.number % max(updates // WATCHED, 1) == 0 or step.number == 1:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "terms.jsonl").open("a") as file:
                line = {"updates": step.number, "raw": dict(step.raw), "normalized": dict(step.normalized)}
                file.write(json.dumps(line) + "\n")
        if step.number == mark:
            known = {"plan": arm[0], "way": arm[1], "seed": seed, **school.kept(denoiser_of(student)), "updates": mark}
            spent = time.perf_counter() - start
            with holding(denoiser_of(student), step.averaged):
                return {**known, "since_s": spent, **school.judged(student)}
    raise AssertionError(f"no run of {updates} updates ends before {mark}")


def folder_of(folder: Path, arm: Arm, seed: int) -> Path:
    """Where a run keeps its checkpoints."""
    return folder / f"{arm[0]} {arm[1]} {seed}".replace(" ", "-")


def term_jobs(run: Run) -> Iterator[Job]:
    """The feature terms of LAPTOP's first student, in every way that looks at features."""
    folder = run.work.parent / "recovery" / case(run.pipe, run.options["cost"])
    for way in FEATURED:
        yield Job(way, partial(term_rows, folder, way), last=f"{way}, update {run.options['updates']}")


def term_rows(folder: Path, way: str) -> Iterator[Row]:
    """Some of the terms of a run, evenly; an update that was made twice, after an interruption, counts once."""
    path = folder_of(folder, ("laptop", way), 0) / "terms.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    once = [line for _, line in sorted({line["updates"]: line for line in lines}.items())]
    for k in sorted({round(k * (len(once) - 1) / (SHOWN - 1)) for k in range(SHOWN)}):
        updates = once[k]["updates"]
        terms = {kind: {site: float(f"{x:.4g}") for site, x in once[k][kind].items()} for kind in ("raw", "normalized")}
        yield {"name": f"{way}, update {updates}", "way": way, "updates": updates, **terms}


OPTIONS = {"updates": 2000, "examples": 8192, "images": 128, "seeds": 3, "cost": "parameters"}
STUDY: dict[str, Any] = {"options": OPTIONS, "pipes": zoo.NAMES}
STUDY["head"] = lambda pipe, given: {"options": {k: v for k, v in given.items() if k != "seeds" and v != "parameters"}}
TITLES = {"recovery": "Recovery of students of {pipe} under distillation"}
TITLES["recovery-terms"] = "Feature terms of a student of {pipe} by site"
STUDIES = tuple(
    Study(name, title, work, file=lambda pipe, options, name=name: f"{name}-{case(pipe, options['cost'])}", **STUDY)
    for (name, title), work in zip(TITLES.items(), (jobs, term_jobs), strict=True)
)
