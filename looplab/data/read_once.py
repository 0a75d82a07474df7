"""Reads generator objects and other iterators, whose batches can be read only once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from looplab.data.class_weight import weigh, weighted_spec
from looplab.data.generators import Reading, as_endless, is_endless
from looplab.data.stream import GENERATOR, Stream, StreamFeed
from looplab.errors import DataError


class ReadOnce(Stream):
    """The batches of an iterator. It keeps the batches in memory, so that they can be read again."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        """Reads two batches to find their shapes.

        Args:
            iterator: An iterator of global batches, like those of a `PyDataset`.

        Raises:
            DataError: If there is no first batch.
        """
        what = f"generator object {getattr(iterator, '__qualname__', type(iterator).__qualname__)}"
        self._held = _Held(iterator, what)
        self._reading = Reading(self._held.since, what)
        dataset = self._reading.dataset(self._held.since)
        if is_endless(iterator):
            dataset = as_endless(dataset)
        super().__init__(dataset, what, faster=GENERATOR)

    def weighted(self, class_weight: Mapping[Any, float]) -> Stream:
        """See `Stream`."""
        weighted_spec(self.dataset.element_spec, class_weight)
        own = copy.copy(self)
        own.dataset = self.dataset.map(lambda *batch: weigh(batch, class_weight))
        own.class_weight = class_weight
        return own

    def forward(self, steps_per_epoch: int) -> StreamFeed:
        """Returns a feed that keeps a batch only as long as a step needs it, since training may be endless.

        Args:
            steps_per_epoch: Steps of an epoch; the feed does not count the batches.
        """
        return _Forward(self, self._held, steps_per_epoch)

    def since(self, number: int) -> tf.data.Dataset:
        """Returns the pipeline of the batches from batch `number` on, counted from 0."""
        dataset = self._reading.dataset(lambda: self._held.since(number, ends=False), number)
        if (weights := self.class_weight) is not None:
            dataset = dataset.map(lambda *batch: weigh(batch, weights))
        return dataset


class _Forward(StreamFeed):
    """The batches of an iterator; a run takes each of them once."""

    def __init__(self, source: ReadOnce, held: _Held, steps_per_epoch: int) -> None:
        """Takes the batches and reads nothing."""
        super().__init__(source.dataset, steps_per_epoch, source.what)
        self.class_weight, self.faster = source.class_weight, source.faster
        self._source, self._held = source, held

    def seek(self, step: int) -> None:
        """See `Feed`. Reads and drops the earlier batches."""
        self._held.forget(step)
        super().seek(step)

    def take(self, count: int) -> Any:
        """See `Feed`. Forgets only what was taken before this execution, which may be repeated."""
        self._held.forget(self._next)
        return super().take(count)

    def snapshot(self, step: int) -> None:
        """See `Feed`: None, since an iterator of Python has no state that could be saved."""

    def _begun(self, step: int) -> tuple[list[tf.data.Iterator], int]:
        return [iter(self._source.since(step))], step


class _Held:
    """The batches of an iterator by number; it holds each batch until `forget` drops it."""

    def __init__(self, iterator: Iterator[Any], what: str) -> None:
        self._iterator, self._what, self._first = iterator, what, 0
        self._read = list[Any]()
        self._lock = threading.Lock()  # pipelines read in threads, perhaps two at the same time

    def since(self, number: int = 0, *, ends: bool = True) -> Iterator[Any]:
        """Yields the batches from batch `number` on.

        Args:
            number: The number of the first batch, counted from 0.
            ends: Whether the iterator may end.

        Raises:
            DataError: If a batch was forgotten, or the iterator ends although `ends` is False.
        """
        while True:
            try:
                batch = self._get(number)
            except StopIteration:
                if ends:
                    return
                raise DataError(
                    f"the {self._what} ended after {number} batches, and training needs more. It is read "
                    "once: give the function that makes it, fit(batches) instead of fit(batches()), which is "
                    "called for each pass; or train for fewer steps."
                ) from None
            yield batch
            number += 1

    def forget(self, number: int) -> None:
        """Drops the batches before batch `number`, including those that were not read yet."""
        with self._lock:
            gone = min(max(0, number - self._first), len(self._read))
            del self._read[:gone]
            self._first += gone
            while self._first < number and next(self._iterator, self) is not self:
                self._first += 1

    def _get(self, number: int) -> Any:
        with self._lock:
            if number < self._first:
                raise DataError(
                    f"batch {number} of the {self._what} was read already, and is given once. Give the "
                    "function that makes it: fit(batches) instead of fit(batches())."
                )
            while number >= self._first + len(self._read):
                self._read.append(next(self._iterator))
            return self._read[number - self._first]
