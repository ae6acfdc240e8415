"""How good the zoo is: the judge on unseen renders, and prompt accuracy of both pipelines at 50 DDIM steps."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from bench import Bench
from secateur import zoo
from secateur.measuring import quality
from secateur.zoo import judge, scenes
from study import Job, Row, Run, Study
from tables_time import zoo_rows

STEPS, SEED, IMAGES, RENDERS = 50, 10_000, 128, 1000


def jobs(run: Run) -> Iterator[Job]:
    """The judge on one object and on two, then both pipelines; a record of the older form is read as rows."""
    run.record["rows"] = list(zoo_rows(run.record))
    for several, number in ((0.0, "one object"), (1.0, "two objects")):
        for held_out, kind in ((False, "seen combinations"), (True, "held-out combinations")):
            yield Job(f"judge, renders, {number}, {kind}", partial(judged, several, held_out))
    one, two, classes = (Bench(name, steps=STEPS, images=IMAGES, seed=SEED) for name in ("emoji-sd", "emoji-sd", "emoji-dit"))
    rng, two.seeds = np.random.default_rng(11), two.seeds[: IMAGES // 2]
    two.conditions = two.captions = tuple(scenes.sample(rng, pairs=1.0).caption for _ in two.seeds)
    yield Job("emoji-sd, one object, held-out combinations", partial(drawn, one))
    yield Job("emoji-sd, two objects", partial(drawn, two))
    yield Job("emoji-dit, every class", partial(drawn, classes))


def rate(images: np.ndarray, captions: Sequence[str]) -> Row:
    """The share of images in which the judge reads the caption."""
    return {**quality.rate_of(quality.prompt_accuracy(images, captions, judge)), "count": len(images)}


def judged(several: float, held_out: bool) -> Row:
    """The judge on unseen renders of one object or two, in combinations trained on or held out of training."""
    rng = np.random.default_rng((7, int(several), int(held_out)))
    samples = [scenes.sample(rng, pairs=several, held_out=held_out) for _ in range(RENDERS)]
    pictures = np.stack([scenes.render(scene, rng) for scene in samples]).astype(np.float32) / 255
    return rate(pictures, [scene.caption for scene in samples])


def drawn(bench: Bench) -> Row:
    """Images of a pipeline, judged."""
    return rate(bench.draw(), bench.captions)


OPTIONS = {"steps": STEPS, "scheduler": "DDIM, leading", "guidance_scale": zoo.GUIDANCE, "first_seed": SEED}
OPTIONS |= {"images": IMAGES}
STUDIES = (Study("zoo", "How good the zoo is", jobs, head={"options": OPTIONS}),)
