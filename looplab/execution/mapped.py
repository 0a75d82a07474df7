"""Applying a step to every batch of a feed, in order: prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from looplab import strategy as replication
from looplab.protocols import Feed
from looplab.stacked import batch_at


class Mapped:
    """Applies a step to every batch of a feed, in order."""

    def __init__(
        self, step: Callable[[Any], Any], strategy: tf.distribute.Strategy, run_eagerly: bool
    ) -> None:
        """Prepares the function; see `Execution`.

        Args:
            step: From a replica's rows to tensors with as many rows.
            strategy: Where it runs.
            run_eagerly: Whether to run in Python.
        """

        def one(batch: Any, padded_to: int | None) -> Any:
            whole = batch if padded_to is None else replication.padded(batch, padded_to)
            outputs = strategy.run(lambda whole: step(replication.local_rows(whole)), args=(whole,))
            joined = replication.concatenate(strategy, outputs)
            if padded_to is None:
                return joined
            return tf.nest.map_structure(lambda rows: rows[: replication.batch_size(batch)], joined)

        self._strategy = strategy
        self._one = one if run_eagerly else tf.function(partial(one), reduce_retracing=True)

    def run(self, feed: Feed) -> Iterator[Any]:
        """Gives the outputs of each batch of one whole pass, as NumPy arrays of shape `[examples, ...]`."""
        feed.seek(0)
        for _ in range(feed.steps_per_epoch or 0):
            rows = replication.static_rows(feed.element_spec)
            size = replication.padded_size(self._strategy, rows, feed.examples(1))
            outputs = self._one(batch_at(feed.take(1), 0), size)
            yield tf.nest.map_structure(np.asarray, outputs)
