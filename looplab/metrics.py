"""Metrics that loggers draw, and Keras metrics by name.

A metric is updated inside the compiled step, on each replica with its rows of the batch. Its result covers
the whole epoch or evaluation, over all replicas.
"""

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
    """Returns the object, class or function that Keras has under the name of a metric.

    Args:
        name: Such as `"mae"`, `"MeanSquaredError"` or `"accuracy"`.

    Returns:
        That object; for a name whose metric depends on shapes, a tuple of the three possible classes.

    Raises:
        ConfigurationError: If Keras has no metric of that name.
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
    """Makes a metric from a name, a function or a factory, or returns a metric object unchanged.

    Args:
        metric: A Keras name (`"accuracy"` becomes the binary, sparse or categorical one, as in
            `model.compile`), a function `(y_true, y_pred) -> values [examples, ...]`, a factory
            without arguments, or a `keras.Metric`.
        target: The target as a tensor or spec, whose shape selects the kind of accuracy; None if
            there is none.
        prediction: The model's output for the target as a tensor or spec; None if there is none.

    Returns:
        The metric.

    Raises:
        ConfigurationError: If `metric` is none of these, or if a metric of Keras has no target or
            prediction to compare.
    """
    absent = "target" if target is None else "prediction" if prediction is None else None
    if isinstance(metric, str):
        if absent is not None:
            raise _compares(metric, absent)
        return _by_name(metric, target, prediction)
    made = _made(metric)
    if absent is not None and type(made).__module__.startswith("keras."):  # a user's metric may need neither
        raise _compares(made.name, absent)
    return made


def _compares(name: str, absent: str) -> ConfigurationError:
    return ConfigurationError(
        f"metrics: {name!r} compares targets with predictions, and there is no {absent} (it is None). "
        "Give one, or leave the metric out."
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
    if isinstance(found, keras.Metric):  # logged under the given name: mae, not mean_absolute_error
        return found.__class__.from_config({**found.get_config(), "name": name})
    return keras.metrics.MeanMetricWrapper(found, name=name)


def _name(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


class Pictured(keras.Metric):
    """Base of metrics that loggers draw. Their result is not a number, so no log of numbers has it."""

    def pictures(self, tag: str) -> dict[str, tuple[str, Any]]:
        """Returns the pictures of the present result; runs eagerly on the host, after an epoch or evaluation.

        Args:
            tag: The name under which the metric is logged.

        Returns:
            The kind and the data of each picture by its tag, as in `looplab.Media`.
        """
        raise NotImplementedError


@configurable
class ConfusionMatrix(Pictured):
    """Counts examples by their true class (rows) and their predicted class (columns).

    TensorBoard shows a picture, in which each row has the shares of its class, and a table of the counts.
    With several replicas the counts are those of the whole batch.
    """

    def __init__(self, classes: int, name: str = "confusion_matrix", **keras_metric: Any) -> None:
        """Creates the counts, a float variable of shape `[classes, classes]`, as zeros.

        Args:
            classes: The number of classes, 2 for a binary classifier.
            name: The name under which it is logged.
            **keras_metric: Further arguments of `keras.Metric`, such as `dtype`.
        """
        super().__init__(name=name, **keras_metric)
        self.classes = classes
        self.counts = self.add_weight(shape=(classes, classes), initializer="zeros", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds examples; runs inside a `tf.function`, on one replica's rows.

        Args:
            y_true: Class numbers from 0, shape `[n]` or `[n, 1]`; or one-hot, `[n, classes]`.
            y_pred: Probabilities or logits, `[n, classes]`; for a binary classifier probabilities,
                `[n]` or `[n, 1]`, which count as class 1 above 0.5.
            sample_weight: A weight for each example, `[n]`; None counts each example as one.
        """
        many = len(y_pred.shape) > 1 and y_pred.shape[-1] > 1
        said = ops.argmax(y_pred, -1) if many else ops.reshape(y_pred, [-1]) > 0.5
        true = ops.cast(ops.argmax(_one_hot(y_true, self.classes), -1), "int32")
        cells = true * self.classes + ops.cast(said, "int32")
        found = ops.segment_sum(_weights(true, sample_weight), cells, self.classes**2)
        self.counts.assign_add(ops.reshape(found, (self.classes, self.classes)))

    def result(self) -> Any:
        """Returns the counts as a float tensor of shape `[classes, classes]`."""
        return ops.convert_to_tensor(self.counts)

    def pictures(self, tag: str) -> dict[str, tuple[str, Any]]:
        """Returns the picture under the tag itself, and the table under `<tag>/counts`.

        Args:
            tag: The name under which the metric is logged.
        """
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
        """Returns the constructor's arguments."""
        return {**super().get_config(), "classes": self.classes}


@configurable
class PRCurve(Pictured):
    """Precision and recall at evenly spaced thresholds, with one curve for each class against all others.

    The thresholds are `k / (thresholds - 1)` for `k` from 0. At each of them an example counts as positive if
    its probability is at least the threshold. Precision is `TP / (TP + FP)` and recall `TP / (TP + FN)`.
    TensorBoard shows the curves on its page of PR curves.
    """

    def __init__(
        self,
        classes: int = 1,
        thresholds: int = 127,
        from_logits: bool = False,
        name: str = "pr_curve",
        **keras_metric: Any,
    ) -> None:
        """Creates two float variables of shape `[classes, thresholds]` as zeros.

        Args:
            classes: The number of classes; 1 for a binary classifier with one output.
            thresholds: The number of thresholds from 0 to 1, at least 2.
            from_logits: Whether predictions are logits rather than probabilities.
            name: The name under which it is logged.
            **keras_metric: Further arguments of `keras.Metric`, such as `dtype`.
        """
        super().__init__(name=name, **keras_metric)
        self.classes, self.thresholds, self.from_logits = classes, thresholds, from_logits
        self.hits, self.misses = (  # examples of the class and all others, by the bin of their probability
            self.add_weight(shape=(classes, thresholds), initializer="zeros", name=own)
            for own in ("hits", "misses")
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds examples; runs inside a `tf.function`, on one replica's rows.

        Args:
            y_true: Class numbers from 0, shape `[n]` or `[n, 1]`, which are 0 or 1 for a binary classifier;
                or one-hot, `[n, classes]`.
            y_pred: Probabilities from 0 to 1, or logits, of shape `[n, classes]`; `[n]` or `[n, 1]` for a
                binary classifier.
            sample_weight: A weight for each example, `[n]`; None counts each example as one.
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
        """Returns the curves as a float tensor of shape `[classes, 6, thresholds]`.

        The six rows are true positives, false positives, true negatives, false negatives, precision and
        recall.
        """
        right, wrong = (ops.flip(ops.cumsum(ops.flip(own, -1), -1), -1) for own in (self.hits, self.misses))
        others, left = wrong[:, :1] - wrong, right[:, :1] - right
        precision, recall = right / ops.maximum(right + wrong, 1e-7), right / ops.maximum(right[:, :1], 1e-7)
        return ops.stack([right, wrong, others, left, precision, recall], axis=1)

    def pictures(self, tag: str) -> dict[str, tuple[str, Any]]:
        """Returns one curve under the tag itself, or for several classes under `<tag>/<class>`.

        Args:
            tag: The name under which the metric is logged.
        """
        curves = np.asarray(self.result())
        if self.classes == 1:
            return {tag: ("pr_curve", curves[0])}
        return {f"{tag}/{index}": ("pr_curve", curve) for index, curve in enumerate(curves)}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {"classes": self.classes, "thresholds": self.thresholds, "from_logits": self.from_logits}
        return {**super().get_config(), **own}


def _one_hot(targets: Any, classes: int) -> Any:
    """Returns targets as `[n, classes]`; they are class numbers or already have that shape."""
    if len(targets.shape) > 1 and targets.shape[-1] == classes:
        return targets
    return ops.one_hot(ops.cast(ops.reshape(targets, [-1]), "int32"), classes)


def _weights(like: Any, given: Any) -> Any:
    """Returns a weight for each example, shape `[n]`."""
    return ops.ones_like(like, "float32") if given is None else ops.cast(ops.reshape(given, [-1]), "float32")
