"""The learning rate of an optimizer that serves a trainer, and how Keras shows it: as a variable."""

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
    """The learning rate an optimizer really uses: `base(step) * factor`.

    `optimizer.iterations` counts updates, of which a step may make several or none; a schedule
    follows the trainer's step. Callbacks change only the factor, which is saved like any state.

    It is no `LearningRateSchedule`, since Keras refuses to set the rate of an optimizer that has
    one. Of anything else `optimizer.learning_rate = 0.01` calls `assign`, which finds the factor.
    """

    def __init__(self, base: Any, step: tf.Variable, factor: tf.Variable) -> None:
        """Wraps a number or a Keras schedule.

        Args:
            base: A float, or a `LearningRateSchedule`.
            step: Scalar int64, completed steps.
            factor: Scalar float64, 1 unless a callback changed it. (In float32 a rate that is set
                would be another one in its last bit.)
        """
        self.base = base
        self.step = step
        self.factor = factor
        # Of 0 no factor makes another rate: there the factor is the rate itself.
        unit = base
        if not callable(base) and float(base) == 0.0:
            unit = 1.0
            factor.assign(0.0)
        self._dtype = keras.config.floatx()  # of the trainer, which is another one outside of its scope
        self._is_double = self._dtype == "float64"
        self._exact = in_float64(base) if self._is_double and callable(base) else unit
        self._before: tuple[int, float] | None = None  # completed steps at a change, and the factor before
        self._variable = RateVariable(self, self._dtype)

    def __call__(self) -> Any:
        """Returns the learning rate of the next step, whatever the count of updates.

        A tensor in a `tf.function`; eagerly a variable as Keras has it, which is read and assigned live.
        """
        return self.now() if tf.inside_function() else self._variable

    def now(self) -> tf.Tensor:
        """Returns the learning rate of the next step, a scalar of the trainer's float type."""
        return tf.cast(self._scheduled(self.step) * self.factor, self._dtype)

    def assign(self, rate: Any) -> None:
        """Sets the factor so that the learning rate of the next step is this; eagerly, on the host.

        Raises:
            ConfigurationError: If the schedule is at 0, which no factor changes.
        """
        scheduled, wanted = float(self._scheduled(self.step)), float(rate)
        if scheduled == 0.0 and wanted != 0.0:
            raise ConfigurationError(
                f"learning_rate: cannot be set to {wanted} at step {int(self.step.numpy())}, where the "
                "schedule is at 0: what is set is a factor on the schedule."
            )
        if scheduled:
            self._change(wanted / scheduled)

    def scale(self, by: float) -> None:
        """Multiplies the factor; eagerly, on the host."""
        self._change(self.factor.numpy() * by)

    def of_last_step(self) -> float:
        """Returns the learning rate that the last completed step used; that of the first before any.

        Eagerly, on the host. A change since is one of the steps that come.
        """
        done, before = int(self.step.numpy()), self.factor_before
        factor = self.factor.numpy() if before is None else before
        step = tf.constant(max(done - 1, 0), tf.int64)
        return float(tf.cast(self._scheduled(step) * factor, self._dtype))

    @property
    def factor_before(self) -> float | None:
        """The factor that the last completed step used, if it was changed since, or None."""
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
        """Returns the rate without the factor, as float64 that holds a number of the model's precision."""
        step = tf.convert_to_tensor(step)
        rate = self._exact(step) if callable(self._exact) else self._exact
        rate = as_double(rate) if self._is_double else rate
        return tf.cast(tf.cast(rate, self._dtype), tf.float64)

    @property
    def is_number(self) -> bool:
        """Whether the user gave a number, which Keras keeps as a variable."""
        return not callable(self.base)

    def kept(self) -> Any:
        """Returns the rate for another trainer: a number as it was set last, or the schedule."""
        changed = self.is_number and float(self.factor.numpy()) != 1.0
        return float(self.now()) if changed else self.base

    def as_given(self) -> Any:
        """Returns the rate as Keras writes it down: the present number, or the schedule that was given."""
        if self.is_number:
            return float(self.now())
        return keras.saving.serialize_keras_object(
            self.base.base if isinstance(self.base, OfUpdates) else self.base
        )

    def get_config(self) -> dict[str, Any]:
        """Returns what can be written down of it: the wrapped schedule."""
        return {"base": self.base}


class RateVariable(keras.Variable):
    """A learning rate as Keras shows it: it is read, assigned and converted like a scalar variable.

    It holds no number of its own: what it gives is the rate of the next step, and what is assigned becomes
    the factor on the schedule.
    """

    def __init__(self, followed: FollowStep, dtype: str) -> None:
        """Makes a view.

        Args:
            followed: The rate.
            dtype: Of the rate.
        """
        self._followed = followed
        super().__init__(0.0, dtype=dtype, trainable=False, autocast=False, name="learning_rate")

    def _initialize(self, value: Any) -> None:
        """Keeps nothing: Keras would make a variable here."""

    @property
    def _value(self) -> tf.Tensor:
        """The rate of the next step, where Keras keeps the variable."""
        return self._followed.now()

    def assign(self, value: Any) -> tf.Tensor:
        """Sets the rate of the next step, on the host; see `FollowStep.assign`."""
        self._followed.assign(value)
        return self._followed.now()


def follow_step(optimizer: keras.optimizers.Optimizer, rate: FollowStep) -> None:
    """Hands the rate of an optimizer to looplab; Keras saves the optimizer as the user made it.

    What `get_config` returns and `model.save` writes is the number or the schedule that was given, in the
    order that Keras has, so that the file loads without looplab and the optimizer trains on.

    Args:
        optimizer: Whose rate it is.
        rate: The rate.
    """
    optimizer.learning_rate = optimizer._looplab_rate = rate
    kind = type(optimizer)
    patches.patch(_CONFIG, optimizer, MethodType(_get_config, optimizer))
    # A class with a format of its own keeps it.
    if kind.save_own_variables is keras.optimizers.Optimizer.save_own_variables:
        patches.patch(_SAVE, optimizer, MethodType(_save_own_variables, optimizer))
    if kind.load_own_variables is keras.optimizers.Optimizer.load_own_variables:
        patches.patch(_LOAD, optimizer, MethodType(_load_own_variables, optimizer))


def follow_again(optimizer: keras.optimizers.Optimizer) -> bool:
    """Has a schedule that was set since (`optimizer.learning_rate = CosineDecay(...)`) follow the step, too.

    The factor begins anew with it. Whoever has traced a step of the optimizer must trace it again.

    Args:
        optimizer: Of a trainer that is prepared.

    Returns:
        Whether another one was set.
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
    """Writes the variables with the rate among them, where Keras has one."""
    values = [variable.numpy() for variable in self.variables]
    rate = self._learning_rate
    if isinstance(rate, FollowStep) and rate.is_number:
        values.insert(_AT, rate.now().numpy())
    for index, value in enumerate(values):
        store[str(index)] = value


def _load_own_variables(self: keras.optimizers.Optimizer, store: Any) -> None:
    """Takes the variables back, and the rate where there is one among them."""
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
