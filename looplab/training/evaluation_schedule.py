"""The schedule on which a validation set is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from looplab.interval import Interval


class Steps(Protocol):
    """The facts about the steps of a run that a schedule needs."""

    @property
    def total_steps(self) -> int:
        """The number of completed steps at which the run ends."""

    def next_step(self, interval: Interval, step: int) -> int:
        """Returns the first step after `step` at which an interval is due."""


class EvaluationSchedule(Protocol):
    """The steps at which an evaluation is due; its `str` completes the sentence "evaluated ..."."""

    def next_step(self, step: int, run: Steps) -> int | None:
        """Returns the first step after `step` at which it is due; None if there is none in this run."""


@dataclass(frozen=True)
class EveryInterval:
    """Due at the end of each interval of training, and at the end of training.

    Attributes:
        interval: An interval of steps, epochs or examples.
    """

    interval: Interval

    def __str__(self) -> str:
        """Returns the schedule as text."""
        return f"every {self.interval}"

    def next_step(self, step: int, run: Steps) -> int | None:
        """Returns the end of the next interval, or the end of training."""
        return None if step >= run.total_steps else min(run.next_step(self.interval, step), run.total_steps)


@dataclass(frozen=True)
class EveryFewEpochs:
    """Due only at the end of each n-th epoch, like Keras' `validation_freq`.

    If training ends within such an epoch, the end of training counts as its end.

    Attributes:
        count: The number of epochs, n.
    """

    count: int

    def __str__(self) -> str:
        """Returns the schedule as text."""
        return f"every {self.count} epochs"

    def next_step(self, step: int, run: Steps) -> int | None:
        """Returns the end of the next n-th epoch; see `EvaluationSchedule`."""
        interval, last = Interval(Fraction(self.count), "ep"), run.total_steps
        due = run.next_step(interval, step)
        if due <= last:
            return due
        ends_there = run.next_step(interval, last - 1) == run.next_step(Interval(Fraction(1), "ep"), last - 1)
        return last if step < last and ends_there else None
