"""The rows of the global batch that each replica and micro-batch takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from looplab.strategy import placement, tree


class Padded(NamedTuple):
    """A batch, or a replica's slice of one, of a fixed size, of which only the first rows are examples.

    Attributes:
        rows: A nested structure of tensors; the rows after the examples repeat the last example.
        examples: Scalar int32, the number of rows that are examples.
    """

    rows: Any
    examples: tf.Tensor

    def valid(self) -> tf.Tensor:
        """Returns which rows are examples, bool of shape `[rows]`."""
        return tf.range(self.size) < self.examples

    @property
    def size(self) -> int:
        """The number of rows."""
        return int(tree.first(self.rows).shape[0])


def padded(batch: Any, size: int) -> Padded:
    """Pads a batch to `size` rows, which is at least its own size; on the host, before replicas."""
    examples = batch_size(batch)
    index = tf.minimum(tf.range(size), examples - 1)
    return Padded(tree.map_structure(lambda part: tf.gather(part, index), batch), examples)


def padded_size(strategy: tf.distribute.Strategy, rows: int | None, largest: int | None) -> int | None:
    """Returns the size to which batches are padded; None if they are not padded.

    A TPU compiles a step for one size, and its replicas run the same program. Elsewhere nothing is padded.

    Args:
        strategy: The strategy under which the step runs.
        rows: The size of every batch, or None if they differ; see `static_rows`.
        largest: The size of the largest batch.
    """
    replicas = strategy.num_replicas_in_sync
    if not placement.of(strategy).fixed_rows or (rows is not None and rows % replicas == 0):
        return None
    assert largest is not None  # looplab.options.compatibility.check_rows
    return -(-largest // replicas) * replicas


def batch_size(batch: Any) -> tf.Tensor:
    """Returns the number of examples in a batch, a scalar int32: the length of its first axis."""
    if isinstance(batch, Padded):
        return batch.examples
    return tf.shape(tree.first(batch))[0]


def rows_held(batch: Any, replicas: int) -> list[tf.Tensor]:
    """Returns the number of examples of a global batch on each replica, int32 scalars."""
    size = batch_size(batch)
    if isinstance(batch, Padded):
        length = batch.size // replicas
        return [tf.clip_by_value(size - index * length, 0, length) for index in range(replicas)]
    return [(index + 1) * size // replicas - index * size // replicas for index in range(replicas)]


def place_of(rows: Any, examples: Any) -> tuple[Any, Any]:
    """Returns where this replica's rows begin in the global batch, and the size of that; scalars.

    Runs inside `strategy.run`. A number that is known in Python is one.

    Args:
        rows: This replica's rows.
        examples: Scalar, the number of examples in the global batch; None for those of this replica.
    """
    context = tf.distribute.get_replica_context()
    replicas = 1 if context is None else context.num_replicas_in_sync
    if isinstance(rows, Padded):
        whole: Any = rows.size * replicas
    else:
        whole = batch_size(rows) if examples is None else tf.cast(examples, tf.int32)
    if context is None or replicas == 1:
        return 0, whole
    index = tf.get_static_value(context.replica_id_in_sync_group)
    replica = context.replica_id_in_sync_group if index is None else int(index)
    return (0 if index == 0 else replica * whole // replicas), whole


def static_rows(spec: Any) -> int | None:
    """Returns the number of examples of every batch of a spec, or None if it is not fixed."""
    shape = tree.first(spec).shape
    return shape[0] if shape.rank else None


def rows_of(batch: Any) -> Any:
    """Returns the number of rows of a batch, a scalar: a Python number if it is fixed."""
    fixed = static_rows(batch)
    return batch_size(batch) if fixed is None else fixed


def rows(batch: Any, part: int | tf.Tensor, parts: int) -> Any:
    """Returns the `part`-th of `parts` contiguous slices of a batch's rows, of nearly equal length.

    Args:
        batch: A nested structure of tensors that share their first axis.
        part: The index of the slice, from 0.
        parts: The number of slices; their lengths differ by at most one, and are 0 only if there are fewer
            rows than slices.
    """
    if parts == 1:
        return batch
    if isinstance(batch, Padded):
        length = batch.size // parts
        return Padded(
            rows(batch.rows, part, parts), tf.clip_by_value(batch.examples - part * length, 0, length)
        )
    static = tree.first(batch).shape[0]
    if static is not None and static % parts == 0 and not isinstance(part, int):
        return tree.map_structure(lambda x: _piece(x, part, parts), batch)
    size = batch_size(batch) if static is None else static
    if static is not None and static < parts:
        # Keras' layers take an axis of static length 0 for one that can be squeezed out (keras.ops.add).
        size = tf.raw_ops.PlaceholderWithDefault(input=tf.constant(static), shape=[])
    first, last = part * size // parts, (part + 1) * size // parts
    return tree.map_structure(lambda x: x[first:last], batch)


def _piece(tensor: tf.Tensor, part: tf.Tensor, parts: int) -> tf.Tensor:
    """Returns one of several slices of equal length, which is static even if `part` is not, for XLA."""
    length = tensor.shape[0] // parts
    return tf.reshape(tensor, tf.concat([[parts, length], tf.shape(tensor)[1:]], axis=0))[part]


def local_rows(batch: Any) -> Any:
    """Returns this replica's rows of the global batch; inside `strategy.run`."""
    context = tf.distribute.get_replica_context()
    if context is None:
        return batch
    # A tensor under some strategies, an int under MirroredStrategy, where it can be constant.
    index = tf.get_static_value(context.replica_id_in_sync_group)
    part = context.replica_id_in_sync_group if index is None else int(index)
    return rows(batch, part, context.num_replicas_in_sync)


def concatenate(strategy: tf.distribute.Strategy, value: Any) -> Any:
    """Joins per-replica results row by row; in cross-replica context, eagerly or in a function."""
    if strategy.num_replicas_in_sync == 1:
        return value
    return tree.map_structure(lambda v: tf.concat(strategy.experimental_local_results(v), axis=0), value)
