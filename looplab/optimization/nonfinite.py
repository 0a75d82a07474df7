"""Numbers that are not finite: the variables that reveal them after a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras


def traces(
    optimizers: Mapping[str, keras.optimizers.Optimizer], trained: Mapping[str, Sequence[Any]]
) -> list[Any]:
    """Returns variables in which a gradient that was not finite remains for ever; none if it may vanish.

    Keras' optimizers add gradients, or their squares, to their variables, and infinity and NaN remain in a
    sum. But clipping by value hides an infinite gradient, and without such variables (plain SGD) a later step
    may overwrite it.

    Args:
        optimizers: The optimizers by name.
        trained: The variables that each of them trains.
    """
    found: list[Any] = []
    for name, optimizer in optimizers.items():
        shaped = [v for v in optimizer.variables if v.dtype.startswith("float") and v.shape]
        keras_own = type(optimizer).__module__.startswith("keras.")
        if not keras_own or optimizer.clipvalue is not None or len(shaped) < len(trained[name]):
            return []
        found += [*trained[name], *shaped]
    return found
