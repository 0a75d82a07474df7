"""Batches that a feed gives several of at once: an iterator of them, or their rows in one piece."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from looplab.strategy import tree


class Stacked(NamedTuple):
    """Consecutive batches in one piece, which a loop in the graph takes apart.

    Attributes:
        rows: Nested structure of tensors of shape `[rows of all batches, ...]`.
        size: Scalar int32, rows of each batch; the last may be shorter.
    """

    rows: Any
    size: tf.Tensor


Taken = Any  # a tf.data.Iterator of batches, or Stacked


def batch_at(taken: Taken, index: Any, rows: int | None = None) -> Any:
    """Returns one of the batches that were taken, each asked for once and in order.

    Args:
        taken: From `Feed.take`.
        index: Which one, from 0.
        rows: How many rows every batch of the feed has; None if that is not fixed.
    """
    if isinstance(taken, tf.data.Iterator):
        return next(taken)
    first = index * taken.size

    def part(tensor: tf.Tensor) -> tf.Tensor:
        own = tensor[first : first + taken.size]
        return own if rows is None else tf.ensure_shape(own, [rows, *tensor.shape[1:]])

    return tree.map_structure(part, taken.rows)


class Waits(NamedTuple):
    """For how long a loop in the graph has waited for batches; carried from step to step, outside XLA.

    The pipeline goes on while a step runs, and TensorFlow may ask for the next batch meanwhile. What counts
    is the time in which the step is done and the next batch is not there.

    Attributes:
        seconds: Scalar float64, the sum so far.
        free: Scalar float64, the time at which the loop could have begun its next step.
    """

    seconds: tf.Tensor
    free: tf.Tensor

    @classmethod
    def begin(cls) -> Waits:
        """Begins to wait for a first batch."""
        return cls(tf.constant(0.0, tf.float64), tf.timestamp())

    def until(self, batch: Any) -> Waits:
        """Counts the time until a batch was there."""
        with tf.control_dependencies(tree.flatten(batch, expand_composites=True)):
            waited = tf.timestamp() - self.free
        return self._replace(seconds=self.seconds + tf.maximum(waited, 0.0))

    def after(self, result: Any) -> Waits:
        """Begins to wait again, once a step is done and what it does to variables too."""
        with tf.control_dependencies(tree.flatten(result, expand_composites=True)):
            return self._replace(free=tf.timestamp())


def spec_of(taken: Taken) -> Any:
    """Returns the type of whatever a feed gives, for any number of batches."""
    if isinstance(taken, tf.data.Iterator):
        return taken
    rows = tree.map_structure(lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), taken.rows)
    return Stacked(rows, tf.TensorSpec([], tf.int32))


def words(spec: Any) -> str:
    """Returns a specification in words, `?` for a length that may change."""
    if tree.is_absent(spec):
        return "None"
    if isinstance(spec, dict):
        return "{" + ", ".join(f"{key}: {words(part)}" for key, part in spec.items()) + "}"
    if isinstance(spec, tuple | list):
        return "(" + ", ".join(map(words, spec)) + ")"
    shape = ", ".join("?" if length is None else str(length) for length in spec.shape)
    return f"{spec.dtype.name} [{shape}]"
