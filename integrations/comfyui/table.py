"""The numbers of a sampler that Secateur writes, in ComfyUI's terms. Needs no package of Secateur."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

EPSILON, V, FLOW = "epsilon", "v_prediction", "flow_prediction"  # diffusers' names of what a model predicts
PER_CALL = ("timesteps", "rows", "input_scales", "signal_rates", "noise_rates")
SAME = 1e-3  # relative; schedulers say their rates in float32
PURE = 4.8973451890853435e-08**0.5  # the least signal that ComfyUI knows, of models that begin at pure noise
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class Table:
    """A sampler of K calls: latents after call j are rows[j][0] · latents + rows[j][1] · newest prediction + rows[j][2] · …

    kind: what the model predicts, EPSILON, V or FLOW. timesteps, sigmas: (K,), of the calls. scales: (K,), by which the model's
    input is larger than the latents. init_noise_sigma: standard deviation of the first latents. made: what the file says of it.
    """

    kind: str
    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    scales: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    init_noise_sigma: float
    made: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def x(self, j: int, latents: Tensor) -> Tensor:
        """Latents before call j in ComfyUI's scale: data + sigma · noise, or for flow matching the model's input itself."""
        return latents * self.growth(j)

    def latents(self, j: int, x: Tensor) -> Tensor:
        """What `x` undoes."""
        return x / self.growth(j)

    def growth(self, j: int) -> float:
        """By how much ComfyUI's x at call j is larger than the latents."""
        return self.scales[j] * (1.0 if self.kind == FLOW else math.hypot(1.0, self.sigmas[j]))

    def prediction(self, j: int, x: Tensor, denoised: Tensor) -> Tensor:
        """What the model predicted at call j, from its input x and the data that ComfyUI makes of it."""
        sigma = self.sigmas[j]
        if self.kind != V:
            return (x - denoised) / sigma
        size = math.hypot(1.0, sigma)
        return x / (sigma * size) - denoised * (size / sigma)


def load(path: Path) -> Table:
    """The table in a file of `secateur export --to table`, or in a schedule. Raises ValueError, a sentence with its name."""
    try:
        return table_from(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is no JSON, or cut short: give a file that secateur wrote") from error
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is damaged: give a file that secateur wrote") from error


def find(text: str) -> Path:
    """The file that a text names: a path, or `schedule.json` of owner/name or owner/name@revision on the Hub.

    Raises FileNotFoundError if there is none.
    """
    text = text.strip().strip('"')
    if (path := Path(text).expanduser()).is_file():
        return path
    if (hub_id := HUB_ID.fullmatch(text)) and not text.endswith(".json"):
        try:
            from huggingface_hub import hf_hub_download
        except ImportError as error:
            raise FileNotFoundError(f"{text} would be read from the Hub: install huggingface_hub, or give a file") from error
        try:
            return Path(hf_hub_download(hub_id[1], "schedule.json", revision=hub_id[2]))
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise FileNotFoundError(f"schedule.json of {text} cannot be read from the Hub ({reason}): give a file") from error
    raise FileNotFoundError(f"there is no file {text!r}: give the whole path, or a Hub id owner/name")


def table_from(document: Any) -> Table:
    """The table of a JSON document of either kind. Raises ValueError if it is neither, or no sampler."""
    if not isinstance(document, dict) or not {"grid", "rows"} & set(document):
        raise ValueError("it is neither a schedule nor a table: give what secateur search or secateur export wrote")
    if "grid" in document:
        document = numbers_of(document)
    if wrong := {*PER_CALL, "init_noise_sigma", "prediction_type"} - set(document):
        raise ValueError(f"it lacks {', '.join(sorted(wrong))}: write it again by secateur export --to table")
    calls = len(document["rows"])
    columns = [row_of(document[name], calls) for name in PER_CALL if name != "rows"]
    rows = tuple(row_of(row) for row in document["rows"])
    if not calls or any(not 2 <= len(row) <= j + 2 for j, row in enumerate(rows)):
        raise ValueError("a row of its table has too few or too many numbers: take the original file")
    times, scales, signal, noise = columns
    kind = kind_of(document["prediction_type"], scales, signal, noise)
    clean = (max(s, PURE) for s in signal) if kind != FLOW else (1 / c for c in scales)
    sigmas = tuple(n / s for n, s in zip(noise, clean, strict=True))
    if kind == FLOW and any(abs(t / s - times[0] / sigmas[0]) > SAME * t / s for t, s in zip(times, sigmas, strict=True)):
        raise ValueError("its timesteps are others than ComfyUI would take from its sigmas: use it in diffusers")
    first, made = row_of([document["init_noise_sigma"]])[0], document.get("made", {})
    return Table(kind, times, sigmas, scales, rows, first, made)


def row_of(values: Any, count: int | None = None) -> tuple[float, ...]:
    """Numbers of a file. Raises ValueError if they are no finite numbers, or of another count."""
    if not isinstance(values, Sequence) or count not in (None, len(values)):
        raise ValueError(f"its table does not have one of each number for {count} calls: take the original file")
    if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
        raise ValueError("its table holds something that is no finite number: take the original file")
    return tuple(map(float, values))


def numbers_of(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule's document as `secateur export --to table` would write it. Raises ValueError if that needs diffusers."""
    body = {k: list(v.items()) if k == "blocks" else v for k, v in schedule.items() if k != "sha256"}
    if hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest() != schedule.get("sha256"):
        raise ValueError("its checksum is another than its content gives, so it was changed: take the original file")
    if partial := sum("#" in row and "." in row for row in schedule["grid"]):
        raise ValueError(
            f"{partial} of its calls reuse blocks, which no sampler can do: find one of whole calls by secateur search"
        )
    made = schedule["made"]
    kind = made.get("scheduler_settings", {}).get("prediction_type", FLOW)
    if schedule.get("table") is None or "scheduler_settings" not in made:
        raise ValueError(
            "it leaves some numbers to its scheduler: run secateur export --to table, with --pipe for one with this scheduler, "
            "and load what that writes"
        )
    about = {name: schedule[name] for name in ("denoiser", "scheduler")} | made
    return {**schedule["table"], "timesteps": schedule["timesteps"], "prediction_type": kind, "made": about}


def kind_of(stated: str, scales: Sequence[float], signal: Sequence[float], noise: Sequence[float]) -> str:
    """What a model predicts: it is flow matching if signal and noise in its input add up to 1, and not if their squares do."""
    levels = [(c * s, c * n) for c, s, n in zip(scales, signal, noise, strict=True)]
    if all(n > 0 and abs(s + n - 1) < SAME for s, n in levels):
        return FLOW
    if not all(n > 0 and abs(math.hypot(s, n) - 1) < SAME for s, n in levels):
        raise ValueError("its latents are of no kind that ComfyUI has: use it in diffusers")
    if stated not in (EPSILON, V):
        raise ValueError(f"its model predicts {stated!r}: use one that predicts {EPSILON!r}, {V!r} or a flow")
    return stated


def described(table: Table) -> str:
    """What a table is, in a few lines."""
    made = table.made
    stands_for = made.get("dense_calls") or made.get("folded_from", {}).get("calls")
    whose = f" of {made['denoiser']} under {made['scheduler']}" if made.get("scheduler") else ""
    lines = [
        f"a sampler of {len(table.rows)} calls{f' for {stands_for}' if stands_for else ''}{whose}",
        f"the model predicts {table.kind}" + (f", at cfg {made['guidance_scale']:g}" if made.get("guidance_scale") else ""),
        f"timesteps {' '.join(f'{t:g}' for t in table.timesteps)}",
        f"sigmas {' '.join(f'{s:.4g}' for s in table.sigmas)}",
    ]
    nearness = made.get("calibration_psnr_db", {}).items()
    lines += [f"PSNR {value:.1f} dB to the {target} images by which it was found" for target, value in nearness]
    return "\n".join([*lines, f"made by {made['command']}"] if "command" in made else lines)
