"""Measures how much one run of a step differs from another, and how much of it rounding explains.

A difference is measured relative to the change of the variable, so a learning rate of 1e-5 hides nothing.
Some numbers are only rounding (the gradient of a bias before a BatchNormalization, divided by its own size in
Adam), so the reference runs again from weights that differ in their last bit: the resulting differences count
as rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from looplab.testing.probe import Arrays, Ran

# By precision: the relative spacing of its numbers, and the tolerance for equality.
_SPACING = {"float32": 2.0**-23, "float64": 2.0**-52, "mixed_bfloat16": 2.0**-8, "mixed_float16": 2.0**-11}
_TOLERANCE = {"float32": 1e-4, "float64": 1e-6, "mixed_bfloat16": 5e-2, "mixed_float16": 1e-2}
_VALUES = ("returned/", "metrics/")  # values that are not variables
_MARGIN = 8.0  # the factor on the effect of the last bit


@dataclass(frozen=True)
class Difference:
    """How much a variable differs after a step.

    Attributes:
        step: The step, from 1.
        path: The path of the variable.
        size: The largest difference of an element, as a part of the variable's largest change.
    """

    step: int
    path: str
    size: float


class _Scale(NamedTuple):
    """The scale of a variable's difference.

    Attributes:
        change: Its largest change since the start.
        rounding: The part of a difference that is rounding.
    """

    change: float
    rounding: float


class Reference:
    """The results of the reference.

    Attributes:
        start: The state from which every run begins.
        rtol: The largest size of a difference that counts as equal.
    """

    def __init__(self, start: Arrays, ran: Ran, shaken: Sequence[tuple[Arrays, Ran]], rtol: float) -> None:
        """Measures how much each variable changes, and how much of its differences is rounding.

        Args:
            start: The state from which every run begins.
            ran: The run from that state.
            shaken: Runs from states that differ from it in the last bits of the weights, with these states.
            rtol: The largest size of a difference that counts as equal.
        """
        self.start, self.rtol, self._ran = start, rtol, ran
        self._scales = [
            {path: self._scale(step, path, shaken) for path in arrays}
            for step, arrays in enumerate(ran.after)
        ]

    def trains(self, paths: Iterable[str]) -> bool:
        """Whether the steps change at least one of the variables by more than rounding."""
        return any(self._scales[-1][path].change > self._scales[-1][path].rounding for path in paths)

    def differences(self, other: Ran) -> list[Difference]:
        """Returns the difference of every variable, by step, weights before slots, large ones first."""
        found = [
            Difference(step + 1, path, self._size(step, path, other))
            for step, arrays in enumerate(self._ran.after)
            for path in arrays
        ]
        return sorted(found, key=_order)

    def differing(self, other: Ran) -> list[Difference]:
        """Returns the large differences of the first step that differs; empty if all steps are equal."""
        large = [each for each in self.differences(other) if not each.size <= self.rtol]
        return [each for each in large if each.step == large[0].step]

    def _size(self, step: int, path: str, other: Ran) -> float:
        if path not in other.after[step]:
            return float("inf")
        mine, its = _float(self._ran.after[step][path]), _float(other.after[step][path])
        if np.array_equal(its, mine, equal_nan=True):
            return 0.0
        largest = _largest(its - mine)
        scale = self._scales[step][path]
        whole = scale.change + scale.rounding / self.rtol  # so that rounding alone is at most rtol
        return largest / whole if whole > 0 else float("inf")

    def _scale(self, step: int, path: str, shaken: Sequence[tuple[Arrays, Ran]]) -> _Scale:
        array = self._ran.after[step][path]
        change = _change(self.start, self._ran, step, path)
        noise = [_largest(_change(start, run, step, path) - change) for start, run in shaken]
        return _Scale(_largest(change), _MARGIN * max(noise, default=0.0) + self._spacing(path, array))

    def _spacing(self, path: str, array: np.ndarray) -> float:
        """Returns the difference that rounding of the value itself explains."""
        if path.startswith(_VALUES):  # means of numbers that may cancel
            return self.rtol * 0.1 * max(1.0, _largest(array))
        whole = not np.issubdtype(array.dtype, np.floating)
        return 0.0 if whole else 4 * float(np.finfo(array.dtype).eps) * _largest(array)


def tolerance(precision: str) -> float:
    """Returns the default tolerance for equality."""
    return _TOLERANCE[precision]


def nudged(start: Arrays, precision: str, seed: int) -> Arrays:
    """Returns a state whose arrays, except the optimizers', differ in their last bit."""
    rng = np.random.default_rng(seed)

    def nudge(path: str, array: np.ndarray) -> np.ndarray:
        if not path.startswith(("models/", "trainer/")) or not np.issubdtype(array.dtype, np.floating):
            return array
        factor = 1 + _SPACING[precision] * rng.choice([-1.0, 1.0], array.shape)
        return np.asarray(array * factor, array.dtype)

    return {path: nudge(path, array) for path, array in start.items()}


def _order(each: Difference) -> tuple[int, bool, bool, float]:
    return each.step, each.path.startswith(_VALUES), each.path.startswith("optimizers/"), -each.size


def _change(start: Arrays, ran: Ran, step: int, path: str) -> np.ndarray:
    return _float(ran.after[step][path]) - _float(start.get(path, np.zeros(())))


def _float(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float64)


def _largest(array: np.ndarray) -> float:
    largest = float(np.max(np.abs(_float(array)), initial=0.0))
    return float("inf") if np.isnan(largest) else largest
