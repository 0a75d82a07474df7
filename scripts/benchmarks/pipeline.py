"""The input of all but looplab, which has its own: arrays, gathered in an order drawn for each pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.workloads import BATCH


def orders(rows: int, number: Any, stack: tuple[int, ...]) -> tf.Tensor:
    """Returns the rows of pass `number` by batches, shape `[passes' batches, *stack, BATCH]`, int32."""
    seed = tf.stack([tf.constant(0, tf.int64), tf.cast(number, tf.int64)])
    order = tf.random.experimental.stateless_shuffle(tf.range(rows), seed=seed, alg="philox")
    return tf.reshape(order, [-1, *stack, BATCH])


def pipeline(arrays: tuple[np.ndarray, np.ndarray], stack: tuple[int, ...] = ()) -> tf.data.Dataset:
    """Returns endless batches; with `stack=(k,)` k of them at a time, of shape `[k, BATCH, ...]`."""
    x, y = (tf.constant(array) for array in arrays)
    rows = len(arrays[0])
    passes = tf.data.Dataset.range(2**62)
    batches = passes.flat_map(lambda n: tf.data.Dataset.from_tensor_slices(orders(rows, n, stack)))
    gathered = batches.map(lambda index: (tf.gather(x, index), tf.gather(y, index)))
    return gathered.prefetch(tf.data.AUTOTUNE)
