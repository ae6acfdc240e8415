"""supernet(denoiser, gates, blocks): the denoiser whose every cell mixes run and reuse, differentiably in its gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint as checkpointed

from secateur.denoiser.blocks import Blocks
from secateur.denoiser.families import bare, class_name
from secateur.denoiser.patch import Handle, Inputs, Patch, Run
from secateur.denoiser.streams import Stream, minus, plus, streams
from secateur.schedule.cache import versions
from secateur.schedule.holds import LINES, leads

ROUNDING = 1e-3  # a straight-through gate, hard − soft + soft, misses 0 and 1 by the rounding of its dtype

Kept = dict[int, tuple[Any, tuple[int, ...]]]  # block → what it reuses, and how often it had been written into


@dataclass(frozen=True)
class Call:
    """One denoiser call: its gates (L + 1,), what the call before it left, and what it leaves to the next one.

    lead: see `holds.lead`.
    """

    gates: Sequence[Tensor]
    before: Kept
    lead: float = 0.0
    after: Kept = field(default_factory=dict)


class SuperNet(Handle):
    """A denoiser with a gate on every cell, until `remove()` or the end of a `with`. `supernet` builds one.

    gates: (T, L), read at the first call of each image; change or replace them before a `restart()`.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        gates: Tensor,
        blocks: Blocks,
        *,
        branches: int = 1,
        checkpoint: bool = False,
        hold: str = "output",
    ):
        super().__init__()
        self.gates, self.blocks, self.branches, self.checkpoint = gates, blocks, branches, checkpoint
        self._streams = [*streams(denoiser, blocks), ()]
        self._lines = [kind in LINES for kind in (*blocks.reuse, hold)]
        self._hold = hold
        self._wakes = hold == "output" and all(blocks.reuse[i] == "output" for i in blocks.sinks)
        self._rows: Sequence[Sequence[Tensor]] = ()
        self._leads: Sequence[float] = ()
        self._past: dict[int, Kept] = {}
        self._now: Call | None = None
        self._patch = Patch(denoiser, blocks.names, self._cell, root=self._root, owner=self)
        self.on_remove(self._patch.remove)
        self._alive = True

    def restart(self) -> None:
        """Begin a new image, which reuses nothing of the last one."""
        self._patch.restart()
        self._rows, self._past = (), {}

    def remove(self) -> None:
        """Leave the denoiser as it was; a second call does nothing. With checkpoint=True, call `backward()` first."""
        self._alive = False
        super().remove()
        self.restart()

    def _root(self, n: int, run: Run, inputs: Inputs) -> Any:
        t, branch = divmod(n, self.branches)
        if n == 0:
            gates = cell_gates(self.gates, self.blocks)
            self._rows = [row.unbind() for row in gates.unbind()]
            # Soft gates count as they would be cut (ours).
            self._leads = leads([False, *(gates[1:, -1] < 0.5).tolist()], self._hold)
        if t >= len(self._rows):
            raise ValueError(
                f"found call {t + 1} and gates for {len(self._rows)} calls: restart() before a new image, or give more rows"
            )
        evaluate = partial(self._evaluate, Call(self._rows[t], self._past.get(branch, {}), self._leads[t]), run, inputs)
        out, self._past[branch] = checkpointed(evaluate, use_reentrant=False) if self.checkpoint else evaluate()
        return out

    def _evaluate(self, call: Call, run: Run, inputs: Inputs) -> tuple[Any, Kept]:
        """What the call gives and what it leaves.

        A recomputation in backward() begins here: it sees the gates and the past that the call first saw, and changes
        nothing.
        """
        if not self._alive:
            raise RuntimeError("the SuperNet was removed before backward() could recompute its calls: call backward() first")
        now = Call(call.gates, call.before, call.lead)
        outer, self._now = self._now, now
        try:
            return self._mixed(now, len(self.blocks), run, inputs), now.after
        finally:
            self._now = outer

    def _cell(self, t: int, i: int, run: Run, inputs: Inputs) -> Any:
        assert self._now is not None  # a block only ever runs inside the denoiser
        return self._mixed(self._now, i, run, inputs)

    def _mixed(self, call: Call, i: int, run: Run, inputs: Inputs) -> Any:
        """What cell i gives and the next call reuses: g·B(x) + (1 − g)·y, DiP-GO (arXiv 2410.16942), section 3."""
        before, new = self._take(call, i) if i in call.before else None, run()
        if self._lines[i]:
            out, left = mixed_line(call.gates[i], new, before, on=call.lead if i == len(self.blocks) else 0.0)
        else:
            out, left = mixed_last(call.gates[i], new, before, self._streams[i], inputs)
        call.after[i] = left, versions(left)
        return awake(call.gates[i], new, out) if i == len(self.blocks) and self._wakes else out

    def _take(self, call: Call, i: int) -> Any:
        value, version = call.before[i]
        if versions(value) != version:
            name = (*self.blocks.names, "the denoiser")[i]
            raise RuntimeError(
                f"the output of {name} was changed in place by its reader, as T2I-Adapter and FreeU do: leave those out"
            )
        return value


def supernet(
    denoiser: nn.Module,
    gates: Tensor,
    blocks: Blocks,
    *,
    branches: int = 1,
    checkpoint: bool = False,
    hold: str = "output",
) -> SuperNet:
    """A SuperNet: every cell of the denoiser mixes run and reuse by its gate, until `remove()` or the end of a `with`.

    With gates of 0 and 1 it computes what a SubNet computes for that grid. Every denoiser call takes the next row of gates:
    call `restart()` before each further image. Raises ValueError if the gates or the blocks do not fit.

    gates: (T, L) floats in [0, 1], 1 = run, differentiable; call 0 runs everything, whatever its row says. To tinker with:
    branches: denoiser calls a step, more than one if guidance calls it for each half; each branch reuses its own outputs.
    checkpoint: keep only what each call reuses and gives, and compute the rest again in backward(). hold: what the denoiser
    gives at a held call, see `Schedule`.
    """
    denoiser = bare(denoiser)
    if class_name(denoiser) != blocks.denoiser:
        raise ValueError(
            f"found blocks of a {blocks.denoiser} for a {class_name(denoiser)}: give what find_blocks returns for it"
        )
    check_gates(gates, blocks)
    if branches < 1:
        raise ValueError(f"found branches={branches}, wanted the number of denoiser calls a step: give 1 or more")
    return SuperNet(denoiser, gates, blocks, branches=branches, checkpoint=checkpoint, hold=hold)


def check_gates(gates: Tensor, blocks: Blocks) -> None:
    """Raises ValueError if gates are not one float in [0, 1] a cell."""
    if gates.ndim != 2 or gates.shape[1] != len(blocks) or not len(gates) or not gates.is_floating_point():
        raise ValueError(
            f"found {gates.dtype} gates of shape {tuple(gates.shape)}, wanted floats of shape (T, {len(blocks)}): one a cell"
        )
    low, high = gates.detach().aminmax()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN is neither
        raise ValueError(f"found gates from {low:.4g} to {high:.4g}, wanted 0 (reuse) to 1 (run): use a sigmoid or a clamp")


def cell_gates(gates: Tensor, blocks: Blocks) -> Tensor:
    """The gates by which every cell mixes and, last, the denoiser itself, (T, L + 1): `closed`, then each row's largest.

    The last column is ours: a row of zeros holds the whole previous output, as a Schedule's row without '#' does.
    """
    return torch.cat((closed(gates, blocks), entered(gates).unsqueeze(1)), dim=1)


def entered(gates: Tensor) -> Tensor:
    """The largest gate of each row, (T,), with a gradient only for gates that alone could change it (ours).

    If several gates are 1, none alone ends the call; if all are 0, each alone enters it. A gradient shared among equal
    gates would make a useless block seem useful.
    """
    most = gates.amax(dim=1, keepdim=True)
    able = (gates == most) & ((most == 0) | ((gates == most).sum(dim=1, keepdim=True) == 1))
    return most.detach().squeeze(1) + (able * (gates - gates.detach())).sum(dim=1)


def closed(gates: Tensor, blocks: Blocks) -> Tensor:
    """Gates (T, L), none above the largest gate among the cell's readers: `blocks.live`, differentiably.

    DiP-GO (arXiv 2410.16942), section 3: a producer without consumers takes the gate of the consumer that left it. Ours: of
    several consumers the last to leave counts, which has the largest gate; and gates may lie between 0 and 1.
    """
    columns, last = gates.unbind(dim=1), len(blocks)
    read, run = {}, {}  # of each block, (T,)
    for i in reversed(range(last)):  # a block's readers come after it
        readers = [c for c in range(i + 1, last) if i in blocks.producers[c]]
        reading = [read[c] if blocks.reuse[c] == "residual" else run[c] for c in readers]
        alone = torch.full_like(columns[i], i in blocks.sinks)
        read[i] = largest(reading) if reading and i not in blocks.sinks else alone
        # Not torch.minimum: at a tie, which is most of a grid of 0 and 1, it halves the gradient of the block's own gate.
        run[i] = torch.where(columns[i] <= read[i], columns[i], read[i])
    return torch.stack([run[i] for i in range(last)], dim=1)


def largest(parts: Sequence[Tensor]) -> Tensor:
    """The largest of several gates, elementwise; equal ones share its gradient."""
    return torch.stack(tuple(parts)).amax(dim=0)


def mixed_last(gate: Tensor, new: Any, old: Any, block_streams: tuple[Stream, ...], inputs: Inputs) -> tuple[Any, Any]:
    """(what the cell gives, what it leaves) if it reuses its last output or residual. old: None at the first call."""
    residual = minus(new, block_streams, inputs)
    if old is None:
        return new, residual
    # The residual is mixed by itself and not as y − x, so that rounding does not add up over many reuses.
    out = mix(gate, new, plus(old, block_streams, inputs))
    return out, mix(gate, residual, old) if block_streams else out


def mixed_line(gate: Tensor, new: Any, old: Any, *, on: float = 0.0) -> tuple[Any, Any]:
    """(what the cell gives, what it leaves) if it extrapolates; it leaves its last run, its growth a call, its age in calls.

    With gates of 0 and 1 the three are a `lines.Line`; in between, each is mixed by itself (ours). on: how many calls ahead
    the line is read.
    """
    if old is None:
        return new, (new, tree_map(nothing, new), torch.zeros_like(gate))
    value, slope, age = old
    age = age + 1
    growth = mix_trees(lambda y, x: (y - x) / age.to(y), new, value)
    extrapolated = mix_trees(lambda y, d: y + d * (age + on).to(y), value, slope)
    return mix(gate, new, extrapolated), (mix(gate, new, value), mix(gate, growth, slope), (1 - gate) * age)


def awake(gate: Tensor, new: Any, out: Any) -> Any:
    """What the denoiser gives; if its own gate is 0, with the gradient that the blocks' gates have in an entered call.

    Ours. By the product rule, the gates of a held call have no gradient, so it could never come back. If every sink reuses
    its output, a call entered with all gates 0 gives what a held call gives, so its gradient is the right one.
    """
    return mix_trees(lambda a, y: y + (gate == 0).to(a.device) * (a - a.detach()), new, out)


def nothing(x: Any) -> Any:
    return torch.zeros_like(x) if torch.is_tensor(x) else x


def mix_trees(rule: Callable[[Tensor, Tensor], Tensor], first: Any, second: Any) -> Any:
    """The rule on every pair of tensors of two nests; anything else comes from the first nest."""
    return tree_map(lambda a, b: rule(a, b) if torch.is_tensor(a) else a, first, second)


def mix(gate: Tensor, new: Any, old: Any) -> Any:
    """gate · new + (1 − gate) · old over two nests of one structure; anything but tensors comes from the new nest."""
    return tree_map(partial(_mix, gate), new, old)


def _mix(gate: Tensor, new: Any, old: Any) -> Any:
    if not torch.is_tensor(new):
        return new
    if new.shape != old.shape:
        raise ValueError(
            f"found an output of {tuple(new.shape)} after one of {tuple(old.shape)}: call restart() before a new image"
        )
    gate = gate.to(new.device)
    return gate * new + (1 - gate) * old
