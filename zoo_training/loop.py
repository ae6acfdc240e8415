"""The one training loop of the zoo: AdamW, warm-up, a linear cool-down at the end, EMA, checkpoints that a rerun resumes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

BUILD = Path(__file__).parent / "build"  # checkpoints and latents; not committed
SEED = 0


@dataclass(frozen=True)
class Progress:
    update: int
    loss: float  # mean since the last one
    seconds: float  # spent training, over all reruns


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learning_rate(update: int, *, peak: float, updates: int, warmup: int = 100, cooldown: float = 0.25) -> float:
    """Linear warm-up, constant, then linear to zero over the last `cooldown` of the run."""
    left = (updates - update) / (cooldown * updates)
    return peak * min(1.0, (update + 1) / warmup, max(left, 0.0))


def train(
    module: nn.Module,
    loss: Callable[[np.random.Generator, torch.Generator], Tensor],
    *,
    folder: Path,
    updates: int,
    peak: float,
    ema_decay: float = 0.999,
    every: int = 100,
) -> Iterator[Progress]:
    """Train `module` in place; at the end it holds the averaged weights. A rerun goes on from `folder`/last.pt.

    `loss` gets two generators that depend on the update alone, so that a resumed run sees the batches of an undisturbed one.
    """
    averaged = {k: v.detach().clone() for k, v in module.state_dict().items()}
    adam = torch.optim.AdamW(module.parameters(), lr=peak, weight_decay=0.01, betas=(0.9, 0.99))
    first, seconds = _resume(folder, module, adam, averaged)
    total, since = 0.0, time.perf_counter()
    for update in range(first, updates):
        adam.param_groups[0]["lr"] = learning_rate(update, peak=peak, updates=updates)
        value = loss(np.random.default_rng((SEED, update)), torch.Generator().manual_seed(update))
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        decay = min(ema_decay, (1 + update) / (10 + update))
        for key, now in module.state_dict().items():
            averaged[key].lerp_(now, 1 - decay) if now.is_floating_point() else averaged[key].copy_(now)
        total += float(value.detach())
        if (update + 1) % every == 0 or update + 1 == updates:
            seconds, since = seconds + time.perf_counter() - since, time.perf_counter()
            _save(folder, module, adam, averaged, update + 1, seconds)
            yield Progress(update + 1, total / every, seconds)
            total = 0.0
    module.load_state_dict(averaged)


def _resume(folder: Path, module: nn.Module, adam, averaged: dict) -> tuple[int, float]:
    if not (folder / "last.pt").exists():
        return 0, 0.0
    state = torch.load(folder / "last.pt", map_location=device())
    module.load_state_dict(state["module"])
    adam.load_state_dict(state["adam"])
    for key, value in state["averaged"].items():
        averaged[key].copy_(value)
    return state["update"], state["seconds"]


def _save(folder: Path, module, adam, averaged, update: int, seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = dict(module=module.state_dict(), adam=adam.state_dict(), averaged=averaged, update=update, seconds=seconds)
    torch.save(state, folder / "part.pt")
    (folder / "part.pt").replace(folder / "last.pt")  # never a half-written checkpoint


def log(folder: Path, progress: Iterator[Progress]) -> None:
    """Run the training, printing each Progress and appending it to `folder`/log.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for p in progress:
        print(f"{folder.name}: update {p.update}, loss {p.loss:.4f}, {p.seconds / 60:.1f} min", flush=True)
        with (folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(vars(p)) + "\n")
