"""The base class of all sources that are read by index: arrays, files, objects with a length."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from looplab.data.class_weight import weigh, weighted_spec
from looplab.data.indexed_feed import IndexedFeed
from looplab.data.resident_feed import ResidentFeed, is_small
from looplab.errors import ConfigurationError
from looplab.options import bounds
from looplab.protocols import Feed
from looplab.strategy import tree

BATCH_SIZE = 32  # the default of `fit`


class IndexedSource(ABC):
    """A source whose examples can be read in any order.

    Attributes:
        kind: One word, saved with a position.
        what: The name of what `size` counts, for messages.
        size: The number of examples.
        spec: Nested structure of `tf.TensorSpec` of one example.
        parallel: The number of batches that may be gathered at once; None for one after the other.
        faster: Advice on how to read faster; see `Feed`.
        in_memory: Whether `gather` takes the rows from tensors.
        batched: Whether the elements are already batches.
        class_weight: Weights by the class of the target, if there are any.
        repeats: Whether an epoch may have more steps than a pass, after which the data starts again.
    """

    kind: str
    what: str
    size: int
    spec: Any
    parallel: int | None = tf.data.AUTOTUNE
    faster: str
    in_memory = False
    batched = False
    class_weight: Mapping[Any, float] | None = None
    repeats = False

    @abstractmethod
    def gather(self, rows: tf.Tensor) -> Any:
        """Returns the batch with the given examples, inside the pipeline's `tf.function`.

        Args:
            rows: Their indices, shape `[n]`, int64.
        """

    def labels(self) -> np.ndarray | None:
        """Returns the target of each example if targets are integers in memory; otherwise None."""
        return None

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Returns the places of examples in the original data, from 0.

        Args:
            rows: Their indices in this source, shape `[n]`, int64.
        """
        return rows

    def resident(self, device: str) -> IndexedSource:
        """Returns the same examples, with their tensors on a device if that is faster."""
        return self

    def batch_spec(self, rows: int | None) -> Any:
        """Returns the specification of a batch of `rows` examples; None for any number."""
        return tree.map_structure(lambda s: tf.TensorSpec([rows, *s.shape], s.dtype), self.spec)

    def feed(
        self,
        batch_size: int | None,
        *,
        shuffle: bool,
        seed: int,
        steps_per_epoch: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Feed:
        """Returns the feed of the source; see `looplab.data.build_feed`."""
        size = BATCH_SIZE if batch_size is None else bounds.whole("batch_size", batch_size, bounds.BATCH_SIZE)
        how: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "steps_per_epoch": steps_per_epoch}
        if self.in_memory and is_small(self, size) and shard[1] == 1:  # it gathers many whole batches at once
            return ResidentFeed(self, size, **how)
        return IndexedFeed(self, size, **how, shard=shard)

    def length(self, batch_size: int | None) -> int | None:
        """Returns the steps of one pass."""
        return -(-self.size // (batch_size or BATCH_SIZE))

    def first(self, count: int, batch_size: int | None) -> IndexedSource:
        """Returns the examples of the first `count` batches."""
        return Part(self, 0, min(self.size, count * (batch_size or BATCH_SIZE)))

    def split(self, fraction: float) -> tuple[IndexedSource, IndexedSource]:
        """Returns the examples without the last `fraction`, and the last `fraction`."""
        at = math.floor(self.size * (1.0 - fraction))  # as in Keras
        if not 0 < at < self.size:
            raise ConfigurationError(
                f"validation_split: {fraction} of {self.size} {self.what} leaves {at} for training and "
                f"{self.size - at} for validation; each needs at least one."
            )
        return Part(self, 0, at), Part(self, at, self.size)

    def weighted(self, class_weight: Mapping[Any, float]) -> IndexedSource:
        """Returns the examples with weights by the class of their target."""
        return Weighted(self, class_weight)


class Part(IndexedSource):
    """Some examples of another source, a range of indices; nothing is copied."""

    def __init__(self, whole: IndexedSource, start: int, stop: int) -> None:
        self.kind, self.what, self.spec, self.parallel = whole.kind, whole.what, whole.spec, whole.parallel
        self.size, self.in_memory, self.faster = stop - start, whole.in_memory, whole.faster
        self.whole, self.start = whole, start

    def labels(self) -> np.ndarray | None:
        """See `IndexedSource`."""
        labels = self.whole.labels()
        return None if labels is None else labels[self.start : self.start + self.size]

    def places(self, rows: np.ndarray) -> np.ndarray:
        """See `IndexedSource`."""
        return self.whole.places(rows + self.start)

    def gather(self, rows: tf.Tensor) -> Any:
        """See `IndexedSource`."""
        return self.whole.gather(rows + self.start)

    def resident(self, device: str) -> Part:
        """See `IndexedSource`."""
        return Part(self.whole.resident(device), self.start, self.start + self.size)


class Weighted(IndexedSource):
    """Another source with a weight for each example, by the class of its target."""

    def __init__(self, plain: IndexedSource, class_weight: Mapping[Any, float]) -> None:
        self.kind, self.what, self.size, self.parallel = plain.kind, plain.what, plain.size, plain.parallel
        self.in_memory, self.faster = plain.in_memory, plain.faster
        self.spec = tree.map_structure(
            lambda s: tf.TensorSpec(s.shape[1:], s.dtype), weighted_spec(plain.batch_spec(None), class_weight)
        )
        self.plain, self.class_weight, self._weights = plain, class_weight, class_weight

    def labels(self) -> np.ndarray | None:
        """See `IndexedSource`."""
        return self.plain.labels()

    def places(self, rows: np.ndarray) -> np.ndarray:
        """See `IndexedSource`."""
        return self.plain.places(rows)

    def gather(self, rows: tf.Tensor) -> Any:
        """See `IndexedSource`."""
        batch = tree.map_structure(
            lambda part, spec: tf.ensure_shape(part, spec.shape),
            self.plain.gather(rows),
            self.plain.batch_spec(None),
        )
        return weigh(batch, self._weights)

    def resident(self, device: str) -> Weighted:
        """See `IndexedSource`."""
        return Weighted(self.plain.resident(device), self._weights)
