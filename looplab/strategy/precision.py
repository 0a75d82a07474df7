"""The dtypes in which a trainer computes.

`float32` computes and stores in float32. `float64` uses float64 (for checks against an oracle), with the
exact values of learning rates and other numbers of optimizers, which Keras would round (see
`looplab.strategy.python_float64`). `mixed_bfloat16` and `mixed_float16` compute in 16 bits and keep
variables, outputs, losses and updates in float32; float16, whose range is small, needs scaled losses
(`looplab.optimization.LossScale`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import keras
import tensorflow as tf

from looplab.compat import patches
from looplab.errors import ConfigurationError, nearest
from looplab.options.distribution import PRECISIONS

_log = logging.getLogger("looplab")


def settle(name: str | None) -> str:
    """Returns the precision that was given, or the one of Keras' global settings.

    These are `keras.config.set_dtype_policy` and `set_floatx`, if they are not float32. A given precision
    takes precedence, with a warning if they differ from it.

    Raises:
        ConfigurationError: If looplab does not offer it.
    """
    policy, floatx = keras.config.dtype_policy().name, keras.config.floatx()
    said = {
        f"keras.config.{setting}({value!r})": value
        for setting, value in (("set_dtype_policy", policy), ("set_floatx", floatx))
        if value != "float32"
    }
    words = " and ".join(said)
    if name is not None:
        name = check(name)
        if {*said.values()} - {name}:
            _log.warning(
                "precision: this trainer computes in %s, not by %s, which applies to the whole process.",
                name,
                words,
            )
        return name
    if len({*said.values()}) > 1:
        raise ConfigurationError(
            f"precision: {words} contradict each other, and Trainer(precision=...) is not given: give one of "
            f"{', '.join(PRECISIONS)}."
        )
    found = next(iter(said.values()), "float32")
    if found not in PRECISIONS:
        raise ConfigurationError(
            f"precision: {words} applies to the whole process, and looplab does not train in it. Set "
            f"another one, or give Trainer(precision=...), one of {', '.join(PRECISIONS)}."
        )
    return found


def check(name: str) -> str:
    """Returns `name` if looplab offers that precision.

    Raises:
        ConfigurationError: If not, with the nearest valid name.
    """
    if name not in PRECISIONS:
        raise ConfigurationError(
            f"precision: {name!r} is not offered; choose one of {', '.join(PRECISIONS)}."
            + nearest(str(name), PRECISIONS)
        )
    return name


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Sets Keras' dtype policy and float type to `name` within the block, and restores both after it.

    Keras' settings are global to the process; the scope lets two trainers of different precision share one
    process. Layers and losses keep the policy under which they were created.
    """
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64" if name == "float64" else "float32")  # the dtype of variables
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def widen_outputs(models: Iterable[keras.Model]) -> None:
    """Makes models that compute in 16 bits return float32, so that steps written for float32 work with them.

    Losses and their sums need that precision anyway. A model whose last layer is float32 does not change.

    Args:
        models: The models that steps call; their inner layers keep their dtypes.
    """
    for model in models:
        if not hasattr(model.call, "_looplab_widens"):
            patches.patch("keras.Model.call", model, _widening(model.call))


def _widening(call: Any) -> Any:
    @wraps(call)
    def widened(*args: Any, **kwargs: Any) -> Any:
        return keras.tree.map_structure(_wide, call(*args, **kwargs))

    widened._looplab_widens = True  # type: ignore[attr-defined]
    return widened


def _wide(output: Any) -> Any:
    if getattr(output, "dtype", None) not in (tf.float16, tf.bfloat16):
        return output
    wide = tf.cast(output, tf.float32)
    if (mask := getattr(output, "_keras_mask", None)) is not None:
        wide._keras_mask = mask
    return wide
