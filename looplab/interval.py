"""Intervals: `"10ep"`, `"500st"`, `"1e6ex"`, `"90min"`.

An interval is a number of epochs, steps, examples or minutes. A bare integer counts steps. Epochs, steps and
examples end at exact steps. Wall-clock intervals cannot be reproduced, so they serve for saving and stopping
only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from looplab.errors import ConfigurationError, as_written

_UNITS = {"ep": "epochs", "st": "steps", "ex": "examples", "min": "minutes"}
# The largest count of each unit, and its reason.
_EXACT = "larger numbers are not exact in logs and checkpoints"
_MOST = {"ep": 2**53, "st": 2**53, "ex": 2**53, "min": 10**7}
_WHY = {"ep": _EXACT, "st": _EXACT, "ex": _EXACT, "min": "that is 19 years"}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+]?\d+)?|\.\d+)\s*([A-Za-z]*)\s*")


class TooLong(ConfigurationError):
    """An interval that is longer than looplab can count."""


@dataclass(frozen=True)
class Interval:
    """A positive length of training. `Interval.parse` reads one from text.

    Attributes:
        count: The number of units, above 0; a whole number for steps and examples.
        unit: `"ep"` for epochs, `"st"` for steps, `"ex"` for examples, `"min"` for minutes of wall-clock
            time.
    """

    count: Fraction
    unit: str

    @classmethod
    def parse(cls, text: str | int | Interval, *, what: str = "interval") -> Interval:
        """Reads an interval.

        Args:
            text: Such as `"10ep"`, `"0.5ep"`, `"500st"`, `"1e6ex"`, `"90min"`; an integer counts steps. An
                `Interval` is returned unchanged.
            what: The name of the argument or configuration key, for the error.

        Raises:
            ConfigurationError: If the text is not an interval, if the number is not positive, if it is not
                whole for steps or examples, or if the interval is too long to count.
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
        if float(match.group(1)) > (
            most := _MOST[unit]
        ):  # before a fraction with that many digits is created
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
        """Whether the interval is in minutes of wall-clock time."""
        return self.unit == "min"

    @property
    def seconds(self) -> float:
        """The length in seconds; it has a meaning for wall-clock intervals only."""
        return float(self.count) * 60.0

    def next_step(self, step: int, steps_per_epoch: int, examples: Callable[[int], int | None]) -> int:
        """Returns the first step after `step` at which the interval is due, counted from step 0.

        Args:
            step: The number of completed steps.
            steps_per_epoch: The number of steps in an epoch.
            examples: A function that returns how many examples a number of steps has seen, strictly rising,
                or None if that is not known in advance.

        Returns:
            A number of completed steps, above `step`.

        Raises:
            ConfigurationError: If the interval counts examples and their number is not known.
            ValueError: If the interval is wall-clock time.
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
        """Returns the steps at which the interval is due.

        Args:
            step: The number of completed steps; only steps after it are returned.
            last: The last step that is returned.
            steps_per_epoch: The number of steps in an epoch.
            examples: See `next_step`.

        Raises:
            ConfigurationError: If the interval counts examples and their number is not known.
            ValueError: If the interval is wall-clock time.
        """
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
                f"the interval {self} counts examples, but the number of examples in a batch of this data is "
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
        """Returns the interval as a configuration writes it."""
        whole = self.count.denominator == 1
        return f"{int(self.count) if whole else float(self.count)}{self.unit}"
