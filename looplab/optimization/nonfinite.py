"""Numbers that are not finite: whether and where a step looks for them, and what shows them afterwards."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf


class Guard(enum.Enum):
    """What a step does about a loss or a gradient that is not finite."""

    OFF = "nothing"
    HOLD = "it makes no update, and fails"
    SEE = "it fails; whoever runs it undoes the update"
    SEE_LOSS = "likewise, of a loss only: of gradients, `traces` are looked at after many steps"


def are_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Whether all numbers are finite: one pass over each tensor, since their sum is finite only then.

    (A sum of finite numbers may overflow, where training has diverged as well.)
    """
    if not tensors:
        return tf.constant(True)
    dtype = tensors[0].dtype
    return tf.math.is_finite(tf.add_n([tf.cast(tf.reduce_sum(tensor), dtype) for tensor in tensors]))


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
