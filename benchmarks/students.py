"""What distillations of students share: the pipe, its examples, the scores of its layers, plans, and judging."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any

from bench import Bench
from secateur import Examples, LayerScores, Plan, count, drop_layers, output_loss, planned, zoo
from secateur.distilling import encoded, pictures, store
from secateur.measuring import quality
from secateur.pipeline.examples import concatenate, draw_examples
from secateur.pipeline.pipes import component
from secateur.pruning.presets import bk_sdm_small, bk_sdm_tiny
from secateur.pruning.surgery import parameters, plan_without
from study import Row

KEEP, TUPLES, STEPS = 0.5, 64, 25
FIRST_SEED, DRAWN_SEED = 60_000, 200_000  # of the images that are judged, and of those that are taught with
DRAWN, CLASSES, HALF = 1024, 256, 128  # images that the teacher draws; classes of emoji-dit, and half of them


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
        return component(self.pipe)

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
