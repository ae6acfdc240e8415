"""Small nets, and what a patch leaves on them."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from secateur.denoiser.blocks import Blocks
from secateur.denoiser.families import dummy_inputs
from secateur.denoiser.of_pipe import denoiser_of
from secateur.schedule.apply import apply
from secateur.schedule.schedule import Schedule
from tiny import SIZE, TOKENS
from tiny_pipes import draw, noise

CALLS = 6


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x, *, scale: float = 1.0):
        for layer in self.layers:
            x = layer(x) * scale
        return x


NAMES = ("layers.0", "layers.1", "layers.2")


def traces(net: nn.Module) -> list[str]:
    return [name for name, m in net.named_modules() for slot in ("forward", "_old_forward") if slot in vars(m)]


def executed(pipe, call, schedule: Schedule, blocks: Blocks) -> int:
    """Convolution and linear MACs that the CPU really did inside the denoiser, in one image: by the layers called."""
    total = [0]

    def add(layer, args, out):
        each = layer.in_features if isinstance(layer, nn.Linear) else layer.weight[0].numel()
        total[0] += out.numel() * each

    layers = [m for m in denoiser_of(pipe).modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv3d))]
    handles = [layer.register_forward_hook(add) for layer in layers]
    with apply(pipe, schedule, blocks=blocks):
        draw(pipe, call)
    for handle in handles:
        handle.remove()
    return total[0]


def outputs(net, calls: int = CALLS, *, start: int = 0) -> list[Tensor]:
    """What the denoiser gives in a loop of so many calls."""
    return [net(**inputs(net, start + n)).sample for n in range(calls)]


def inputs_of(denoiser) -> dict:
    """Random inputs of one forward, the same for the same kind of denoiser."""
    generator = torch.Generator().manual_seed(1)
    size = (2, SIZE, SIZE) if "Wan" in type(denoiser).__name__ else SIZE
    found = dummy_inputs(denoiser, batch=2, size=size, tokens=TOKENS)
    noisy = torch.utils._pytree.tree_map_only(
        torch.Tensor, lambda x: torch.randn(x.shape, generator=generator) if x.is_floating_point() else x, found
    )
    return noisy | {"timestep": torch.full((2,), 500, dtype=found["timestep"].dtype)}


def output(denoiser) -> torch.Tensor:
    with torch.no_grad():
        return denoiser(**inputs_of(denoiser), return_dict=False)[0]


def same_embeddings(dit):
    """A DiT like the published one, whose blocks all embed time and class by the same weights."""
    first = dit.transformer_blocks[0].norm1.emb.state_dict()
    for block in dit.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first)
    return dit


def some(names, *, seed: int, share: float = 0.5) -> list[str]:
    chosen = [name for name in names if random.Random(f"{seed}{name}").random() < share]
    return chosen or list(names)[:1]


def apart(one, other) -> float:
    """The distance of two students' weights. Adam makes steps of rounding errors too, so that some weight always differs."""
    return sum(float((one[k] - other[k]).double().square().sum()) for k in one) ** 0.5


def inputs(net, n: int, *, batch: int = 1) -> dict:
    """Call n of a loop: dummy inputs, every float in them at random."""
    found = dummy_inputs(net, batch=batch, size=SIZE, tokens=TOKENS)
    drawn = {
        key: noise(100 * n + k, *x.shape).to(next(net.parameters()).dtype) if x.is_floating_point() else x
        for k, (key, x) in enumerate(found.items())
        if torch.is_tensor(x)
    }
    return found | drawn | {"timestep": found["timestep"] * 0 + 900 - 100 * n}
