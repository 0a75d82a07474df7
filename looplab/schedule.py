"""Learning-rate schedules in addition to those of Keras.

A schedule is a pure function of the trainer's completed steps. The compiled step calls it, so it is
TensorFlow code.
"""

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
    """Base of looplab's schedules.

    Attributes:
        dtype: The dtype of the computation and of the rate; see `in_float64`.
    """

    dtype = tf.float32


@keras.saving.register_keras_serializable("looplab")
@configurable
class WarmupCosine(_Schedule):
    """A linear rise over the warm-up, then a fall along half a cosine to the floor.

    With peak `p`, warm-up `w`, total `T` and floor fraction `f`, the rate after `s` completed steps is
    `p * (s + 1) / (w + 1)` while `s < w`, then
    `p * (f + (1 - f) * (1 + cos(pi * (s - w) / (T - w))) / 2)`, and `p * f` from `T` on (Loshchilov and
    Hutter 2017, "SGDR", without restarts).
    """

    def __init__(
        self, learning_rate: float, total_steps: int, warmup_steps: int = 0, floor: float = 0.0
    ) -> None:
        """Stores the arguments.

        Args:
            learning_rate: The peak, reached at the end of the warm-up.
            total_steps: The number of completed steps at which the rate reaches the floor.
            warmup_steps: The number of steps of the rise. A number that is not below `total_steps` counts as
                `total_steps - 1`.
            floor: The fraction of the peak that remains at the end, from 0 to 1.
        """
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = min(warmup_steps, max(total_steps - 1, 0))
        self.floor = floor

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate of a step; runs eagerly or inside a `tf.function`.

        Args:
            step: The number of completed steps, a scalar integer.

        Returns:
            A scalar of `dtype`.
        """
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
    """Any schedule with a linear rise at its start (Goyal et al. 2017, "Accurate, Large Minibatch SGD").

    With warm-up `w`, the rate after `s` completed steps is the schedule's rate at `s` times
    `min(1, (s + 1) / (w + 1))`. The schedule is not shifted.
    """

    def __init__(
        self,
        learning_rate: float | None = None,
        warmup_steps: int = 0,
        schedule: keras.optimizers.schedules.LearningRateSchedule | None = None,
    ) -> None:
        """Stores the arguments.

        Args:
            learning_rate: The rate after the warm-up. It is ignored if there is a `schedule`.
            warmup_steps: The number of steps of the rise, `w`.
            schedule: A schedule of Keras, of looplab or of a user, which gives the rate instead.

        Raises:
            ConfigurationError: If there is neither a rate nor a schedule.
        """
        if learning_rate is None and schedule is None:
            raise ConfigurationError("Warmup: give a learning_rate, or a schedule.")
        self.learning_rate, self.warmup_steps, self.schedule = learning_rate, warmup_steps, schedule

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate of a step; runs eagerly or inside a `tf.function`.

        Args:
            step: The number of completed steps, a scalar integer.

        Returns:
            A scalar of `dtype`.
        """
        rate = self.learning_rate if self.schedule is None else self.schedule(step)
        rise = (tf.cast(step, self.dtype) + 1.0) / (self.warmup_steps + 1.0)
        return tf.cast(rate, self.dtype) * tf.minimum(rise, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        schedule = self.schedule and keras.saving.serialize_keras_object(self.schedule)
        return {"learning_rate": self.learning_rate, "warmup_steps": self.warmup_steps, "schedule": schedule}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Warmup:
        """Creates a schedule from the constructor's arguments that `get_config` returned."""
        schedule = config["schedule"] and keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**{**config, "schedule": schedule})


@keras.saving.register_keras_serializable("looplab")
@configurable
class Cyclic(_Schedule):
    """A rate that rises and falls along triangles (Smith 2017, "Cyclical Learning Rates").

    With peak `p`, floor fraction `f`, cycle `c` and decay `d`, the rate after `s` completed steps is
    `p * (f + (1 - f) * d^floor(s / c) * (1 - |2 (s mod c) / c - 1|))`. A decay of 1 is Smith's `triangular`,
    a decay of 0.5 is his `triangular2`.
    """

    def __init__(
        self, learning_rate: float, cycle_steps: int, floor: float = 0.1, decay: float = 1.0
    ) -> None:
        """Stores the arguments.

        Args:
            learning_rate: The peak `p`, reached in the middle of the first cycle.
            cycle_steps: The number of steps of one rise and fall, at least 2.
            floor: The fraction `f` of the peak at which each cycle begins and ends, from 0 to 1.
            decay: The factor by which the height above the floor shrinks with each cycle, from 0 to 1.

        Raises:
            ConfigurationError: If a cycle has fewer than 2 steps.
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
        """Returns the learning rate of a step; runs eagerly or inside a `tf.function`.

        Args:
            step: The number of completed steps, a scalar integer.

        Returns:
            A scalar of `dtype`.
        """
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
    """A rate that is constant between boundaries.

    From boundary `i` on, the rate is `learning_rate * factors[i]`. Unlike
    `keras.optimizers.schedules.PiecewiseConstantDecay`, an experiment takes `learning_rate` from the
    optimizer, and the update after the boundary is the first with the new rate (Keras changes the rate one
    update later).
    """

    def __init__(self, learning_rate: float, boundaries: list[int], factors: list[float]) -> None:
        """Stores the arguments.

        Args:
            learning_rate: The rate before the first boundary.
            boundaries: Numbers of completed steps, rising.
            factors: A factor of `learning_rate` for each boundary.

        Raises:
            ConfigurationError: If boundaries and factors differ in number, or if the boundaries do not rise.
        """
        if len(boundaries) != len(factors):
            raise ConfigurationError(
                f"Piecewise: boundaries {boundaries} and factors {factors} must be equally many."
            )
        if sorted(set(boundaries)) != list(boundaries):
            raise ConfigurationError(f"Piecewise: boundaries must rise, got {boundaries}.")
        self.learning_rate, self.boundaries, self.factors = learning_rate, list(boundaries), list(factors)

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate of a step; runs eagerly or inside a `tf.function`.

        Args:
            step: The number of completed steps, a scalar integer.

        Returns:
            A scalar of `dtype`.
        """
        behind = tf.reduce_sum(
            tf.cast(tf.cast(step, tf.int64) >= tf.constant(self.boundaries, tf.int64), tf.int32)
        )
        return self.learning_rate * tf.gather(tf.constant([1.0, *self.factors], self.dtype), behind)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("learning_rate", "boundaries", "factors")
        return {name: getattr(self, name) for name in names}


def plot(schedule: Any, total_steps: int, width: int = 48) -> str:
    """Draws a schedule in one line of text, from the first step to the last; runs eagerly on the host.

    Args:
        schedule: A number, or a function of the step such as a `LearningRateSchedule`.
        total_steps: The number of steps, at least 1.
        width: The largest number of bars, at least 1.

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
    """Returns a copy of a schedule that computes in float64, if Keras or looplab defines it.

    These schedules compute in the dtype that TensorFlow gives their numbers, which is float32 for a Python
    number.

    Args:
        schedule: A learning rate as the user gave it. It does not change.

    Returns:
        A copy with `Double` numbers; `schedule` itself if its `__call__` is defined elsewhere.
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
    """A schedule that also counts the updates an optimizer made before a trainer received it."""

    def __init__(self, base: Any) -> None:
        """Stores a `LearningRateSchedule`. Until `follow` is called, only the trainer's steps count."""
        self.base = base
        self._counters: tuple[Any, Any] | None = None

    def follow(self, iterations: Any, step: Any) -> None:
        """Also counts the updates that were made before the trainer.

        Args:
            iterations: The number of updates of the optimizer, a scalar integer variable.
            step: The number of completed steps of the trainer, a scalar int64 variable.
        """
        self._counters = iterations, step

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step; runs eagerly or inside a `tf.function`.

        Args:
            step: The number of completed steps of the trainer, a scalar integer.
        """
        step = tf.cast(step, tf.int64)
        if self._counters is not None:
            updates, steps = (tf.cast(tf.convert_to_tensor(own), tf.int64) for own in self._counters)
            step += updates - steps
        return self.base(step)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"base": self.base}
