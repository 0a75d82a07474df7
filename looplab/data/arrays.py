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

    Pass `p` visits the rows in an order that depends on `(seed, p)` alone, each exactly once, so any
    batch of any pass is found at once, on any number of replicas. The last batch may be short. An
    epoch is a pass, unless `steps_per_epoch` says otherwise.

    The order is drawn whole (`tf.random.experimental.stateless_shuffle`: 13 ms for a million rows).
    `index_shuffle`, which finds single rows, prefers some places to others: over 1500 epochs of 100
    rows the chi-square of where each row stood was 347 standard deviations off, this one's 1.2.
    """

    max_take: int | None = None
    resumes = "at once"

    def __init__(
        self,
        arrays: Any,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        steps_per_epoch: int | None = None,
    ) -> None:
        """Takes the arrays as they are (floating point ones in Keras' float type).

        Args:
            arrays: Nested structure of arrays or tensors, shapes `[examples, ...]`.
            batch_size: Examples of a global batch, at least 1.
            shuffle: Whether each pass has an order of its own; otherwise rows come as they are.
            seed: Decides the orders; 0 to 2**32 - 1.
            steps_per_epoch: Steps of an epoch, which goes on where the one before stopped; or None.

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
        self._pass = -(-self.size // batch_size)  # steps in which every row comes once
        self.steps_per_epoch: int | None = steps_per_epoch or self._pass
        self._shuffle, self._seed = shuffle, seed
        ragged = self.size % batch_size != 0
        rows = None if ragged else batch_size
        self.element_spec = tf.nest.map_structure(
            lambda a: tf.TensorSpec([rows, *a.shape[1:]], a.dtype), self._arrays
        )
        self._iterator: Any = None

    def seek(self, step: int) -> None:
        """See `Feed`. Costs the same at every step."""
        number, index = divmod(step, self._pass)
        rest = tf.data.Dataset.range(number + 1, _ENDLESS).flat_map(lambda n: self._batches(n, 0))
        batches = self._batches(tf.constant(number, tf.int64), index).concatenate(rest)
        self._iterator = iter(batches.prefetch(4))

    def take(self, count: int) -> Any:
        """See `Feed`: the iterator itself, of which the caller takes `count` batches."""
        return self._iterator

    def batch(self, step: int) -> Any:
        """See `Feed`."""
        number, index = divmod(step, self._pass)
        return self._gather(self._order(tf.constant(number, tf.int64)), tf.constant(index, tf.int64))

    def position(self, step: int) -> dict[str, Any]:
        """See `Feed`."""
        number, index = divmod(step, self._pass)
        return {
            "kind": "arrays",
            "epoch": number,
            "batch": index,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "examples": self.size,
            "batch_size": self.batch_size,
        }

    def examples(self, step: int) -> int | None:
        """See `Feed`."""
        number, index = divmod(step, self._pass)
        return number * self.size + min(index * self.batch_size, self.size)

    def describe(self) -> str:
        """See `Feed`."""
        order = "shuffled by index" if self._shuffle else "in order"
        steps = f"{self.steps_per_epoch} step{'s' * (self.steps_per_epoch != 1)} an epoch"
        return f"{self.size} examples {order}, batch {self.batch_size}, {steps}"

    def _batches(self, number: tf.Tensor, first: int) -> tf.data.Dataset:
        """Returns the batches of a pass, a scalar int64, from its `first` one on."""
        order = self._order(number)
        indices = tf.data.Dataset.range(first, self._pass)
        return indices.map(lambda index: self._gather(order, index), num_parallel_calls=2, deterministic=True)

    def _order(self, number: tf.Tensor) -> tf.Tensor:
        """Returns the rows in the order of a pass, shape `[examples]`, int64."""
        rows = tf.range(self.size, dtype=tf.int64)
        if not self._shuffle:
            return rows
        seed = tf.stack([tf.constant(self._seed, tf.int64), number])
        return tf.random.experimental.stateless_shuffle(rows, seed=seed, alg="philox")

    def _gather(self, order: tf.Tensor, index: tf.Tensor) -> Any:
        """Returns a batch of a pass by its index in it, a scalar int64."""
        start = index * self.batch_size
        rows = order[start : start + self.batch_size]
        return tf.nest.map_structure(
            lambda array, spec: tf.ensure_shape(tf.gather(array, rows), spec.shape),
            self._arrays,
            self.element_spec,
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
