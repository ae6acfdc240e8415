"""PairedGain: an objective that rises only when a gain is significant, for searches that try many schedules on few images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from secateur.measuring.quality import NotFiniteError
from secateur.schedule.schedule import Schedule
from secateur.searching.objective import Objective

STANDARD_ERRORS = 2.0  # by which a gain must be above 0 to be significant (ours)
NOWHERE_DB = -100.0  # value of images that are not finite while those of others are (ours)


@dataclass(eq=False)
class Measurement:
    """A schedule, and the dB of each image under it on the sets of images that it was measured on so far."""

    schedule: Schedule
    sets: list[np.ndarray] = field(default_factory=list)


@dataclass(eq=False)
class PairedGain:
    """An objective whose best rises only when the images get significantly nearer to the target.

    The value of the first schedule is its mean dB; its images must be finite. The value of a later one is above the best only
    if its gain, image by image, is above STANDARD_ERRORS standard errors: among many trials on few images, some look better by
    chance. A schedule that is significantly worse on the first parts of the images is not measured on the others. If a gain
    is not significant yet, but would be if it held on all images, both schedules are measured on the next set of `more` (ours).
    For a schedule that is expected to be better, `patient`, it is enough that it is better on average so far.
    more: functions that make objectives with as many other images; each is called once, when first needed. Values are means
    over the objective's own images.
    """

    objective: Objective
    more: Sequence[Callable[[], Objective]] = ()
    best: Measurement | None = None

    def __post_init__(self):
        self.sets = list(self.objective.parts())  # sets of `more` are added when they are needed
        self.own = len(self.sets)

    def __call__(self, schedule: Schedule, *, patient: bool = False) -> float:
        new = Measurement(schedule)
        try:
            if self.best is None:
                self.measure(new, self.own - 1)
                self.best = new
            elif self.is_better(new, self.best, patient=patient):
                self.best = new
        except NotFiniteError:
            if self.best is None:
                raise
            return NOWHERE_DB
        loss = self.gains(new, self.best, min(len(new.sets), self.own)).mean()
        return float(np.concatenate(self.best.sets[: self.own]).mean() + min(0.0, loss))

    def is_better(self, new: Measurement, best: Measurement, *, patient: bool = False) -> bool:
        """Whether a schedule is significantly better than the best, on the sets that it takes to tell."""
        for count in range(1, self.own):
            if is_significant(-self.gains(new, best, count)):
                return False
        most = 1 + len(self.more)
        for sets in range(1, most + 1):
            gains = self.gains(new, best, self.own + sets - 1)
            if is_significant(gains):
                return True
            if not is_significant(gains, errors=0.0 if patient else STANDARD_ERRORS * math.sqrt(sets / most)):
                return False
        return False

    def gains(self, new: Measurement, best: Measurement, count: int) -> np.ndarray:
        """By how many dB a schedule is better than the best, image by image, on the first `count` sets."""
        return np.concatenate([self.measure(new, number) - self.measure(best, number) for number in range(count)])

    def measure(self, of: Measurement, number: int) -> np.ndarray:
        """dB of each image of one set; measured when first needed, with the sets before it."""
        while number >= len(of.sets):
            place = len(of.sets)
            if place == len(self.sets):
                self.sets.append(self.more[place - self.own]())
            of.sets.append(self.sets[place].each(of.schedule))
        return of.sets[number]


def is_significant(gains: np.ndarray, *, errors: float = STANDARD_ERRORS) -> bool:
    """Whether the mean of paired gains, (B,), is above 0 by this many standard errors; of one image, whether it is above 0."""
    error = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return bool(gains.mean() > errors * error)
