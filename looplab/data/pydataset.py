"""Reads the batches of a `keras.utils.PyDataset` by index."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.data.class_weight import weigh, weighted_spec
from looplab.data.host_sources import Hosted, difference, nested, spec_of
from looplab.data.indexed_feed import ENDLESS, IndexedFeed
from looplab.data.iterators import untuned
from looplab.data.read_errors import as_data_error
from looplab.errors import ConfigurationError, DataError
from looplab.execution.batches import words
from looplab.protocols import Feed
from looplab.strategy import batch_rows, tree

_ended: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # ended passes, by dataset


class PyBatches(Hosted):
    """The batches of a `PyDataset`, each a global batch.

    As in Keras, `fit(shuffle=True)` draws a new order of the batches in each pass. looplab draws it from the
    seed, so that a resume finds any batch at once. It calls `on_epoch_end` and `on_epoch_begin` between two
    passes of training, when it reads the first batch of the next pass. On a resume it calls them once for
    each earlier pass. That is exact if their work depends only on the number of calls (a seeded generator of
    the dataset, not NumPy's global one). An evaluation is one pass and calls neither.

    With `workers` above 1, threads read several batches at once; looplab starts no processes.
    """

    kind, batched = "PyDataset", True

    def __init__(self, dataset: keras.utils.PyDataset) -> None:
        """Reads the first two batches to find the shapes.

        Args:
            dataset: A dataset whose elements are batches: `(inputs,)`, `(inputs, targets)`, `(inputs,
                targets, sample_weight)`, or a dict or an array of inputs.

        Raises:
            DataError: If an element cannot be read, or is not a batch.
        """
        super().__init__()
        length = dataset.num_batches
        self.endless, self.size = length is None, ENDLESS if length is None else int(length)
        self.what, self.dataset = f"batches of {type(dataset).__name__}", dataset
        self.parallel = dataset.workers if dataset.workers > 1 else None
        self.faster = (
            f"{dataset.workers} workers read the batches: give it more workers, or make reading faster"
        )
        self._turning, self._pass = threading.Lock(), -1
        self._spec: Any = tf.TensorSpec([None])
        if self.size:
            first = [self._batch(index) for index in range(min(2, self.size))]
            self._spec = batch_spec(first, self.what)
        self.spec = self._spec

    def batch_spec(self, rows: int | None) -> Any:
        """See `IndexedSource`: the dataset decides the sizes of the batches."""
        return self._spec if self.class_weight is None else weighted_spec(self._spec, self.class_weight)

    def gather(self, rows: tf.Tensor) -> Any:
        """See `IndexedSource`."""
        batch = tree.map_structure(
            lambda part, spec: tf.ensure_shape(part, spec.shape), super().gather(rows), self._spec
        )
        return batch if self.class_weight is None else weigh(batch, self.class_weight)

    def feed(
        self,
        batch_size: int | None,
        *,
        shuffle: bool,
        seed: int,
        steps_per_epoch: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Feed:
        """See `IndexedSource`."""
        if self.endless and steps_per_epoch is None:
            raise DataError(
                f"the {self.what} never end (num_batches is None). Set steps_per_epoch for training, "
                "validation_steps for an evaluation, or steps in evaluate and predict."
            )
        shuffle = shuffle and not self.endless
        return BatchFeed(self, 1, shuffle=shuffle, seed=seed, steps_per_epoch=steps_per_epoch, shard=shard)

    def length(self, batch_size: int | None) -> int | None:
        """See `IndexedSource`."""
        return None if self.endless else self.size

    def first(self, count: int, batch_size: int | None) -> PyBatches:
        """See `IndexedSource`."""
        some = copy.copy(self)
        some.size, some.endless = min(self.size, count), False
        return some

    def split(self, fraction: float) -> tuple[Any, Any]:
        """See `IndexedSource`: not possible, because the elements are batches."""
        raise ConfigurationError(
            "validation_split: a PyDataset has batches, not examples. Give a second one as validation_data."
        )

    def weighted(self, class_weight: Mapping[Any, float]) -> PyBatches:
        """See `IndexedSource`."""
        weighted_spec(self._spec, class_weight)
        heavy = copy.copy(self)
        heavy.class_weight = class_weight
        return heavy

    def read(self, rows: np.ndarray) -> Any:
        """See `Hosted`; the single row is a batch number, counted over all passes."""
        number, index = divmod(int(rows[0]), self.size)
        with self._turning:
            self._turn_to(number)
        batch = self._batch(index)
        if differs := difference(batch, self._spec):
            raise DataError(f"the batches differ: {differs}, {self._place(index)}.")
        return batch

    def _turn_to(self, number: int) -> None:
        """Calls the dataset's hooks for each pass that has ended since the last read."""
        if number == self._pass:
            return
        before = self._pass if 0 <= self._pass < number else min(_ended.get(self.dataset, 0), number)
        for _ in range(before, number):
            self.dataset.on_epoch_end()
            self.dataset.on_epoch_begin()
            _ended[self.dataset] = _ended.get(self.dataset, 0) + 1
        self._pass = number

    def _batch(self, index: int) -> Any:
        try:
            return as_batch(self.dataset[index], self.floating)
        except Exception as error:
            raise as_data_error(error, self._place(index)) from error

    def _place(self, index: int) -> str:
        of = "" if self.endless else f" of {self.size}"
        return f"reading batch {index}{of} (counted from 0) of {type(self.dataset).__name__}"


class BatchFeed(IndexedFeed):
    """Batches that are read by index; see `Feed`. A new pass begins only when a step needs it."""

    source: PyBatches

    def examples(self, step: int) -> int | None:
        """See `Feed`: not known, since batches may differ in size."""
        return None

    def rows(self, step: int) -> list[int] | None:
        """See `Feed`: an index is a batch here, not an example."""
        return None

    def describe(self) -> str:
        """See `Feed`."""
        order = "shuffled by index" if self._shuffle else "in order"
        count = "endless" if self.source.endless else self.size
        return f"{count} {self.source.what} {order}, {self.steps_per_epoch} steps an epoch"

    def _pipeline(self, step: int) -> tf.data.Dataset:
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        return untuned(self._from(step).with_options(options))

    def _batches(self, number: tf.Tensor, first: int) -> tf.data.Dataset:
        return super()._batches(number, first).prefetch(4)

    def _rows(self, number: tf.Tensor, order: tf.Tensor | None, index: tf.Tensor) -> tf.Tensor:
        within: tf.Tensor = super()._rows(number, order, index)
        return number * self.size + within

    def _gather(self, rows: tf.Tensor) -> Any:
        """Reads the whole batch, and returns the part for this shard."""
        return batch_rows.rows(self._fitted(self.source.gather(rows)), *self._shard)


def as_batch(value: Any, floating: str) -> Any:
    """Converts an element of a `PyDataset` or a generator to a batch of nested arrays.

    Raises:
        DataError: If it is not a batch, or its parts differ in length.
    """
    batch = nested(tuple(value) if isinstance(value, list | tuple) else value, floating)
    lengths = {array.shape[:1] for array in tree.flatten(batch)}
    if len(lengths) != 1 or lengths == {()}:
        raise DataError(
            f"a batch is {words(spec_of(batch))}, but its parts need the same first axis, which counts the "
            "examples. Elements are whole batches, not examples: stack some (numpy.stack), or give an "
            "object with __len__ and __getitem__ that returns examples."
        )
    return batch


def batch_spec(batches: list[Any], what: str) -> Any:
    """Returns the common specification of batches; their first axis may always change.

    Raises:
        DataError: If they have different parts or types.
    """
    first, *others = batches
    spec = tree.map_structure(lambda s: tf.TensorSpec([None, *s.shape[1:]], s.dtype), spec_of(first))
    for other in others:
        try:
            spec = tree.map_structure(_common, spec, spec_of(other))
        except (TypeError, ValueError):
            raise DataError(
                f"the first {what} differ: {words(spec_of(first))} and {words(spec_of(other))}."
            ) from None
    return spec


def _common(spec: tf.TensorSpec, other: tf.TensorSpec) -> tf.TensorSpec:
    if spec.dtype != other.dtype or len(spec.shape) != len(other.shape):
        raise ValueError
    pairs = zip(spec.shape, other.shape, strict=True)
    return tf.TensorSpec([length if length == found else None for length, found in pairs], spec.dtype)
