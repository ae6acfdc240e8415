"""What distillations of students share: the pipe, its examples, the scores of its layers, plans, and judging."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any

from secateur import drop_layers, zoo
from secateur.denoiser import macs
from secateur.distilling import encoded, pictures, store
from secateur.distilling.training import holding
from secateur.measuring import quality
from secateur.pipeline.examples import Examples, concatenate, draw_examples
from secateur.pipeline.generate import generate
from secateur.pipeline.pipes import component
from secateur.pruning import planning, scoring
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.plan import Plan
from secateur.pruning.presets import bk_sdm_small, bk_sdm_tiny
from secateur.pruning.surgery import parameters, plan_without
from study import Row

KEEP, TUPLES, STEPS, BATCH = 0.5, 64, 25, 8
FIRST_SEED, DRAWN_SEED = 60_000, 200_000  # of the images that are judged, and of those that are taught with
DRAWN, CLASSES, HALF = 1024, 256, 128  # images that the teacher draws; classes of emoji-dit, and half of them


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
