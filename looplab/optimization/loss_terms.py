"""The terms of a loss, before it is a number: each term is a sum and the weight that divides it.

The mean over a global batch cannot be computed from means over its parts, so nothing here divides. For each
term of the loss, every part of the batch (a replica's rows, a micro-batch) gives the sum of its weighted
values and the sum of the weights; the update adds these and divides once.
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
        weight: Scalar of the same dtype; the sum over all parts is divided by the sum of the weights. None
            for a term that is a sum and is not divided. Terms that hold the same tensor here share one
            backward pass.
        scale: The factor of its mean in the total loss; it is logged without it.
        dependence: Returns a text about how the value of an example depends on other examples, as far as that
            is known: such a loss cannot be computed on parts of a batch. Returns None if it does not depend
            on them.
    """

    total: tf.Tensor
    weight: tf.Tensor | None
    scale: float = 1.0
    dependence: Callable[[], str | None] = lambda: None

    def mean(self) -> tf.Tensor:
        """Returns the term's value, if total and weight are those of the whole batch."""
        return self.total if self.weight is None else tf.math.divide_no_nan(self.total, self.weight)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    """Refuses arithmetic on a sum with its weight, whose result would be wrong."""
    raise LossError(
        "arithmetic with the result of compute_loss (or a Keras loss): it is a sum with its weight, not "
        "values. Return several terms by name, {'own': super().compute_loss(...), 'penalty': values}; "
        "their means are added. Or compute values of shape [examples] yourself."
    )


for _operator in ("add", "sub", "mul", "truediv", "pow"):
    setattr(Term, f"__{_operator}__", _refuse)
    setattr(Term, f"__r{_operator}__", _refuse)
setattr(Term, "__neg__", _refuse)  # noqa: B010 - like the operators above
tf.register_tensor_conversion_function(Term, _refuse, priority=0)


def weighted_terms(
    result: Any, *, regularization: list[Any], examples: tf.Tensor, valid: Any = None
) -> dict[str, Term]:
    """Reads the result of a user's loss function.

    Args:
        result: Values of shape `[examples, ...]`; or `(values, weights)`, where the weights broadcast against
            the values; or a `Term`; or a dict of these by name, which is empty if `regularization` is the
            whole loss.
        regularization: Scalars that count once for the global batch (`model.losses`); for other tensors the
            sum of their values, as in Keras.
        examples: Scalar float, the number of examples in this part of the batch.
        valid: Which of its rows are examples, bool of shape `[rows]`; None for all.

    Returns:
        The terms by name; the only term of an unnamed loss is called `"loss"`.

    Raises:
        LossError: For a scalar without its weight, or anything else that has no defined mean.
    """
    if result is None:
        raise LossError(
            "the loss function returned None (is return missing?); return values of shape [examples, ...], a "
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
            "'regularization' that of the models' penalties. Give the term another name."
        )
    if regularization:
        count = tf.cast(examples, next(iter(terms.values())).total.dtype) if terms else examples
        penalty = tf.add_n([tf.reduce_sum(tf.cast(value, count.dtype)) for value in regularization])
        # Weighted by examples, the penalties of all parts sum to one penalty, however the batch was split.
        # The
        # penalty of a part without examples is dropped, because a mean over no examples is not a number.
        terms["regularization" if terms else "loss"] = Term(tf.math.multiply_no_nan(penalty, count), count)
    return terms


def _term(value: Any, name: str, valid: Any) -> Term:
    if isinstance(value, Term):
        return value
    if isinstance(value, tuple) and len(value) == 2 and any(part is None for part in value):
        value = value[0]  # values without weights, if the batch has none
    if value is None:
        raise LossError(f"the loss term {name!r} is None; leave it out, or return its values.")
    if valid is not None and not isinstance(value, tuple):
        value = value, 1.0
    if isinstance(value, tuple) and len(value) == 2:
        values = _wide(value[0])
        # The weight of every value; one weight may stand for a whole row of values.
        weights = tf.cast(value[1], values.dtype) * tf.ones_like(values)
        if valid is not None:
            weights *= by_row(valid, values, name)
        # A value of weight 0 does not count, even if it is NaN (the mean of no rows).
        return Term(tf.reduce_sum(tf.math.multiply_no_nan(values, weights)), tf.reduce_sum(weights))
    if isinstance(value, tuple | list | Mapping):
        raise LossError(
            f"the loss term {name!r} is a {type(value).__name__}; return values of shape "
            "[examples, ...], a pair (values, weights), or a dict of these by name."
        )
    values = _wide(value)
    if values.shape.rank == 0:
        raise LossError(
            f"the loss term {name!r} is a scalar. A mean over part of a batch does not determine the mean "
            "over the whole batch: return the values, shape [examples, ...], and looplab takes the mean; or "
            "return (mean, weight), where weight is the count or the sum of weights of that mean. (A "
            "keras.losses.Loss called on a batch gives a scalar; create it with reduction=None.)"
        )
    return Term(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))


def by_row(valid: tf.Tensor, values: tf.Tensor, name: str) -> tf.Tensor:
    """Returns 1 for every value of an example, and 0 for the values of padded rows."""
    if values.shape.rank == 0 or values.shape[0] != valid.shape[0]:
        raise LossError(
            f"the loss term {name!r} has shape {tuple(values.shape)} for {valid.shape[0]} rows, of which "
            "some are padded (strategy=tpu), so looplab cannot leave these out. Return values of shape "
            "[examples, ...], or give batches of one size that the replicas share evenly "
            "(drop_remainder=True)."
        )
    rows = tf.reshape(valid, [-1, *[1] * (values.shape.rank - 1)])
    dtype = values.dtype if values.dtype.is_floating else tf.float32
    return tf.cast(rows, dtype) * tf.ones_like(values, dtype)


def _wide(values: Any) -> tf.Tensor:
    """Returns values in a dtype that is precise enough for sums and counts: at least float32."""
    values = tf.convert_to_tensor(values)
    return tf.cast(values, tf.float32) if values.dtype.size < 4 else values


def penalties(models: Sequence[keras.Model]) -> list[Any]:
    """Returns the scalars in the models' `losses`; a penalty of a shared layer or weight appears once.

    Runs inside a step, after the models were called.
    """
    found: dict[int, Any] = {}
    for model in models:
        losses = model.losses
        # Keras puts the losses of `add_loss` first, then one for each weight with a regularizer.
        weights = [own for own in model.trainable_weights if own.regularizer is not None]
        added, of_weights = losses[: len(losses) - len(weights)], losses[len(losses) - len(weights) :]
        found |= {id(penalty): penalty for penalty in added}
        found |= {id(weight): penalty for weight, penalty in zip(weights, of_weights, strict=True)}
    return list(found.values())
