"""Losses of Keras as terms, with values by example, and with masks and weights as in Keras."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from looplab.errors import ConfigurationError, LossError, nearest
from looplab.execution.autograph import translated
from looplab.optimization.loss_terms import Term, by_row
from looplab.optimization.separability import crosses_examples, dependence, refuse_examples_twice

KerasLoss = Callable[[Any, Any, Any, tf.Tensor, Any], Term]


def keras_loss(loss: keras.losses.Loss, scale: float = 1.0) -> KerasLoss:
    """Makes a term from a Keras loss, whose `reduction` decides the weight.

    `sum_over_batch_size` divides the weighted sum by the number of values (with a mask, of the unmasked
    values), `mean_with_sample_weight` by the sum of the weights, `sum` by nothing; `None` counts as
    `sum_over_batch_size`. On one device this is what `model.fit` computes (`keras.losses.Loss.__call__`,
    Keras 3.15).

    Args:
        loss: A loss of Keras.
        scale: The factor of its mean in the total loss.

    Returns:
        A function of `(y_true, y_pred, sample_weight or None, examples, valid)`; see `weighted_terms` for the
        last two.
    """
    # Keras' own losses keep the first axis; whether a user's function does is not known.
    per_example = _innermost(getattr(loss, "function", loss)).__module__.startswith("keras.")
    known: list[str | None] = []

    def depends(y_true: Any, y_pred: Any) -> str | None:
        if not known:  # it is the same in every trace, and costs a trace
            known.append(dependence(loss.call, y_true, y_pred))
        return known[0]

    def term(y_true: Any, y_pred: Any, sample_weight: Any, examples: tf.Tensor, valid: Any = None) -> Term:
        # An object that was created before the trainer does not know the trainer's precision.
        dtype = "float64" if keras.config.floatx() == "float64" else loss.dtype
        in_mask = _mask_of(y_pred)
        y_pred = tf.nest.map_structure(lambda x: keras.ops.convert_to_tensor(x, dtype), y_pred)
        y_true = tf.nest.map_structure(lambda x: keras.ops.convert_to_tensor(x, dtype), y_true)
        values = keras.ops.convert_to_tensor(translated(loss.call)(y_true, y_pred), dtype)
        if not per_example:
            _refuse_crossed(loss, y_true, y_pred, values)
        mask = _both(in_mask, _mask_of(values))
        if valid is not None:  # padded rows are masked values
            of_rows = by_row(valid, values if mask is None else mask, loss.name)
            mask = _both(mask, tf.cast(of_rows, tf.bool))
        own = _reduce(values, sample_weight, mask, loss.reduction, examples, per_example)
        why = _gives_one_value if values.shape.rank == 0 else partial(depends, y_true, y_pred)
        return own._replace(scale=scale, dependence=why)

    return term


def as_keras_loss(loss: Any) -> keras.losses.Loss:
    """Returns a loss object for a Keras name, a function of `(y_true, y_pred)`, or a loss.

    Raises:
        ConfigurationError: If Keras has no such loss.
    """
    if loss in ("crossentropy", "ce"):
        return _Crossentropy(name=loss)
    try:
        found = keras.losses.get(loss)
    except ValueError:
        raise ConfigurationError(
            f"loss: {loss!r} is not a Keras loss.{nearest(str(loss), dir(keras.losses))}"
        ) from None
    if isinstance(found, keras.losses.Loss):
        return found
    if isinstance(found, type) and issubclass(found, keras.losses.Loss):
        return found()
    if not callable(found):
        raise ConfigurationError(f"loss: {loss!r} is neither a Keras name, a loss nor a function.")

    class Function(keras.losses.Loss):
        function = staticmethod(found)

        def call(self, y_true: Any, y_pred: Any) -> Any:
            if tf.is_tensor(y_true) and tf.is_tensor(y_pred):  # as in Keras' wrapper of functions
                y_true, y_pred = _same_rank(y_true, y_pred)
            return translated(found)(y_true, y_pred)

    return Function(name=getattr(_innermost(found), "__name__", "loss"))


class _Crossentropy(keras.losses.Loss):
    """Selects the crossentropy by the shapes, as in `model.compile(loss="crossentropy")`."""

    function = staticmethod(keras.losses.categorical_crossentropy)  # like all three, it keeps the first axis

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_true, y_pred = _same_rank(y_true, y_pred)
        if y_pred.shape[-1] == 1:
            return keras.losses.binary_crossentropy(y_true, y_pred)
        if y_true.shape.rank < y_pred.shape.rank or y_true.shape[-1] == 1:
            return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
        return keras.losses.categorical_crossentropy(y_true, y_pred)


def _innermost(function: Any) -> Any:
    """Returns the function inside a `functools.partial`; anything else unchanged."""
    return _innermost(function.func) if isinstance(function, partial) else function


def _gives_one_value() -> str:
    return "gives one value for a whole batch"


def _refuse_crossed(loss: keras.losses.Loss, y_true: Any, y_pred: Any, values: tf.Tensor) -> None:
    """Refuses a user's loss object that compares targets `[n]` with predictions `[n, 1]`.

    Keras gives such shapes the same rank for functions, and for its own losses.

    Raises:
        LossError: With the shapes.
    """
    if not (tf.is_tensor(y_true) and tf.is_tensor(y_pred)):
        return
    refuse_examples_twice(lambda pair: loss.call(*pair), (y_true, y_pred), {loss.name: values})
    same = [tensor.shape for tensor in _same_rank(y_true, y_pred)] == [y_true.shape, y_pred.shape]
    if not same and crosses_examples(loss.call, y_true, y_pred):
        raise LossError(
            f"the loss {loss.name!r} compares targets of shape {_open(y_true)} with predictions of shape "
            f"{_open(y_pred)}: broadcasting puts the examples of one along axis 1 of the other, so each "
            "target is compared with every prediction. Give the targets an axis of length 1, y[:, None], or "
            "remove it from the predictions."
        )


def _open(tensor: tf.Tensor) -> str:
    return f"[{', '.join(['n', *map(str, tensor.shape[1:])])}]"


def _reduce(
    values: Any, weights: Any, mask: Any, reduction: str | None, examples: Any, per_example: bool
) -> Term:
    if mask is not None:
        mask = tf.cast(mask, values.dtype)
    valid = None if mask is None else _valid(values, mask)
    if weights is not None:
        weights = tf.cast(weights, values.dtype)
    if mask is not None and weights is not None:
        mask, weights = _same_rank(mask, weights)
        weights = _by_example(weights, mask) * mask
    elif mask is not None:
        weights = mask
    if weights is not None:
        values, weights = _same_rank(values, weights)
        values = values * _by_example(weights, values)
    summed = tf.reduce_sum(values)
    if reduction == "sum":
        return Term(summed, None)
    if reduction == "mean_with_sample_weight" and weights is not None:
        return Term(summed, tf.reduce_sum(weights))
    if valid is not None:
        return Term(summed, valid)
    if values.shape.rank == 0:
        # Keras treats such a value as that of the batch; a part of a batch has no such value.
        count = tf.cast(examples, values.dtype)
        return Term(summed * count, count)
    if not (per_example and values.shape[1:].is_fully_defined()):
        return Term(summed, tf.cast(tf.size(values), values.dtype))
    # The plain number of examples is a weight that losses and regularisers have in common.
    return Term(summed / max(math.prod(values.shape[1:]), 1), tf.cast(examples, values.dtype))


def _valid(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Counts the unmasked values as Keras does: the mask's entries, times the values of each entry."""
    each = tf.math.divide_no_nan(tf.cast(tf.size(values), values.dtype), tf.cast(tf.size(mask), values.dtype))
    return tf.reduce_sum(mask) * each


def _mask_of(tensor: Any) -> Any:
    """Returns the mask that Keras attaches to a tensor (no public function reads it)."""
    return getattr(tensor, "_keras_mask", None)


def _both(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return right if left is None else left
    return tf.logical_and(left, right)


def _by_example(weights: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns weights with trailing axes of length 1, so an example's weight applies to all its values.

    Keras aligns them with the last axis, which fails, or is wrong if that axis is as long as the batch.
    """
    missing = values.shape.rank - weights.shape.rank if weights.shape.rank else 0
    return tf.reshape(weights, tf.concat([tf.shape(weights), [1] * missing], 0)) if missing > 0 else weights


def _same_rank(left: Any, right: Any) -> tuple[Any, Any]:
    """Adds or drops a last axis of length one, as Keras does between values and weights."""
    if left.shape.rank == right.shape.rank + 1:
        if left.shape[-1] == 1 and right.shape.rank != 1:
            left = tf.squeeze(left, -1)
        elif left.shape[-1] == 1:
            right = tf.expand_dims(right, -1)
    elif right.shape.rank == left.shape.rank + 1 and right.shape[-1] == 1:
        if left.shape.rank == 1:
            left = tf.expand_dims(left, -1)
        else:
            right = tf.squeeze(right, -1)
    return left, right
