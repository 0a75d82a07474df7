"""Computes the epoch of a step, also if the data of a run has changed during the run.

Finished epochs stay finished: a `fit` with other data, or with batches of another size, starts its first
epoch after them. The arithmetic assumes epochs of one length: steps are shifted, as if all epochs had that
length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from looplab.interval import Interval
from looplab.protocols import Feed

ENDLESS = 2**62  # the steps of an epoch, if there is only one endless epoch


@dataclass(frozen=True)
class Epochs:
    """Epochs of one length, from a step of the run on.

    Attributes:
        length: Steps of an epoch.
        examples: Examples of an epoch; None if their number is not known.
        begun: Completed steps of the run at the start of the first of these epochs.
        shift: How many more steps the run would have if all earlier epochs had this length.
        surplus: The difference between the examples that the data counts and those that the run has seen.
    """

    length: int
    examples: int | None = None
    begun: int = 0
    shift: int = 0
    surplus: int = 0

    def follow(self, before: Epochs | None, step: int) -> Epochs:
        """Returns the epochs of a run that continues with these epochs.

        Args:
            before: The epochs of the run so far; None for a new run. Epochs of the same length and with the
                same number of examples continue. Others start with the next step, and an unfinished epoch is
                abandoned.
            step: Completed steps.
        """
        if before is None:
            return self
        if (self.length, self.examples) == (before.length, before.examples):
            return before
        return replace(self, begun=step, shift=before.done(step) * self.length - step)

    def epoch(self, step: int) -> int:
        """Returns the epoch of a completed step, from 1."""
        return max(step + self.shift - 1, 0) // self.length + 1

    def done(self, step: int) -> int:
        """Returns the number of epochs that are finished when a step is completed."""
        return (step + self.shift) // self.length

    def within(self, step: int) -> int:
        """Returns the completed steps of the current epoch: from 1 to the length, 0 before the first step."""
        place = step + self.shift
        return (place - 1) % self.length + 1 if place else 0

    def ends(self, step: int) -> bool:
        """Returns whether an epoch ends with a step (or the run has not started)."""
        return (step + self.shift) % self.length == 0

    def end(self, step: int) -> int:
        """Returns the first step after `step` at which an epoch ends."""
        return self.last_step(self.done(step) + 1)

    def last_step(self, epoch: int) -> int:
        """Returns the last step of an epoch."""
        return epoch * self.length - self.shift

    def count(self, step: int) -> int:
        """Returns the number of epochs up to a step, including one that has started."""
        return -(-(step + self.shift) // self.length)

    def next_step(self, interval: Interval, step: int, examples: Callable[[int], int | None]) -> int:
        """Returns the first step after `step` at which an interval is due; see `Interval.next_step`."""
        shift = self.shift if interval.unit == "ep" else 0
        return interval.next_step(step + shift, self.length, examples) - shift

    def steps(
        self, interval: Interval, step: int, last: int, examples: Callable[[int], int | None]
    ) -> Sequence[int]:
        """Returns the steps after `step`, up to `last`, at which an interval is due."""
        shift = self.shift if interval.unit == "ep" else 0
        found = interval.steps(step + shift, last + shift, self.length, examples)
        return [due - shift for due in found] if shift else found

    def place(self, step: int, feed: Feed) -> int:
        """Returns the step of the feed, the run's data in these epochs, for a step of the run."""
        return feed.place(step, begun=self.begun, shift=self.shift)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields in JSON's types; `Epochs(**saved)` reads them."""
        return asdict(self)
