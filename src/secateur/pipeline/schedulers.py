"""diffusers' schedulers: by name, with options, and as a pipe's own for a while."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.artifact import HASH_DIGITS
from secateur.files import read_json
from secateur.pipeline.pipes import file_of, locate

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SETTINGS = "scheduler_settings"  # in the `made` of what is for a scheduler: its configuration


def scheduler_signature(scheduler: Any) -> tuple[str, str]:
    """Class name of a diffusers scheduler and the hash of its settings."""
    return type(scheduler).__name__, settings_hash(settings_of(scheduler))


def settings_of(scheduler: Any) -> dict[str, Any]:
    """The configuration of a scheduler as JSON, private keys left out."""
    config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    return json.loads(json.dumps(config, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v)))


def settings_hash(settings: Mapping[str, Any]) -> str:
    """The start of the SHA-256 of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:HASH_DIGITS]


DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
_PLAIN = {
    "solver_order": 2,
    "final_sigmas_type": "zero",
    "thresholding": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_flow_sigmas": False,
}
PLAIN: dict[str, dict[str, Any]] = {  # solvers whose timesteps may be chosen, configured as the search knows them
    # DPM-Solver++ 2M (arXiv 2211.01095, Algorithm 2)
    DPM: _PLAIN | {"algorithm_type": "dpmsolver++", "solver_type": "midpoint", "use_lu_lambdas": False},
    # UniPC-2 (arXiv 2302.04867)
    UNIPC: _PLAIN | {"predict_x0": True, "solver_type": "bh2", "disable_corrector": [], "solver_p": None},
}


def begun(scheduler: Any, steps: int, **timesteps: Any) -> Any:
    """A scheduler like this one, set to this many steps. timesteps: more arguments for `set_timesteps`.

    Raises ValueError if the scheduler cannot make so many: PNDM's Runge-Kutta steps, for example, cannot be fewer than four.
    """
    copy = type(scheduler).from_config(scheduler.config)
    shift = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    try:
        copy.set_timesteps(steps, **shift | timesteps)
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{type(scheduler).__name__} cannot make {steps} steps ({error}): ask for others") from error
    return copy


HOLDABLE = "DDIMScheduler", {"clip_sample": False, "thresholding": False}  # in place of one whose calls cannot be held
LINSPACE, TRAILING = {"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {  # at their stock spacings: class of diffusers, options
    "DDIM": ("DDIMScheduler", TRAILING),
    "DDIM leading": ("DDIMScheduler", {"timestep_spacing": "leading"}),
    "DPM-Solver++": (DPM, LINSPACE),
    "DPM-Solver++ trailing": (DPM, TRAILING),
    "DPM-Solver++ Karras": (DPM, LINSPACE | {"use_karras_sigmas": True}),
    "UniPC": (UNIPC, LINSPACE),
    "UniPC trailing": (UNIPC, TRAILING),
    "UniPC Karras": (UNIPC, LINSPACE | {"use_karras_sigmas": True}),
}


def steps_within(scheduler: Any, calls: int) -> int:
    """How many steps of a scheduler make at most this many calls: PNDM makes one more, Heun about twice as many.

    Raises ValueError if none do: with its Runge-Kutta steps, PNDM makes 13 calls or more.
    """
    for steps in range(calls, 0, -1):
        try:
            if len(begun(scheduler, steps).timesteps) <= calls:
                return steps
        except ValueError:
            continue
    raise ValueError(
        f"no number of steps of this {type(scheduler).__name__} makes {calls} calls or fewer, all that keep pays for: "
        "raise keep or steps, or choose another scheduler"
    )


def calls(pipe: DiffusionPipeline, steps: int) -> int:
    """How often `steps` steps of the pipe's scheduler call its denoiser: PNDM makes one more, Heun about twice as many."""
    return len(begun(pipe.scheduler, steps).timesteps)


def scheduler_of(source: str) -> Any:
    """A pipeline's scheduler, read without loading any weights."""
    folder = locate(source)
    name = read_json(file_of(source, folder, "model_index.json"), "pipeline's index")["scheduler"][1]
    config = read_json(file_of(source, folder, "scheduler/scheduler_config.json"), "configuration")
    return scheduler_class(name).from_config(config)


def is_known(name: str | None) -> bool:
    """Whether diffusers has a scheduler of this name."""
    import diffusers

    return name is not None and hasattr(getattr(diffusers, name, None), "set_timesteps")


def scheduler_class(name: str) -> Any:
    """The class of diffusers' scheduler of this name. Raises ValueError if there is none."""
    import diffusers

    if not is_known(name):
        raise ValueError(f"diffusers has no scheduler {name!r}: give a class such as {DPM}, or one of {', '.join(SOLVERS)}")
    return getattr(diffusers, name)


def noise_levels(scheduler: Any) -> np.ndarray:
    """How much noise there is at each timestep of training: ᾱ, or the sigmas of flow matching; empty if unknown."""
    if hasattr(scheduler, "alphas_cumprod"):
        return np.asarray(scheduler.alphas_cumprod.cpu(), dtype=np.float64)  # `add_noise` moves them to the latents' device
    fresh = type(scheduler).from_config(scheduler.config)
    return np.asarray(getattr(fresh, "sigmas", ()), dtype=np.float64)


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is of flow matching."""
    return "beta_schedule" not in scheduler.config or bool(scheduler.config.get("use_flow_sigmas"))


def scheduler_like(scheduler: Any, name: str | None, options: Mapping[str, Any]) -> Any:
    """A scheduler of a class or of a name in SOLVERS, configured like another one but for `options`; see `scheduled`."""
    name, spacing = SOLVERS.get(name or "", (name, {}))
    kind = scheduler_class(name) if name else type(scheduler)
    return kind.from_config(scheduler.config, **{**PLAIN.get(name or "", {}), **spacing, **options})


@contextmanager
def scheduled(pipe: DiffusionPipeline, name: str | None, options: Mapping[str, Any]) -> Iterator[None]:
    """`pipe` with diffusers' scheduler class `name`, configured like its own but for `options`; its own again afterwards.

    DPM-Solver++ and UniPC by their names begin as `PLAIN` has them, however the pipe's own is set.
    """
    before = pipe.scheduler
    pipe.scheduler = scheduler_like(before, name, options)
    try:
        yield
    finally:
        pipe.scheduler = before
