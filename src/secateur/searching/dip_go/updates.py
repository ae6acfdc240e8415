"""One update of the gradient search: the Pruner, moved by the loss of a few samples. DiP-GO (arXiv 2410.16942), Eq. 3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import rich.repr
import torch
from torch import Tensor

from secateur.denoiser.macs import Macs
from secateur.denoiser.of_pipe import denoiser_of
from secateur.pipeline.trajectory import Trajectory
from secateur.schedule import baselines
from secateur.schedule.schedule import Schedule
from secateur.searching.dip_go import losses
from secateur.searching.dip_go.progress import OPTIMIZERS, Progress
from secateur.searching.dip_go.pruner import Pruner
from secateur.searching.dip_go.supernet import supernet
from secateur.searching.dip_go.unrolled import branches, decoded, frozen
from secateur.searching.memo import NOTHING, Memo, content_of

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import DiffusionPipeline

SLACK = 1.1  # the sparsity loss counts again when the kept MACs have grown to this multiple of `keep` (ours)


@rich.repr.auto
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of DiP-GO's search; the defaults are the paper's or, if it does not say, its public code's.

    steps: updates. batch_size: samples at once, over all processes. accumulation: batches in one update.
    lr: at the first update; a cosine takes it to 0. optimizer: "sgd" or "adam". clip: longest gradient, or None.
    alpha: weight of the sparsity loss. weighted=False leaves γ out of it. attention: count the attention products too.
    loss: of the images: "ssim", "l1", "l2", or several joined by "+". fresh: draw new noise and its dense image for every
    sample; otherwise take the trajectory's seeds and images. bf16: autocast to bfloat16. encoder, width: of the Pruner.
    seed: of the Pruner, of the order of the conditions, and of the noise.
    """

    steps: int = 1000
    batch_size: int = 1
    accumulation: int = 1
    lr: float = 0.1
    optimizer: str = "sgd"
    clip: float | None = 1.0
    alpha: float = 1.0
    weighted: bool = True
    attention: bool = False
    loss: str = "ssim"
    fresh: bool = True
    bf16: bool = False
    encoder: str = "attention"
    width: int = 512
    seed: int = 0

    def __post_init__(self):
        losses.terms(self.loss)
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"there is no optimizer {self.optimizer!r}: choose {' or '.join(OPTIMIZERS)}")
        least = {"steps": 1, "batch_size": 1, "accumulation": 1, "lr": 0, "alpha": 0, "seed": 0}
        if wrong := [name for name, limit in least.items() if not getattr(self, name) >= limit]:
            raise ValueError(f"found {wrong[0]}={getattr(self, wrong[0])}, wanted {least[wrong[0]]} or more: change it")

    @property
    def samples(self) -> int:
        """Samples of one update."""
        return self.batch_size * self.accumulation


@dataclass(frozen=True, eq=False)
class GradientSearch:
    """What a gradient search works on."""

    pipe: DiffusionPipeline
    trajectory: Trajectory
    keep: float
    macs: Macs
    settings: Settings
    start: Schedule | None
    accelerator: Accelerator | None
    memo: Memo = NOTHING

    @property
    def calls(self) -> int:
        """T, the denoiser calls of one image."""
        return len(self.trajectory.timesteps)

    @property
    def hold(self) -> str:
        """What a held call gives, see `Schedule`."""
        return self.start.hold if self.start else "output"


def begun(search: GradientSearch) -> Progress:
    """The progress of a search before its first update."""
    s, size = search.settings, len(search.macs.blocks)
    pruner = Pruner(search.calls, size, encoder=s.encoder, width=s.width, start=search.start, seed=s.seed).to(
        search.pipe.device
    )
    pressing = presses(True, kept_shares(search, pruner)[s.attention], search.keep)
    return Progress(pruner, OPTIMIZERS[s.optimizer](pruner.parameters(), lr=s.lr), pressing)


def denoiser_branches(search: GradientSearch) -> int:
    """Denoiser calls in a step; see `unrolled.branches`."""
    t = search.trajectory
    with frozen(search.pipe), precision(search):
        return branches(search.pipe, t.conditions[:1], seeds=t.seeds[:1], calls=search.calls, **t.options)


def update(search: GradientSearch, now: Progress, chains: int) -> None:
    """Minimise L_c + α L_s once, or L_c alone while the sparsity loss does not count."""
    s, gates = search.settings, now.pruner.gates()
    grad, consistency = consistency_gradient(search, gates.detach(), first=now.number * s.samples, chains=chains)
    sparsity = losses.sparsity(gates, shares(search))
    press = s.alpha * now.pressing
    now.optimizer.zero_grad()
    torch.autograd.backward([gates, press * sparsity], [grad, None])
    if s.clip is not None:
        torch.nn.utils.clip_grad_norm_(now.pruner.parameters(), s.clip)
    for group in now.optimizer.param_groups:
        group["lr"] = s.lr * (1 + math.cos(math.pi * now.number / s.steps)) / 2
    now.optimizer.step()
    now.number += 1
    now.pressing = presses(now.pressing, kept_shares(search, now.pruner)[s.attention], search.keep)
    now.losses = {
        "consistency": consistency,
        "sparsity": sparsity.item(),
        "total": consistency + press * sparsity.item(),
    }


def consistency_gradient(search: GradientSearch, gates: Tensor, *, first: int, chains: int) -> tuple[Tensor, float]:
    """dL_c/dg (T, L) and L_c over the samples of one update, of all processes; `first` is the number of the first one.

    The Pruner is the same in every process, so this is all that they exchange. Raises ValueError if any of it is not finite.
    """
    start = content_of(search.start) if search.start else ""
    measure = partial(packed_gradient, search, gates, first=first, chains=chains)
    packed = search.memo("gates", [start, first], lambda: {"gradient": measure()})["gradient"].to(gates)
    return packed[:-1].view_as(gates), packed[-1].item()


def packed_gradient(search: GradientSearch, gates: Tensor, *, first: int, chains: int) -> Tensor:
    """What `consistency_gradient` gives, in one tensor: the gradient, then the loss."""
    s, leaf, consistency = search.settings, gates.clone().requires_grad_(), 0.0
    with frozen(search.pipe):
        for start in range(first, first + s.samples, s.batch_size):
            if mine := own(search, range(start, start + s.batch_size)):
                consistency += backward(search, leaf, mine, chains)
    grad = torch.zeros_like(gates) if leaf.grad is None else leaf.grad
    packed = summed(search, torch.cat((grad.flatten(), grad.new_tensor([consistency]))))
    if not packed.isfinite().all():
        raise ValueError(
            f"samples {first} to {first + s.samples - 1} gave NaN or infinity, in their images or on the way back: check the "
            "pipe's weights, and load it in float32 or bfloat16"
        )
    return packed


def backward(search: GradientSearch, leaf: Tensor, numbers: Sequence[int], chains: int) -> float:
    """The part of L_c from some samples; its gradient is added to the leaf's."""
    s, call = search.settings, search.trajectory.options
    conditions, seeds, target = draw_samples(search, numbers)
    with precision(search):
        if target is None:
            with torch.no_grad():
                target = decoded(search.pipe, conditions, seeds=seeds, **call)
        gated = supernet(denoiser_of(search.pipe), leaf, search.macs.blocks, branches=chains, checkpoint=True, hold=search.hold)
        with gated:
            images = decoded(search.pipe, conditions, seeds=seeds, **call)
            check_comparable(images, target)
            loss = losses.consistency(images, target.to(images), kind=s.loss).sum() / s.samples
            loss.backward()
    return loss.item()


def check_comparable(images: Tensor, target: Tensor) -> None:
    """Raises ValueError if images and their targets differ in shape, or if no gradient comes from the images."""
    if target.shape != images.shape:
        raise ValueError(
            f"the trajectory's images are {tuple(target.shape[1:])} and the pipe decodes {tuple(images.shape[1:])}: search "
            "with fresh=True, which draws the dense images too"
        )
    if not images.requires_grad:
        raise ValueError("no gradient comes from the images to the gates: the pipe's loop, or its VAE, turns gradients off")


def draw_samples(search: GradientSearch, numbers: Sequence[int]) -> tuple[list[Any], list[int], Tensor | None]:
    """Conditions and seeds of samples by number and, unless they are fresh, their dense images (B, 3, H, W) in [−1, 1].

    A sample depends on its number and on the settings' seed alone: processes, batches and interruptions do not change it.
    """
    t, s = search.trajectory, search.settings
    places = [place(number, len(t.conditions), seed=s.seed) for number in numbers]
    conditions = [t.conditions[p] for p in places]
    if s.fresh:
        return conditions, [int(np.random.default_rng([s.seed, 1, n]).integers(2**63)) for n in numbers], None
    images = torch.from_numpy(t.images[places]).permute(0, 3, 1, 2)
    return conditions, [t.seeds[p] for p in places], 2 * images - 1


def place(number: int, size: int, *, seed: int) -> int:
    """Which of `size` conditions a sample has: each of them once an epoch, in a new order in every epoch."""
    epoch, position = divmod(number, size)
    return int(np.random.default_rng([seed, 0, epoch]).permutation(size)[position])


def precision(search: GradientSearch) -> torch.autocast:
    """Autocast to bfloat16 if the settings ask for it."""
    return torch.autocast(search.pipe.device.type, torch.bfloat16, enabled=search.settings.bf16)


def shares(search: GradientSearch) -> tuple[float, ...]:
    """γ (L,); if unweighted, 1/L for each block (ours), so that a dense grid costs 1."""
    size, s = len(search.macs.blocks), search.settings
    return losses.closure_shares(search.macs, attention=s.attention) if s.weighted else (1 / size,) * size


def presses(before: bool, share: float, keep: float) -> bool:
    """Whether the sparsity loss counts at the next update.

    The paper adds it until the kept MACs are down to `keep`; its code decides anew at every update, which makes it flicker.
    Here it counts again only when they have grown past SLACK × keep (ours).
    """
    return share > (keep if before else SLACK * keep)


def kept_shares(search: GradientSearch, pruner: Pruner) -> tuple[float, float]:
    """Fraction of the dense MACs that the pruner's own gates keep, without and with the attention products."""
    with torch.no_grad():
        rows = (pruner.gates() > 0.5).tolist()
    grid = baselines.closed(search.macs.blocks, rows, made={})
    return search.macs.keep(grid), search.macs.keep(grid, attention=True)


def own(search: GradientSearch, numbers: range) -> range:
    """The samples of a batch that this process draws."""
    return (
        numbers if search.accelerator is None else numbers[search.accelerator.process_index :: search.accelerator.num_processes]
    )


def summed(search: GradientSearch, x: Tensor) -> Tensor:
    """The sum over all processes, the same in each."""
    return x if search.accelerator is None else search.accelerator.reduce(x, reduction="sum")  # pyright: ignore[reportReturnType]
