"""The numbers that an optimizer was made with: betas, decays, epsilons."""

from __future__ import annotations

from typing import Any

import keras

from looplab.compat import patches
from looplab.strategy.python_float64 import as_double, as_given

_APPLY = "keras.optimizers.Optimizer._backend_apply_gradients"


def keep_numbers(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer compute with the exact values of its numbers, if the float type is float64.

    Keras casts many of them through float32; see `looplab.strategy.python_float64`. Numbers in Keras' own
    code cannot be corrected: the 0.96 of `Nadam` stays rounded.

    Args:
        optimizer: An optimizer that is not built, or that served another trainer; its numbers become
            `Double`, or become plain numbers again.
    """
    patches.unpatch(_APPLY, optimizer)  # from another trainer
    _exchange(optimizer, as_given)
    if keras.config.floatx() != "float64":
        return
    _exchange(optimizer, as_double)
    apply = optimizer._backend_apply_gradients

    def apply_with_doubles(*args: Any) -> None:
        _exchange(optimizer, as_double)  # a number may have been set since
        apply(*args)

    patches.patch(_APPLY, optimizer, apply_with_doubles)


def _exchange(optimizer: keras.optimizers.Optimizer, exchange: Any) -> None:
    for name, value in list(vars(optimizer).items()):
        if (other := exchange(value)) is not value:
            setattr(optimizer, name, other)
