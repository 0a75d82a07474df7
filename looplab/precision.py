"""The dtypes a trainer computes in.

`float32` computes and stores in float32, `float64` in float64 (for checks against an oracle);
`mixed_bfloat16` and `mixed_float16` compute in 16 bits and keep variables, losses and updates in float32;
float16, whose range is small, with losses that are scaled (`looplab.optimization.LossScale`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from looplab.errors import ConfigurationError, nearest

# name -> Keras' floatx while the trainer works
_FLOATX = {
    "float32": "float32",
    "float64": "float64",
    "mixed_bfloat16": "float32",
    "mixed_float16": "float32",
}


def check(name: str) -> str:
    """Returns `name` if it is a precision looplab offers.

    Raises:
        ConfigurationError: Otherwise, with the nearest valid name.
    """
    if name not in _FLOATX:
        raise ConfigurationError(
            f"precision: {name!r} is not offered; choose one of {', '.join(_FLOATX)}."
            + nearest(str(name), _FLOATX)
        )
    return name


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Makes `name` Keras' dtype policy and float type within the block, and puts both back after.

    Keras' settings are global to the process; the scope is what lets two trainers of different
    precision live in one. Layers and losses keep the policy they were made under.
    """
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(_FLOATX[name])
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
