"""Learning rates as pure functions of the trainer's step."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("looplab")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0 over the warm-up, then falls along half a cosine to the floor.

    With peak `p`, warm-up `w`, total `T` and floor fraction `f`, at step `s` (0 before the first
    update): `p * (s + 1) / (w + 1)` for `s < w`, then `p * (f + (1 - f) * (1 + cos(pi * (s - w) /
    (T - w))) / 2)`, and `p * f` from `T` on (Loshchilov and Hutter 2017, "SGDR", without restarts).
    """

    def __init__(
        self, learning_rate: float, total_steps: int, warmup_steps: int = 0, floor: float = 0.0
    ) -> None:
        """Fixes the shape.

        Args:
            learning_rate: The peak, reached at the end of the warm-up.
            total_steps: Steps at which the floor is reached.
            warmup_steps: Steps of the rise, fewer than `total_steps`.
            floor: The fraction of the peak that remains at the end, from 0 to 1.
        """
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = min(warmup_steps, max(total_steps - 1, 0))
        self.floor = floor

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate, a float32 scalar, for a scalar integer step."""
        step = tf.cast(step, tf.float32)
        rise = (step + 1.0) / (self.warmup_steps + 1.0)
        span = max(self.total_steps - self.warmup_steps, 1)
        part = tf.clip_by_value((step - self.warmup_steps) / span, 0.0, 1.0)
        fall = self.floor + (1.0 - self.floor) * 0.5 * (1.0 + tf.cos(math.pi * part))
        return self.learning_rate * tf.where(step < self.warmup_steps, rise, fall)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "learning_rate": self.learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "floor": self.floor,
        }


class FollowStep(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate an optimizer really uses: `base(step) * factor`.

    `optimizer.iterations` counts updates, of which a step may make several or none; a schedule
    follows the trainer's step. Callbacks change only the factor, which is saved like any state.
    """

    def __init__(self, base: Any, step: tf.Variable, factor: tf.Variable) -> None:
        """Wraps a number or a Keras schedule.

        Args:
            base: A float, or a `LearningRateSchedule`.
            step: Scalar int64, completed steps.
            factor: Scalar float32, 1 unless a callback changed it.
        """
        self.base = base
        self.step = step
        self.factor = factor

    def __call__(self, iterations: Any) -> tf.Tensor:
        """Returns the learning rate of the present step, whatever the count of updates."""
        dtype = keras.config.floatx()
        if callable(self.base):
            rate = tf.cast(self.base(tf.convert_to_tensor(self.step)), dtype)
        else:
            rate = tf.constant(self.base, dtype)
        return rate * tf.cast(self.factor, dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns what can be written down of it: the wrapped schedule."""
        return {"base": self.base}
