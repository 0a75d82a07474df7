"""What a loss is, before it is a number: terms, each a sum and the weight it is divided by.

The mean over a global batch cannot be taken from means over its parts, so nothing here divides.
Every part of the batch (a replica's rows, a micro-batch) gives, for each term of the loss, the sum
of its weighted values and the sum of the weights; the update adds these up and divides once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import keras
import tensorflow as tf

from looplab.errors import LossError


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


def weighted_terms(
    result: Any, *, regularization: list[Any], examples: tf.Tensor, valid: Any = None
) -> dict[str, Term]:
    """Reads what a user's loss function returned.

    Args:
        result: Values of shape `[examples, ...]`; or `(values, weights)`, where the weights
            broadcast against the values; or a `Term`; or a dict of these by name, an empty one where the
            whole loss is what `regularization` has.
        regularization: Scalars to be counted once for the global batch (`model.losses`); of others the sum
            of their values, as in Keras.
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
    if not terms and not regularization:
        raise LossError("the loss returned an empty dict; return at least one term.")
    taken = {"regularization"} & set(terms) or ({"loss"} & set(terms) if len(terms) > 1 else set())
    if taken:
        raise LossError(
            f"the loss returned terms named {', '.join(terms)}; 'loss' is the name of their sum and "
            "'regularization' that of the models' penalties. Name the term otherwise."
        )
    if regularization:
        count = tf.cast(examples, next(iter(terms.values())).total.dtype) if terms else examples
        penalty = tf.add_n([tf.reduce_sum(tf.cast(value, count.dtype)) for value in regularization])
        # Weighted by examples, the penalties of all parts make up one, however the batch was split. That of
        # a part without examples counts for nothing: as a mean over them it is not a number.
        terms["regularization" if terms else "loss"] = Term(tf.math.multiply_no_nan(penalty, count), count)
    return terms


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
            weights *= by_row(valid, values, name)
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


def by_row(valid: tf.Tensor, values: tf.Tensor, name: str) -> tf.Tensor:
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


def penalties(models: Sequence[keras.Model]) -> list[Any]:
    """Returns what the models' `losses` hold, scalars; of a layer or weight that several share, once.

    Inside a step, after the models were called.
    """
    found: dict[int, Any] = {}
    for model in models:
        losses = model.losses
        # Keras puts those of `add_loss` first, then one for each weight with a regularizer.
        weights = [own for own in model.trainable_weights if own.regularizer is not None]
        added, of_weights = losses[: len(losses) - len(weights)], losses[len(losses) - len(weights) :]
        found |= {id(penalty): penalty for penalty in added}
        found |= {id(weight): penalty for weight, penalty in zip(weights, of_weights, strict=True)}
    return list(found.values())
