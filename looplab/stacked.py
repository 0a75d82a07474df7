"""Batches that a feed gives several of at once: an iterator of them, or their rows in one piece."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


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

    return tf.nest.map_structure(part, taken.rows)


def spec_of(taken: Taken) -> Any:
    """Returns the type of whatever a feed gives, for any number of batches."""
    if isinstance(taken, tf.data.Iterator):
        return taken
    rows = tf.nest.map_structure(lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), taken.rows)
    return Stacked(rows, tf.TensorSpec([], tf.int32))
