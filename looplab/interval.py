"""One grammar for every duration and cadence: `"10ep"`, `"500st"`, `"1e6ex"`, `"90min"`.

A bare integer counts steps. Epochs, steps and examples land on exact steps; wall-clock intervals
cannot be reproducible, so they serve for saving and stopping only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from looplab.errors import ConfigurationError, as_written

_UNITS = {"ep": "epochs", "st": "steps", "ex": "examples", "min": "minutes"}
# Of each unit the most, and why.
_EXACT = "larger numbers are not exact in logs and checkpoints"
_MOST = {"ep": 2**53, "st": 2**53, "ex": 2**53, "min": 10**7}
_WHY = {"ep": _EXACT, "st": _EXACT, "ex": _EXACT, "min": "that is 19 years"}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+]?\d+)?|\.\d+)\s*([A-Za-z]*)\s*")


class TooLong(ConfigurationError):
    """An interval that no run lasts."""


@dataclass(frozen=True)
class Interval:
    """A positive length of training.

    Attributes:
        count: How many units, above 0. Whole for steps and examples; `"0.5ep"` is allowed.
        unit: `"ep"` epochs, `"st"` steps, `"ex"` examples, `"min"` minutes of wall-clock time.
    """

    count: Fraction
    unit: str

    @classmethod
    def parse(cls, text: str | int | Interval, *, what: str = "interval") -> Interval:
        """Reads an interval.

        Args:
            text: Such as `"10ep"`, `"500st"`, `"1e6ex"`, `"90min"`; an integer counts steps.
            what: The argument or configuration key it was given for, named in the error.

        Raises:
            ConfigurationError: If it is not of this grammar, not positive, in part of a step, or too long.
        """
        if isinstance(text, Interval):
            return text
        match = _PATTERN.fullmatch(str(text)) if not isinstance(text, bool) else None
        unit = (match.group(2) or "st") if match else ""
        if match is None or unit not in _UNITS:
            units = ", ".join(f"{short} ({long})" for short, long in _UNITS.items())
            raise ConfigurationError(
                f"{what}: {as_written(text)} is not an interval. Write a number and a unit, such as '10ep', "
                f"'500st', '1e6ex' or '90min'; units: {units}; a bare integer counts steps."
            )
        if float(match.group(1)) > (most := _MOST[unit]):  # before it is made a fraction of as many digits
            raise TooLong(
                f"{what}: {as_written(text)} is too long: at most {most:,} {_UNITS[unit]}, since "
                f"{_WHY[unit]}."
            )
        count = Fraction(match.group(1))
        if count <= 0 or (unit in ("st", "ex") and count.denominator != 1):
            kind = "positive" if count <= 0 else "whole"
            raise ConfigurationError(f"{what}: {as_written(text)} must be a {kind} number of {_UNITS[unit]}.")
        return cls(count, unit)

    @property
    def wall_clock(self) -> bool:
        """Whether it is measured in minutes rather than in the run's own steps."""
        return self.unit == "min"

    @property
    def seconds(self) -> float:
        """Its length in seconds; for wall-clock intervals only."""
        return float(self.count) * 60.0

    def next_step(self, step: int, steps_per_epoch: int, examples: Callable[[int], int | None]) -> int:
        """Returns the first step after `step` at which it is due; intervals count from step 0.

        Args:
            step: Completed steps.
            steps_per_epoch: Steps in an epoch.
            examples: Cumulative count of examples after a number of steps, strictly increasing, or
                None where it cannot be known beforehand.

        Raises:
            ConfigurationError: If it counts examples and their number is not known.
        """
        if self.unit == "st":
            return (step // int(self.count) + 1) * int(self.count)
        if self.unit == "ep":
            length = self.count * steps_per_epoch
            return math.ceil((math.floor(step / length) + 1) * length)
        if self.unit == "ex":
            return self._step_of_examples(step, examples)
        raise ValueError(f"{self} is measured by the clock, not in steps")

    def steps(
        self, step: int, last: int, steps_per_epoch: int, examples: Callable[[int], int | None]
    ) -> Sequence[int]:
        """Returns the steps after `step`, up to `last`, at which it is due; see `next_step`."""
        due = self.next_step(step, steps_per_epoch, examples)
        if self.unit == "st":
            return range(due, last + 1, int(self.count))
        found = []
        while due <= last:
            found.append(due)
            due = self.next_step(due, steps_per_epoch, examples)
        return found

    def _step_of_examples(self, step: int, examples: Callable[[int], int | None]) -> int:
        seen = examples(step)
        if seen is None:
            raise ConfigurationError(
                f"the interval {self} counts examples, but how many a batch of this data holds is "
                "not known beforehand. Write it in steps ('st') or epochs ('ep')."
            )
        goal = (seen // int(self.count) + 1) * int(self.count)
        low, high = step, step + 1  # examples(low) < goal <= examples(high)
        while (examples(high) or 0) < goal:
            low, high = high, high + 2 * (high - low)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if (examples(middle) or 0) >= goal else (middle, high)
        return high

    def __str__(self) -> str:
        """Returns it as it is written in a configuration."""
        whole = self.count.denominator == 1
        return f"{int(self.count) if whole else float(self.count)}{self.unit}"
