"""Learning rates as pure functions of the trainer's step, beside those that Keras has."""

from __future__ import annotations

import copy
import math
from typing import Any

import keras
import tensorflow as tf

from looplab.errors import ConfigurationError
from looplab.strategy.python_float64 import as_double
from looplab.targets import configurable


class _Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """What looplab's schedules share.

    Attributes:
        dtype: What the rate is computed in and returned as; see `in_float64`.
    """

    dtype = tf.float32


@keras.saving.register_keras_serializable("looplab")
@configurable
class WarmupCosine(_Schedule):
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
        """Returns the learning rate, a scalar of `dtype`, for a scalar integer step."""
        step = tf.cast(step, self.dtype)
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


@keras.saving.register_keras_serializable("looplab")
@configurable
class Warmup(_Schedule):
    """Any schedule with a linear rise in front: its rate times `min(1, (s + 1) / (w + 1))` at step `s`.

    The schedule is not shifted (Goyal et al. 2017, "Accurate, Large Minibatch SGD").
    """

    def __init__(
        self,
        learning_rate: float | None = None,
        warmup_steps: int = 0,
        schedule: keras.optimizers.schedules.LearningRateSchedule | None = None,
    ) -> None:
        """Fixes the shape.

        Args:
            learning_rate: The rate after the warm-up, where there is no `schedule`.
            warmup_steps: Steps of the rise, `w`.
            schedule: What gives the rate instead; any of Keras' or your own.

        Raises:
            ConfigurationError: If neither gives a rate.
        """
        if learning_rate is None and schedule is None:
            raise ConfigurationError("Warmup: give a learning_rate, or a schedule.")
        self.learning_rate, self.warmup_steps, self.schedule = learning_rate, warmup_steps, schedule

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate, a scalar of `dtype`, for a scalar integer step."""
        rate = self.learning_rate if self.schedule is None else self.schedule(step)
        rise = (tf.cast(step, self.dtype) + 1.0) / (self.warmup_steps + 1.0)
        return tf.cast(rate, self.dtype) * tf.minimum(rise, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        schedule = self.schedule and keras.saving.serialize_keras_object(self.schedule)
        return {"learning_rate": self.learning_rate, "warmup_steps": self.warmup_steps, "schedule": schedule}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Warmup:
        """Returns one with these constructor's arguments."""
        schedule = config["schedule"] and keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**{**config, "schedule": schedule})


@keras.saving.register_keras_serializable("looplab")
@configurable
class Cyclic(_Schedule):
    """Up and down along triangles, between a floor and a peak (Smith 2017, "Cyclical Learning Rates").

    With cycle `c`, at step `s`: `p * (f + (1 - f) * d^floor(s / c) * (1 - |2 (s mod c) / c - 1|))`. A decay
    `d` of 1 is Smith's `triangular`, 0.5 his `triangular2`.
    """

    def __init__(
        self, learning_rate: float, cycle_steps: int, floor: float = 0.1, decay: float = 1.0
    ) -> None:
        """Fixes the shape.

        Args:
            learning_rate: The peak `p`, reached in the middle of the first cycle.
            cycle_steps: Steps of a rise and a fall, at least 2.
            floor: The fraction `f` of the peak that a cycle begins and ends with, from 0 to 1.
            decay: What each cycle multiplies the height above the floor with, from 0 to 1.

        Raises:
            ConfigurationError: If a cycle is too short.
        """
        if cycle_steps < 2:
            raise ConfigurationError(f"Cyclic: cycle_steps must be at least 2, got {cycle_steps}.")
        self.learning_rate, self.cycle_steps, self.floor, self.decay = (
            learning_rate,
            cycle_steps,
            floor,
            decay,
        )

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate, a scalar of `dtype`, for a scalar integer step."""
        step = tf.cast(step, tf.int64)
        cycle = tf.cast(step // self.cycle_steps, self.dtype)
        part = tf.cast(step % self.cycle_steps, self.dtype) / self.cycle_steps
        height = self.decay**cycle * (1.0 - tf.abs(2.0 * part - 1.0))
        return self.learning_rate * (self.floor + (1.0 - self.floor) * height)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("learning_rate", "cycle_steps", "floor", "decay")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("looplab")
@configurable
class Piecewise(_Schedule):
    """A rate that is constant between boundaries: from boundary `i` on, `learning_rate * factors[i]`.

    Unlike `keras.optimizers.schedules.PiecewiseConstantDecay` it takes the rate from the optimizer, and the
    update after the boundary is the first with the new one (Keras changes an update later).
    """

    def __init__(self, learning_rate: float, boundaries: list[int], factors: list[float]) -> None:
        """Fixes the shape.

        Args:
            learning_rate: The rate before the first boundary.
            boundaries: Completed steps, rising.
            factors: As many, each of the first rate.

        Raises:
            ConfigurationError: If there are not as many, or boundaries do not rise.
        """
        if len(boundaries) != len(factors):
            raise ConfigurationError(
                f"Piecewise: boundaries {boundaries} and factors {factors} must be equally many."
            )
        if sorted(set(boundaries)) != list(boundaries):
            raise ConfigurationError(f"Piecewise: boundaries must rise, got {boundaries}.")
        self.learning_rate, self.boundaries, self.factors = learning_rate, list(boundaries), list(factors)

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate, a scalar of `dtype`, for a scalar integer step."""
        behind = tf.reduce_sum(
            tf.cast(tf.cast(step, tf.int64) >= tf.constant(self.boundaries, tf.int64), tf.int32)
        )
        return self.learning_rate * tf.gather(tf.constant([1.0, *self.factors], self.dtype), behind)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("learning_rate", "boundaries", "factors")
        return {name: getattr(self, name) for name in names}


def plot(schedule: Any, total_steps: int, width: int = 48) -> str:
    """Draws a schedule in one line of text, from step 0 to the last; runs eagerly.

    Args:
        schedule: A number, or a function of the step such as a `LearningRateSchedule`.
        total_steps: Completed steps at the end, at least 1.
        width: Characters, at most.

    Returns:
        Bars from 0 to the highest rate, then the first, the highest and the last rate in numbers.
    """
    count = min(width, total_steps)
    steps = [round(index * (total_steps - 1) / max(count - 1, 1)) for index in range(count)]
    rates = [
        float(schedule(tf.constant(step, tf.int64))) if callable(schedule) else float(schedule)
        for step in steps
    ]
    top = max(rates)
    bars = "".join(
        "▁▂▃▄▅▆▇█"[max(0, min(7, math.ceil(8 * rate / top) - 1)) if top > 0 else 0] for rate in rates
    )
    return f"{bars} {rates[0]:.3g} first, {top:.3g} at most, {rates[-1]:.3g} last"


def in_float64(schedule: Any) -> Any:
    """Returns a schedule that computes in float64, if it is one of Keras' or of looplab's.

    They compute in the dtype that TensorFlow gives their numbers, and that is float32 for numbers of Python.

    Args:
        schedule: What is given as a learning rate; it stays as it is.

    Returns:
        A copy with `Double` numbers; `schedule` itself if its `__call__` is someone else's: it counts as
        what it returns.
    """
    owner = getattr(type(schedule).__call__, "__module__", "")
    if not owner.startswith(("keras.src.optimizers.schedules.", __name__)):
        return schedule
    exact = copy.copy(schedule)
    for name, value in vars(schedule).items():
        nested = isinstance(value, keras.optimizers.schedules.LearningRateSchedule)
        setattr(exact, name, in_float64(value) if nested else as_double(value))
    if isinstance(exact, _Schedule):
        exact.dtype = tf.float64
    return exact


@keras.saving.register_keras_serializable("looplab")
class OfUpdates(_Schedule):
    """A schedule that goes on where an optimizer stands, which may have made updates before a trainer."""

    def __init__(self, base: Any) -> None:
        """Takes a `LearningRateSchedule`, which counts the trainer's steps alone until `follow` is called."""
        self.base = base
        self._counters: tuple[Any, Any] | None = None

    def follow(self, iterations: Any, step: Any) -> None:
        """Counts the updates from before the trainer too.

        Args:
            iterations: Scalar integer variable, the updates that the optimizer has made.
            step: Scalar int64 variable, the steps that the trainer has completed.
        """
        self._counters = iterations, step

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step of the trainer."""
        step = tf.cast(step, tf.int64)
        if self._counters is not None:
            updates, steps = (tf.cast(tf.convert_to_tensor(own), tf.int64) for own in self._counters)
            step += updates - steps
        return self.base(step)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"base": self.base}
