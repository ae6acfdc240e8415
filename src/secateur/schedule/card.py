"""What a schedule's repository on the Hub holds: the file, a drawing, and a card with what it costs and how to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur import hub
from secateur.artifact import text_of
from secateur.denoiser import macs
from secateur.denoiser.blocks import matching
from secateur.pipeline import pipes
from secateur.schedule.drawing import drawing
from secateur.schedule.fit import check_denoiser

if TYPE_CHECKING:
    from secateur.schedule.schedule import Schedule

FILE, PICTURE = "schedule.json", "schedule.svg"


def push(schedule: Schedule, repo: str, *, base: str | None, private: bool) -> str:
    """owner/name@commit, at which the schedule is on the Hub with its card; see `Schedule.push_to_hub`."""
    base = pipes.base_of(base, schedule.made)
    text = hub.heading(base, library=hub.TAG, relation="adapter") + card(schedule, base, repo)
    files = {FILE: text_of(schedule.document()), PICTURE: drawing(schedule), hub.README: text}
    return hub.put(repo, {name: content.encode() for name, content in files.items()}, private=private)


def card(schedule: Schedule, base: str, repo: str) -> str:
    """The card below its heading: picture, table, lines of use, origin. Raises ValueError if it is for another base."""
    config, made, calls = pipes.denoiser_config(base), schedule.made, schedule.dense_calls
    check_denoiser(config, schedule)
    costs, guidance = macs.count(config, matching(config, schedule.blocks)), made.get("guidance_scale")
    samples = 2 if (guidance or 1) > 1 and not config.get("guidance_embeds") else 1
    dense, ours = (costs.spent(one, calls, samples=samples) for one in (None, schedule))
    near = made.get("calibration_psnr_db", {}).get("dense")
    running = sum(not schedule.held(t) for t in range(schedule.calls))
    steps = f"num_inference_steps={made.get('num_inference_steps', calls)}"
    return f"""
# {base} with {ours["keep_linear"]:.0%} of the work

A schedule for Secateur: {base} draws nearly the same images with {ours["keep_linear"]:.0%} of the multiply-accumulates
(MACs) of its denoiser. This repository holds no weights.

![which calls run]({PICTURE})

| | calls | MACs of an image | with attention | PSNR to dense |
|---|---:|---:|---:|---:|
| dense | {calls} | {amounts(dense)} | the same |
| this schedule | {running} | {amounts(ours)} | {f"{near:.1f} dB" if near else "not measured"} |

{"Guidance calls the denoiser with two samples. " * (samples == 2)}PSNR is on the prompts of the search; on others it differs.

```python
import secateur

pipe = secateur.load_pipe("{base}")  # or your own pipe of this model
with secateur.apply(pipe, "{repo}"):
    out = pipe(prompt, {steps}{f", guidance_scale={guidance:g}" if guidance else ""})
```

Made by `{made.get("command") or made.get("method", "hand")}` for {schedule.scheduler or "any scheduler"}.
"""


def amounts(spent: macs.Spent) -> str:
    """Two cells of a table: MACs in both conventions."""
    both = (spent["macs_linear"], spent["keep_linear"]), (spent["macs_attention"], spent["keep_attention"])
    return " | ".join(f"{macs / 1e9:,.1f} G ({keep:.1%})" for macs, keep in both)
