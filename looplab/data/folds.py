"""Cross-validation: divides the examples of a source into folds and holds one of them out."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from looplab.data.adapters import as_source
from looplab.data.indexed_source import IndexedSource
from looplab.data.labels import warn_of_split
from looplab.errors import ConfigurationError

_log = logging.getLogger("looplab")
_SEED = 0  # not the run's seed: all runs have the same folds
_HOST = "/CPU:0"


def hold_out(data: Any, folds: int, fold: int) -> tuple[IndexedSource, IndexedSource]:
    """Returns the examples of all folds but one, and the examples of that fold, in the order of the data.

    Each example is in exactly one fold. The sizes of the folds differ by one at most. The division depends
    only on the number of examples and the number of folds.

    Args:
        data: See `as_source`; it must be read by index.
        folds: The number of folds, at least 2.
        fold: The fold that is held out, from 0.

    Raises:
        ConfigurationError: If the data cannot be divided, or has fewer examples than folds.
    """
    source = as_source(data)
    if not isinstance(source, IndexedSource) or source.batched:
        raise ConfigurationError(
            f"data.folds: folds consist of single examples, but the data ({source.what}) comes in batches. "
            "Give data that is read by index (arrays, a table, a folder of images, records), or an object "
            "with __len__ and __getitem__ that returns examples."
        )
    if source.size < folds:
        raise ConfigurationError(
            f"data.folds: {folds} folds of {source.size} {source.what} would leave some folds empty; use at "
            f"most {source.size}."
        )
    held_out = np.zeros(source.size, bool)
    # NumPy guarantees that its legacy generator always gives the same numbers.
    held_out[np.random.RandomState(_SEED).permutation(source.size)[fold::folds]] = True
    train, validation = (Chosen(source, np.flatnonzero(rows)) for rows in (~held_out, held_out))
    _log.info(
        "fold %d of 0 to %d: %d training examples, %d validation examples",
        *(fold, folds - 1, train.size, validation.size),
    )
    warn_of_split(
        train.labels(),
        validation.labels(),
        f"fold {fold} of {folds}",
        "Use fewer folds, or leave out classes with very few examples",
    )
    return train, validation


class Chosen(IndexedSource):
    """Some examples of another source, chosen by index; nothing is copied."""

    def __init__(self, whole: IndexedSource, rows: np.ndarray) -> None:
        """Takes the indices and reads nothing.

        Args:
            whole: The other source.
            rows: The indices in that source, shape `[examples]`, int64.
        """
        self.kind, self.what, self.spec, self.parallel = whole.kind, whole.what, whole.spec, whole.parallel
        self.size, self.in_memory, self.faster = len(rows), whole.in_memory, whole.faster
        self.whole, self.rows = whole, rows

    @cached_property
    def _rows(self) -> tf.Tensor:
        """The indices as a tensor outside of any graph: a graph would store a copy of the constant."""
        with tf.init_scope(), tf.device(_HOST):
            return tf.constant(self.rows, tf.int64)

    def labels(self) -> np.ndarray | None:
        """See `IndexedSource`."""
        labels = self.whole.labels()
        return None if labels is None else labels[self.rows]

    def places(self, rows: np.ndarray) -> np.ndarray:
        """See `IndexedSource`."""
        return self.whole.places(self.rows[rows])

    def gather(self, rows: tf.Tensor) -> Any:
        """See `IndexedSource`."""
        with tf.device(_HOST):
            chosen = tf.gather(self._rows, rows)
        return self.whole.gather(chosen)

    def resident(self, device: str) -> Chosen:
        """See `IndexedSource`."""
        return Chosen(self.whole.resident(device), self.rows)
