"""A Schedule for any budget from one set of Scores: the best one, or DiP-GO's (arXiv 2410.16942) or its public code's."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from secateur.denoiser.blocks import Blocks, Row, live, without
from secateur.denoiser.macs import row_macs
from secateur.knapsack import LARGEST, SCALE, budget
from secateur.schedule.baselines import closed
from secateur.schedule.schedule import Schedule
from secateur.schedule.scores import Scores

GAP = 1e-4  # of the best sum of scores: closer than this, the search for a better one ends
SECONDS = 20.0  # after which the best grid found so far is taken
UNIT = 1e-5  # one unit of MACs in HiGHS's numbers: half a unit is above HiGHS's tolerance of 1e-6
THRESHOLDS = 20  # of the public code: 0.95 down to 0 by 0.05


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method chooses from: the calls after the first, which runs everything.

    values: (T − 1, L) scores. cells: (L,) MACs of each block. rest: MACs of entering a call. room: the MACs to spend.
    """

    values: np.ndarray
    blocks: Blocks
    cells: tuple[int, ...]
    rest: int
    room: int

    def cost(self, row: Row) -> int:
        """MACs of one closed row; 0 if no block runs, since that call is held whole."""
        return row_macs(row, self.cells, self.rest)


def allocate(scores: Scores, *, keep: float, method: str = "exact", attention: bool = False) -> Schedule:
    """The Schedule that spends at most `keep` of the dense MACs on the cells with the highest scores.

    Every cell that runs is read, and call 0 runs whole. Held calls give what the scores were measured with ("hold" in their
    `made`). Raises ValueError if keep is outside (0, 1] or below call 0's own share, or if there is no such method. The
    costs must be MACs if attention is set.

    keep: the fraction of the dense MACs. method: "exact", the highest sum of scores; "bisection", DiP-GO's threshold;
    "greedy", its public code's order. attention: count the attention products too.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r} to allocate by: choose {', '.join(METHODS)}")
    scores.macs.check_convention(attention=attention)
    macs, call = scores.macs, scores.macs.call(attention=attention)
    room = budget([call] * (scores.calls - 1), keep=keep, rest=call)
    cells, rest = macs.cells(attention=attention), macs.rest(attention=attention)
    rows, remarks = METHODS[method](Problem(scores.values[1:], macs.blocks, cells, rest, room))
    how = {"method": method, "keep": float(keep), "unit": macs.unit, "attention": attention}
    made = {**how, **remarks, "scores": scores.made}
    schedule = closed(macs.blocks, [None, *rows], made=made, hold=scores.made.get("hold", "output"))
    if (cost := macs.of(schedule, attention=attention)) > call + room:
        raise RuntimeError(f"{method} chose cells of {cost} MACs where {call + room} were left: report this with the scores")
    return replace(schedule, scheduler=scores.scheduler, scheduler_hash=scores.scheduler_hash)


def bisection(problem: Problem) -> tuple[list[Row], dict[str, Any]]:
    """The rows left by the lowest threshold that meets the budget: cells that score below it go, then the closure.

    DiP-GO (arXiv 2410.16942), Alg. 1. Ours: it halves the sorted list of scores, so that any range will do; the paper
    halves [0, 1]. It ends at or below the budget; the paper stops within 0.0125 of it on either side.
    """

    def rows(threshold: float) -> list[Row]:
        return [live(row, problem.blocks) for row in (problem.values >= threshold).tolist()]

    thresholds = [*np.unique(problem.values).tolist(), math.inf]
    fits = bisect_left(thresholds, True, key=lambda c: sum(map(problem.cost, rows(c))) <= problem.room)
    return rows(thresholds[fits]), {}


def greedy(problem: Problem) -> tuple[list[Row], dict[str, Any]]:
    """The rows left by removing cells one by one, each with its closure, in the order of DiP-GO's public code.

    The order begins at the sink, whose closure is the whole call, so it holds whole calls and prunes few blocks. Removals
    that overshoot the budget are skipped. Ours: the smallest of them is made last, to end at or below the budget.
    """
    rows = [live((True,) * len(problem.blocks), problem.blocks)] * len(problem.values)
    over = sum(map(problem.cost, rows)) - problem.room
    for t, i in visits(reuse_scores(problem.values)):
        if rows[t][i] and (saved := saving(problem, rows[t], i)) <= over:
            rows[t], over = without(rows[t], i, problem.blocks), over - saved
    if over > 0:
        left = ((saving(problem, row, i), t, i) for t, row in enumerate(rows) for i, runs in enumerate(row) if runs)
        _, t, i = min(removal for removal in left if removal[0] >= over)
        rows[t] = without(rows[t], i, problem.blocks)
    return rows, {}


def reuse_scores(values: np.ndarray) -> np.ndarray:
    """How ready each cell is to be reused, in [0, 1]: 1 − score for probabilities; for other scores, 1 − rank (ours)."""
    if not values.size or (values.min() >= 0 and values.max() <= 1):
        return 1 - values
    distinct, ranks = np.unique(values, return_inverse=True)
    return 1 - ranks.reshape(values.shape) / max(1, len(distinct) - 1)


def visits(reuse: np.ndarray) -> list[tuple[int, int]]:
    """(call, block) in the order of the public code: thresholds falling, blocks from the sink inwards, calls by reuse score.

    Each cell comes once, at the first threshold that it reaches. A removal that is refused there is refused at every later
    threshold: removals in between lower its saving by no more than they lower the excess.
    """
    levels = np.minimum(np.floor(reuse * THRESHOLDS), THRESHOLDS - 1)
    _, blocks = np.indices(reuse.shape)
    order = np.lexsort((-reuse.ravel(), -blocks.ravel(), -levels.ravel()))
    return [divmod(k, reuse.shape[1]) for k in order.tolist()]


def saving(problem: Problem, row: Row, i: int) -> int:
    """MACs that go with block i and its closure."""
    return problem.cost(row) - problem.cost(without(row, i, problem.blocks))


def exact(problem: Problem) -> tuple[list[Row], dict[str, Any]]:
    """The closed rows within the budget with the highest sum of scores (ours), to a ten-thousandth of it.

    A mixed-integer program for HiGHS with L + 1 binaries a call: which blocks run, and whether the call is entered. A cell
    with a score of 0 gains nothing; one below 0 runs only if others are read through it. If 20 seconds are too few, the
    remark `gap` is the fraction by which the best sum may exceed this one, None if unknown; bisection's rows are taken if
    their sum is higher.
    """
    rivals = [bisection(problem)[0]]
    if not problem.values.size:
        return rivals[0], {}
    result = solution(problem)
    if result.x is not None:
        grid = result.x.reshape(len(problem.values), -1)[:, :-1] > 0.5
        rivals.append([tuple(row) for row in grid.tolist()])
    best = max(rivals, key=lambda rows: problem.values[np.array(rows)].sum(dtype=float))
    return best, {} if result.status == 0 else {"gap": None if result.mip_gap in (None, math.inf) else result.mip_gap}


def solution(problem: Problem) -> Any:
    """HiGHS's result, as scipy gives it. `x`: for each call, whether each block runs, then whether the call is entered.

    Raises RuntimeError if HiGHS ends neither with the best sum nor at the time limit.
    """
    from scipy.optimize import milp

    gains = np.pad(problem.values.astype(float), ((0, 0), (0, 1))).ravel()
    gains *= SCALE / (np.abs(gains).max() or 1.0)
    options = {"mip_rel_gap": GAP, "time_limit": SECONDS}
    integrality = np.ones(len(gains))
    result = milp(-gains, integrality=integrality, bounds=(0, 1), constraints=constraints(problem), options=options)
    if result.status not in (0, 1):
        raise RuntimeError(f"HiGHS gave no schedule of {len(problem.values) + 1} calls ({result.message}): report this")
    return result


def constraints(problem: Problem) -> list[Any]:
    """The constraints for HiGHS: each row is closed, and all rows together stay within the budget.

    MACs are whole multiples of a unit, rounded up if need be, so that their sum is exact in floating point.
    """
    from scipy.optimize import LinearConstraint
    from scipy.sparse import csr_array, eye_array, kron

    calls, costs = len(problem.values), (*problem.cells, problem.rest)
    unit = max(math.gcd(*costs), -(-calls * sum(costs) // LARGEST))
    units, room = np.tile([-(-cost // unit) for cost in costs], calls), problem.room // unit
    most = max(1, *units[: len(problem.cells)])
    return [
        LinearConstraint(units * UNIT, ub=(room + 0.5) * UNIT),  # whole numbers: the half loses none
        LinearConstraint(units // most, ub=room // most),  # follows for whole numbers; settles blocks of one cost at once
        LinearConstraint(kron(eye_array(calls), csr_array(closure(problem.blocks)), format="csr"), ub=0),
    ]


def closure(blocks: Blocks) -> np.ndarray:
    """The matrix (2L, L + 1) whose products with [closed row, call entered] are all at most 0."""
    size, readers = len(blocks), readers_of(blocks)
    matrix = np.zeros((2 * size, size + 1))
    for i, (some, gate) in enumerate(zip(readers, gates(readers), strict=True)):
        matrix[i, list(some)] = -1  # a block runs only if one of these does;
        matrix[size + i, gate] = -1  # so only if this does, which adds nothing for whole numbers but helps HiGHS
        matrix[[i, size + i], i] = 1
    return matrix


def readers_of(blocks: Blocks) -> list[set[int]]:
    """For each block the set of readers, (L,): the block is read if one of them runs; L stands for the entered call.

    A block that adds its last residual reads its input even if it does not run, so its own readers count instead of it.
    """
    readers: list[set[int]] = [{len(blocks)} if i in blocks.sinks else set() for i in range(len(blocks))]
    for reader in reversed(range(len(blocks))):
        through = readers[reader] if blocks.reuse[reader] == "residual" else {reader}
        for i in blocks.producers[reader]:
            readers[i] |= through
    return readers


def gates(readers: Sequence[set[int]]) -> list[int]:
    """For each block the first later block that runs whichever of its readers does, (L,); L is the entered call."""
    size = len(readers)
    must, first = {size: {size}}, [size] * size  # `must`: the blocks that run if this block does
    for i in reversed(range(size)):
        shared = set(range(i + 1, size + 1)).intersection(*(must[k] for k in readers[i]))
        must[i], first[i] = shared | {i}, min(shared)
    return first


METHODS: dict[str, Callable[[Problem], tuple[list[Row], dict[str, Any]]]] = {
    "exact": exact,
    "bisection": bisection,
    "greedy": greedy,
}
