"""A `tf.data.Dataset` of batches as a feed."""

from __future__ import annotations

import logging
from typing import Any

import tensorflow as tf

from looplab.errors import DataError

_log = logging.getLogger("looplab")


class StreamFeed:
    """The elements of a dataset, each one global batch, epoch after epoch; see `Feed`.

    A resume skips the batches that were seen, which takes time, and is exact if the dataset gives
    the same elements in every process (a shuffle needs a `seed`).
    """

    max_take: int | None = None
    resumes = "by skipping batches"

    def __init__(self, dataset: tf.data.Dataset, steps_per_epoch: int | None = None) -> None:
        """Takes a dataset that is batched already.

        Args:
            dataset: Elements are batches: nested tensors that share their first axis.
            steps_per_epoch: Batches of an epoch; needed where the dataset is endless, and limits
                an epoch where it is not. The next epoch goes on where this one stopped.

        Raises:
            DataError: If the dataset is empty, not batched, or endless without `steps_per_epoch`.
        """
        self._dataset = dataset
        self.element_spec = dataset.element_spec
        for spec in tf.nest.flatten(self.element_spec):
            if spec.shape.rank == 0:
                raise DataError(
                    "the tf.data.Dataset has scalar elements: it is not batched. Add "
                    "`.batch(size)`; its elements are the global batches."
                )
        self.steps_per_epoch: int | None = steps_per_epoch or _length(dataset)
        self._iterator: Any = None

    def seek(self, step: int) -> None:
        """See `Feed`. Reads and drops the batches of `step` steps."""
        self._iterator = iter(self._endless().skip(step))

    def take(self, count: int) -> Any:
        """See `Feed`: the iterator itself, of which the caller takes `count` batches."""
        return self._iterator

    def batch(self, step: int) -> Any:
        """See `Feed`. Reads and drops the batches before it."""
        return next(iter(self._endless().skip(step)))

    def position(self, step: int) -> dict[str, Any]:
        """See `Feed`."""
        return {"kind": "stream", "skip": step}

    def examples(self, step: int) -> int | None:
        """See `Feed`: known if all batches have one static size."""
        size = tf.nest.flatten(self.element_spec)[0].shape[0]
        return None if size is None else step * size

    def describe(self) -> str:
        """See `Feed`."""
        return f"tf.data stream, {self.steps_per_epoch} steps an epoch"

    def _endless(self) -> tf.data.Dataset:
        return self._dataset.repeat()


def _length(dataset: tf.data.Dataset) -> int:
    length = int(dataset.cardinality())
    if length == tf.data.INFINITE_CARDINALITY:
        raise DataError("the tf.data.Dataset never ends: say how long an epoch is, steps_per_epoch.")
    if length == tf.data.UNKNOWN_CARDINALITY:
        _log.info("counting the batches of a tf.data.Dataset of unknown length ...")
        length = int(dataset.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1))
        _log.info("... %d (steps_per_epoch=%d, or assert_cardinality, saves this)", length, length)
    if length == 0:
        raise DataError("the data is empty: the tf.data.Dataset has no elements.")
    return length
