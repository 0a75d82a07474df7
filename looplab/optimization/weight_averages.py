"""Exponential moving averages of weights (Keras' `use_ema`), and evaluating with them.

Keras keeps the averages as variables of the optimizer: after the first update an average is the
weight itself, then `momentum * average + (1 - momentum) * weight` after each one (Polyak and Juditsky
1992; `keras.optimizers.Optimizer`, Keras 3.15). With `ema_overwrite_frequency` the weights become their
averages after every so many updates.

`ScheduleFreeAdamW` keeps an average too, inside its update: the weights that it trains are made of it, and
`model.fit` evaluates with those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from looplab.compat import patches
from looplab.strategy import local_part, unwrapped

_APPLY = "keras.optimizers.Optimizer._backend_apply_gradients"

# Weights, and what stands for each of them: the variable of its average, or an array.
Averages = list[tuple[Any, Any]]


def keep_averages(optimizer: keras.optimizers.Optimizer) -> None:
    """Starts the averages of an optimizer that was just built, and keeps those of frozen weights.

    Keras' averages are zeros before the first update, and go on being computed for a weight that is
    not trained, which changes them by rounding.
    """
    if not optimizer.use_ema:
        return
    for weight, average in _pairs(optimizer):
        average.assign(weight)

    def update(variables: Any) -> None:
        first = tf.equal(tf.convert_to_tensor(optimizer.iterations), 0)
        for weight, average in _pairs(optimizer):
            value = tf.cast(weight, average.dtype)  # whose first one may have been set since it was built
            after = average
            if weight.trainable:
                after = optimizer.ema_momentum * average + (1 - optimizer.ema_momentum) * value
            average.assign(tf.where(first, value, after))

    def overwrite(variables: Any) -> None:
        for weight, average in _pairs(optimizer):
            if weight.trainable:
                local_part(unwrapped(weight)).assign(average)

    patches.patch("keras.optimizers.Optimizer._update_model_variables_moving_average", optimizer, update)
    patches.patch(
        "keras.optimizers.Optimizer._overwrite_model_variables_with_average_value", optimizer, overwrite
    )


def set_by_update(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> Sequence[Any]:
    """Returns the weights that an update may set: with `ema_overwrite_frequency` all of the optimizer's.

    Args:
        optimizer: Built.
        variables: What the update trains.
    """
    overwrites = optimizer.use_ema and optimizer.ema_overwrite_frequency
    return optimizer._trainable_variables if overwrites else variables


def begin_at_weights(optimizer: keras.optimizers.Optimizer) -> None:
    """Has the first update of `ScheduleFreeAdamW` begin at the weights that there are then.

    Keras copies them when it builds the optimizer. `model.fit` builds it where no variable is assigned, so
    that its copies are zeros unless it runs eagerly (Keras 3.15); and weights may be set after that.

    Args:
        optimizer: Any, built, and prepared by `keep_numbers`; others stay as they are.
    """
    if not isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW):
        return
    apply = optimizer._backend_apply_gradients

    def begin_and_apply(*arguments: Any) -> None:
        first = tf.equal(tf.convert_to_tensor(optimizer.iterations), 0)
        for weight, copy in zip(optimizer._trainable_variables, optimizer._momentums, strict=True):
            if copy is not None:
                copy.assign(tf.where(first, tf.cast(weight, copy.dtype), copy))
        apply(*arguments)

    patches.patch(_APPLY, optimizer, begin_and_apply)


def remark(optimizer: keras.optimizers.Optimizer) -> str | None:
    """Returns what evaluations, and the model after training, have of an optimizer; None if just its weights.

    Args:
        optimizer: Any.
    """
    if optimizer.use_ema:
        often = optimizer.ema_overwrite_frequency
        return (
            f"weights averaged with momentum {optimizer.ema_momentum:g}, for evaluation, best checkpoints "
            "and predictions; raw values beside"
            + (f"; the weights become their averages every {often} updates" if often else "")
            + "; a trainer's model keeps the raw weights when training ends, where model.fit leaves the "
            "averages: it has them in a block with trainer.averaged_weights()"
        )
    if isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW):
        return (
            "that in ScheduleFreeAdamW begins at the model's weights; in model.fit it begins at zeros unless "
            "run eagerly, which loses the first weights. Evaluations use the trained weights, as in model.fit"
        )
    return None


def averages_of(optimizers: Iterable[keras.optimizers.Optimizer]) -> Averages:
    """Returns the weights that have an average, each with it; before the first update none has."""
    return [
        pair
        for optimizer in optimizers
        if optimizer.use_ema and optimizer.built and optimizer.iterations.numpy()
        for pair in _pairs(optimizer)
    ]


@contextmanager
def exchanged(averages: Averages) -> Iterator[None]:
    """Puts the averages in the place of the weights within the block; on the host, between steps.

    However the block ends, the weights are afterwards what they were, bit by bit.
    """
    before = [(unwrapped(weight), tf.identity(unwrapped(weight))) for weight, _ in averages]
    try:
        for weight, average in averages:
            unwrapped(weight).assign(tf.identity(unwrapped(average)))
        yield
    finally:
        for weight, value in before:
            weight.assign(value)


def _pairs(optimizer: keras.optimizers.Optimizer) -> Averages:
    pairs = zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True)
    return [(weight, average) for weight, average in pairs if average is not None]
