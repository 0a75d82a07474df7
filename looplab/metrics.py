"""Means over steps, weighted exactly; Keras metrics by the names people write; metrics to look at."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from looplab.errors import ConfigurationError, nearest
from looplab.targets import configurable

_log = logging.getLogger("looplab")


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
    """Makes a metric from a name or a factory, or takes an object as it is.

    Args:
        metric: A Keras name (`"accuracy"` becomes the binary, sparse or categorical one, as in
            `model.compile`), a function `(y_true, y_pred) -> values [examples, ...]`, a factory
            without arguments, or a `keras.Metric`.
        target: The target as a tensor or spec: its shape tells which accuracy is meant.
        prediction: The model's output for it, likewise.

    Raises:
        ConfigurationError: If it is none of these, or one of Keras' and there is nothing to compare.
    """
    absent = "target" if target is None else "prediction" if prediction is None else None
    if isinstance(metric, str):
        if absent is not None:
            raise _compares(metric, absent)
        return _by_name(metric, target, prediction)
    made = _made(metric)
    if absent is not None and type(made).__module__.startswith("keras."):  # one's own may do without
        raise _compares(made.name, absent)
    return made


def _compares(name: str, absent: str) -> ConfigurationError:
    return ConfigurationError(
        f"metrics: {name!r} compares targets with predictions, and there is no {absent} (it is None). Give "
        "it, or leave the metric out."
    )


def _made(metric: Any) -> keras.Metric:
    if isinstance(metric, keras.Metric):
        return metric
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
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


class Pictured(keras.Metric):
    """A metric that is looked at rather than read: its result is no number, and goes to loggers only."""

    def pictures(self, tag: str) -> dict[str, tuple[str, Any]]:
        """Returns kind and data of what to show (see `looplab.Media`), by tag; on the host.

        Args:
            tag: What the metric is called.
        """
        raise NotImplementedError


@configurable
class ConfusionMatrix(Pictured):
    """Counts how often which class is taken for which: rows are the true ones, columns the predicted.

    TensorBoard shows it as a picture, each row as shares of its class, and as a table of counts.
    """

    def __init__(self, classes: int, name: str = "confusion_matrix", **keras_metric: Any) -> None:
        """Starts with nothing counted.

        Args:
            classes: How many there are, 2 for a binary classifier.
            name: What it is called.
            **keras_metric: As of `keras.Metric`.
        """
        super().__init__(name=name, **keras_metric)
        self.classes = classes
        self.counts = self.add_weight(shape=(classes, classes), initializer="zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds examples.

        Args:
            y_true: Class numbers, shape `[n]` or `[n, 1]`; or one-hot, `[n, classes]`.
            y_pred: Probabilities or logits, `[n, classes]`; of a binary classifier probabilities,
                `[n]` or `[n, 1]`.
            sample_weight: Of each example, `[n]`; None counts each as one.
        """
        many = len(y_pred.shape) > 1 and y_pred.shape[-1] > 1
        said = ops.argmax(y_pred, -1) if many else ops.reshape(y_pred, [-1]) > 0.5
        true = ops.cast(ops.argmax(_one_hot(y_true, self.classes), -1), "int32")
        cells = true * self.classes + ops.cast(said, "int32")
        found = ops.segment_sum(_weights(true, sample_weight), cells, self.classes**2)
        self.counts.assign_add(ops.reshape(found, (self.classes, self.classes)))

    def result(self) -> Any:
        """Returns the counts, shape `[classes, classes]`."""
        return ops.convert_to_tensor(self.counts)

    def pictures(self, tag: str) -> dict[str, tuple[str, Any]]:
        """See `Pictured`: the picture, and under `<tag>/counts` the table."""
        counts = np.asarray(self.result())
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        size = max(2, 480 // self.classes)  # pixels of a cell
        blue = 1 - shares[..., None] * np.array([0.95, 0.75, 0.3])
        picture = np.kron(blue, np.ones((size, size, 1)))
        head = "| true \\ predicted |" + "".join(f" {name} |" for name in range(self.classes))
        rows = [f"| **{i}** |" + "".join(f" {count:g} |" for count in row) for i, row in enumerate(counts)]
        table = "\n".join([head, "|---" * (self.classes + 1) + "|", *rows])
        return {tag: ("image", picture[None]), f"{tag}/counts": ("text", table)}

    def get_config(self) -> dict[str, Any]:
        """See `keras.Metric`."""
        return {**super().get_config(), "classes": self.classes}


@configurable
class PRCurve(Pictured):
    """Precision over recall at evenly spaced thresholds, one curve for each class against the others.

    TensorBoard shows it on its page of PR curves.
    """

    def __init__(
        self,
        classes: int = 1,
        thresholds: int = 127,
        from_logits: bool = False,
        name: str = "pr_curve",
        **keras_metric: Any,
    ) -> None:
        """Starts with nothing counted.

        Args:
            classes: How many the model tells apart; 1 for a binary classifier with one output.
            thresholds: How many, from 0 to 1, at least 2.
            from_logits: Whether predictions are logits rather than probabilities.
            name: What it is called.
            **keras_metric: As of `keras.Metric`.
        """
        super().__init__(name=name, **keras_metric)
        self.classes, self.thresholds, self.from_logits = classes, thresholds, from_logits
        self.hits, self.misses = (  # examples of the class, and others, by the bin of their probability
            self.add_weight(shape=(classes, thresholds), initializer="zeros", name=own)
            for own in ("hits", "misses")
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds examples.

        Args:
            y_true: Class numbers, shape `[n]` or `[n, 1]`, 0 or 1 of a binary classifier; or one-hot.
            y_pred: Shape `[n, classes]`; or `[n]` of a binary classifier.
            sample_weight: Of each example, `[n]`; None counts each as one.
        """
        scores = ops.reshape(ops.cast(y_pred, self.dtype), (-1, self.classes))
        if self.from_logits:
            scores = ops.sigmoid(scores) if self.classes == 1 else ops.softmax(scores)
        binary = self.classes == 1
        own = ops.reshape(y_true, (-1, 1)) if binary else _one_hot(y_true, self.classes)
        own = ops.cast(own, self.dtype)
        bins = ops.cast(ops.floor(ops.clip(scores, 0, 1) * (self.thresholds - 1)), "int32")
        bins += ops.arange(self.classes, dtype="int32") * self.thresholds
        weights = _weights(bins[:, 0], sample_weight)[:, None]
        for counts, share in ((self.hits, own), (self.misses, 1 - own)):
            flat = ops.reshape(share * weights, [-1]), ops.reshape(bins, [-1])
            found = ops.segment_sum(*flat, self.classes * self.thresholds)
            counts.assign_add(ops.reshape(found, (self.classes, self.thresholds)))

    def result(self) -> Any:
        """Returns true and false positives, true and false negatives, precision and recall.

        Shape `[classes, 6, thresholds]`.
        """
        right, wrong = (ops.flip(ops.cumsum(ops.flip(own, -1), -1), -1) for own in (self.hits, self.misses))
        others, left = wrong[:, :1] - wrong, right[:, :1] - right
        precision, recall = right / ops.maximum(right + wrong, 1e-7), right / ops.maximum(right[:, :1], 1e-7)
        return ops.stack([right, wrong, others, left, precision, recall], axis=1)

    def pictures(self, tag: str) -> dict[str, tuple[str, Any]]:
        """See `Pictured`: `<tag>`, or of several classes `<tag>/<class>`."""
        curves = np.asarray(self.result())
        if self.classes == 1:
            return {tag: ("pr_curve", curves[0])}
        return {f"{tag}/{index}": ("pr_curve", curve) for index, curve in enumerate(curves)}

    def get_config(self) -> dict[str, Any]:
        """See `keras.Metric`."""
        own = {"classes": self.classes, "thresholds": self.thresholds, "from_logits": self.from_logits}
        return {**super().get_config(), **own}


def _one_hot(targets: Any, classes: int) -> Any:
    """Returns targets as `[n, classes]`, whether they are numbers of classes or that already."""
    if len(targets.shape) > 1 and targets.shape[-1] == classes:
        return targets
    return ops.one_hot(ops.cast(ops.reshape(targets, [-1]), "int32"), classes)


def _weights(like: Any, given: Any) -> Any:
    """Returns a weight for each example, shape `[n]`."""
    return ops.ones_like(like, "float32") if given is None else ops.cast(ops.reshape(given, [-1]), "float32")
