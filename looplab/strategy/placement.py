"""The abilities of a strategy's devices; only this module tests the strategy's type."""

from __future__ import annotations

import tensorflow as tf

from looplab.protocols import HOST, TPU, Placement


def of(strategy: tf.distribute.Strategy) -> Placement:
    """Returns the abilities of a strategy's devices."""
    return TPU if isinstance(strategy, tf.distribute.TPUStrategy) else HOST


def kind(strategy: tf.distribute.Strategy) -> str:
    """Returns `"tpu"`, or `"host"` for every other strategy."""
    return of(strategy).name
