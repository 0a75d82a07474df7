"""The communication of replicas within a step: sums, rows, and each replica's copy of a variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from looplab.strategy import tree


def average_parts(parts: Sequence[tf.Variable], held: Sequence[tf.Tensor]) -> None:
    """Sets each replica's copy of a variable to the mean of all copies, weighted by their rows.

    Runs outside of replicas, after a step. The copy of a replica without rows may be NaN and does not count.

    Args:
        parts: The variable of each replica.
        held: The number of rows that each replica had; see `rows_held`.
    """
    values = [part.read_value() for part in parts]
    size = tf.add_n(list(held))
    shares = [tf.cast(rows, value.dtype) for rows, value in zip(held, values, strict=True)]
    # Relative to the last replica, which has rows if any has: equal values stay the same, bit by bit.
    change = tf.add_n(
        [tf.math.multiply_no_nan(v - values[-1], share) for v, share in zip(values, shares, strict=True)]
    )
    mean = values[-1] + change / tf.cast(size, change.dtype)
    for part in parts:
        part.assign(mean)


def reduce_sum(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sums each tensor over the replicas; every replica gets the result. Inside `strategy.run`.

    Outside of a replica (one device, or the first trace of a step) it changes nothing.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1 or not tensors:
        return list(tensors)
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))


def all_gather(tensor: tf.Tensor) -> tf.Tensor:
    """Concatenates a tensor's rows over the replicas; gradients flow back. Inside `strategy.run`.

    Args:
        tensor: Shape `[local, ...]`; `local` may differ between replicas.

    Returns:
        A tensor of shape `[global, ...]`, the same on every replica, in the order of the global batch.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensor
    return context.all_gather(tensor, axis=0)


def replicas() -> int:
    """Returns the number of replicas in the running step."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def meets() -> bool:
    """Whether the running step's replicas (even a single one) are threads that wait for each other."""
    threaded = tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy
    return isinstance(tf.distribute.get_strategy(), threaded)


def local_part(variable: Any) -> tf.Variable:
    """Returns this replica's copy of a variable; inside `strategy.run`.

    An assignment to it changes this replica only.
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        return variable
    parts = context.strategy.experimental_local_results(variable)
    return parts[int(tf.get_static_value(context.replica_id_in_sync_group)) % len(parts)]


def first(strategy: tf.distribute.Strategy, value: Any) -> Any:
    """Takes the first replica's results of values that are the same on every replica."""
    return tree.map_structure(lambda v: strategy.experimental_local_results(v)[0], value)


def unwrapped(variable: Any) -> Any:
    """Returns the TensorFlow variable inside a Keras variable; any other variable unchanged."""
    return variable.value if isinstance(variable, keras.Variable) else variable
