"""The metrics of a trainer: created for each kind of step, updated inside it, read between executions."""

from __future__ import annotations

import logging
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

_log = logging.getLogger("looplab")

_PURPOSES = ("train", "test", "predict")


class _Measured(NamedTuple):
    """A metric, and its inputs.

    Attributes:
        metric: The Keras metric.
        output: The output that it measures.
        outputs: All outputs.
        weighted: Whether examples count with their sample weights.
    """

    metric: keras.Metric
    output: Output
    outputs: tuple[Output, ...]
    weighted: bool


class MetricSet:
    """Metrics by purpose; the first trace of a step determines what they measure.

    A metric that was given as an object serves both training and evaluation, as in Keras: while one of them
    uses it, the state of the other is kept (`apart`).

    Attributes:
        owned: The metrics of models and the trainer, which steps update themselves.
    """

    def __init__(
        self,
        given: Any,
        weighted: Any = None,
        *,
        optional: bool = False,
        keras_steps: KerasSteps | None = None,
    ) -> None:
        """Stores the `metrics` and `weighted_metrics`.

        Args:
            given: A list of metrics (see `looplab.metrics.resolve`); or for several outputs a dict of metrics
                or lists by output, or a list of these in the order of the outputs.
            weighted: In the same form; these count examples with their sample weights.
            optional: Whether there are no metrics if no step gives them anything to measure.
            keras_steps: Steps of a model that use the model's metrics, which are reset with these.
        """
        self._optional, self._keras_steps = optional, keras_steps
        self._given = {False: given, True: weighted}
        self.owned = OwnedMetrics()
        self._specs: tuple[Any, Any] | None = None  # of targets and predictions
        self._made: dict[str, dict[str, _Measured]] = {}  # by purpose and tag
        self._names: dict[str, dict[str, list[str]]] = {}  # purpose, tag: names of its numbers
        self._warned = False  # of weights that count in no metric

    def see(self, targets: Any, predictions: Any) -> None:
        """Records shapes and dtypes of the values that a step will measure."""
        self._specs = tree.map_structure(_spec, (targets, predictions))

    @property
    def weigh(self) -> bool:
        """Whether some of the metrics use sample weights."""
        return bool(self._given[True])

    @property
    def width(self) -> int | None:
        """The length of the last axis of the model's only output; None if it is not known."""
        predictions = self._specs[1] if self._specs else None
        return predictions.shape[-1] if isinstance(predictions, tf.TensorSpec) else None

    def make(self, purpose: str, names: Sequence[str] = (), *, eagerly: bool = False) -> None:
        """Creates new metrics for a kind of step, with all their variables; in the strategy's scope.

        Args:
            purpose: The kind of step.
            names: The names of the model's outputs, if it has a list of outputs.
            eagerly: Whether the step runs in Python, in which metrics may read values.

        Raises:
            ConfigurationError: If a metric is unknown, if two would be logged under one name, or if there is
                nothing that they could measure.
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
                if weighted and tag in made:  # Keras' name for the second of the two
                    tag = output.label(f"weighted_{metric.name}")
                check_name(what, tag)
                if tag in made or tag == "loss":
                    raise ConfigurationError(
                        f"{what}: two values would be called {tag!r}; rename one of them."
                    )
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
        """Returns the given metric itself, or a new one, built."""
        metric = metrics.resolve(given, target, prediction)
        here = tf.distribute.get_strategy()
        alone = here.num_replicas_in_sync == 1 and placement.of(here).plain_variables
        if any(metric is other.metric for other in made.values()) or not (
            alone or belongs_here(metric.variables)
        ):
            metric = remade(metric, "metrics")  # it is used twice, or belongs to another strategy
        _build(metric, (target, prediction), eagerly)
        if all(metric is not other.metric for own in self._made.values() for other in own.values()):
            metric.reset_state()  # it may have been used before
        return metric

    @contextmanager
    def apart(self, purpose: str) -> Iterator[None]:
        """Resets the metrics of a kind of step for the block, and restores those of other kinds after it.

        Runs on the host, between executions.
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
            targets: The targets in the form that the metrics expect.
            predictions: The model's outputs.
            valid: Which of the rows are examples, bool of shape `[rows]`; None for all.
            weights: Sample weights, for weighted metrics; for all outputs, or for each in the form of
                `targets`. Or None.
        """
        self._warn_of_unused(purpose, weights)
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

    def _warn_of_unused(self, purpose: str, weights: Any) -> None:
        """Warns once of weights that count in no metric of their output."""
        made = self._made.get(purpose, {})
        each = isinstance(weights, Mapping | list | tuple)  # of each output
        if weights is None or self._warned or not made or (self.weigh and not each):
            return
        given = sample_weights(weights, next(iter(made.values())).outputs)
        counted = {measured.output for measured in made.values() if measured.weighted}
        unused = [tag for tag, own in made.items() if own.output in given and own.output not in counted]
        if unused:
            self._warned = True
            _log.warning(
                "update_metrics: the given weights do not count in %s, because metrics= counts each value "
                "as 1, as in Keras. Give the metrics in which they count as Trainer(weighted_metrics=...).",
                ", ".join(map(repr, unused)),
            )

    def reset(self, purpose: str) -> None:
        """Resets the metrics."""
        for metric in self._all(purpose):
            metric.reset_state()
        if self._keras_steps is not None and purpose == "train":
            self._keras_steps.reset()

    def values(self, purpose: str) -> dict[str, float]:
        """Returns the results of the metrics as numbers by name; see `metric_values.numbers`."""
        values: dict[str, float] = {}
        for tag, known in self._names.get(purpose, {}).items():
            found = numbers(tag, self._made[purpose][tag].metric.result())
            check_names(tag, found, known)
            values |= found
        return values | self.owned.values(purpose)

    def names(self, purpose: str) -> list[str]:
        """Returns the names of the numbers of the trainer's own metrics, before there are results."""
        return [name for names in self._names.get(purpose, {}).values() for name in names]

    def pictured(self, purpose: str) -> list[str]:
        """Returns the tags of the metrics that are shown as pictures."""
        own = [tag for tag in self.of(purpose) if tag not in self._names[purpose]]
        return [*own, *self.owned.pictured(purpose)]

    def pictures(self, purpose: str) -> dict[str, tuple[str, Any]]:
        """Returns kind and data of the metrics' pictures, by tag; see `looplab.metrics.Pictured`."""
        found: dict[str, tuple[str, Any]] = {}
        for tag, metric in {**self.of(purpose), **self.owned.pictured(purpose)}.items():
            if isinstance(metric, metrics.Pictured):
                found |= metric.pictures(tag)
        return found

    def given(self) -> list[keras.Metric]:
        """Returns the metrics that were given as objects, and those that were created from the rest."""
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
    """Creates the variables that a metric creates in its first update; in the strategy's scope.

    Keras' own means, such as most metrics, create none there.
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
    """Returns 1 for rows that are examples, otherwise 0, in the shape of the predictions' Keras mask."""
    weights = tf.cast(valid, tf.float32)
    mask = getattr(prediction, "_keras_mask", None)
    if mask is None:
        return weights
    return tf.reshape(weights, [-1, *[1] * (mask.shape.rank - 1)]) * tf.ones_like(mask, tf.float32)


def _by_output(given: Any, outputs: Sequence[Output], what: str) -> list[tuple[Output, Any]]:
    """Returns each metric with its output."""
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
    """Returns the objects in nested lists and dicts of metrics."""
    if isinstance(given, Mapping):
        given = list(given.values())
    return [m for each in given for m in _objects(each)] if isinstance(given, list | tuple) else [given]


def _part(targets: Any, output: Output, outputs: Sequence[Output]) -> Any:
    """Returns the target of an output."""
    return targets if targets is None else targets_of(targets, outputs).get(output)


def _spec(tensor: Any) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype)
