"""Arrays as a feed: shuffled by index, so that a position is three integers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.errors import DataError

_ENDLESS = 2**62


class ArrayFeed:
    """Batches of arrays that share their first axis; see `looplab.protocols.Feed`.

    Epoch `e` visits the rows in an order that depends on `(seed, e)` alone, each exactly once. The
    order is computed row by row (`tf.random.experimental.index_shuffle`), so any batch of any epoch
    is found at once, on any number of replicas. The last batch of an epoch may be short.
    """

    max_take: int | None = None

    def __init__(self, arrays: Any, batch_size: int, *, shuffle: bool, seed: int) -> None:
        """Takes the arrays as they are (floating point ones in Keras' float type).

        Args:
            arrays: Nested structure of arrays or tensors, shapes `[examples, ...]`.
            batch_size: Examples of a global batch, at least 1.
            shuffle: Whether each epoch has an order of its own; otherwise rows come as they are.
            seed: Decides the orders; 0 to 2**32 - 1.

        Raises:
            DataError: If there is no example, or the arrays have different lengths.
        """
        self._arrays = tf.nest.map_structure(_tensor, arrays)
        lengths = {int(array.shape[0]) for array in tf.nest.flatten(self._arrays)}
        if len(lengths) != 1:
            shapes = [tuple(array.shape) for array in tf.nest.flatten(self._arrays)]
            raise DataError(
                f"the arrays have different lengths {sorted(lengths)}, their shapes are {shapes}: "
                "inputs, targets and weights need one row per example each."
            )
        self.size = lengths.pop()
        if self.size == 0:
            raise DataError("the data is empty: its arrays have no rows.")
        self.batch_size = batch_size
        self.steps_per_epoch: int | None = -(-self.size // batch_size)
        self._shuffle, self._seed = shuffle, seed
        ragged = self.size % batch_size != 0
        rows = None if ragged else batch_size
        self.element_spec = tf.nest.map_structure(
            lambda a: tf.TensorSpec([rows, *a.shape[1:]], a.dtype), self._arrays
        )
        self._iterator: Any = None

    def seek(self, step: int) -> None:
        """See `Feed`. Costs the same at every step."""
        steps = tf.data.Dataset.range(step, _ENDLESS)
        batches = steps.map(self._gather, num_parallel_calls=2, deterministic=True)
        self._iterator = iter(batches.prefetch(4))

    def take(self, count: int) -> Any:
        """See `Feed`: the iterator itself, of which the caller takes `count` batches."""
        return self._iterator

    def batch(self, step: int) -> Any:
        """See `Feed`."""
        return self._gather(tf.constant(step, tf.int64))

    def position(self, step: int) -> dict[str, Any]:
        """See `Feed`."""
        epoch, index = divmod(step, self.steps_per_epoch or 1)
        return {
            "kind": "arrays",
            "epoch": epoch,
            "batch": index,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "examples": self.size,
            "batch_size": self.batch_size,
        }

    def examples(self, step: int) -> int | None:
        """See `Feed`."""
        epoch, index = divmod(step, self.steps_per_epoch or 1)
        return epoch * self.size + min(index * self.batch_size, self.size)

    def describe(self) -> str:
        """See `Feed`."""
        order = "shuffled by index" if self._shuffle else "in order"
        return (
            f"{self.size} examples {order}, batch {self.batch_size}, "
            f"{self.steps_per_epoch} steps an epoch; resumes at once"
        )

    def _gather(self, step: tf.Tensor) -> Any:
        """Returns the batch of a step, a scalar int64; eagerly or in a data pipeline."""
        epoch, index = step // self.steps_per_epoch, step % self.steps_per_epoch
        start = index * self.batch_size
        rows = tf.range(start, tf.minimum(start + self.batch_size, self.size))
        if self._shuffle:
            seed = tf.stack([tf.constant(self._seed, tf.int64), epoch])
            last = tf.constant(self.size - 1, tf.int64)
            rows = tf.random.experimental.index_shuffle(rows, seed=seed, max_index=last)
        batch = tf.nest.map_structure(lambda array: tf.gather(array, rows), self._arrays)
        return tf.nest.map_structure(
            lambda part, spec: tf.ensure_shape(part, spec.shape), batch, self.element_spec
        )


def _tensor(array: Any) -> tf.Tensor:
    """Puts an array where the pipeline can gather from it; floats become Keras' float type."""
    if not tf.is_tensor(array):
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype(keras.config.floatx(), copy=False)
        if array.dtype.kind == "O":
            raise DataError(
                "an array has dtype object: rows of different lengths or mixed types. Pad them to "
                "one shape, or give a tf.data.Dataset."
            )
    with tf.device("/CPU:0"):
        tensor = tf.convert_to_tensor(array)
    if tensor.shape.rank == 0:
        raise DataError("an array is a scalar; its first axis must count the examples.")
    return tensor
