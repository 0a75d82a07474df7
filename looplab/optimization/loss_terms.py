"""What a loss is, before it is a number: terms, each a sum and the weight it is divided by.

The mean over a global batch cannot be taken from means over its parts, so nothing here divides.
Every part of the batch (a replica's rows, a micro-batch) gives, for each term of the loss, the sum
of its weighted values and the sum of the weights; the update adds these up and divides once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn

import keras
import tensorflow as tf

from looplab.errors import ConfigurationError, LossError, nearest
from looplab.execution.autograph import translated
from looplab.optimization.separability import crosses_examples, dependence, refuse_examples_twice


class Term(NamedTuple):
    """One term of a loss on one part of a batch.

    Attributes:
        total: Scalar, the sum of weighted values; differentiable.
        weight: Scalar of the same dtype; the sum over all parts is divided by the sum of these.
            None for a term that is a sum and not divided. Terms that hold the very same tensor
            here share one backward pass.
        scale: What its mean counts with in the whole loss; it is logged without.
        dependence: Says how the value of an example depends on the others, as far as that is known: such a
            loss cannot be computed on parts of a batch. None where it does not.
    """

    total: tf.Tensor
    weight: tf.Tensor | None
    scale: float = 1.0
    dependence: Callable[[], str | None] = lambda: None

    def mean(self) -> tf.Tensor:
        """Returns the term's value, once total and weight are those of the whole batch."""
        return self.total if self.weight is None else tf.math.divide_no_nan(self.total, self.weight)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    """Keeps a sum with its weight from being taken for a tensor, whose arithmetic would be nonsense."""
    raise LossError(
        "arithmetic with what compute_loss (or a Keras loss) gave: it is a sum with its weight, not values. "
        "Return several terms by name, {'own': super().compute_loss(...), 'penalty': values}; their means "
        "are added up. Or compute values of shape [examples] yourself."
    )


for _operator in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Term, f"__{_operator}__", _refuse)
    setattr(Term, f"__r{_operator}__", _refuse)
setattr(Term, "__neg__", _refuse)  # noqa: B010 - as those above
tf.register_tensor_conversion_function(Term, _refuse, priority=0)

KerasLoss = Callable[[Any, Any, Any, tf.Tensor, Any], Term]


def weighted_terms(
    result: Any, *, regularization: list[Any], examples: tf.Tensor, valid: Any = None
) -> dict[str, Term]:
    """Reads what a user's loss function returned.

    Args:
        result: Values of shape `[examples, ...]`; or `(values, weights)`, where the weights
            broadcast against the values; or a `Term`; or a dict of these by name.
        regularization: Scalars to be counted once for the global batch (`model.losses`).
        examples: Scalar float, how many examples this part of the batch holds.
        valid: Which of its rows are examples, bool of shape `[rows]`; None for all.

    Returns:
        Terms by name; the only one of an unnamed loss is called `"loss"`.

    Raises:
        LossError: For a scalar without its weight, or anything else that has no defined mean.
    """
    if result is None:
        raise LossError(
            "the loss function returned None (has it no return?); return values of shape [examples, ...], a "
            "pair (values, weights), or a dict of these by name."
        )
    named = result if isinstance(result, Mapping) else {"loss": result}
    terms = {name: _term(value, name, valid) for name, value in named.items()}
    if not terms:
        raise LossError("the loss returned an empty dict; return at least one term.")
    taken = {"regularization"} & set(terms) or ({"loss"} & set(terms) if len(terms) > 1 else set())
    if taken:
        raise LossError(
            f"the loss returned terms named {', '.join(terms)}; 'loss' is the name of their sum and "
            "'regularization' that of the models' penalties. Name the term otherwise."
        )
    if regularization:
        count = tf.cast(examples, next(iter(terms.values())).total.dtype)
        penalty = tf.add_n([tf.cast(value, count.dtype) for value in regularization])
        # Weighted by examples, the penalties of all parts make up one, however the batch was split. That of
        # a part without examples counts for nothing: as a mean over them it is not a number.
        terms["regularization"] = Term(tf.math.multiply_no_nan(penalty, count), count)
    return terms


def keras_loss(loss: keras.losses.Loss, scale: float = 1.0) -> KerasLoss:
    """Makes a term of a Keras loss, whose own `reduction` then decides the weight.

    `sum_over_batch_size` divides the weighted sum by the number of values (of those the mask leaves,
    where there is a mask), `mean_with_sample_weight` by the sum of the weights, `sum` by nothing;
    `None` counts as `sum_over_batch_size`. On one device that is what `model.fit` computes
    (`keras.losses.Loss.__call__`, Keras 3.15).

    Args:
        loss: Of Keras.
        scale: What its mean counts with in the whole loss.

    Returns:
        A function of `(y_true, y_pred, sample_weight or None, examples, valid)`, the last two as of
        `weighted_terms`.
    """
    # Keras' own losses keep the first axis; of a function's values that cannot be known.
    per_example = getattr(loss, "function", loss).__module__.startswith("keras.")
    known: list[str | None] = []

    def depends(y_true: Any, y_pred: Any) -> str | None:
        if not known:  # it is the same in every trace, and costs one
            known.append(dependence(loss.call, y_true, y_pred))
        return known[0]

    def term(y_true: Any, y_pred: Any, sample_weight: Any, examples: tf.Tensor, valid: Any = None) -> Term:
        # An object that was made before the trainer knows nothing of its precision.
        dtype = "float64" if keras.config.floatx() == "float64" else loss.dtype
        in_mask = _mask_of(y_pred)
        y_pred = tf.nest.map_structure(lambda x: keras.ops.convert_to_tensor(x, dtype), y_pred)
        y_true = tf.nest.map_structure(lambda x: keras.ops.convert_to_tensor(x, dtype), y_true)
        values = keras.ops.convert_to_tensor(translated(loss.call)(y_true, y_pred), dtype)
        if not per_example:
            _refuse_crossed(loss, y_true, y_pred, values)
        mask = _both(in_mask, _mask_of(values))
        if valid is not None:  # rows that are no examples are values that a mask leaves out
            of_rows = _by_row(valid, values if mask is None else mask, loss.name)
            mask = _both(mask, tf.cast(of_rows, tf.bool))
        own = _reduce(values, sample_weight, mask, loss.reduction, examples, per_example)
        why = _gives_one_value if values.shape.rank == 0 else partial(depends, y_true, y_pred)
        return own._replace(scale=scale, dependence=why)

    return term


def as_keras_loss(loss: Any) -> keras.losses.Loss:
    """Returns a loss object for a Keras name, a function of `(y_true, y_pred)`, or a loss.

    Raises:
        ConfigurationError: If Keras knows no such loss.
    """
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
            if tf.is_tensor(y_true) and tf.is_tensor(y_pred):  # as Keras' wrapper of functions
                y_true, y_pred = _same_rank(y_true, y_pred)
            return translated(found)(y_true, y_pred)

    return Function(name=getattr(found, "__name__", "loss"))


def _gives_one_value() -> str:
    return "gives one value for a whole batch"


def _refuse_crossed(loss: keras.losses.Loss, y_true: Any, y_pred: Any, values: tf.Tensor) -> None:
    """Refuses a loss object of a person that holds targets `[n]` against predictions `[n, 1]`.

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
            f"the loss {loss.name!r} holds targets of shape {_open(y_true)} against predictions of shape "
            f"{_open(y_pred)}: the examples of one come to stand along axis 1 of the other, so each target "
            "is held against every prediction. Give the targets an axis of length 1, y[:, None], or take it "
            "from the predictions."
        )


def _open(tensor: tf.Tensor) -> str:
    return f"[{', '.join(['n', *map(str, tensor.shape[1:])])}]"


def _term(value: Any, name: str, valid: Any) -> Term:
    if isinstance(value, Term):
        return value
    if isinstance(value, tuple) and len(value) == 2 and any(part is None for part in value):
        value = value[0]  # values without weights, as of a batch that has none
    if value is None:
        raise LossError(f"the loss term {name!r} is None; leave it out, or return its values.")
    if valid is not None and not isinstance(value, tuple):
        value = value, 1.0
    if isinstance(value, tuple) and len(value) == 2:
        values = _wide(value[0])
        # The weight of every value, where one weight stands for a row of them.
        weights = tf.cast(value[1], values.dtype) * tf.ones_like(values)
        if valid is not None:
            weights *= _by_row(valid, values, name)
        # What weighs nothing counts for nothing, even if it is NaN (the mean of no rows at all).
        return Term(tf.reduce_sum(tf.math.multiply_no_nan(values, weights)), tf.reduce_sum(weights))
    if isinstance(value, tuple | list | Mapping):
        raise LossError(
            f"the loss term {name!r} is a {type(value).__name__}; return values of shape "
            "[examples, ...], a pair (values, weights), or a dict of these by name."
        )
    values = _wide(value)
    if values.shape.rank == 0:
        raise LossError(
            f"the loss term {name!r} is a scalar. What a bare mean over part of a batch means for "
            "the whole cannot be known: return the values, shape [examples, ...], and looplab takes "
            "the mean; or return (mean, weight), where weight is the count or the sum of weights "
            "that the mean was taken over. (A keras.losses.Loss called on a batch gives a scalar; "
            "make it with reduction=None.)"
        )
    return Term(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))


def _by_row(valid: tf.Tensor, values: tf.Tensor, name: str) -> tf.Tensor:
    """Returns 1 for every value of an example and 0 for those of rows that are none."""
    if values.shape.rank == 0 or values.shape[0] != valid.shape[0]:
        raise LossError(
            f"the loss term {name!r} has shape {tuple(values.shape)} for {valid.shape[0]} rows, of which "
            "some are padded (strategy=tpu), so what counts is not known. Return values of shape "
            "[examples, ...], or give batches of one size that the replicas share evenly "
            "(drop_remainder=True)."
        )
    rows = tf.reshape(valid, [-1, *[1] * (values.shape.rank - 1)])
    dtype = values.dtype if values.dtype.is_floating else tf.float32
    return tf.cast(rows, dtype) * tf.ones_like(values, dtype)


def _wide(values: Any) -> tf.Tensor:
    """Returns values in a dtype that sums and counts them exactly enough: at least float32."""
    values = tf.convert_to_tensor(values)
    return tf.cast(values, tf.float32) if values.dtype.size < 4 else values


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
        # Keras takes such a value as that of the batch; parts of a batch have no such values.
        count = tf.cast(examples, values.dtype)
        return Term(summed * count, count)
    if not (per_example and values.shape[1:].is_fully_defined()):
        return Term(summed, tf.cast(tf.size(values), values.dtype))
    # The plain number of examples, a weight that losses and regularisers then have in common.
    return Term(summed / max(math.prod(values.shape[1:]), 1), tf.cast(examples, values.dtype))


def _valid(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Counts the values the mask leaves, as Keras does: its entries, times the values of each."""
    each = tf.math.divide_no_nan(tf.cast(tf.size(values), values.dtype), tf.cast(tf.size(mask), values.dtype))
    return tf.reduce_sum(mask) * each


def _mask_of(tensor: Any) -> Any:
    """Returns the mask that Keras hangs on a tensor (an attribute without a public reader)."""
    return getattr(tensor, "_keras_mask", None)


def _both(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return right if left is None else left
    return tf.logical_and(left, right)


def _by_example(weights: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns weights with axes of length one behind theirs: one of an example is that of all its values.

    Keras lays them along the last axis, which fails, or is wrong where it is as long as the batch.
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
