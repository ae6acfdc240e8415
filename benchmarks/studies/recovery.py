"""How students recover under distillation: prompt accuracy and judge-Fréchet against updates, equal budgets.

emoji-sd: LAPTOP-Diff's plan at keep 0.5 and at BK-Small's size, BK-Small, and a random one for each seed, all with normalized
distillation; LAPTOP's also with plain features, with outputs alone, and with the task alone. With half of the MACs (--cost
macs) more is lost; BK-Tiny then stands for BK-Small, and LAPTOP's is taught with other weights of the features too. emoji-dit:
six of its twelve blocks, LAPTOP's choice, every second one, the middle ones and random ones: does a low output loss before
training foretell what is recovered (TinyFusion, arXiv 2412.01199, says it does not)? LAPTOP's also without any pictures, taught
with what the teacher draws: of all classes, or of half of them, and then with the other half heard at noisy samples or not.

The study `recovery-terms` reads the feature terms of LAPTOP's student by site from the same folder --work.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any

from secateur import drop_layers, zoo
from secateur.denoiser import macs
from secateur.distilling import encoded, features, pictures, store
from secateur.distilling.settings import DistilSettings
from secateur.distilling.training import DistilStep, distil_steps, holding
from secateur.measuring import quality
from secateur.pipeline.examples import Examples, concatenate, draw_examples
from secateur.pipeline.generate import generate
from secateur.pipeline.pipes import component
from secateur.pruning import planning, scoring
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.plan import Plan
from secateur.pruning.presets import bk_sdm_small, bk_sdm_tiny
from secateur.pruning.surgery import parameters, plan_without
from study import Job, Record, Row, Run, Study

KEEP, TUPLES, STEPS, BATCH = 0.5, 64, 25, 8
FIRST_SEED, DRAWN_SEED = 60_000, 200_000  # of the images that are judged, and of those that are taught with
DRAWN, CLASSES, HALF = (
    1024,
    256,
    128,
)  # images that the teacher draws; emoji-dit's classes, and half of them
SHARES = (0.1, 0.3, 1.0)  # of the updates, where students are judged; before training once for each plan
WATCHED, SHOWN = 200, 40  # records of the terms in a run, and those that the results keep
NORMALIZED = DistilSettings(
    batch_size=16, lr=5e-4, warmup=50, lr_schedule="cosine", timesteps="stratified", null_rate=0.1, ema=0.995
)
WAYS = {
    "normalized": NORMALIZED,
    "plain": replace(NORMALIZED, normalize="none"),
    "output-only": replace(NORMALIZED, task=0.0, feature=0.0),
    "task-only": replace(NORMALIZED, output=0.0, feature=0.0),
    "normalized, features weigh 1": replace(NORMALIZED, feature=1.0),
    "normalized, features weigh 0.01": replace(NORMALIZED, feature=0.01),
    "drawn by the teacher": NORMALIZED,
    "drawn by the teacher, prompts swapped": replace(NORMALIZED, swap_rate=0.5),
    "half of the classes drawn": NORMALIZED,
    "half of the classes drawn, all swapped": replace(NORMALIZED, swap_rate=0.5),
}
FEATURED = ("normalized", "plain")  # ways that look at features
LAPTOP = ("plain", "output-only", "task-only")
Arm = tuple[str, str]  # plan, and how it is distilled
ARMS: dict[str, tuple[Arm, ...]] = {  # what matters most first
    "emoji-sd": (
        *((plan, "normalized") for plan in ("laptop", "bk-small", "random")),
        *(("laptop", way) for way in LAPTOP),
        ("laptop at BK-Small's size", "normalized"),
    ),
    "emoji-sd-macs": (
        *((plan, "normalized") for plan in ("laptop", "bk-tiny", "random")),
        *(("laptop", way) for way in (*LAPTOP, "normalized, features weigh 1", "normalized, features weigh 0.01")),
    ),
    "emoji-dit": (
        *((plan, "normalized") for plan in ("laptop", "every second block", "random", "middle blocks")),
        *(("laptop", way) for way in ("plain", *(way for way in WAYS if "drawn" in way))),
    ),
}


class Bench:
    """What all runs share: the pipe, its examples (encoded once), the scores of its layers, and the plans."""

    def __init__(self, name: str, *, cost: str, images: int, examples: int, work: Path):
        self.name, self.cost, self.images, self.count = name, cost, images, examples
        self.shared, self.folder = work / name, work / case(name, cost)

    @cached_property
    def pipe(self) -> Any:
        self.shared.mkdir(parents=True, exist_ok=True)
        pipe = zoo.load(self.name)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def teacher(self) -> Any:
        return component(self.pipe)

    @cached_property
    def examples(self) -> Examples:
        """The renderer's pictures."""
        path, made = self.shared / f"examples-{self.count}.safetensors", {"pipe": self.name, "examples": self.count}
        scenes = pictures.scenes(self.name)
        return examples_in(path, partial(encoded.encoded, self.pipe, scenes, limit=self.count, batch_size=64), made=made)

    @cached_property
    def drawn(self) -> Examples:
        """What the teacher draws, made once."""
        path, made = self.folder / f"drawn-{DRAWN}.safetensors", {"pipe": self.name, "drawn": DRAWN}
        asked, _ = zoo.conditions(self.name, DRAWN, calibration=True)
        make = partial(draw_examples, self.pipe, asked, count=DRAWN, seed=DRAWN_SEED, **self.call)
        return examples_in(path, make, made=made)

    @property
    def call(self) -> dict[str, Any]:
        return {"num_inference_steps": STEPS, "guidance_scale": zoo.GUIDANCE[self.name], "batch_size": BATCH}

    @cached_property
    def null(self) -> dict[str, Any]:
        return encoded.null(self.pipe, labels="class_labels" in self.examples.conditions)

    @cached_property
    def scores(self) -> LayerScores:
        path = self.shared / "scores.safetensors"
        *_, last = scoring.output_loss(self.teacher, self.examples, self.pipe.scheduler, path=path, samples=TUPLES)
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
            "laptop": lambda: self.planned(self.keep),
            "laptop at BK-Small's size": lambda: self.planned(self.left(bk_sdm_small())),
            "bk-small": bk_sdm_small,
            "bk-tiny": bk_sdm_tiny,
            "every second block": lambda: blocks_gone(self.teacher, range(1, 12, 2)),
            "middle blocks": lambda: blocks_gone(self.teacher, range(3, 9)),
            "random": lambda: random_plan(self, seed),
        }
        return plans[name]()

    def planned(self, keep: float) -> Plan:
        return planning.planned(self.scores, keep=keep, cost=self.cost)

    def kept(self, student: Any) -> dict[str, float]:
        """The fractions of the teacher's parameters and MACs that a student keeps."""
        calls = [macs.count(denoiser).call() for denoiser in (student, self.teacher)]
        return {"keep": parameters(student) / parameters(self.teacher), "keep_macs": calls[0] / calls[1]}

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

    def judged(self) -> Row:
        """Accuracy with its interval and judge-Fréchet of what the pipe draws now."""
        asked, captions = zoo.conditions(self.name, self.images)
        images = generate(self.pipe, asked, seeds=range(FIRST_SEED, FIRST_SEED + self.images), **self.call)
        figures = quality.measured(images, None, captions=captions, renders=zoo.renders(captions))
        return {key: figures[key] for key in ("accuracy", "frechet")}

    def student_judged(self, student: Any, weights: Mapping[str, Any]) -> Row:
        """What the student's images are worth, with its averaged weights."""
        teacher = self.teacher
        [name] = (name for name, part in self.pipe.components.items() if part is teacher)
        try:
            with holding(student, weights):
                setattr(self.pipe, name, student)
                return self.judged()
        finally:
            setattr(self.pipe, name, teacher)


def examples_in(path: Path, make: Callable[..., Iterator[Examples]], *, made: dict[str, Any]) -> Examples:
    """The examples in a file, made if there are none yet."""
    if not path.exists():
        list(store.making(lambda first: make(first=first), path, made=made))
    return store.load(path, made=made)


def case(name: str, cost: str) -> str:
    """What the files of students of a pipe with a fraction of its parameters, or of its MACs, are called."""
    return name if cost == "parameters" else f"{name}-{cost}"


def blocks_gone(transformer: Any, numbers: Iterable[int]) -> Plan:
    """A transformer without some of its blocks."""
    return plan_without(transformer, [f"transformer_blocks.{n}" for n in numbers], made={"method": "handcrafted"})


def random_plan(bench: Bench, seed: int) -> Plan:
    """Layers taken out in random order until no more than the fraction kept is left."""
    costs = bench.scores.costs[bench.cost]
    sizes = dict(zip(bench.scores.layers, costs.layers, strict=True))
    order, gone, left = list(sizes), [], costs.total
    Random(seed).shuffle(order)
    while left > bench.keep * costs.total:
        gone.append(order.pop())
        left -= sizes[gone[-1]]
    return plan_without(bench.teacher, gone, made={"method": "random", "seed": seed})


# Rows


def jobs(run: Run) -> Iterator[Job]:
    """The teacher; then for each seed and arm the student before training and at each mark."""
    given, updates = run.options, run.options["updates"]
    kind = case(run.pipe, given["cost"])
    if kind not in ARMS:
        raise SystemExit(f"the blocks of {run.pipe} are all alike, and half of them is half of either: leave --cost out")
    bench = Bench(run.pipe, cost=given["cost"], images=given["images"], examples=given["examples"], work=run.work)
    yield Job("teacher", lambda: [{"name": "teacher", "plan": "teacher", "keep": 1.0, **bench.judged()}])
    known = set[str]()
    for seed in range(given["seeds"]):
        for arm in ARMS[kind]:
            before = f"{arm[0]}, seed {seed}, untrained" if arm[0] == "random" else f"{arm[0]}, untrained"
            if before not in known:
                yield Job(before, lambda row=before, arm=arm, seed=seed: [{"name": row, **untrained(bench, arm[0], seed)}])
            known.add(before)
            name = f"{', '.join(arm)}, seed {seed}"
            ended = run.row(f"{name}, {updates} updates") is not None  # then marks before are not made again
            for mark in marks(updates):
                row = f"{name}, {mark} updates"
                yield Job(row, partial(taught, bench, row, arm, seed, updates=updates, mark=mark), done=ended or None)


def marks(updates: int) -> list[int]:
    return sorted({round(share * updates) for share in SHARES} - {0})


def untrained(bench: Bench, name: str, seed: int) -> Row:
    """The row of a plan's student before any training."""
    plan = bench.plan(name, seed)
    student = drop_layers(bench.teacher, plan)
    [loss] = scoring.joint_loss(bench.teacher, bench.examples, bench.pipe.scheduler, [plan], samples=TUPLES)
    known = {"plan": name, "way": None, "seed": seed, **bench.kept(student), "updates": 0}
    return {**known, "joint_loss": float(loss.mean()), **bench.student_judged(student, {})}


def taught(bench: Bench, name: str, arm: Arm, seed: int, *, updates: int, mark: int) -> Iterator[Row]:
    """The row of a run after so many of its updates; training goes on from the checkpoint of the mark before."""
    plan, folder = bench.plan(arm[0], seed), folder_of(bench.folder, arm, seed)
    student = drop_layers(bench.teacher, plan)
    settings, (examples, others) = replace(WAYS[arm[1]], updates=updates, seed=seed), bench.taught_with(arm[1])
    sites, start = features.sites(bench.teacher, student, plan=plan), time.perf_counter()
    steps = distil_steps(bench.teacher, student, examples, bench.pipe.scheduler, settings=settings, null=bench.null,
                         others=others, folder=folder, save_every=marks(updates)[0], sites=sites)  # fmt: skip
    for step in steps:
        if step.number % max(updates // WATCHED, 1) == 0 or step.number == 1:
            watch(folder, step)
        if step.number == mark:
            known = {"plan": arm[0], "way": arm[1], "seed": seed, **bench.kept(student), "updates": mark}
            spent = time.perf_counter() - start
            yield {"name": name, **known, "since_s": spent, **bench.student_judged(student, step.averaged)}
            return


def watch(folder: Path, step: DistilStep) -> None:
    """Add the terms of an update to the run's own file."""
    folder.mkdir(parents=True, exist_ok=True)
    line = {"updates": step.number, "raw": dict(step.raw), "normalized": dict(step.normalized)}
    with (folder / "terms.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def folder_of(folder: Path, arm: Arm, seed: int) -> Path:
    """Where a run keeps its checkpoints."""
    return folder / f"{arm[0]} {arm[1]} {seed}".replace(" ", "-")


# Feature terms


def term_jobs(run: Run) -> Iterator[Job]:
    """The feature terms of LAPTOP's first student, in every way that looks at features."""
    folder = run.work.parent / "recovery" / case(run.pipe, run.options["cost"])
    for way in FEATURED:
        yield Job(way, partial(term_rows, folder, way), last=f"{way}, update {run.options['updates']}")


def term_rows(folder: Path, way: str) -> list[Row]:
    """Some of the terms of a run, evenly; an update that was made twice, after an interruption, counts once."""
    path = folder_of(folder, ("laptop", way), 0) / "terms.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    once = [line for _, line in sorted({line["updates"]: line for line in lines}.items())]
    kept = sorted({round(k * (len(once) - 1) / (SHOWN - 1)) for k in range(SHOWN)})
    return [
        {"name": f"{way}, update {line['updates']}", "way": way, "updates": line["updates"]}
        | {kind: {site: float(f"{x:.4g}") for site, x in line[kind].items()} for kind in ("raw", "normalized")}
        for line in (once[k] for k in kept)
    ]


def settings(pipe: str, options: Mapping[str, Any]) -> Record:
    cost = {"cost": options["cost"]} if options["cost"] != "parameters" else {}
    return {"options": cost | {key: options[key] for key in ("updates", "images", "examples")}}


OPTIONS = {"updates": 2000, "examples": 8192, "images": 128, "seeds": 3, "cost": "parameters"}
STUDIES = tuple(
    Study(
        name,
        title,
        work,
        options=OPTIONS,
        pipes=zoo.NAMES,
        settings=settings,
        file=lambda pipe, options, name=name: f"{name}-{case(pipe, options['cost'])}",
    )
    for name, title, work in (
        ("recovery", "Recovery of students of {pipe} under distillation", jobs),
        ("recovery-terms", "Feature terms of a student of {pipe} by site", term_jobs),
    )
)
