"""Feeds arrays in memory, and gathers the rows of many batches at once."""

from __future__ import annotations

import math
import time
from functools import cached_property
from typing import Any

import tensorflow as tf

from looplab.data.indexed_feed import Gathered, IndexedFeed
from looplab.execution.autograph import trace
from looplab.execution.batches import Stacked
from looplab.strategy import tree

_AT_ONCE = 16 * 2**20  # the bytes of one piece
_SCALAR = tf.TensorSpec([], tf.int64)
_BATCHES = 4  # the fewest batches in a piece; larger batches come from a pipeline, which reads ahead


class ResidentFeed(IndexedFeed):
    """The batches of an `IndexedFeed`, in the same order, without a pipeline.

    A pipeline needs threads, and costs some 30 microseconds per batch. One operation that gathers the rows of
    hundreds of small batches costs about a tenth of that.
    """

    gives_rows = True

    def __init__(self, source: Gathered, batch_size: int, **how: Any) -> None:
        """See `IndexedFeed`."""
        super().__init__(source, batch_size, **how)
        self._step, self._drawn = 0, (-1, None)
        self._length = max(1, _AT_ONCE // max(1, bytes_of_batch(source, batch_size)))

    # Each is one call: a few operations called from Python cost as much as a step. The methods call the trace
    # directly, because looking it up takes the same time again.

    @cached_property
    def _read(self) -> Any:
        return trace(self._between, tf.TensorSpec([None], tf.int64), _SCALAR, _SCALAR)

    @cached_property
    def _begin(self) -> Any:
        return trace(self._drawn_between, _SCALAR, _SCALAR, _SCALAR)

    @property
    def max_take(self) -> int:
        """See `Feed`: as many as fit in one piece; a short batch can only be the last of a piece."""
        if self.size % self.batch_size == 0:
            return self._length
        return min(self._pass - self._step % self._pass, self._length)

    def keep_on(self, device: str) -> None:
        """Gathers the rows on the device of the steps; called before the first batch."""
        self.source = self.source.resident(device)

    def seek(self, step: int) -> None:
        """See `Feed`."""
        self._step = step

    def take(self, count: int) -> Any:
        """See `Feed`."""
        began, pieces, end = time.monotonic(), [], self._step + count
        while self._step < end:
            number, index = divmod(self._step, self._pass)
            some = min(end - self._step, self._pass - index)
            pieces.append(self._rows_of(number, index, some))
            self._step += some
        rows = pieces[0]
        if len(pieces) > 1:
            rows = tree.map_structure(lambda *parts: tf.concat(parts, axis=0), *pieces)
        self.waited += time.monotonic() - began
        return Stacked(rows, tf.constant(self.batch_size))

    def _rows_of(self, number: int, index: int, count: int) -> Any:
        """Returns the rows of some batches of a pass as one piece."""
        last = min((index + count) * self.batch_size, self.size)
        ends = (tf.constant(end, tf.int64) for end in (index * self.batch_size, last))
        if self._drawn[0] == number:
            return self._read(self._drawn[1], *ends)
        order, rows = self._begin(tf.constant(number, tf.int64), *ends)
        self._drawn = number, order
        return rows

    def _drawn_between(self, number: tf.Tensor, first: tf.Tensor, last: tf.Tensor) -> tuple[tf.Tensor, Any]:
        with tf.device("/CPU:0"):
            order = self._order(number)
            order = tf.range(self.size, dtype=tf.int64) if order is None else order
        return order, self._between(order, first, last)

    def _between(self, order: tf.Tensor, first: tf.Tensor, last: tf.Tensor) -> Any:
        with tf.device("/CPU:0"):
            return self.source.gather(order[first:last])


def is_small(source: Gathered, batch_size: int) -> bool:
    """Returns whether batches are small enough to gather many of them at once."""
    return bytes_of_batch(source, batch_size) * _BATCHES <= _AT_ONCE


def bytes_of_batch(source: Gathered, batch_size: int) -> int:
    """Returns the size of a batch; a string counts as 64 bytes, because its length is not known."""
    spec = source.batch_spec(batch_size)
    return sum(math.prod(part.shape) * (part.dtype.size or 64) for part in tree.flatten(spec))
