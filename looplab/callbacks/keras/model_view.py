"""Shows a Keras callback the model as compiled with the trainer's settings; the trainer evaluates it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import keras
from keras.src.trainers.compile_utils import MetricsList

from looplab.errors import ConfigurationError

_log = logging.getLogger("looplab")

# Methods of a model that would train it or change its training, and what to do instead.
_REFUSED = {
    "fit": "training is already running. Override train_step, or call trainer.fit after it has ended",
    "train_on_batch": (
        "its update would not be part of any step, log or checkpoint of the run. Override train_step, which "
        "may make several updates (self.minimize)"
    ),
    "compile": (
        "it has no effect on training. Give optimizer, loss and metrics to the Trainer; a callback may set "
        "the learning rate: self.model.optimizer.learning_rate = 0.01"
    ),
}
_EVALUATION = "Call trainer.evaluate, or give fit a validation set of its own: validation_data={'name': data}"


class Served(Protocol):
    """The service of a trainer for the model that a Keras callback sees.

    Attributes:
        is_guarded: Whether non-finite steps fail and are undone.
    """

    is_guarded: bool

    def compile_arguments(self) -> Mapping[str, Any] | None:
        """Returns the arguments of `model.compile` without the optimizer; None if `compile` was called."""

    def metrics(self) -> Mapping[str, keras.Metric]:
        """Returns the metrics of training by tag."""

    def loss(self) -> float:
        """Returns the mean loss of the current epoch so far; NaN before its first step."""

    def evaluate(
        self,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        batch_size: int | None = None,
        steps: int | None = None,
        callbacks: Sequence[Any] = (),
    ) -> dict[str, float]:
        """Evaluates as `Trainer.evaluate`, and leaves the state of training unchanged."""


class ModelView:
    """Makes a model look, while a hook runs, as if `model.compile` had given it the trainer's settings."""

    def __init__(self, served: Served | None) -> None:
        """Starts without a model.

        Args:
            served: The trainer's service; None if there is no trainer.
        """
        self._served = served
        self._compiled: dict[
            int, dict[str, Any]
        ] = {}  # by the optimizer's id: attributes of a compiled model
        self._cannot_compile = False

    @contextmanager
    def shown(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer | None, *, alone: bool
    ) -> Iterator[None]:
        """Gives a model the trainer's optimizer, loss, metrics and evaluation within the block.

        It bypasses Keras' tracking: none of them becomes a part of the model.

        Args:
            model: The live model.
            optimizer: The trainer's optimizer for the model, if there is one.
            alone: Whether it is the trainer's only model. The trainer evaluates all its models together.

        Raises:
            ConfigurationError: If the block sets another optimizer, which training would not use.
        """
        if optimizer is None:  # a model with several optimizers of its own
            optimizer = vars(model).get("optimizer")
        attributes: dict[str, Any] = {"optimizer": optimizer}
        if self._served is not None:
            arguments = self._served.compile_arguments() if alone else None
            if arguments is not None:
                attributes |= self._as_compiled(model, optimizer, arguments, self._served)
            attributes |= self._methods(model, alone)
        missing = object()
        before = {name: vars(model).get(name, missing) for name in attributes}
        for name, value in attributes.items():
            object.__setattr__(model, name, value)
        try:
            yield
            if vars(model).get("optimizer") is not optimizer:
                raise ConfigurationError(
                    "self.model.optimizer: a callback has set another optimizer, but training uses the "
                    "trainer's. Give it to the Trainer; a callback may set the learning rate: "
                    "self.model.optimizer.learning_rate = 0.01"
                )
        finally:
            for name, value in before.items():
                if value is missing:
                    vars(model).pop(name, None)
                else:
                    object.__setattr__(model, name, value)

    def _as_compiled(
        self, model: keras.Model, optimizer: Any, arguments: Mapping[str, Any], served: Served
    ) -> dict[str, Any]:
        """Returns the attributes that `compile` gives a model; it calls `compile` to find them."""
        if id(optimizer) not in self._compiled:
            before = dict(vars(model))
            try:
                keras.Model.compile(model, optimizer=optimizer, **arguments)
            except (ValueError, TypeError):  # looplab accepts losses and metrics that Keras does not
                keras.Model.compile(model, optimizer=optimizer)
            found = {name: value for name, value in vars(model).items() if before.get(name) is not value}
            for name in found:
                if name in before:
                    object.__setattr__(model, name, before[name])
                else:
                    vars(model).pop(name)
            found["_loss_tracker"] = _Loss(served.loss)
            found["_compile_metrics"] = _Metrics(served.metrics()) if served.metrics() else None
            found["get_compile_config"] = self._config_of(found["_compile_config"])
            self._compiled[id(optimizer)] = found
        return self._compiled[id(optimizer)]

    def _config_of(self, compiled: Any) -> Callable[[], dict[str, Any]]:
        def get_compile_config() -> dict[str, Any]:
            """Returns the training settings for a file of the model, if Keras can read them."""
            if self._cannot_compile:
                return {}
            try:
                config: dict[str, Any] = compiled.serialize()
                keras.saving.deserialize_keras_object(config)
            except Exception as error:
                self._cannot_compile = True
                _log.warning(
                    "the model is saved without its optimizer, loss and metrics, because Keras could not "
                    "load them: %s",
                    str(error).strip().splitlines()[0],
                )
                return {}
            return config

        return get_compile_config

    def _methods(self, model: keras.Model, alone: bool) -> dict[str, Any]:
        methods: dict[str, Any] = {name: _refusing(name, why) for name, why in _REFUSED.items()}
        if not alone:
            why = f"the trainer has several models, and its test_step evaluates all of them. {_EVALUATION}"
            return methods | {name: _refusing(name, why) for name in ("evaluate", "test_on_batch")}
        served = self._served
        assert served is not None

        def evaluate(
            x: Any = None,
            y: Any = None,
            batch_size: int | None = None,
            verbose: Any = "auto",
            sample_weight: Any = None,
            steps: int | None = None,
            callbacks: Any = None,
            return_dict: bool = False,
        ) -> Any:
            """Evaluates as the trainer does, without a progress bar."""
            values = served.evaluate(
                x,
                y,
                batch_size=batch_size,
                sample_weight=sample_weight,
                steps=steps,
                callbacks=callbacks or (),
            )
            return values if return_dict else _in_order(values, served.metrics())

        def test_on_batch(x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
            """Evaluates on a batch as the trainer does."""
            size = len(keras.tree.flatten(x)[0])
            return evaluate(x, y, batch_size=size, sample_weight=sample_weight, return_dict=return_dict)

        return methods | {"evaluate": evaluate, "test_on_batch": test_on_batch}


class _Loss(keras.metrics.Mean):
    """The mean loss of the epoch, which looplab keeps outside the model."""

    def __init__(self, read: Callable[[], float]) -> None:
        super().__init__(name="loss")
        self._read = read

    def result(self) -> Any:
        return keras.ops.convert_to_tensor(self._read(), dtype=self.dtype)


class _Metrics(MetricsList):
    """The metrics that training updates, as one metric, as in a compiled model."""

    def __init__(self, metrics: Mapping[str, keras.Metric]) -> None:
        super().__init__(list(metrics.values()), name="compile_metrics")
        self._by_tag = dict(metrics)

    def result(self) -> dict[str, Any]:
        return {tag: metric.result() for tag, metric in self._by_tag.items()}


def _refusing(name: str, why: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConfigurationError(f"self.model.{name} in a callback: {why}.")

    return refuse


def _in_order(values: Mapping[str, float], metrics: Mapping[str, Any]) -> Any:
    """Returns values as Keras' `evaluate` does: the loss, metrics, the rest by name; a single value alone."""
    own = {name: value for name, value in values.items() if not name.startswith("raw_")}
    first = [name for name in ("loss", *metrics) if name in own]
    found = [own[name] for name in (*first, *sorted(own.keys() - set(first)))]
    return found[0] if len(found) == 1 else found
