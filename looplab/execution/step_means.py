"""Means over steps, weighted exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from looplab.metrics import _log


class StepMeans:
    """Weighted means of per-step values over an epoch or an evaluation, in float64 on the host.

    A loss whose terms have different weights has no weight itself: the mean of its values over batches would
    depend on how the examples were split into batches. Its mean is the sum of the means of its parts, each
    computed with the weights of that part.

    A value of infinite weight outweighs all values before it: the mean is then the latest such value.

    Call `add` once per execution with all its steps. The sums are computed step by step in order, so the
    grouping of steps into executions does not change a bit of the result.

    Attributes:
        sums: The sum of weighted values and the sum of weights of each part, by name.
    """

    def __init__(self, sums: Mapping[str, Sequence[Any]] | None = None) -> None:
        """Starts empty, or with the sums of a checkpoint.

        Args:
            sums: The sums of each part by name; checkpoints of earlier versions have one part for each name,
                which is not in a list.
        """
        self.sums: dict[str, list[list[float]]] = {
            name: [list(pair) for pair in (parts if isinstance(parts[0], Sequence) else [parts])]
            for name, parts in (sums or {}).items()
        }

    def add(
        self,
        values: Mapping[str, np.ndarray],
        weights: Mapping[str, np.ndarray],
        parts: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> None:
        """Adds the values of steps.

        Args:
            values: Arrays of shape `[steps]`, by name.
            weights: Arrays of shape `[steps]`, or `[steps, parts]` if a value has parts; a value without
                weights has no mean.
            parts: Arrays of shape `[steps, parts]`, for each value that is a sum of parts.
        """
        for name, shares in weights.items():
            series = np.atleast_2d(parts.get(name, values[name]).T)
            own = self.sums.setdefault(name, [[0.0, 0.0] for _ in series])
            if len(own) != len(series):
                own = self.sums[name] = [[0.0, 0.0] for _ in series]
                _log.warning(
                    "the mean of %r over this epoch starts at the step from which the run continues: an "
                    "earlier version saved it without its %d parts",
                    name,
                    len(series),
                )
            for pair, part, weighing in zip(own, series, np.atleast_2d(shares.T), strict=True):
                total, weight = pair
                for value, share in zip(part.tolist(), weighing.tolist(), strict=True):
                    if math.isinf(share):  # it outweighs all values before it
                        total, weight = value, 1.0
                    elif share:  # a step without examples has no value
                        total += value * share
                        weight += share
                pair[:] = total, weight

    def result(self) -> dict[str, float]:
        """Returns the mean of each name; NaN if nothing had a weight."""
        means = {}
        for name, parts in self.sums.items():
            weighed = [total / weight for total, weight in parts if weight]
            means[name] = sum(weighed) if weighed else float("nan")
        return means
