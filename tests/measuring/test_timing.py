"""Timing by a clock that the test holds; memory by allocations of known size."""

from __future__ import annotations

import json
import platform

import pytest
import torch

from secateur.denoiser.blocks import find_blocks
from secateur.denoiser.families import dummy_inputs
from secateur.denoiser.times import block_times
from secateur.measuring.hardware import hardware
from secateur.measuring.memory import Peak, peak_memory
from secateur.measuring.timing import Timing, speedup, time_together
from secateur.schedule.baselines import uniform
from tiny import tiny

MiB = 2**20


class Clock:
    """A clock that only the things timed with it advance."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, ""

    def takes(self, name: str, *seconds: float):
        left = iter(seconds)

        def run() -> None:
            self.log += name
            self.now += next(left)

        return run

    def __call__(self) -> float:
        return self.now


def test_turns_are_taken_and_warm_up_is_not_counted() -> None:
    clock = Clock()
    runs = {"A": clock.takes("A", 90, 1, 2, 3), "B": clock.takes("B", 80, 4, 5, 6)}
    timings = time_together(runs, repeats=3, warmup=1, clock=clock)
    assert clock.log == "ABABABAB"
    assert timings == {"A": Timing("A", (1, 2, 3)), "B": Timing("B", (4, 5, 6))}


def test_wall_time_is_measured_where_no_clock_is_given() -> None:
    timing = time_together({"nothing": lambda: None}, repeats=2, warmup=0)["nothing"]
    assert len(timing.seconds) == 2
    assert all(s >= 0 for s in timing.seconds)


def test_work_on_a_gpu_is_waited_for_before_each_reading(monkeypatch) -> None:
    clock = Clock()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: clock.takes("s", 0.5)())
    timing = time_together({"A": clock.takes("A", 1)}, repeats=1, warmup=0, clock=clock)["A"]
    assert clock.log == "sAs"
    assert timing.seconds == (1.5,)


def test_median_and_quartiles() -> None:
    timing = Timing("A", (4.0, 1.0, 2.0, 3.0, 10.0))
    assert (timing.median_s, timing.quartiles_s) == (3.0, (2.0, 4.0))
    assert json.loads(json.dumps(timing.as_json())) == {"median": 3.0, "low": 2.0, "high": 4.0, "repeats": 5}


def test_speedup_pairs_neighbours_in_time() -> None:
    drifting = Timing("dense", (10, 20, 40)), Timing("pruned", (5, 10, 20))  # the machine slows down for both
    assert speedup(*drifting) == (2, 2, 2)
    assert speedup(Timing("a", (2, 4, 6, 8, 10)), Timing("b", (2,) * 5)) == (3, 2, 4)


def test_block_times_are_the_medians_of_what_each_block_took() -> None:
    net = tiny("dit")
    blocks = find_blocks(net)
    ticks = iter(range(10**6))
    with torch.no_grad():
        counted = block_times(net, blocks, lambda: [net(**dummy_inputs(net)) for _ in range(3)], clock=lambda: next(ticks))
    L = len(blocks)
    assert counted.linear == (10**9,) * L  # one tick inside each
    assert counted.rest_linear == (2 * L + 1 - L) * 10**9  # two ticks a block, and the call's own, less the blocks
    assert counted.call() == counted.call(attention=True)
    assert counted.keep(uniform(blocks, 4, every=2)) == 0.5
    with pytest.raises(ValueError, match="the denoiser was not called"):
        block_times(net, blocks, lambda: None)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Timing("A", ()), "'A' is empty"),
        (lambda: time_together({}, repeats=0), "got 0 and 1"),
        (lambda: time_together({}, warmup=-1), "got 5 and -1"),
        (lambda: speedup(Timing("a", (1,)), Timing("b", (1, 2))), "1 of 'a' and 2 of 'b'"),
    ],
)
def test_measurements_that_say_nothing_are_refused(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_hardware_is_json_without_the_machine_s_name() -> None:
    told = json.dumps(hardware())
    assert platform.node() not in told
    assert json.loads(told)["cores"] >= 1
    assert json.loads(told)["torch"] == torch.__version__


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere only a lower bound is known")
def test_peak_memory_sees_what_is_freed_again() -> None:
    peak = peak_memory(lambda: torch.ones(64 * MiB, dtype=torch.uint8).max())
    assert 60 * MiB < peak.peak_bytes < 110 * MiB
    assert "resident" in peak.how
    after = peak_memory(lambda: None)  # an earlier, higher peak does not count
    assert after.peak_bytes < 8 * MiB


@pytest.mark.gpu
def test_peak_memory_on_a_gpu() -> None:
    peak = peak_memory(lambda: torch.ones(64 * MiB, dtype=torch.uint8, device="cuda"), device="cuda")
    assert isinstance(peak, Peak)
    assert peak.peak_bytes >= 64 * MiB
    assert "cuda" in peak.how
