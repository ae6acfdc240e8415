"""How students recover under distillation: prompt accuracy and judge-Fréchet against updates, equal budgets.

    python benchmarks/recovery.py [emoji-sd|emoji-dit] [--updates 2000] [--seeds 3] [--images 128] [--plan laptop=plan.json]
    python benchmarks/recovery.py emoji-sd --cost macs ...           students with half of the MACs, not of the parameters
    python benchmarks/recovery.py [emoji-sd|emoji-dit] --draw        the figures of what is measured already

emoji-sd: LAPTOP-Diff's plan at keep 0.5 and at BK-Small's size, BK-Small, and a random one for each seed, all with normalized
distillation; LAPTOP's also with plain features, with outputs alone, and with the task alone. With half of the MACs more is
lost; BK-Tiny, which takes more than half, then stands for BK-Small, and LAPTOP's is taught with other weights of the features
too. emoji-dit: six of its twelve blocks, LAPTOP's choice (with plain features too), every second one, the middle ones and
random ones: does a low output loss before training foretell what is recovered (TinyFusion, arXiv 2412.01199, says it does not)?
LAPTOP's also without any pictures, taught with what the teacher draws: of all classes, or of half of them, and then with the
other half heard at noisy samples or not at all.

Every row is saved when it is done, and a rerun goes on within a run too. Writes results/recovery-PIPE.json and .png
(recovery-PIPE-macs), and of the feature terms of LAPTOP's student by site, plain and normalized, results/recovery-terms-
PIPE.json and .png.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import recovery_figure
from secateur import drop_layers, zoo
from secateur.denoiser import macs
from secateur.distilling import encoded, features, pictures, store
from secateur.distilling.settings import DistilSettings
from secateur.distilling.training import DistilStep, distil_steps, holding
from secateur.measuring import quality, records
from secateur.measuring.hardware import hardware
from secateur.pipeline.examples import Examples, concatenate, draw_examples
from secateur.pipeline.generate import generate
from secateur.pipeline.pipes import component
from secateur.pruning import planning, scoring
from secateur.pruning.layer_scores import LayerScores
from secateur.pruning.plan import Plan
from secateur.pruning.presets import bk_sdm_small, bk_sdm_tiny
from secateur.pruning.scoring import output_loss
from secateur.pruning.surgery import parameters, plan_without
from secateur.zoo import judge

RESULTS = Path(__file__).parents[1] / "results"
KEEP, EXAMPLES, TUPLES, STEPS, BATCH = 0.5, 8192, 64, 25, 8
FIRST_SEED, DRAWN_SEED = 60_000, 200_000  # of the images that are judged, and of those that are taught with
DRAWN = 1024  # images that the teacher draws, where there are no pictures
CLASSES, HALF = 256, 128  # of emoji-dit, eight for each object; those that are drawn of half of them
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
FEATURED = ("plain", "normalized")  # ways that look at features
ARMS = {  # plan, how it is distilled; what matters most first
    "emoji-sd": (
        ("laptop", "normalized"),
        ("bk-small", "normalized"),
        ("random", "normalized"),
        ("laptop", "plain"),
        ("laptop", "output-only"),
        ("laptop", "task-only"),
        ("laptop at BK-Small's size", "normalized"),
    ),
    "emoji-sd-macs": (
        ("laptop", "normalized"),
        ("bk-tiny", "normalized"),
        ("random", "normalized"),
        ("laptop", "plain"),
        ("laptop", "output-only"),
        ("laptop", "task-only"),
        ("laptop", "normalized, features weigh 1"),
        ("laptop", "normalized, features weigh 0.01"),
    ),
    "emoji-dit": (
        ("laptop", "normalized"),
        ("every second block", "normalized"),
        ("random", "normalized"),
        ("middle blocks", "normalized"),
        ("laptop", "plain"),
        ("laptop", "drawn by the teacher"),
        ("laptop", "drawn by the teacher, prompts swapped"),
        ("laptop", "half of the classes drawn"),
        ("laptop", "half of the classes drawn, all swapped"),
    ),
}


@dataclass(frozen=True)
class Bench:
    """What all runs share. cost: what students keep a fraction of, "parameters" or "macs"."""

    name: str
    cost: str
    pipe: Any
    examples: Examples
    null: dict[str, Any]
    plans: dict[str, Plan]
    scores: LayerScores
    images: int
    folder: Path

    @property
    def teacher(self) -> Any:
        return component(self.pipe)

    @property
    def keep(self) -> float:
        """The fraction that students keep: six blocks of the transformer, or half."""
        if self.name == "emoji-sd":
            return KEEP
        return parameters(drop_layers(self.teacher, blocks_gone(self.teacher, range(1, 12, 2)))) / parameters(self.teacher)

    def plan(self, name: str, seed: int) -> Plan:
        """The plan of a name; a random one for each seed."""
        return random_plan(self, seed) if name == "random" else self.plans[name]

    def kept(self, student) -> dict[str, float]:
        """The fractions of the teacher's parameters and MACs that a student keeps."""
        calls = [macs.count(denoiser).call() for denoiser in (student, self.teacher)]
        return {"keep": parameters(student) / parameters(self.teacher), "keep_macs": calls[0] / calls[1]}

    def taught_with(self, way: str) -> tuple[Examples, Examples | None]:
        """The renderer's pictures, or what the teacher draws by prompts alone; and prompts that are only heard."""
        if "drawn" not in way:
            return self.examples, None
        drawn = self.drawn()
        if not way.startswith("half"):
            return drawn, None
        [places] = (drawn.conditions["class_labels"] < HALF).nonzero(as_tuple=True)
        half = replace(
            drawn, latents=drawn.latents[places], conditions={"class_labels": drawn.conditions["class_labels"][places]}
        )
        others = concatenate(encoded.unpictured(self.pipe, range(HALF, CLASSES)))
        return half, others if way.endswith("swapped") else None

    def drawn(self) -> Examples:
        """What the teacher draws, made once."""
        path, made = self.folder / f"drawn-{DRAWN}.safetensors", {"pipe": self.name, "drawn": DRAWN}
        asked, _ = zoo.conditions(self.name, DRAWN, calibration=True)
        call = {"num_inference_steps": STEPS, "guidance_scale": zoo.GUIDANCE[self.name], "batch_size": BATCH}

        def parts(first: int) -> Iterator[Examples]:
            return draw_examples(self.pipe, asked, first=first, count=DRAWN, seed=DRAWN_SEED, **call)

        return examples_in(path, parts, made=made)

    def joint_loss(self, plan: Plan) -> float:
        """The output loss of removing all of a plan's layers, before any training."""
        [loss] = scoring.joint_loss(self.teacher, self.examples, self.pipe.scheduler, [plan], samples=TUPLES)
        return float(loss.mean())

    def judged(self) -> dict[str, Any]:
        """Accuracy with its interval and judge-Fréchet of what the pipe draws now."""
        asked, captions = zoo.conditions(self.name, self.images)
        seeds = range(FIRST_SEED, FIRST_SEED + self.images)
        call = {"num_inference_steps": STEPS, "guidance_scale": zoo.GUIDANCE[self.name], "batch_size": BATCH}
        images = generate(self.pipe, asked, seeds=seeds, **call)
        right = quality.prompt_accuracy(images, captions, judge)
        accuracy = {"mean": float(right.mean()), "ci95": list(quality.wilson(int(right.sum()), len(right)))}
        return {"accuracy": accuracy, "frechet": quality.judge_frechet(images, zoo.renders(captions), judge)}


def bench(name: str, cost: str, images: int, work: Path, examples: int, given: dict[str, Path]) -> Bench:
    """The pipe, its examples (encoded once), the scores of its layers and the plans."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    pipe = zoo.load(name)
    pipe.set_progress_bar_config(disable=True)
    path, made = folder / f"examples-{examples}.safetensors", {"pipe": name, "examples": examples}

    def parts(first: int) -> Iterator[Examples]:
        return encoded.encoded(pipe, pictures.scenes(name), first=first, limit=examples, batch_size=64)

    found = examples_in(path, parts, made=made)
    null = encoded.null(pipe, labels="class_labels" in found.conditions)
    path, settings = folder / "scores.safetensors", {"samples": TUPLES}
    *_, last = output_loss(component(pipe), found, pipe.scheduler, path=path, **settings)
    shared = Bench(name, cost, pipe, found, null, {}, last.scores, images, work / case(name, cost))
    return replace(shared, plans=plans(shared, given))


def examples_in(path: Path, parts: Callable[[int], Iterator[Examples]], *, made: dict[str, Any]) -> Examples:
    """The examples in a file, made where there are none yet."""
    if not path.exists():
        list(store.making(parts, path, made=made))
    return store.load(path, made=made)


def case(name: str, cost: str) -> str:
    """What the files of students of a pipe with a fraction of its parameters, or of its MACs, are called."""
    return name if cost == "parameters" else f"{name}-{cost}"


def plans(shared: Bench, given: dict[str, Path]) -> dict[str, Plan]:
    """The plans by name, but for random ones."""
    teacher, found = shared.teacher, {name: Plan.load(path) for name, path in given.items()}
    wanted = {"laptop": shared.keep}
    if shared.cost == "macs":
        found.setdefault("bk-tiny", bk_sdm_tiny())
    elif shared.name == "emoji-sd":
        small = bk_sdm_small()
        found.setdefault("bk-small", small)
        wanted["laptop at BK-Small's size"] = parameters(drop_layers(teacher, small)) / parameters(teacher)
    else:
        found.setdefault("every second block", blocks_gone(teacher, range(1, 12, 2)))
        found.setdefault("middle blocks", blocks_gone(teacher, range(3, 9)))
    return {name: planning.planned(shared.scores, keep=keep, cost=shared.cost) for name, keep in wanted.items()} | found


def blocks_gone(transformer, numbers: Iterable[int]) -> Plan:
    """A transformer without some of its blocks."""
    return plan_without(transformer, [f"transformer_blocks.{n}" for n in numbers], made={"method": "handcrafted"})


def random_plan(shared: Bench, seed: int) -> Plan:
    """Layers taken out in random order until no more than the fraction kept is left."""
    costs = shared.scores.costs[shared.cost]
    sizes = dict(zip(shared.scores.layers, costs.layers, strict=True))
    order, gone, left = list(sizes), [], costs.total
    Random(seed).shuffle(order)
    while left > shared.keep * costs.total:
        gone.append(order.pop())
        left -= sizes[gone[-1]]
    return plan_without(shared.teacher, gone, made={"method": "random", "seed": seed})


def untrained(shared: Bench, name: str, seed: int) -> dict[str, Any]:
    """The row of a plan's student before any training."""
    plan = shared.plan(name, seed)
    student = drop_layers(shared.teacher, plan)
    known = {"plan": name, "way": None, "seed": seed, **shared.kept(student), "updates": 0}
    return known | {"joint_loss": shared.joint_loss(plan), **judged(shared, student, {})}


def run(shared: Bench, arm: tuple[str, str], seed: int, updates: int, *, done: set[int]) -> Iterator[dict[str, Any]]:
    """The rows of one run as they are found, but for those done: the student judged after so many updates."""
    name, way = arm
    teacher, plan = shared.teacher, shared.plan(name, seed)
    student = drop_layers(teacher, plan)
    known = {"plan": name, "way": way, "seed": seed, **shared.kept(student)}
    marks = sorted({round(share * updates) for share in SHARES} - {0})
    folder = folder_of(shared.folder, arm, seed)
    settings, (examples, others) = replace(WAYS[way], updates=updates, seed=seed), shared.taught_with(way)
    steps = distil_steps(teacher, student, examples, shared.pipe.scheduler, settings=settings, null=shared.null, others=others,
                   folder=folder, save_every=marks[0], sites=features.sites(teacher, student, plan=plan))  # fmt: skip
    start = time.perf_counter()
    for step in steps:
        if step.number % max(updates // WATCHED, 1) == 0 or step.number == 1:
            watch(folder, step)
        if step.number in marks and step.number not in done:
            spent = time.perf_counter() - start
            yield known | {"updates": step.number, "since_s": spent, **judged(shared, student, step.averaged)}
            start = time.perf_counter()


def judged(shared: Bench, student, weights) -> dict[str, Any]:
    """What the student's images are worth, with its averaged weights."""
    teacher = shared.teacher
    [name] = (name for name, part in shared.pipe.components.items() if part is teacher)
    try:
        with holding(student, weights):
            setattr(shared.pipe, name, student)
            return shared.judged()
    finally:
        setattr(shared.pipe, name, teacher)


def watch(folder: Path, step: DistilStep) -> None:
    """Add the terms of an update to the run's own file."""
    folder.mkdir(parents=True, exist_ok=True)
    line = {"updates": step.number, "raw": dict(step.raw), "normalized": dict(step.normalized)}
    with (folder / "terms.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def folder_of(folder: Path, arm: tuple[str, str], seed: int) -> Path:
    """Where a run keeps its checkpoints."""
    return folder / f"{arm[0]} {arm[1]} {seed}".replace(" ", "-")


def terms(folder: Path, arm: tuple[str, str], seed: int) -> list[dict[str, Any]]:
    """Some of the terms of a run, evenly; an update that was made twice, after an interruption, counts once."""
    path = folder_of(folder, arm, seed) / "terms.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    once = [row for _, row in sorted({row["updates"]: row for row in found}.items())]
    kept = sorted({round(k * (len(once) - 1) / (SHOWN - 1)) for k in range(SHOWN)}) if once else []
    return [once[k] for k in kept]


def feature_terms(arms: Sequence[tuple[str, str]], folder: Path, document: dict[str, Any]) -> dict[str, Any]:
    """The record of the feature terms of LAPTOP's first student, in every way that looks at features."""
    ways = [way for plan, way in arms if plan == "laptop" and way in FEATURED]
    found = [(way, row) for way in ways for row in terms(folder, ("laptop", way), 0)]
    rows = [
        {"name": f"{way}, update {row['updates']}", "way": way, "updates": row["updates"]}
        | {kind: {site: significant(x) for site, x in row[kind].items()} for kind in ("raw", "normalized")}
        for way, row in found
    ]
    shared = {key: document[key] for key in ("format", "command", "pipe", "made", "hardware", "options")}
    return {**shared, "title": f"Feature terms of a student of {document['pipe']} by site", "rows": rows}


def significant(x: float) -> float:
    """Four digits of a number."""
    return float(f"{x:.4g}")


# Rows


def name_of(arm: tuple[str, str], seed: int, updates: int | None) -> str:
    return f"{arm[0]}, {arm[1]}, seed {seed}, {updates} updates"


def untrained_name(plan: str, seed: int) -> str:
    """Plans are the same for every seed and way, but for random ones."""
    return f"{plan}, seed {seed}, untrained" if plan == "random" else f"{plan}, untrained"


def measured(shared: Bench, document: dict[str, Any], path: Path, *, seeds: int, arms: int, updates: int) -> None:
    """Measure what is missing; the file is whole after every row."""
    if not document["rows"]:
        keep_row(document, path, {"name": "teacher", "plan": "teacher", "keep": 1.0, **shared.judged()})
    for seed in range(seeds):
        for arm in ARMS[case(shared.name, shared.cost)][:arms]:
            done = {row["updates"] for row in document["rows"] if row["name"] == name_of(arm, seed, row.get("updates"))}
            if updates in done:
                continue
            before = untrained_name(arm[0], seed)
            if before not in {row["name"] for row in document["rows"]}:
                keep_row(document, path, {"name": before, **untrained(shared, arm[0], seed)})
            for row in run(shared, arm, seed, updates, done=done):
                keep_row(document, path, {"name": name_of(arm, seed, row["updates"]), **row})


def keep_row(document: dict[str, Any], path: Path, row: dict[str, Any]) -> None:
    """Add a row to the file and say so."""
    document["rows"].append(row)
    records.save(document, path)
    print(f"{row['name']}: accuracy {row['accuracy']['mean']:.3f}, Fréchet {row['frechet']:.3g}", flush=True)


def started(name: str, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The document so far, or a new one; ValueError where it was measured otherwise."""
    if path.exists():
        found = records.load(path)
        if found["options"] != options:
            raise SystemExit(f"{path} was measured with {found['options']}: give the same, or another --results")
        return found
    return {
        "format": 1,
        "title": f"Recovery of students of {name} under distillation",
        "command": " ".join(["python benchmarks/recovery.py", name, *(f"--{k} {v}" for k, v in options.items() if v)]),
        "pipe": name,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "options": options,
        "rows": [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipe", nargs="?", default="emoji-sd", choices=zoo.NAMES)
    parser.add_argument(
        "--cost", default="parameters", choices=("parameters", "macs"), help="what emoji-sd's students keep half of"
    )
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", type=int, help="only so many of them, from the first")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--plan", action="append", default=[], help="NAME=FILE instead of the plan of this name")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=Path("recovery-work"), help="folder for checkpoints and examples")
    parser.add_argument("--draw", action="store_true", help="only the figures")
    args = parser.parse_args()
    name = case(args.pipe, args.cost)
    if name not in ARMS:
        parser.error(f"the blocks of {args.pipe} are all alike, and half of them is half of either: leave --cost out")
    arms = ARMS[name]
    path, terms_path = (args.results / f"{kind}-{name}.json" for kind in ("recovery", "recovery-terms"))
    asked = {option: getattr(args, option) for option in ("updates", "images", "examples", "plan")}
    document = started(args.pipe, path, ({"cost": args.cost} if args.cost != "parameters" else {}) | asked)
    if not args.draw:
        given = {plan: Path(file) for plan, _, file in (text.partition("=") for text in args.plan)}
        shared = bench(args.pipe, args.cost, args.images, args.work, args.examples, given)
        measured(shared, document, path, seeds=args.seeds, arms=args.arms, updates=args.updates)
        looked_at = feature_terms(arms, shared.folder, document)
        if looked_at["rows"]:  # else LAPTOP's runs were made in another folder, and the record is of them
            records.save(looked_at, terms_path)
    recovery_figure.draw(document, arms, path.with_suffix(".png"))
    recovery_figure.draw_terms(records.load(terms_path)["rows"], terms_path.with_suffix(".png"))


if __name__ == "__main__":
    main()
