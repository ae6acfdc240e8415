"""What the search can do with a scheduler: place its calls anywhere, hold them on its own grid, or neither."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor

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
FIRST_ORDER = {  # in what DPM-Solver++ differs from `PLAIN` where it makes the steps of DDIM, by where the last one ends
    final: {"solver_order": 1, "final_sigmas_type": final} for final in ("zero", "sigma_min")
}
TRIED_STEPS = 10  # to see what a scheduler does
SEARCHED = "search for DDIM or Euler, whose calls can be held, or for DPM-Solver++ 2M or UniPC, whose timesteps can be chosen"


def is_free(scheduler: Any) -> bool:
    """Whether the search may place this scheduler's calls anywhere: DPM-Solver++ 2M and UniPC as `PLAIN` has them."""
    name = type(scheduler).__name__
    plain = PLAIN.get(name)
    if plain is None:
        return False
    if wrong := [k for k, v in plain.items() if scheduler.config.get(k, v) != v]:
        found, wanted = scheduler.config[wrong[0]], plain[wrong[0]]
        raise ValueError(
            f"this {name} has {wrong[0]}={found!r} and the search knows it with {wanted!r}: change its configuration, or name "
            "it anew (--scheduler), as it then is what the search knows"
        )
    return True


def corrects(scheduler: Any) -> bool:
    """Whether a scheduler's calls mend the step that led to them, which takes what was put into the latents out again."""
    return type(scheduler).__name__ == UNIPC


def check_solver(scheduler: Any) -> None:
    """Nothing; ValueError where the search can neither place a scheduler's calls nor hold them."""
    if not is_free(scheduler):
        check_linear(scheduler)


def remembers(scheduler: Any) -> int:
    """How many predictions a multistep scheduler makes a step of; 0 for one."""
    default = 4 if hasattr(scheduler, "ets") or hasattr(scheduler, "derivatives") else 1
    order = scheduler.config.get("solver_order", scheduler.config.get("predictor_order", default))
    return order if order > 1 else 0


def check_linear(scheduler: Any) -> None:
    """Nothing; ValueError where a scheduler's steps are not known to be made of the last prediction alone, linearly."""
    if why := nonlinear(scheduler):
        raise ValueError(f"{why}: {SEARCHED}")


def nonlinear(scheduler: Any) -> str | None:
    """What makes a scheduler's steps anything but a·x + b·y of latents x and the last prediction y; None where nothing does."""
    name = type(scheduler).__name__
    if memory := remembers(scheduler):
        return f"a step of {name} is made of {memory} predictions, and a held one would be taken for new"
    if (found := len(begun(scheduler, TRIED_STEPS).timesteps)) != TRIED_STEPS:
        return f"{name} makes {found} calls in {TRIED_STEPS} steps and a call a step is wanted"
    if draws_noise(scheduler):
        return f"{name} draws new noise at its steps, so that no two runs can be compared"
    if clipping := [option for option in ("clip_sample", "thresholding") if scheduler.config.get(option)]:
        return f"{name} clips what it predicts ({clipping[0]}=True), which no line follows"
    return None


def draws_noise(scheduler: Any) -> bool:
    """Whether a scheduler that calls the denoiser once a step adds new noise at its steps."""
    return not torch.equal(stepped(scheduler, seed=0), stepped(scheduler, seed=1))


def begun(scheduler: Any, steps: int) -> Any:
    """A scheduler like this one, before the first of so many steps."""
    made = type(scheduler).from_config(scheduler.config)
    made.set_timesteps(steps, **({"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}))
    return made


def stepped(scheduler: Any, *, seed: int) -> Tensor:
    """What the first step makes of the same latents and prediction, its own noise drawn by this seed."""
    made, x = begun(scheduler, TRIED_STEPS), torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    drawn = {"generator": torch.Generator().manual_seed(seed)} if "generator" in signature(made.step).parameters else {}
    x = made.scale_model_input(x, made.timesteps[0]) if hasattr(made, "scale_model_input") else x
    return made.step(x.flip(-1), made.timesteps[0], x, return_dict=False, **drawn)[0]
