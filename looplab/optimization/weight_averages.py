"""Exponential moving averages of weights (Keras' `use_ema`), and evaluating with them.

Keras keeps the averages as variables of the optimizer: after the first update an average is the
weight itself, then `momentum * average + (1 - momentum) * weight` after each one (Polyak and Juditsky
1992; `keras.optimizers.Optimizer`, Keras 3.15).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from looplab.compat import patches
from looplab.strategy import unwrapped

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

    patches.patch("keras.optimizers.Optimizer._update_model_variables_moving_average", optimizer, update)


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
