"""Numbers of Python that TensorFlow takes as the doubles they are.

`tf.cast(0.1, tf.float64)` is `0.10000000149`: TensorFlow makes a float32 tensor of a Python number before it
casts it. So do Keras' optimizers and schedules, with rates, betas and decays. With `precision="float64"`
looplab gives them these numbers instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


class Double(float):
    """A Python float that becomes a float64 tensor where nobody asks for another dtype.

    In all else it is that float: beside a tensor it takes the tensor's dtype.
    """

    dtype = float  # Keras' operations ask for it: as weak as any Python number

    def __tf_tensor__(self, dtype: tf.DType | None = None, name: str | None = None) -> tf.Tensor:
        """Returns the tensor; TensorFlow calls it."""
        return tf.constant(float(self), dtype or tf.float64, name=name)

    def __radd__(self, other: Any) -> Any:
        """Adds; TensorFlow calls it for a float32 tensor, whose `+` does not tell which dtype it needs."""
        return other + float(self)


def as_double(value: Any) -> Any:
    """Returns a number, or a list or tuple that has some, with `Double` for floats; else `value` itself."""
    return _exchanged(value, float | np.floating, Double)


def as_given(value: Any) -> Any:
    """Takes `as_double` back: returns what has `Double` with the numbers of Python; else `value` itself."""
    return _exchanged(value, Double, float)


def _exchanged(value: Any, kind: Any, to: type[float]) -> Any:
    if isinstance(value, kind):
        return value if type(value) is to else to(value)
    if type(value) in (list, tuple) and any(isinstance(part, kind) for part in value):
        return type(value)(_exchanged(part, kind, to) for part in value)
    return value
