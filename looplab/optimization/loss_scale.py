"""Dynamic loss scaling: what keeps small gradients of float16 from becoming zero.

The loss is multiplied before the backward pass and the reduced gradients are divided by the same number
(Micikevicius et al., "Mixed Precision Training", 2018). Where a gradient overflows the update is not made
and the scale is halved; after many good updates it is doubled. Defaults are those of
`keras.optimizers.LossScaleOptimizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from looplab import strategy

INITIAL = 2.0**15
GROWTH_STEPS = 2000


class LossScale:
    """The scale of one optimizer's losses; the same on every replica, since it sees reduced gradients.

    Attributes:
        scale: Scalar float32, a power of two, at least 1.
        good: Scalar int64, updates since it last changed.
        skipped: Scalar int64, updates that were not made.
    """

    def __init__(self, variable: Callable[[Any, tf.DType], tf.Variable]) -> None:
        """Makes its variables.

        Args:
            variable: Makes one of a value and a dtype, in the strategy's scope.
        """
        self.scale = variable(INITIAL, tf.float32)
        self.good = variable(0, tf.int64)
        self.skipped = variable(0, tf.int64)

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """By name, as a checkpoint calls them."""
        return {"scale": self.scale, "good": self.good, "skipped": self.skipped}

    def follow(self, due: tf.Tensor, finite: tf.Tensor) -> tf.Tensor:
        """Grows or halves after an update; inside a step, on every replica.

        Args:
            due: Scalar bool, whether the update was to be made.
            finite: Scalar bool, whether its gradients were finite.

        Returns:
            Scalar bool: it was skipped, and there was nothing left to halve.
        """
        scale, good = self.scale.read_value(), self.good.read_value()
        made, skipped = tf.logical_and(due, finite), tf.logical_and(due, tf.logical_not(finite))
        grows = tf.logical_and(made, good + 1 >= GROWTH_STEPS)
        changed = tf.where(skipped, tf.maximum(scale / 2, 1.0), tf.where(grows, scale * 2, scale))
        counted = tf.where(tf.logical_or(skipped, grows), tf.zeros_like(good), good + 1)
        self._set(self.scale, changed)
        self._set(self.good, tf.where(due, counted, good))
        self._set(self.skipped, self.skipped.read_value() + tf.cast(skipped, tf.int64))
        return tf.logical_and(skipped, scale <= 1.0)

    @staticmethod
    def _set(variable: tf.Variable, value: tf.Tensor) -> None:
        strategy.local_part(variable).assign(value)


def scale_values(scales: Mapping[str, LossScale]) -> dict[str, float]:
    """Returns the present scale and the count of skipped updates of each optimizer by tag, on the host."""
    several = len(scales) > 1
    found = {}
    for name, own in scales.items():
        prefix = f"{name}/" if several else ""
        found[f"{prefix}loss_scale"] = float(own.scale.numpy())
        found[f"{prefix}skipped_updates"] = float(own.skipped.numpy())
    return found
