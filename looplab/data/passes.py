"""Starts a pipeline that counts its passes as if nobody had read it before.

A shuffle of `tf.data` gives each pass a new order by a number of its own, which all iterators of a dataset
share. So the order of a pass depends on everything that has read the dataset in this process. A copy of the
pipeline has a number of its own, which begins at its first pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_LARGE = 64 * 2**20  # the most bytes of arrays in a pipeline that is copied: each start copies them
_IGNORE = 1  # TensorFlow's policy for Python code and random numbers: the copy stays in this process
_SHARED, _OWN = b"/SeedGenerator_", b"/looplab-fresh_"  # names of numbers, equally long; no second one exists


def parts(dataset: Any) -> Iterator[Any]:
    """Yields a dataset and all datasets that it is built from."""
    yield dataset
    for part in dataset._inputs():
        yield from parts(part)


def counting(dataset: tf.data.Dataset) -> list[Any]:
    """Returns the datasets in a pipeline whose elements depend on the number of earlier passes."""
    names = ("_reshuffle_each_iteration", "_rerandomize")
    return [part for part in parts(dataset) if any(getattr(part, name, False) for name in names)]


def seeds(dataset: tf.data.Dataset) -> list[list[int]]:
    """Returns the two seeds of each shuffle and of each random dataset in a pipeline that has seeds.

    TensorFlow makes them of the given seed and of the global seed of the process at that moment.
    """
    found = []
    for part in parts(dataset):
        pair = [tf.get_static_value(getattr(part, name, None)) for name in ("_seed", "_seed2")]
        if all(seed is not None for seed in pair) and any(pair):
            found.append([int(seed) for seed in pair])
    return found


class Copies:
    """Makes copies of a pipeline; each counts its passes from its own first one."""

    def __init__(self, dataset: tf.data.Dataset) -> None:
        """Takes the pipeline and copies nothing.

        Args:
            dataset: A pipeline. It must live as long as its copies, which call its Python code.
        """
        self._dataset, self._graph = dataset, b""

    def new(self) -> tf.data.Dataset | None:
        """Returns a copy; None if TensorFlow cannot copy the pipeline, or if it holds large arrays."""
        try:
            if not self._graph and _held_bytes(self._dataset) <= _LARGE:
                variant = tf.data.experimental.to_variant(self._dataset)
                graph = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=_IGNORE)
                self._graph = graph.numpy().replace(_SHARED, _OWN)
            if not self._graph:
                return None
            variant = tf.raw_ops.DatasetFromGraph(graph_def=self._graph)
        except tf.errors.OpError:
            return None
        return tf.data.experimental.from_variant(variant, self._dataset.element_spec)


def _held_bytes(dataset: tf.data.Dataset) -> int:
    """Returns the size of the arrays in a pipeline."""
    total = 0
    for part in parts(dataset):
        held = [*getattr(part, "_tensors", ())]
        for function in part._functions():
            held += function.function.captured_inputs
        for tensor in held:
            if tensor.dtype == tf.string:
                total += int(tf.reduce_sum(tf.strings.length(tensor)))
            elif tensor.dtype not in (tf.resource, tf.variant):
                total += tensor.shape.num_elements() * tensor.dtype.size
    return total
