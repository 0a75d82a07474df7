"""Python numbers that TensorFlow treats as exact float64 numbers.

`tf.cast(0.1, tf.float64)` is `0.10000000149`: TensorFlow makes a float32 tensor of a Python number before it
casts it. The same happens in Keras' optimizers and schedules to rates, betas and decays. With
`precision="float64"` looplab gives them these numbers instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


class Double(float):
    """A Python float that becomes a float64 tensor unless another dtype is requested.

    Otherwise it behaves like that float: beside a tensor it takes the tensor's dtype.
    """

    dtype = float  # Keras' operations read it: weakly typed like a Python number

    def __tf_tensor__(self, dtype: tf.DType | None = None, name: str | None = None) -> tf.Tensor:
        """Returns the tensor; TensorFlow calls it."""
        return tf.constant(float(self), dtype or tf.float64, name=name)

    def __radd__(self, other: Any) -> Any:
        """Adds; TensorFlow calls it for a float32 tensor, whose `+` does not pass its dtype."""
        return other + float(self)


def as_double(value: Any) -> Any:
    """Returns `value`, a number or a list or tuple, with its floats replaced by `Double`."""
    return _exchanged(value, float | np.floating, Double)


def as_given(value: Any) -> Any:
    """Reverses `as_double`: returns `value` with plain Python floats."""
    return _exchanged(value, Double, float)


def _exchanged(value: Any, kind: Any, to: type[float]) -> Any:
    if isinstance(value, kind):
        return value if type(value) is to else to(value)
    if type(value) in (list, tuple) and any(isinstance(part, kind) for part in value):
        return type(value)(_exchanged(part, kind, to) for part in value)
    return value
