"""A schedule in a stock pipeline: python examples/apply_schedule.py     writes dense.png and held.png

Every fifth call of fifty runs; the others go on along the line through the last two predictions.
"""

import time

import torch

import secateur

pipe = secateur.zoo.load("emoji-sd")  # or any DiffusionPipeline.from_pretrained(...)
blocks = secateur.find_blocks(pipe.unet)
schedule = secateur.uniform(blocks, calls=50, every=5, hold="extrapolate")
print(schedule)


def draw(name: str) -> None:
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(7)
    image = pipe("a fox on a blue background", num_inference_steps=50, guidance_scale=5.0, generator=generator).images[0]
    image.resize((256, 256)).save(name)
    print(f"{name}: {time.perf_counter() - start:.2f} s")


draw("dense.png")
with secateur.apply(pipe, schedule):
    draw("held.png")
