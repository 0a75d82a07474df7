"""Dynamic loss scaling, which keeps small gradients of float16 from becoming zero.

The loss is multiplied before the backward pass and the reduced gradients are divided by the same number
(Micikevicius et al., "Mixed Precision Training", 2018). If a gradient overflows, looplab skips the update and
halves the scale; after many good updates it doubles the scale. Defaults are those of
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
    """The scale of one optimizer's losses; the same on every replica, because it uses reduced gradients.

    Attributes:
        scale: Scalar float32, a power of two, at least 1.
        good: Scalar int64, the number of updates since the scale last changed.
        skipped: Scalar int64, the number of skipped updates.
    """

    def __init__(self, variable: Callable[[Any, tf.DType], tf.Variable]) -> None:
        """Creates its variables.

        Args:
            variable: Creates a variable from a value and a dtype, in the strategy's scope.
        """
        self.scale = variable(INITIAL, tf.float32)
        self.good = variable(0, tf.int64)
        self.skipped = variable(0, tf.int64)

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """The variables by their names in a checkpoint."""
        return {"scale": self.scale, "good": self.good, "skipped": self.skipped}

    def follow(self, due: tf.Tensor, finite: tf.Tensor) -> tf.Tensor:
        """Doubles or halves the scale after an update; inside a step, on every replica.

        Args:
            due: Scalar bool, whether the update was due.
            finite: Scalar bool, whether its gradients were finite.

        Returns:
            Scalar bool, whether the update was skipped at the smallest scale, which cannot be halved.
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
    """Returns the scale and the number of skipped updates of each optimizer by tag; on the host."""
    several = len(scales) > 1
    found = {}
    for name, own in scales.items():
        prefix = f"{name}/" if several else ""
        found[f"{prefix}loss_scale"] = float(own.scale.numpy())
        found[f"{prefix}skipped_updates"] = float(own.skipped.numpy())
    return found
