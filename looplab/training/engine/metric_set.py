"""The metrics of a trainer: made for each kind of step, updated inside it, read between executions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from looplab import metrics
from looplab.checkpoint import state
from looplab.errors import ConfigurationError
from looplab.execution import tracing
from looplab.execution.autograph import translated
from looplab.optimization.outputs import Output, leaf, outputs_of, sample_weights, spread, targets_of
from looplab.optimization.remake import remade
from looplab.options.names import check_name
from looplab.strategy import placement, tree
from looplab.strategy.strategies import belongs_here
from looplab.training.engine.keras_steps import KerasSteps
from looplab.training.engine.metric_values import check_names, numbers
from looplab.training.engine.metric_values import names_of as number_names
from looplab.training.engine.owned_metrics import OwnedMetrics

_PURPOSES = ("train", "test", "predict")


class _Measured(NamedTuple):
    """A metric, and what it measures.

    Attributes:
        metric: Of Keras.
        output: Which of the outputs it measures.
        outputs: All of them.
        weighted: Whether examples count with their sample weights.
    """

    metric: keras.Metric
    output: Output
    outputs: tuple[Output, ...]
    weighted: bool


class MetricSet:
    """Metrics by purpose; they know what to measure from the first look at a step.

    A metric that was given as an object serves training and evaluation alike, as in Keras: while one of them
    uses it, what the other has seen is kept (`apart`).

    Attributes:
        owned: Those that models and the trainer keep, and that steps update themselves.
    """

    def __init__(
        self,
        given: Any,
        weighted: Any = None,
        *,
        optional: bool = False,
        keras_steps: KerasSteps | None = None,
    ) -> None:
        """Takes what was given as `metrics` and as `weighted_metrics`.

        Args:
            given: A list of metrics (see `looplab.metrics.resolve`); or of several outputs a dict of metrics
                or lists by output, or a list of these in the order of the outputs.
            weighted: Likewise; these count examples with their sample weights.
            optional: Whether there are none where no step gives them anything to measure.
            keras_steps: Steps of a model that measure with metrics of the model, which are reset with these.
        """
        self._optional, self._keras_steps = optional, keras_steps
        self._given = {False: given, True: weighted}
        self.owned = OwnedMetrics()
        self._specs: tuple[Any, Any] | None = None  # of targets and predictions
        self._made: dict[str, dict[str, _Measured]] = {}  # by purpose and tag
        self._names: dict[str, dict[str, list[str]]] = {}  # purpose, tag: names of its numbers

    def see(self, targets: Any, predictions: Any) -> None:
        """Learns shapes and dtypes of what a step will measure."""
        self._specs = tree.map_structure(_spec, (targets, predictions))

    @property
    def width(self) -> int | None:
        """The length of the last axis of the model's one output; None where that is not known."""
        predictions = self._specs[1] if self._specs else None
        return predictions.shape[-1] if isinstance(predictions, tf.TensorSpec) else None

    def make(self, purpose: str, names: Sequence[str] = (), *, eagerly: bool = False) -> None:
        """Makes new metrics for a kind of step, with all their variables; in the strategy's scope.

        Args:
            purpose: The kind of step.
            names: Of the model's outputs, where a list of them is measured.
            eagerly: Whether the step runs in Python, where metrics may ask for values.

        Raises:
            ConfigurationError: If a metric is unknown, two would be logged under one name, or nothing was
                seen that they could measure.
        """
        given = {weighted: own for weighted, own in self._given.items() if own}
        if not given or (self._specs is None and self._optional):
            return
        targets, predictions = self._seen()
        outputs = outputs_of(predictions, names)
        made = self._made[purpose] = {}
        for weighted, own in given.items():
            what = "weighted_metrics" if weighted else "metrics"
            for output, each in _by_output(own, outputs, what):
                target, prediction = _part(targets, output, outputs), leaf(predictions, output)
                metric = self._given_or_made(each, target, prediction, made, eagerly)
                tag = output.label(metric.name)
                if weighted and tag in made:  # as Keras calls the second of the two
                    tag = output.label(f"weighted_{metric.name}")
                check_name(what, tag)
                if tag in made or tag == "loss":
                    raise ConfigurationError(f"{what}: two values would be called {tag!r}; name one anew.")
                made[tag] = _Measured(metric, output, outputs, weighted)
        read = {tag: m for tag, m in self.of(purpose).items() if not isinstance(m, metrics.Pictured)}
        self._names[purpose] = {tag: number_names(tag, metric) for tag, metric in read.items()}

    def _given_or_made(
        self,
        given: Any,
        target: Any,
        prediction: Any,
        made: Mapping[str, _Measured],
        eagerly: bool,
    ) -> keras.Metric:
        """Returns the metric itself that was given, or a new one, built."""
        metric = metrics.resolve(given, target, prediction)
        here = tf.distribute.get_strategy()
        alone = here.num_replicas_in_sync == 1 and placement.of(here).plain_variables
        if any(metric is other.metric for other in made.values()) or not (
            alone or belongs_here(metric.variables)
        ):
            metric = remade(metric, "metrics")  # it stands twice, or belongs to another strategy
        _build(metric, (target, prediction), eagerly)
        if all(metric is not other.metric for own in self._made.values() for other in own.values()):
            metric.reset_state()  # it may have been used before
        return metric

    @contextmanager
    def apart(self, purpose: str) -> Iterator[None]:
        """Lets a kind of step begin with fresh metrics within the block; others have theirs back after it.

        On the host, between executions.
        """
        others = [metric for kind in _PURPOSES if kind != purpose for metric in self._all(kind)]
        shared = [metric for metric in self._all(purpose) if any(metric is other for other in others)]
        held = [part for metric in shared for own in metric.variables for part in state.parts(own)]
        before = [part.numpy() for part in held]
        self.reset(purpose)
        try:
            with self._keras_steps.apart() if self._keras_steps is not None else nullcontext():
                yield
        finally:
            for part, value in zip(held, before, strict=True):
                part.assign(value)

    def of(self, purpose: str) -> dict[str, keras.Metric]:
        """Returns the trainer's own metrics for a kind of step by tag."""
        return {tag: measured.metric for tag, measured in self._made.get(purpose, {}).items()}

    def update(
        self, purpose: str, targets: Any, predictions: Any, valid: Any = None, weights: Any = None
    ) -> None:
        """Adds a batch; inside a step, on every replica with its own rows.

        Args:
            purpose: The kind of step.
            targets: As the metrics expect them.
            predictions: Of the model.
            valid: Which of the rows are examples, bool of shape `[rows]`; None for all.
            weights: Of samples, for weighted metrics; for all outputs, or for each as `targets`. Or None.
        """
        for metric, output, outputs, weighted in self._made.get(purpose, {}).values():
            target, prediction = _part(targets, output, outputs), leaf(predictions, output)
            weight = sample_weights(weights, outputs).get(output) if weighted else None
            if valid is not None:
                own = _weights(valid, prediction)
                weight = own if weight is None else own * tf.cast(weight, own.dtype)
            if weight is None:
                translated(metric.update_state)(target, prediction)
            else:
                translated(metric.update_state)(target, prediction, sample_weight=weight)

    def reset(self, purpose: str) -> None:
        """Makes the metrics forget what they have seen."""
        for metric in self._all(purpose):
            metric.reset_state()
        if self._keras_steps is not None and purpose == "train":
            self._keras_steps.reset()

    def values(self, purpose: str) -> dict[str, float]:
        """Returns the numbers that the metrics come to, by name; see `metric_values.numbers`."""
        values: dict[str, float] = {}
        for tag, known in self._names.get(purpose, {}).items():
            found = numbers(tag, self._made[purpose][tag].metric.result())
            check_names(tag, found, known)
            values |= found
        return values | self.owned.values(purpose)

    def names(self, purpose: str) -> list[str]:
        """Returns the names of the numbers that the trainer's own metrics come to, before there are any."""
        return [name for names in self._names.get(purpose, {}).values() for name in names]

    def pictured(self, purpose: str) -> list[str]:
        """Returns the tags of the metrics that are shown and are no numbers."""
        own = [tag for tag in self.of(purpose) if tag not in self._names[purpose]]
        return [*own, *self.owned.pictured(purpose)]

    def pictures(self, purpose: str) -> dict[str, tuple[str, Any]]:
        """Returns kind and data of what the metrics show, by tag; see `looplab.metrics.Pictured`."""
        found: dict[str, tuple[str, Any]] = {}
        for tag, metric in {**self.of(purpose), **self.owned.pictured(purpose)}.items():
            if isinstance(metric, metrics.Pictured):
                found |= metric.pictures(tag)
        return found

    def given(self) -> list[keras.Metric]:
        """Returns the objects among what was given, and the metrics that were made of the rest."""
        objects = [each for each in _objects([*self._given.values()]) if isinstance(each, keras.Metric)]
        return [*objects, *(measured.metric for own in self._made.values() for measured in own.values())]

    def _all(self, purpose: str) -> list[keras.Metric]:
        return [*self.of(purpose).values(), *self.owned.of(purpose)]

    def _seen(self) -> tuple[Any, Any]:
        if self._specs is None:
            raise ConfigurationError(
                "metrics: nothing gives them targets and predictions. Call self.update_metrics(targets, "
                "predictions) where your step has them, or log scalars from the step."
            )
        return self._specs


def _build(metric: keras.Metric, specs: tuple[Any, Any], eagerly: bool) -> None:
    """Makes the variables that a metric makes in its first update; in the strategy's scope.

    Means of Keras, as most metrics are, make none there.
    """
    if isinstance(metric, keras.metrics.Mean) and type(metric).__module__.startswith("keras."):
        return

    def update(*batch: Any) -> None:
        translated(metric.update_state)(*batch)

    here = tf.distribute.get_strategy()
    if eagerly and here.num_replicas_in_sync == 1:
        known = {str(index): variable for index, variable in enumerate(metric.variables)}
        tracing.eagerly(lambda batch: update(*batch), known, specs)
    else:
        tracing.symbolically(update, here, *specs)


def _weights(valid: tf.Tensor, prediction: Any) -> tf.Tensor:
    """Returns 1 for rows that are examples, in the shape of the mask that Keras hung on the predictions."""
    weights = tf.cast(valid, tf.float32)
    mask = getattr(prediction, "_keras_mask", None)
    if mask is None:
        return weights
    return tf.reshape(weights, [-1, *[1] * (mask.shape.rank - 1)]) * tf.ones_like(mask, tf.float32)


def _by_output(given: Any, outputs: Sequence[Output], what: str) -> list[tuple[Output, Any]]:
    """Returns each metric with the output that it is of."""
    if not outputs[0].is_only:
        own = spread(given, outputs, what)
    elif isinstance(given, Mapping):
        (each,) = spread(given, [replace(outputs[0], path=())], what).values()
        own = {outputs[0]: each}
    else:
        own = {outputs[0]: given}
    return [(output, each) for output, metrics_ in own.items() for each in _flat(metrics_)]


def _flat(given: Any) -> list[Any]:
    if isinstance(given, list | tuple):
        return [metric for each in given for metric in _flat(each)]
    return [] if given is None else [given]


def _objects(given: Any) -> list[Any]:
    """Returns what lists and dicts of metrics hold."""
    if isinstance(given, Mapping):
        given = list(given.values())
    return [m for each in given for m in _objects(each)] if isinstance(given, list | tuple) else [given]


def _part(targets: Any, output: Output, outputs: Sequence[Output]) -> Any:
    """Returns what an output is held against."""
    return targets if targets is None else targets_of(targets, outputs).get(output)


def _spec(tensor: Any) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype)
