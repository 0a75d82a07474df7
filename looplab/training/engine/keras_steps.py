"""A model's own steps, as `model.fit` runs them on one device."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import keras
import tensorflow as tf

from looplab.checkpoint import state
from looplab.errors import ConfigurationError, LossError
from looplab.execution import Guard, Scalars, are_finite, running
from looplab.training.engine.keras_hooks import KerasHooks, check
from looplab.training.engine.metric_values import array_names

_compiled_here = weakref.WeakSet[keras.Model]()  # not by the user


class KerasSteps:
    """The Keras steps of a model that overrides some of them, run as in `model.fit`.

    The values of an epoch are those that its last step returns, because they are results of metrics that
    Keras resets at the start of an epoch or an evaluation.

    Attributes:
        model: The model.
        hooks: The Keras steps that it overrides.
    """

    def __init__(self, models: Mapping[str, keras.Model], hooks: KerasHooks) -> None:
        """Stores the only model, by its name, and its `hooks`."""
        ((self._name, self.model),) = models.items()
        self.hooks = hooks
        self._works_with: list[Any] = []  # at the first preparation

    # --- what compile gives it --------------------------------------------------------------------

    def compile(self, given: Mapping[str, Any]) -> None:
        """Gives the model the objects that its steps use, through its `compile`.

        Args:
            given: Arguments of `compile`, None if not given: `optimizer`, `loss` and so on.

        Raises:
            ConfigurationError: If it was compiled before, or its own `compile` takes other arguments.
        """
        given = {name: value for name, value in given.items() if value not in (None, [], ())}
        kind = type(self.model).__name__
        if not given:
            return
        if self.model.compiled and self.model not in _compiled_here:
            raise ConfigurationError(
                f"{', '.join(given)}: {kind} overrides Keras' {' and '.join(self.hooks.steps)}, and Keras' "
                "steps use the arguments of model.compile, but the model is compiled already. Give them in "
                "one place: leave them out of Trainer(...) (optimizer=none in a configuration), or leave "
                "compile out."
            )
        try:
            inspect.signature(self.model.compile).bind(**given)
        except TypeError as error:
            raise ConfigurationError(
                f"{', '.join(given)}: {kind} has its own compile, which cannot be called with these "
                f"({error}). Call model.compile(...) yourself, in the function that creates the model, and "
                "leave them out of Trainer(...)."
            ) from None
        self.model.compile(**given)
        if "optimizer" not in given:
            self.model.optimizer = None  # instead of Keras' default
        _compiled_here.add(self.model)

    def check_compiled(self, purpose: str) -> None:
        """Refuses to train or evaluate a model that is not compiled, or that was compiled again.

        Raises:
            ConfigurationError: If it has no loss or optimizer, or others than when its steps were traced.
        """
        steps, kind = " and ".join(self.hooks.steps), type(self.model).__name__
        lacks = not self.model.compiled and "is not compiled"
        no_optimizer = self.model in _compiled_here and self.model.optimizer is None
        lacks = lacks or (no_optimizer and purpose == "train" and "has no optimizer")
        if lacks:
            raise ConfigurationError(
                f"{kind} overrides Keras' {steps}, and {lacks}: give Trainer(model, optimizer=..., "
                "loss=...), or call model.compile(...) in the function that creates the model."
            )
        now = [each for _, each in _optimizers(self.model, "", set())]
        now += [*self.model.metrics, vars(self.model).get("loss")]
        self._works_with = self._works_with or now
        if any(all(before is not each for each in now) for before in self._works_with):
            raise ConfigurationError(
                f"{kind} was compiled again after the trainer had prepared its {steps}, which still use "
                "the earlier optimizers, loss and metrics. Create a new Trainer for it."
            )

    # --- the steps --------------------------------------------------------------------------------

    def train_step(self, rows: Any) -> dict[str, tf.Tensor]:
        """Runs `model.train_step`; the step fails if weights or a loss are not finite after it."""
        values = self._values(self.model.train_step(as_data(rows)))
        scope = running()
        if scope.guard is not Guard.OFF:
            losses = [value for name, value in values.items() if name.endswith("loss")]
            scope.fail_if(tf.logical_not(are_finite([*losses, *self._weights()])))
        return values

    def test_step(self, rows: Any) -> dict[str, tf.Tensor]:
        """Runs `model.test_step`."""
        return self._values(self.model.test_step(as_data(rows)))

    def predict_step(self, rows: Any) -> Any:
        """Runs `model.predict_step`."""
        return self.model.predict_step(as_data(rows))

    def _values(self, logs: Any) -> dict[str, tf.Tensor]:
        if logs is not None and not isinstance(logs, Mapping):
            kind = type(self.model).__name__
            raise LossError(
                f"{kind}: its own step returned a {type(logs).__name__}; expected a dict of values by name, "
                "such as {metric.name: metric.result() for metric in self.metrics}."
            )
        values = {name: tf.identity(value) for name, value in _flat({} if logs is None else logs)}
        latest = {name: tf.constant(float("inf")) for name in values}  # outweighs the steps before
        running().note(Scalars(values, latest, {}))
        return values

    def _weights(self) -> Iterator[tf.Tensor]:
        for variable in self.model.variables:
            for part in state.parts(variable):
                if part.dtype.is_floating:
                    yield tf.cast(part.read_value(), tf.float64 if part.dtype.size > 4 else tf.float32)

    # --- the run ----------------------------------------------------------------------------------

    @property
    def stop_training(self) -> bool:
        """Whether a step has set `model.stop_training`, which is False when training begins."""
        return bool(self.model.stop_training)

    @stop_training.setter
    def stop_training(self, stops: bool) -> None:
        self.model.stop_training = stops

    # --- what training changes --------------------------------------------------------------------

    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """Returns the optimizers that a step has built, of the model and its inner models, by name.

        Raises:
            ConfigurationError: If an optimizer has settings that looplab owns.
        """
        found: dict[str, keras.optimizers.Optimizer] = {}
        for path, made in _optimizers(self.model, "", set()):
            if made.built and all(made is not other for other in found.values()):
                _check_optimizer(path, made)
                found[path] = made
        return found

    def metrics(self) -> dict[str, keras.Metric]:
        """Returns the metrics of the model by unique names, including those of `compile`."""
        found: dict[str, keras.Metric] = {}
        for metric in self.model.metrics:
            if all(metric is not other for other in found.values()):
                name, number = metric.name, 1
                while name in found:
                    name, number = f"{metric.name}_{number}", number + 1
                found[name] = metric
        return found

    def state(self, known: state.Variables) -> state.Variables:
        """Returns the state that changes, in addition to the model's variables and the built optimizers.

        This is its metrics, and objects in attributes that Keras does not track: `tf.Variable`s, generators.

        Args:
            known: Variables that already have a path; they get no second one.
        """
        metrics = state.of_metrics(self.metrics())
        attributes = SimpleNamespace(**dict(_attributes(self.model)))
        root = f"models/{self._name}/attributes"
        return metrics | state.of_attributes(attributes, known={**known, **metrics}, root=root)

    def reset(self) -> None:
        """Resets the metrics, as Keras does at the start of an epoch."""
        self.model.reset_metrics()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Starts an evaluation with reset metrics, and restores those of training after it."""
        variables = [variable for metric in self.metrics().values() for variable in metric.variables]
        before = [variable.numpy() for variable in variables]
        self.reset()
        try:
            yield
        finally:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)


def keras_steps_of(
    models: Mapping[str, keras.Model], hooks: KerasHooks, compile_with: Mapping[str, Any], **settings: Any
) -> KerasSteps | None:
    """Returns the steps of the only model, compiled; None if none of its own steps are used.

    Args:
        models: The models by name.
        hooks: Their hooks.
        compile_with: See `KerasSteps.compile`; its `optimizer` is a dict of optimizers by name.
        **settings: See `looplab.training.engine.keras_hooks.check`.

    Raises:
        ConfigurationError: If the settings do not fit the model's own steps.
    """
    if not hooks.steps:
        return None
    optimizers, steps = compile_with["optimizer"], KerasSteps(models, hooks)
    check(steps.model, hooks, optimizers=len(optimizers), **settings)
    steps.compile({**compile_with, "optimizer": next(iter(optimizers.values()), None)})
    return steps


def as_data(rows: Any) -> Any:
    """Returns a batch as `model.fit` passes it to a step: without trailing parts that are None."""
    if isinstance(rows, list):  # several inputs
        return (rows,)
    if not isinstance(rows, tuple):
        return rows
    given = list(rows)
    while len(given) > 1 and given[-1] is None:
        given.pop()
    return tuple(given)


def _flat(logs: Mapping[str, Any]) -> Iterator[tuple[str, tf.Tensor]]:
    """Yields scalars by name: those of a dict under their keys, each number of an array with its index."""
    for name, value in logs.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        elif value is not None:
            number = tf.cast(value, keras.config.floatx())
            if not number.shape.is_fully_defined():
                raise LossError(
                    f"a model's own step returned {name!r} with shape {number.shape}; values by name must "
                    "have a shape that is known when the step is traced."
                )
            names = array_names(name, tuple(number.shape))
            yield from zip(names, tf.unstack(tf.reshape(number, [-1])), strict=True)


def _optimizers(
    owner: keras.Model, prefix: str, seen: set[int]
) -> Iterator[tuple[str, keras.optimizers.Optimizer]]:
    seen.add(id(owner))
    for attribute, value in _attributes(owner):
        for path, part in _held(f"{prefix}{attribute.strip('_')}", value):
            if isinstance(part, keras.optimizers.Optimizer):
                yield path, part
            elif isinstance(part, keras.Model) and id(part) not in seen:
                yield from _optimizers(part, f"{path}_", seen)


def _attributes(model: keras.Model) -> list[tuple[str, Any]]:
    """Returns a model's attributes, public ones first: Keras' internal records repeat many of them."""
    own = {name: value for name, value in vars(model).items() if not name.startswith("_self_")}
    return sorted(own.items(), key=lambda pair: pair[0].startswith("_"))


def _held(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the objects in an attribute, also in lists and dicts."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _held(f"{path}_{key}", part)
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from _held(f"{path}_{place}", part)
    else:
        yield path, value


def _check_optimizer(name: str, made: keras.optimizers.Optimizer) -> None:
    if made.use_ema:
        raise ConfigurationError(
            f"optimizer {name!r}: use_ema=True averages weights, and looplab would evaluate and save the "
            "averages of its own updates, not those of a model's own train_step. Keep a copy of the network "
            "in the model and update it there, or let a looplab.Trainer make the update."
        )
    if isinstance(made, keras.optimizers.LossScaleOptimizer):
        raise ConfigurationError(
            f"optimizer {name!r}: LossScaleOptimizer is refused if a model's own train_step runs, because "
            "looplab does not know which steps it skips. Use mixed_bfloat16, which needs no loss scale."
        )
