"""The metrics of a trainer: made for each kind of step, updated inside it, read between executions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab import metrics
from looplab.errors import ConfigurationError
from looplab.execution.autograph import translated
from looplab.optimization.losses import part
from looplab.optimization.remake import remade
from looplab.options.names import check_name
from looplab.strategy import placement, tree
from looplab.strategy.strategies import belongs_here
from looplab.training.engine.keras_steps import KerasSteps


class MetricSet:
    """Metrics by purpose; they know what to measure from the first look at a step.

    A metric that was given as an object serves training and evaluation alike, as in Keras: while one of them
    uses it, what the other has seen is kept (`apart`).
    """

    def __init__(self, given: Any, keras_steps: KerasSteps | None = None) -> None:
        """Takes what was given as `metrics`.

        Args:
            given: A list of metrics (see `looplab.metrics.resolve`), or a dict of lists by output.
            keras_steps: Steps of a model that measure with metrics of the model, which are reset with these.
        """
        self._given, self._keras_steps = given, keras_steps
        self._specs: tuple[Any, Any] | None = None  # of targets and predictions
        self._made: dict[str, dict[str, tuple[keras.Metric, str | None]]] = {}  # purpose, tag: metric, output

    def see(self, targets: Any, predictions: Any) -> None:
        """Learns shapes and dtypes of what a step will measure."""
        self._specs = tree.map_structure(_spec, (targets, predictions))

    @property
    def width(self) -> int | None:
        """The length of the last axis of the model's one output; None where that is not known."""
        predictions = self._specs[1] if self._specs else None
        return predictions.shape[-1] if isinstance(predictions, tf.TensorSpec) else None

    def make(self, purpose: str) -> None:
        """Makes new metrics for a kind of step; in the strategy's scope.

        Raises:
            ConfigurationError: If a metric is unknown, two would be logged under one name, or nothing was
                seen that they could measure.
        """
        if not self._given:
            return
        targets, predictions = self._seen()
        made = self._made[purpose] = {}
        for output, metric in _by_output(self._given):
            target, prediction = targets, predictions
            if output is not None:
                target, prediction = part(targets, output), part(predictions, output)
            elif isinstance(predictions, Mapping | list | tuple):
                raise ConfigurationError(
                    "metrics: the model has several outputs; give a dict of metrics by output name."
                )
            metric = self._given_or_made(metric, target, prediction, made)
            tag = metric.name if output is None else f"{output}_{metric.name}"
            check_name("metrics", tag)
            if tag in made or tag == "loss":
                raise ConfigurationError(f"metrics: two values would be called {tag!r}; name one anew.")
            made[tag] = metric, output

    def _given_or_made(
        self, given: Any, target: Any, prediction: Any, made: Mapping[str, tuple[keras.Metric, str | None]]
    ) -> keras.Metric:
        """Returns the metric itself that was given, or a new one."""
        metric = metrics.resolve(given, target, prediction)
        here = tf.distribute.get_strategy()
        alone = here.num_replicas_in_sync == 1 and placement.of(here).plain_variables
        if any(metric is other for other, _ in made.values()) or not (
            alone or belongs_here(metric.variables)
        ):
            return remade(metric, "metrics")  # it stands twice, or belongs to another strategy
        if all(metric is not other for own in self._made.values() for other, _ in own.values()):
            metric.reset_state()  # it may have been used before
        return metric

    @contextmanager
    def apart(self, purpose: str) -> Iterator[None]:
        """Lets a kind of step begin with fresh metrics within the block; others have theirs back after it.

        On the host, between executions.
        """
        others = [
            metric for other, own in self._made.items() if other != purpose for metric, _ in own.values()
        ]
        shared = [metric for metric in self.of(purpose).values() if any(metric is other for other in others)]
        before = [(variable, variable.numpy()) for metric in shared for variable in metric.variables]
        self.reset(purpose)
        try:
            with self._keras_steps.apart() if self._keras_steps is not None else nullcontext():
                yield
        finally:
            for variable, value in before:
                variable.assign(value)

    def of(self, purpose: str) -> dict[str, keras.Metric]:
        """Returns the metrics of a kind of step by tag."""
        return {tag: metric for tag, (metric, _) in self._made.get(purpose, {}).items()}

    def update(self, purpose: str, targets: Any, predictions: Any, valid: Any = None) -> None:
        """Adds a batch; inside a step, on every replica with its own rows.

        Args:
            purpose: The kind of step.
            targets: As the metrics expect them.
            predictions: Of the model.
            valid: Which of the rows are examples, bool of shape `[rows]`; None for all.
        """
        for metric, output in self._made.get(purpose, {}).values():
            target, prediction = targets, predictions
            if output is not None:
                target, prediction = part(targets, output), part(predictions, output)
            if valid is None:
                translated(metric.update_state)(target, prediction)
            else:
                translated(metric.update_state)(target, prediction, sample_weight=_weights(valid, prediction))

    def reset(self, purpose: str) -> None:
        """Makes the metrics forget what they have seen."""
        for metric in self.of(purpose).values():
            metric.reset_state()
        if self._keras_steps is not None and purpose == "train":
            self._keras_steps.reset()

    def values(self, purpose: str) -> dict[str, float]:
        """Returns the results by tag; of a metric with several values their mean."""
        read = {tag: m for tag, m in self.of(purpose).items() if not isinstance(m, metrics.Pictured)}
        return {tag: float(np.mean(metric.result())) for tag, metric in read.items()}

    def pictures(self, purpose: str) -> dict[str, tuple[str, Any]]:
        """Returns kind and data of what the metrics show, by tag; see `looplab.metrics.Pictured`."""
        found: dict[str, tuple[str, Any]] = {}
        for tag, metric in self.of(purpose).items():
            if isinstance(metric, metrics.Pictured):
                found |= metric.pictures(tag)
        return found

    def _seen(self) -> tuple[Any, Any]:
        if self._specs is None:
            raise ConfigurationError(
                "metrics: nothing gives them targets and predictions. Call self.update_metrics(targets, "
                "predictions) where your step has them, or log scalars from the step."
            )
        return self._specs


def _weights(valid: tf.Tensor, prediction: Any) -> tf.Tensor:
    """Returns 1 for rows that are examples, in the shape of the mask that Keras hung on the predictions."""
    weights = tf.cast(valid, tf.float32)
    mask = getattr(prediction, "_keras_mask", None)
    if mask is None:
        return weights
    return tf.reshape(weights, [-1, *[1] * (mask.shape.rank - 1)]) * tf.ones_like(mask, tf.float32)


def _by_output(given: Any) -> list[tuple[str | None, Any]]:
    if isinstance(given, Mapping):
        return [(output, m) for output, own in given.items() for _, m in _by_output(own)]
    if isinstance(given, list | tuple):
        return [(None, metric) for metric in given]
    return [] if given is None else [(None, given)]


def _spec(tensor: Any) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype)
