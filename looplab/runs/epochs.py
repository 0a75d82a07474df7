"""Which epoch a step belongs to, also where the data of a run has changed on the way.

Epochs that are done stay done: a `fit` with other data, or with batches of another size, begins its first
epoch after them. Arithmetic stays that of epochs of one length: steps are shifted, as if all had had it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from looplab.interval import Interval
from looplab.protocols import Feed

ENDLESS = 2**62  # steps of an epoch, where there is but one


@dataclass(frozen=True)
class Epochs:
    """Epochs of one length, from a step of the run on.

    Attributes:
        length: Steps of an epoch.
        examples: Examples of an epoch; None where their number is not known.
        begun: Completed steps of the run where the first of them began.
        shift: How many more steps there would be, had the epochs before been of this length.
        surplus: By how many examples the data counts more than the run has seen.
    """

    length: int
    examples: int | None = None
    begun: int = 0
    shift: int = 0
    surplus: int = 0

    def follow(self, before: Epochs | None, step: int) -> Epochs:
        """Returns these epochs as they follow those that a run has behind it.

        Args:
            before: The epochs of the run so far; None for a run that begins. Epochs of the same length and
                examples go on. Others begin with the next step: an epoch that is not done is left.
            step: Completed steps.
        """
        if before is None:
            return self
        if (self.length, self.examples) == (before.length, before.examples):
            return before
        return replace(self, begun=step, shift=before.done(step) * self.length - step)

    def epoch(self, step: int) -> int:
        """Returns the epoch that a completed step belongs to, from 1."""
        return max(step + self.shift - 1, 0) // self.length + 1

    def done(self, step: int) -> int:
        """Returns how many epochs are done when a step is completed."""
        return (step + self.shift) // self.length

    def within(self, step: int) -> int:
        """Returns how many steps of its epoch are completed: from 1 to the length, 0 before the first."""
        place = step + self.shift
        return (place - 1) % self.length + 1 if place else 0

    def ends(self, step: int) -> bool:
        """Whether an epoch ends with a step (or the run has not begun)."""
        return (step + self.shift) % self.length == 0

    def end(self, step: int) -> int:
        """Returns the first step after `step` with which an epoch ends."""
        return self.last_step(self.done(step) + 1)

    def last_step(self, epoch: int) -> int:
        """Returns the last step of an epoch."""
        return epoch * self.length - self.shift

    def count(self, step: int) -> int:
        """Returns how many epochs there are up to a step, begun ones too."""
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
        """Returns the step by which a feed, the run's data in these epochs, knows a step of the run."""
        return feed.place(step, begun=self.begun, shift=self.shift)

    def to_json(self) -> dict[str, Any]:
        """Returns it in JSON's types; `Epochs(**saved)` reads it."""
        return asdict(self)
