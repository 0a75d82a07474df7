"""Means over steps, weighted exactly, and Keras metrics by the names people write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from looplab.errors import ConfigurationError, nearest


class StepMeans:
    """Weighted means of per-step values over an epoch or an evaluation, in float64 on the host.

    Fed once per execution with all its steps; sums are taken step by step in order, so how steps
    were grouped into executions cannot change a bit of the result.
    """

    def __init__(self) -> None:
        """Starts with nothing."""
        self.sums: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> None:
        """Adds steps: per name an array of values and one of weights, both of shape `[steps]`."""
        for name, series in values.items():
            total, weight = self.sums.get(name, [0.0, 0.0])
            for value, share in zip(series.tolist(), weights[name].tolist(), strict=True):
                if share:  # a step without examples has no value
                    total += value * share
                    weight += share
            self.sums[name] = [total, weight]

    def result(self) -> dict[str, float]:
        """Returns the mean of each name; NaN where nothing had a weight."""
        return {
            name: total / weight if weight else float("nan") for name, (total, weight) in self.sums.items()
        }


_SHORT = {"acc": "accuracy", "ce": "crossentropy"}
_BY_SHAPE: dict[str, tuple[Any, Any, Any]] = {
    "accuracy": (
        keras.metrics.BinaryAccuracy,
        keras.metrics.SparseCategoricalAccuracy,
        keras.metrics.CategoricalAccuracy,
    ),
    "crossentropy": (
        keras.metrics.BinaryCrossentropy,
        keras.metrics.SparseCategoricalCrossentropy,
        keras.metrics.CategoricalCrossentropy,
    ),
}


def check_name(name: str) -> Any:
    """Returns what Keras knows under the name of a metric: an object, a class or a function.

    Raises:
        ConfigurationError: If it knows nothing of that name.
    """
    if _SHORT.get(name, name) in _BY_SHAPE:
        return _BY_SHAPE[_SHORT.get(name, name)]
    try:
        found = keras.metrics.get(name)
    except ValueError:
        found = None
    if found is None:
        known = [
            *_BY_SHAPE,
            *(known for known in dir(keras.metrics) if known.islower() or known[0].isupper()),
        ]
        raise ConfigurationError(f"metrics: {name!r} is not a Keras metric." + nearest(name, known))
    return found


def resolve(metric: Any, target: Any, prediction: Any) -> keras.Metric:
    """Makes a new metric from a name, a factory or an object.

    Args:
        metric: A Keras name (`"accuracy"` becomes the binary, sparse or categorical one, as in
            `model.compile`), a function `(y_true, y_pred) -> values [examples, ...]`, a factory
            without arguments, or a `keras.Metric`, of which a copy is made from its configuration.
        target: The target as a tensor or spec: its shape tells which accuracy is meant.
        prediction: The model's output for it, likewise.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if isinstance(metric, keras.Metric):
        return metric.__class__.from_config(metric.get_config())
    if isinstance(metric, str):
        return _by_name(metric, target, prediction)
    if isinstance(metric, type) and issubclass(metric, keras.Metric):
        return metric()
    if callable(metric):
        try:
            made = metric()
        except TypeError:  # it takes arguments: a function of targets and predictions
            made = keras.metrics.MeanMetricWrapper(metric, name=_name(metric))
        if isinstance(made, keras.Metric):
            return made
    raise ConfigurationError(
        f"metrics: {metric!r} is not a metric. Give a Keras name such as 'accuracy', a keras.Metric, "
        "a function of (y_true, y_pred), or a factory that takes no argument and returns one."
    )


def _by_name(name: str, target: Any, prediction: Any) -> keras.Metric:
    asked = _SHORT.get(name, name)
    if asked in _BY_SHAPE:
        binary, sparse, categorical = _BY_SHAPE[asked]
        if prediction.shape[-1] == 1:
            return binary(name=name)
        same_rank = len(target.shape) == len(prediction.shape)
        if not same_rank or target.shape[-1] == 1:
            return sparse(name=name)
        return categorical(name=name)
    found = check_name(name)
    if isinstance(found, keras.Metric):  # logged as it was written: mae, not mean_absolute_error
        return found.__class__.from_config({**found.get_config(), "name": name})
    return keras.metrics.MeanMetricWrapper(found, name=name)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
