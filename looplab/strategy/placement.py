"""What the devices of a strategy can do: the one place that goes by a strategy's type for it."""

from __future__ import annotations

import tensorflow as tf

from looplab.protocols import HOST, TPU, Placement


def of(strategy: tf.distribute.Strategy) -> Placement:
    """Returns what a strategy's devices can do."""
    return TPU if isinstance(strategy, tf.distribute.TPUStrategy) else HOST


def kind(strategy: tf.distribute.Strategy) -> str:
    """Returns `"tpu"`, or `"host"` for every other strategy."""
    return of(strategy).name
