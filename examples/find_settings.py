"""Settings for a pipeline from Python: python examples/find_settings.py     writes found.json

The same as `secateur search emoji-sd --keep 0.2`, with every stage's best as it is found.
"""

from secateur.searching.find import find, objective_for

from secateur import count, record, save, zoo

pipe = zoo.load("emoji-sd")
prompts, _ = zoo.conditions("emoji-sd", 8, calibration=True)
trajectory = record(pipe, prompts, seeds=range(8), num_inference_steps=50, guidance_scale=5.0)
macs = count(pipe.unet)
nearness = objective_for(pipe, trajectory, target="dense", blocks=macs.blocks)

best = None
for best in find(pipe, trajectory, macs=macs, keep=0.2, objective=nearness, trials=20):
    if best.improved:
        print(f"{best.stage}: {best.value_db:.2f} dB to the dense images, after {best.seconds:.0f} s of this stage")
assert best is not None  # every stage measures something
print(best.schedule)
save(best.schedule, "found.json")
