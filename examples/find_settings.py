"""A schedule for a pipeline, found and used: python examples/find_settings.py     writes found.json and found.png"""

import secateur

pipe = secateur.zoo.load("emoji-sd")  # or any DiffusionPipeline.from_pretrained(...), with prompts=[...] below
schedule = secateur.search(pipe, keep=0.2, images=4)
schedule.save("found.json")
print(schedule)
with secateur.apply(pipe, schedule):
    image = pipe("a fox on a blue background", num_inference_steps=schedule.calls, guidance_scale=5.0).images[0]
image.resize((256, 256)).save("found.png")
