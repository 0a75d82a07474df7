"""The values that a step logs with `Trainer.log`: sums of weighted values, each with its weight."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from looplab.errors import ConfigurationError, LossError
from looplab.options.names import check_name

Sums = dict[str, tuple[tf.Tensor, tf.Tensor]]  # by name: the sum of weighted values, and the sum of weights


class Slice(NamedTuple):
    """Some rows of a batch.

    Attributes:
        examples: Scalar, the number of rows that are examples.
        rows: The number of rows, if it is fixed.
    """

    examples: tf.Tensor
    rows: int | None


class Handed(NamedTuple):
    """The values that a function within a step must return, because it is a separate graph.

    Attributes:
        shown: The values that it shows, by tag.
        logged: The values that it logs.
    """

    shown: dict[str, tf.Tensor]
    logged: Sums


def check_logged_name(name: Any) -> None:
    """Refuses an invalid name of a value that a step logs.

    Raises:
        ConfigurationError: If it is not a name, or is the name of the loss.
    """
    check_name("self.log", name)
    if name == "loss":
        raise ConfigurationError(
            "self.log: 'loss' is the name of the total loss, which is logged anyway. Use another name."
        )


def weighted_sum(
    name: str, value: Any, weight: Any, *, examples: tf.Tensor, rows: int | None, valid: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the sum of weighted values over a slice of the batch, and the sum of the weights; scalars.

    Args:
        name: The name of the value, for messages.
        value: A number, or a tensor of shape `[examples, ...]`.
        weight: A number, a weight for each example, or a tensor like the value; None for weight 1 of each
            element, or for a number the examples of the slice.
        examples: Scalar, the number of examples in the slice.
        rows: The number of rows in the slice, if it is fixed.
        valid: Which of its rows are examples, bool of shape `[rows]`; None for all.

    Raises:
        LossError: If these are not numbers, or have other shapes.
    """
    values = _numbers(name, "value", value)
    weights = None if weight is None else _numbers(name, "weight", weight)
    if values.shape.rank == 0:
        if weights is not None and weights.shape.rank not in (0, 1):
            raise _unlike(name, values, weights)
        whole = tf.cast(examples, values.dtype) if weights is None else tf.reduce_sum(weights)
        # The mean over no rows is not a number, and has weight 0.
        return tf.math.multiply_no_nan(values, whole), whole
    _check_rows(name, values, rows, all_of_them=valid is not None)
    if weights is None:
        weights = tf.ones_like(values)
    elif weights.shape.rank == 1:
        weights = tf.reshape(weights, [-1, *[1] * (values.shape.rank - 1)])
    elif weights.shape.rank not in (0, values.shape.rank):
        raise _unlike(name, values, weights)
    weights = tf.broadcast_to(weights, tf.shape(values))
    if valid is not None:
        weights *= tf.reshape(tf.cast(valid, weights.dtype), [-1, *[1] * (values.shape.rank - 1)])
    return tf.reduce_sum(tf.math.multiply_no_nan(values, weights)), tf.reduce_sum(weights)


def add(sums: Sums, more: Sums) -> None:
    """Adds the values that another slice of the batch, or another call, has logged."""
    for name, (total, weight) in more.items():
        known = sums.get(name)
        sums[name] = (total, weight) if known is None else (known[0] + total, known[1] + weight)


def _numbers(name: str, what: str, given: Any) -> tf.Tensor:
    """Converts a value to a tensor of the float type, with a known rank."""
    if given is None:
        raise LossError(f"self.log: the {what} of {name!r} is None; leave the call out.")
    try:
        tensor = tf.convert_to_tensor(given)
    except (TypeError, ValueError):
        raise LossError(
            f"self.log: the {what} of {name!r} is {_short(given)} ({type(given).__name__}); expected a "
            "number, or a tensor of shape [examples, ...]."
        ) from None
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise LossError(
            f"self.log: the {what} of {name!r} has the dtype {tensor.dtype.name}, which has no mean; "
            "give numbers."
        )
    if tensor.shape.rank is None:
        raise LossError(
            f"self.log: the {what} of {name!r} has an unknown shape; set it with tf.ensure_shape."
        )
    return tf.stop_gradient(tf.cast(tensor, keras.config.floatx()))


def _check_rows(name: str, values: tf.Tensor, rows: int | None, *, all_of_them: bool) -> None:
    """Refuses values that are not one for each example, as far as that is known when a step is traced.

    Args:
        name: The name of the value.
        values: The values, of any rank.
        rows: The number of rows in the slice, if it is fixed.
        all_of_them: Whether there must be one value for each row: values of some rows are refused.
    """
    length = values.shape[0]
    if all_of_them:
        wrong = length != rows
    elif tf.executing_eagerly() or length is None:
        return
    else:
        wrong = rows is None or (rows % length != 0 if length else bool(rows))
    if wrong:
        raise LossError(
            f"self.log: {name!r} has the shape {tuple(values.shape)}, whose first axis is not that of the "
            "examples of the batch. Give one value for each example, shape [examples, ...], or a number, "
            "such as tf.reduce_mean(...); several numbers need separate names."
        )


def _unlike(name: str, values: tf.Tensor, weights: tf.Tensor) -> LossError:
    return LossError(
        f"self.log: the weight of {name!r} has the shape {tuple(weights.shape)}, but the value has "
        f"{tuple(values.shape)}. Give a number, a weight for each example, or weights of the value's shape."
    )


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:60]}..."
