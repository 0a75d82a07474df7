"""The learning rate of a trainer's optimizer, which Keras shows as a variable."""

from __future__ import annotations

from types import MethodType
from typing import Any

import keras
import tensorflow as tf

from looplab.compat import patches
from looplab.errors import ConfigurationError
from looplab.schedule import OfUpdates, in_float64
from looplab.strategy.python_float64 import as_double

_CONFIG = "keras.optimizers.Optimizer.get_config"
_SAVE = "keras.optimizers.Optimizer.save_own_variables"
_LOAD = "keras.optimizers.Optimizer.load_own_variables"
_AT = 1  # where Keras saves the rate among an optimizer's variables: after `iterations`


class FollowStep:
    """The learning rate that an optimizer uses: `base(step) * factor`.

    `optimizer.iterations` counts updates, and a step may make several or none; a schedule follows the
    trainer's step. Callbacks change only the factor, which is saved like other state.

    It is not a `LearningRateSchedule`, because Keras refuses to set the rate of an optimizer that has one.
    For any other object `optimizer.learning_rate = 0.01` calls `assign`, which computes the factor.
    """

    def __init__(self, base: Any, step: tf.Variable, factor: tf.Variable) -> None:
        """Wraps a number or a Keras schedule.

        Args:
            base: A float, or a `LearningRateSchedule`.
            step: Scalar int64, completed steps.
            factor: Scalar float64, 1 unless a callback changed it. (In float32 an assigned rate would
                differ in its last bit.)
        """
        self.base = base
        self.step = step
        self.factor = factor
        # No factor changes a rate of 0, so the factor is then the rate itself.
        unit = base
        if not callable(base) and float(base) == 0.0:
            unit = 1.0
            factor.assign(0.0)
        self._dtype = keras.config.floatx()  # the trainer's; it differs outside of its scope
        self._is_double = self._dtype == "float64"
        self._exact = in_float64(base) if self._is_double and callable(base) else unit
        self._before: tuple[int, float] | None = None  # completed steps at a change, and the factor before
        self._variable = RateVariable(self, self._dtype)

    def __call__(self) -> Any:
        """Returns the learning rate of the next step, whatever the number of updates.

        In a `tf.function` it is a tensor; eagerly a variable as in Keras, which reads and assigns the live
        rate.
        """
        return self.now() if tf.inside_function() else self._variable

    def now(self) -> tf.Tensor:
        """Returns the learning rate of the next step, a scalar of the trainer's float type."""
        return tf.cast(self._scheduled(self.step) * self.factor, self._dtype)

    def assign(self, rate: Any) -> None:
        """Sets the factor that gives the next step this learning rate; eagerly, on the host.

        Raises:
            ConfigurationError: If the schedule is at 0, which no factor changes.
        """
        scheduled, wanted = float(self._scheduled(self.step)), float(rate)
        if scheduled == 0.0 and wanted != 0.0:
            raise ConfigurationError(
                f"learning_rate: cannot be set to {wanted} at step {int(self.step.numpy())}, where the "
                "schedule is at 0: an assigned rate becomes a factor on the schedule."
            )
        if scheduled:
            self._change(wanted / scheduled)

    def scale(self, by: float) -> None:
        """Multiplies the factor; eagerly, on the host."""
        self._change(self.factor.numpy() * by)

    def of_last_step(self) -> float:
        """Returns the learning rate that the last completed step used; before any step, that of the first.

        Runs eagerly, on the host. A later change applies to the next steps only.
        """
        done, before = int(self.step.numpy()), self.factor_before
        factor = self.factor.numpy() if before is None else before
        step = tf.constant(max(done - 1, 0), tf.int64)
        return float(tf.cast(self._scheduled(step) * factor, self._dtype))

    @property
    def factor_before(self) -> float | None:
        """The factor that the last completed step used, if it has changed since; otherwise None."""
        if self._before is None or self._before[0] != int(self.step.numpy()):
            return None
        return self._before[1]

    @factor_before.setter
    def factor_before(self, factor: float | None) -> None:
        self._before = None if factor is None else (int(self.step.numpy()), factor)

    def _change(self, factor: float) -> None:
        if self.factor_before is None and int(self.step.numpy()) > 0:
            self.factor_before = float(self.factor.numpy())
        self.factor.assign(factor)

    def _scheduled(self, step: Any) -> tf.Tensor:
        """Returns the rate without the factor, rounded to the model's precision, as float64."""
        step = tf.convert_to_tensor(step)
        rate = self._exact(step) if callable(self._exact) else self._exact
        rate = as_double(rate) if self._is_double else rate
        return tf.cast(tf.cast(rate, self._dtype), tf.float64)

    @property
    def is_number(self) -> bool:
        """Whether the user gave a number, which Keras keeps as a variable."""
        return not callable(self.base)

    def kept(self) -> Any:
        """Returns the rate for another trainer: the number that was set last, or the schedule."""
        changed = self.is_number and float(self.factor.numpy()) != 1.0
        return float(self.now()) if changed else self.base

    def as_given(self) -> Any:
        """Returns the rate as Keras saves it: the present number, or the schedule that the user gave."""
        if self.is_number:
            return float(self.now())
        return keras.saving.serialize_keras_object(
            self.base.base if isinstance(self.base, OfUpdates) else self.base
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the wrapped number or schedule."""
        return {"base": self.base}


class RateVariable(keras.Variable):
    """A learning rate as Keras shows it: it is read, assigned and converted like a scalar variable.

    It holds no number itself: reading gives the rate of the next step, and an assigned value becomes the
    factor on the schedule.
    """

    def __init__(self, followed: FollowStep, dtype: str) -> None:
        """Creates the view of a rate.

        Args:
            followed: The rate.
            dtype: The dtype of the rate.
        """
        self._followed = followed
        super().__init__(0.0, dtype=dtype, trainable=False, autocast=False, name="learning_rate")

    def _initialize(self, value: Any) -> None:
        """Creates no variable, unlike Keras."""

    @property
    def _value(self) -> tf.Tensor:
        """The rate of the next step, in the place where Keras keeps the variable."""
        return self._followed.now()

    def assign(self, value: Any) -> tf.Tensor:
        """Sets the rate of the next step, on the host; see `FollowStep.assign`."""
        self._followed.assign(value)
        return self._followed.now()


def follow_step(optimizer: keras.optimizers.Optimizer, rate: FollowStep) -> None:
    """Gives looplab the rate of an optimizer; Keras saves the optimizer as the user created it.

    `get_config` returns and `model.save` writes the number or the schedule that was given, in Keras' order,
    so that the file loads without looplab and the optimizer can continue training.

    Args:
        optimizer: The optimizer.
        rate: Its rate.
    """
    optimizer.learning_rate = optimizer._looplab_rate = rate
    kind = type(optimizer)
    patches.patch(_CONFIG, optimizer, MethodType(_get_config, optimizer))
    # A class that defines its own format keeps it.
    if kind.save_own_variables is keras.optimizers.Optimizer.save_own_variables:
        patches.patch(_SAVE, optimizer, MethodType(_save_own_variables, optimizer))
    if kind.load_own_variables is keras.optimizers.Optimizer.load_own_variables:
        patches.patch(_LOAD, optimizer, MethodType(_load_own_variables, optimizer))


def follow_again(optimizer: keras.optimizers.Optimizer) -> bool:
    """Makes a schedule that was set later (`optimizer.learning_rate = CosineDecay(...)`) follow the step too.

    The factor starts again at 1. A caller that has traced a step of the optimizer must trace it again.

    Args:
        optimizer: An optimizer of a prepared trainer.

    Returns:
        Whether another schedule or number was set.
    """
    if isinstance(optimizer._learning_rate, FollowStep):
        return False
    before: FollowStep = optimizer._looplab_rate
    before.factor.assign(1.0)
    optimizer.learning_rate = optimizer._looplab_rate = FollowStep(
        optimizer._learning_rate, before.step, before.factor
    )
    return True


def _get_config(self: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Returns the configuration with the rate as the user gave it."""
    config: dict[str, Any] = type(self).get_config(self)
    if "learning_rate" in config and isinstance(self._learning_rate, FollowStep):
        config["learning_rate"] = self._learning_rate.as_given()
    return config


def _save_own_variables(self: keras.optimizers.Optimizer, store: Any) -> None:
    """Writes the variables, with the rate among them if Keras has it there."""
    values = [variable.numpy() for variable in self.variables]
    rate = self._learning_rate
    if isinstance(rate, FollowStep) and rate.is_number:
        values.insert(_AT, rate.now().numpy())
    for index, value in enumerate(values):
        store[str(index)] = value


def _load_own_variables(self: keras.optimizers.Optimizer, store: Any) -> None:
    """Restores the variables, and the rate if it is among them."""
    rate, variables = self._learning_rate, list(self.variables)
    has_rate = isinstance(rate, FollowStep) and rate.is_number
    if not has_rate or len(store.keys()) != len(variables) + 1:
        type(self).load_own_variables(self, store)
        return
    saved = [store[str(index)] for index in range(len(variables) + 1)]
    number = float(saved.pop(_AT))
    for variable, value in zip(variables, saved, strict=True):
        variable.assign(value)
    if number != float(rate.now()):
        rate.assign(number)
