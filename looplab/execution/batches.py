"""Several batches that a feed returns at once: an iterator of batches, or their rows concatenated."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from looplab.strategy import tree


class Stacked(NamedTuple):
    """Consecutive batches, concatenated, which a loop in the graph slices.

    Attributes:
        rows: A nested structure of tensors of shape `[rows of all batches, ...]`.
        size: Scalar int32, the number of rows in each batch; the last batch may be shorter.
    """

    rows: Any
    size: tf.Tensor


Taken = Any  # a tf.data.Iterator of batches, or Stacked


def batch_at(taken: Taken, index: Any, rows: int | None = None) -> Any:
    """Returns one of the taken batches; call it once for each, in order.

    Args:
        taken: From `Feed.take`.
        index: The index of the batch, from 0.
        rows: The number of rows in every batch of the feed; None if it is not fixed.
    """
    if isinstance(taken, tf.data.Iterator):
        return next(taken)
    first = index * taken.size

    def part(tensor: tf.Tensor) -> tf.Tensor:
        own = tensor[first : first + taken.size]
        return own if rows is None else tf.ensure_shape(own, [rows, *tensor.shape[1:]])

    return tree.map_structure(part, taken.rows)


class Waits(NamedTuple):
    """The time that a loop in the graph waits for batches; carried from step to step, outside XLA.

    The pipeline continues while a step runs, and TensorFlow may request the next batch meanwhile. Only the
    time counts in which the step is done and the next batch is not ready.

    Attributes:
        seconds: Scalar float64, the sum so far.
        free: Scalar float64, the time at which the loop could have started its next step.
    """

    seconds: tf.Tensor
    free: tf.Tensor

    @classmethod
    def begin(cls) -> Waits:
        """Begins to wait for a first batch."""
        return cls(tf.constant(0.0, tf.float64), tf.timestamp())

    def until(self, batch: Any) -> Waits:
        """Adds the time until a batch was ready."""
        with tf.control_dependencies(tree.flatten(batch, expand_composites=True)):
            waited = tf.timestamp() - self.free
        return self._replace(seconds=self.seconds + tf.maximum(waited, 0.0))

    def after(self, result: Any) -> Waits:
        """Begins to wait again, after a step and its variable updates are done."""
        with tf.control_dependencies(tree.flatten(result, expand_composites=True)):
            return self._replace(free=tf.timestamp())


def spec_of(taken: Taken, general: Any) -> Any:
    """Returns the type of a feed's batches, for any number of them.

    Args:
        taken: From `Feed.take`.
        general: The type of all batches of the feed.
    """
    if isinstance(taken, tf.data.Iterator):
        return taken
    return Stacked(rows_spec(taken, general), tf.TensorSpec([], tf.int32))


def rows_spec(taken: Taken, general: Any) -> Any:
    """Returns the type of the rows of batches: an axis is open if it is open in all batches of the feed.

    Args:
        taken: From `Feed.take`.
        general: The type of all batches of the feed.
    """
    own = taken.element_spec if isinstance(taken, tf.data.Iterator) else taken.rows
    if not _is_general(general, own):
        general = own

    def part(own: Any, general: Any) -> tf.TensorSpec:
        lengths = zip(own.shape, general.shape, strict=True)
        shape = [None if of_all is None else length for length, of_all in lengths]
        return tf.TensorSpec([None, *shape[1:]] if shape else shape, own.dtype)

    return tree.map_structure(part, own, general)


def _is_general(general: Any, own: Any) -> bool:
    """Whether the parts of two types have the same names and ranks."""
    try:
        tree.map_structure(lambda one, other: one.shape.assert_same_rank(other.shape), general, own)
    except (ValueError, TypeError):
        return False
    return True


def words(spec: Any) -> str:
    """Returns a specification as text, with `?` for a length that may change."""
    if tree.is_absent(spec):
        return "None"
    if isinstance(spec, dict):
        return "{" + ", ".join(f"{key}: {words(part)}" for key, part in spec.items()) + "}"
    if isinstance(spec, tuple | list):
        return "(" + ", ".join(map(words, spec)) + ")"
    shape = ", ".join("?" if length is None else str(length) for length in spec.shape)
    return f"{spec.dtype.name} [{shape}]"
