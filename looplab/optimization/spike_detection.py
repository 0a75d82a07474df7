"""Spikes: a step whose loss is far above the losses of the steps before it.

The measure is robust: the median of the last steps, and their median distance from it, which a few outliers
do not move (Rousseeuw and Croux, "Alternatives to the Median Absolute Deviation", 1993). It is computed in
the graph, so a spike is known before the next step begins, however many steps run at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from looplab.errors import ConfigurationError, nearest
from looplab.execution.step_result import Result
from looplab.options.safeguards import DEVIATION, LEAST, SpikeDetection

_WHERE = "loop/spikes/"


class SpikeWatch:
    """Remembers the values of the last steps, and makes a step fail if its value spikes.

    Attributes:
        detection: The settings of the detection.
        variables: The remembered values, by path; part of every checkpoint.
    """

    def __init__(self, detection: SpikeDetection, make: Callable[[Any, tf.DType], tf.Variable]) -> None:
        """Creates the variables.

        Args:
            detection: The settings of the detection.
            make: Creates a variable, the same on every replica, from a first value and a dtype.
        """
        self.detection = detection
        self._last, self._seen = make([0.0] * detection.window, tf.float32), make(0, tf.int64)
        self.variables = {f"{_WHERE}last": self._last, f"{_WHERE}seen": self._seen}

    def check(self, names: Collection[str]) -> None:
        """Refuses a monitor that is not among the scalars of a training step.

        Raises:
            ConfigurationError: If it is not among them.
        """
        name = self.detection.monitor
        if name not in names:
            raise ConfigurationError(
                f"spikes.monitor: a training step has no value {name!r}; it has {', '.join(names)}."
                + nearest(name, names)
            )

    def observe(self, result: Result) -> Result:
        """Makes a step fail if its value spikes, otherwise remembers it; in the graph, across replicas."""
        value = tf.cast(result.values[self.detection.monitor], tf.float32)
        last, seen, window = self._last.read_value(), self._seen.read_value(), self.detection.window
        leaps = tf.logical_and(seen >= window, value > _limit(self.detection, last))
        failed = tf.logical_or(result.failed, leaps)
        counts = tf.logical_not(tf.logical_or(failed, tf.cast(result.skipped, tf.bool)))
        here = tf.logical_and(tf.range(window, dtype=tf.int64) == seen % window, counts)
        self._last.assign(tf.where(here, value, last))
        self._seen.assign(seen + tf.cast(counts, tf.int64))
        return result._replace(failed=failed)

    def exceeded(self, values: Mapping[str, float]) -> float | None:
        """Returns the limit that a step exceeds, or None; on the host, in the state before that step."""
        value = values.get(self.detection.monitor, math.nan)
        if int(self._seen.numpy()) < self.detection.window or not math.isfinite(value):
            return None
        limit = self.detection.limit(self._last.numpy())
        return limit if np.float32(value) > limit else None


def carried_on(arrays: Mapping[str, np.ndarray], watch: SpikeWatch | None) -> dict[str, np.ndarray]:
    """Returns a checkpoint's arrays for a run that continues with another watch, or with none.

    Args:
        arrays: The arrays by path.
        watch: The present watch; if its window differs from before, it starts without remembered values.
    """
    own = {} if watch is None else {path: v.numpy() for path, v in watch.variables.items()}
    others = {path: array for path, array in arrays.items() if not path.startswith(_WHERE)}
    fits = all(path in arrays and arrays[path].shape == array.shape for path, array in own.items())
    return others | {path: arrays[path] if fits else array for path, array in own.items()}


def _limit(detection: SpikeDetection, last: tf.Tensor) -> tf.Tensor:
    """Computes in the graph the value of `SpikeDetection.limit` on the host."""
    median = _median(last)
    deviation = tf.maximum(DEVIATION * _median(tf.abs(last - median)), LEAST * tf.abs(median))
    return median + detection.threshold * deviation


def _median(values: tf.Tensor) -> tf.Tensor:
    """Returns the median of values `[n]`; the greater one of two middle values."""
    return tf.sort(values)[values.shape[0] // 2]
