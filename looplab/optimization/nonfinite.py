"""Numbers that are not finite: whether and where a step looks for them, and what shows them afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras


def traces(
    optimizers: Mapping[str, keras.optimizers.Optimizer], trained: Mapping[str, Sequence[Any]]
) -> list[Any]:
    """Returns variables in which a gradient that was not finite remains for ever; none if there may be none.

    Keras' optimizers add gradients, or their squares, up in variables of their own, and infinity and NaN
    stay what they are in a sum. What clips values hides an infinite one, though, and without such
    variables (plain SGD) a step may overwrite what it left.

    Args:
        optimizers: By name.
        trained: The variables of each.
    """
    found: list[Any] = []
    for name, optimizer in optimizers.items():
        shaped = [v for v in optimizer.variables if v.dtype.startswith("float") and v.shape]
        keras_own = type(optimizer).__module__.startswith("keras.")
        if not keras_own or optimizer.clipvalue is not None or len(shaped) < len(trained[name]):
            return []
        found += [*trained[name], *shaped]
    return found
