"""Implements `class_weight` as in Keras: it weights examples by the class of their target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from looplab.errors import ConfigurationError
from looplab.execution.batches import words
from looplab.strategy import tree


def read(class_weight: Any) -> dict[int, float]:
    """Checks and returns weights by class.

    Raises:
        ConfigurationError: If it is not a dict from integers to numbers of at least 0.
    """
    try:
        found = {int(label): float(weight) for label, weight in dict(class_weight).items()}
    except (TypeError, ValueError):
        found = {}
    if not found or not all(0 <= weight < float("inf") for weight in found.values()):
        raise ConfigurationError(
            "class_weight: expected a dict from class to weight of at least 0, such as {0: 1.0, 1: 5.0}, got "
            f"{class_weight!r}."
        )
    return found


def weighted_spec(spec: Any, class_weight: Mapping[Any, float]) -> Any:
    """Returns the specification of a batch `(inputs, targets)`, or `(inputs, targets, None)`, with weights.

    Raises:
        ConfigurationError: If the batch already has weights, has several targets or none, or its one-hot
            target lacks a class.
    """
    if isinstance(spec, tuple) and len(spec) == 3 and tree.flatten(spec[2]):
        raise ConfigurationError("class_weight: the data already has a sample_weight; give one of the two.")
    if not isinstance(spec, tuple) or len(spec) not in (2, 3) or len(tree.flatten(spec[1])) != 1:
        raise ConfigurationError(
            f"class_weight: needs one target that holds classes, but the data is {words(spec)}. Give "
            "sample_weight instead."
        )
    (target,) = tree.flatten(spec[1])
    if target.shape.rank == 2 and (target.shape[1] or 1) > 1:
        check_range(class_weight, target.shape[1], "the one-hot target")
    rows = tree.first(spec).shape[0]
    return (*spec[:2], tf.TensorSpec([rows], keras.config.floatx()))


def check_range(class_weight: Mapping[Any, float], classes: int, what: str) -> None:
    """Refuses weights of classes that do not exist.

    Args:
        class_weight: From `read`.
        classes: The number of classes; they are counted from 0.
        what: The name of what has the classes, for the message.

    Raises:
        ConfigurationError: If a class is out of range.
    """
    if beyond := [label for label in class_weight if not 0 <= label < classes]:
        raise ConfigurationError(
            f"class_weight: there is no class {', '.join(map(str, beyond))}; {what} has {classes} classes, "
            f"0 to {classes - 1}."
        )


def weigh(batch: Any, class_weight: Mapping[Any, float]) -> Any:
    """Adds weights to a batch `(inputs, targets)`, or `(inputs, targets, None)`; in a graph.

    A target of shape `[n]` or `[n, 1]` holds classes. A target of shape `[n, classes]` is one-hot; its
    largest value gives the class. Classes without a weight get the weight 1.
    """
    inputs, targets = batch[:2]
    labels = tree.first(targets)
    if len(labels.shape) > 1:
        labels = tf.squeeze(labels, -1) if labels.shape[-1] == 1 else tf.argmax(labels, axis=-1)
    labels = tf.cast(tf.round(labels) if labels.dtype.is_floating else labels, tf.int64)
    hits = labels[:, None] == tf.constant(list(class_weight), tf.int64)
    values = tf.constant(list(class_weight.values()), keras.config.floatx())
    named = tf.reduce_sum(tf.where(hits, values, tf.zeros_like(values)), axis=1)
    return inputs, targets, tf.where(tf.reduce_any(hits, axis=1), named, tf.ones_like(named))
