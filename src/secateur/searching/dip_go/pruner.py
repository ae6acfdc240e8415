"""Pruner: the small network that turns queries, one a cell, into gates. DiP-GO (arXiv 2410.16942), section 3."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.schedule.schedule import Schedule

ENCODERS = ("attention", "linear")
NARROWING = 4  # attention, feed-forward and heads are this much narrower than the queries: 128 for the paper's 512


class Attention(nn.Module):
    """Attention over the blocks of each call: (T, L, D) → (T, L, D), with one head and no dropout (ours)."""

    def __init__(self, width: int):
        super().__init__()
        narrow = width // NARROWING
        self.query, self.key = nn.Linear(width, narrow), nn.Linear(width, narrow)
        self.value = nn.Linear(width, width)
        self.norm, self.norm_after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, narrow), nn.ReLU(), nn.Linear(narrow, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x)))
        return self.norm_after(x + self.feed_forward(x))


class Heads(nn.Module):
    """Two linear layers for every cell, each cell with its own: (T, L, D) → (T, L, 2), as (reuse, keep).

    The second layer begins with zero weights; its bias is (0, 1) for a cell that starts running, and (1, 0) otherwise.
    """

    def __init__(self, run: Tensor, width: int):
        super().__init__()
        narrow, bound = width // NARROWING, 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(*run.shape, width, narrow).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*run.shape, narrow).uniform_(-bound, bound))
        self.last_weight = nn.Parameter(torch.zeros(*run.shape, narrow, 2))
        self.last_bias = nn.Parameter(torch.stack((~run, run), dim=-1).float())

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.einsum("tld,tldn->tln", x, self.weight) + self.bias)
        return torch.einsum("tln,tlnk->tlk", hidden, self.last_weight) + self.last_bias


class Pruner(nn.Module):
    """Gates for every cell of T calls × L blocks; call 0 has nothing to reuse, and no queries.

    encoder: "attention" over the blocks of a call, or "linear" layers for each query alone; the paper has both. width: of the
    queries, D. start: a Schedule that the gates begin at; if None, every cell runs. seed: of the weights.
    """

    def __init__(
        self,
        calls: int,
        blocks: int,
        *,
        encoder: str = "attention",
        width: int = 512,
        start: Schedule | None = None,
        seed: int = 0,
    ):
        super().__init__()
        run = first_gates(calls, blocks, start)
        if encoder not in ENCODERS or width < NARROWING:
            wanted = f"encoder {' or '.join(ENCODERS)} and a width of {NARROWING} or more"
            raise ValueError(f"found encoder {encoder!r} and width {width}, wanted {wanted}: change them")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.queries = nn.Parameter(torch.randn(calls - 1, blocks, width))
            self.encoder = Attention(width) if encoder == "attention" else stacked(width)
            self.heads = Heads(run, width)

    def scores(self) -> Tensor:
        """s = softmax(z), (T − 1, L, 2): probabilities of reuse and keep, from call 1 on."""
        return self.heads(self.encoder(self.queries)).softmax(dim=-1)

    def gates(self) -> Tensor:
        """Gates (T, L), exactly 0 (reuse) or 1 (run), with the gradient of s_keep: the paper's g = h − sg(s) + s.

        A tie runs, and the sum is ordered so that it has no rounding error (ours).
        """
        reuse, keep = self.scores().unbind(dim=-1)
        return after_first((keep >= reuse).float() + (keep - keep.detach()))

    @torch.no_grad()
    def importance(self) -> Tensor:
        """s_keep (T, L), in [0, 1]; higher matters more; 1 at call 0."""
        return after_first(self.scores()[..., 1])


def stacked(width: int) -> nn.Sequential:
    """Two linear layers for each query alone (two is ours)."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())


def after_first(rows: Tensor) -> Tensor:
    """Rows of calls 1 to T − 1 below the row of call 0, which is all ones."""
    return torch.cat((torch.ones_like(rows[:1]), rows))


def first_gates(calls: int, blocks: int, start: Schedule | None) -> Tensor:
    """Whether each cell from call 1 on starts running, bool (T − 1, L). Raises ValueError if there is nothing to choose."""
    if calls < 2 or blocks < 1:
        raise ValueError(f"found {calls} calls of {blocks} blocks, wanted 2 calls or more: call 0 runs everything anyway")
    if start is None:
        return torch.ones(calls - 1, blocks, dtype=torch.bool)
    if (start.calls, len(start.blocks)) != (calls, blocks):
        raise ValueError(
            f"the schedule to start at has {start.calls} calls of {len(start.blocks)} blocks and the search {calls} of "
            f"{blocks}: give one of the same grid"
        )
    return torch.tensor([start.runs(t) for t in range(1, calls)])
