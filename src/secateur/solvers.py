"""What the search can do with a scheduler: place its calls anywhere, hold them on its own grid, or neither."""

from __future__ import annotations

from typing import Any

from secateur.pipes import PLAIN, UNIPC


def is_free(scheduler: Any) -> bool:
    """Whether the search may place this scheduler's calls anywhere: DPM-Solver++ 2M and UniPC as `PLAIN` has them."""
    name = type(scheduler).__name__
    plain = PLAIN.get(name)
    if plain is None:
        return False
    if wrong := [k for k, v in plain.items() if scheduler.config.get(k, v) != v]:
        found, wanted = scheduler.config[wrong[0]], plain[wrong[0]]
        raise ValueError(
            f"this {name} has {wrong[0]}={found!r} and the search knows it with {wanted!r}: change its configuration"
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
    name = type(scheduler).__name__
    if memory := remembers(scheduler):
        raise ValueError(
            f"a step of {name} is made of {memory} predictions, and a held one would be taken for new: search for DDIM or "
            "Euler, or for DPM-Solver++ 2M or UniPC, whose timesteps can be chosen"
        )
    if clipping := [option for option in ("clip_sample", "thresholding") if scheduler.config.get(option)]:
        raise ValueError(f"{name} clips what it predicts ({clipping[0]}=True), which no line follows: turn that off to search")
