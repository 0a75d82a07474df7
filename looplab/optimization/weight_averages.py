"""Exponential moving averages of weights (Keras' `use_ema`), and evaluation with them.

Keras keeps the averages as variables of the optimizer: after the first update an average is the weight
itself, and after each further update `momentum * average + (1 - momentum) * weight` (Polyak and Juditsky
1992; `keras.optimizers.Optimizer`, Keras 3.15). With `ema_overwrite_frequency` the weights become their
averages after every so many updates.

`ScheduleFreeAdamW` keeps an average too, inside its update: it computes the trained weights from it, and
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

# Weights, each with the replacement of its value: the variable of its average, or an array.
Averages = list[tuple[Any, Any]]


def keep_averages(optimizer: keras.optimizers.Optimizer) -> None:
    """Starts the averages of an optimizer that was just built, and keeps those of frozen weights.

    Keras' averages are zeros before the first update. Keras also updates the average of a weight that is not
    trained, which changes it by rounding.
    """
    if not optimizer.use_ema:
        return
    for weight, average in _pairs(optimizer):
        average.assign(weight)

    def update(variables: Any) -> None:
        first = tf.equal(tf.convert_to_tensor(optimizer.iterations), 0)
        for weight, average in _pairs(optimizer):
            value = tf.cast(weight, average.dtype)  # it may have been set since the build
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
        optimizer: A built optimizer.
        variables: The variables that the update trains.
    """
    overwrites = optimizer.use_ema and optimizer.ema_overwrite_frequency
    return optimizer._trainable_variables if overwrites else variables


def begin_at_weights(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes the first update of `ScheduleFreeAdamW` start from the weights at that time.

    Keras copies the weights when it builds the optimizer. `model.fit` builds it where no variable can be
    assigned, so its copies are zeros unless it runs eagerly (Keras 3.15); and weights may be set after that.

    Args:
        optimizer: Any built optimizer that `keep_numbers` prepared; other optimizers do not change.
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
    """Returns a note on the weights of evaluations and of the trained model; None if they are plain weights.

    Args:
        optimizer: Any optimizer.
    """
    if optimizer.use_ema:
        often = optimizer.ema_overwrite_frequency
        return (
            f"weights averaged with momentum {optimizer.ema_momentum:g}, for evaluation, best checkpoints "
            "and predictions; raw values are logged too"
            + (f"; the weights become their averages every {often} updates" if often else "")
            + "; a trainer's model keeps the raw weights when training ends (model.fit leaves the averages): "
            "use a block with trainer.averaged_weights()"
        )
    if isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW):
        return (
            "that in ScheduleFreeAdamW starts at the model's weights; in model.fit it starts at zeros unless "
            "run eagerly, which loses the first weights. Evaluations use the trained weights, as in model.fit"
        )
    return None


def averages_of(optimizers: Iterable[keras.optimizers.Optimizer]) -> Averages:
    """Returns each weight that has an average, with its average; before the first update there is none."""
    return [
        pair
        for optimizer in optimizers
        if optimizer.use_ema and optimizer.built and optimizer.iterations.numpy()
        for pair in _pairs(optimizer)
    ]


@contextmanager
def exchanged(averages: Averages) -> Iterator[None]:
    """Replaces the weights by their averages within the block; on the host, between steps.

    However the block ends, the weights are restored bit by bit.
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
