"""When a validation set is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from looplab.interval import Interval


class Steps(Protocol):
    """The steps of a run, as far as a schedule asks for them."""

    @property
    def total_steps(self) -> int:
        """Completed steps at which the run ends."""

    def next_step(self, interval: Interval, step: int) -> int:
        """Returns the first step after `step` at which an interval is due."""


class EvaluationSchedule(Protocol):
    """When an evaluation is due; its `str` says so after the word `evaluated`."""

    def next_step(self, step: int, run: Steps) -> int | None:
        """Returns the first step after `step` at which it is due; None if there is none in this run."""


@dataclass(frozen=True)
class EveryInterval:
    """Due each time that an interval of training is over, and at the end of training.

    Attributes:
        interval: Of steps, epochs or examples.
    """

    interval: Interval

    def __str__(self) -> str:
        """Returns it in words."""
        return f"every {self.interval}"

    def next_step(self, step: int, run: Steps) -> int | None:
        """Returns the end of the next interval, or that of training."""
        return None if step >= run.total_steps else min(run.next_step(self.interval, step), run.total_steps)


@dataclass(frozen=True)
class EveryFewEpochs:
    """Due at the end of each n-th epoch only, as Keras' `validation_freq`.

    Where training ends within an epoch, that is the end of it.

    Attributes:
        count: How many epochs, n.
    """

    count: int

    def __str__(self) -> str:
        """Returns it in words."""
        return f"every {self.count} epochs"

    def next_step(self, step: int, run: Steps) -> int | None:
        """See `EvaluationSchedule`."""
        interval, last = Interval(Fraction(self.count), "ep"), run.total_steps
        due = run.next_step(interval, step)
        if due <= last:
            return due
        ends_there = run.next_step(interval, last - 1) == run.next_step(Interval(Fraction(1), "ep"), last - 1)
        return last if step < last and ends_there else None
