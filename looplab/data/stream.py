"""Batches that come one after the other: a `tf.data.Dataset`, a generator, anything that is iterated over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import keras
import tensorflow as tf

from looplab.data.batches import as_batch, batch_spec
from looplab.data.failure import as_data_error, cause, keep
from looplab.data.hosted import difference
from looplab.data.iterators import let_go, untuned
from looplab.data.weights import weigh, weighted_spec
from looplab.errors import ConfigurationError, DataError
from looplab.protocols import Feed

_log = logging.getLogger("looplab")

_PIPELINE = (
    "in the pipeline, num_parallel_calls=tf.data.AUTOTUNE in map, cache() after what is slow, and "
    "prefetch(tf.data.AUTOTUNE) at the end help; arrays in memory need no pipeline"
)
_GENERATOR = (
    "a generator is one thread of Python: make it faster, give arrays if they fit into memory, or a "
    "keras.utils.PyDataset with workers, which reads batches at once"
)


class Stream:
    """A source whose elements are global batches, in an order of their own."""

    batched = True

    def __init__(
        self,
        dataset: tf.data.Dataset,
        what: str = "tf.data stream",
        class_weight: Mapping[Any, float] | None = None,
        faster: str = _PIPELINE,
    ) -> None:
        """Reads nothing.

        Args:
            dataset: Elements are batches: nested tensors that share their first axis.
            what: What it is, for a person.
            class_weight: What the weights among the elements were made of, if they were.
            faster: What would make batches come faster, for a person.
        """
        self.dataset, self.what, self.class_weight, self.faster = dataset, what, class_weight, faster

    def feed(
        self, batch_size: int | None, *, shuffle: bool, seed: int, steps_per_epoch: int | None = None
    ) -> Feed:
        """Returns the feed of the source; see `looplab.data.build_feed`."""
        feed = StreamFeed(self.dataset, steps_per_epoch, self.what)
        feed.class_weight, feed.faster = self.class_weight, self.faster
        return feed

    def length(self, batch_size: int | None) -> int | None:
        """Returns the steps of one pass, or None where it takes one to know."""
        length = int(self.dataset.cardinality())
        return length if length > 0 else None

    def first(self, count: int, batch_size: int | None) -> Stream:
        """Returns the first batches, kept in memory: a shuffle before it would give others in each pass."""
        return Stream(self.dataset.take(count).cache(), self.what, faster=self.faster)

    def split(self, fraction: float) -> tuple[Any, Any]:
        """Refuses: where a stream ends is not known before it is read."""
        raise ConfigurationError(
            f"validation_split: a {self.what} cannot be split. Give validation_data; of a tf.data.Dataset, "
            "take(n) and skip(n) are two parts."
        )

    def weighted(self, class_weight: Mapping[Any, float]) -> Stream:
        """Returns the stream with weights by the class of the target."""
        weighted_spec(self.dataset.element_spec, class_weight)
        heavy = self.dataset.map(lambda *batch: weigh(batch, class_weight))
        return Stream(heavy, self.what, class_weight, self.faster)


class StreamFeed:
    """The elements of a dataset, each one global batch, epoch after epoch; see `Feed`.

    A resume skips the batches that were seen, which takes time, and is exact if the dataset gives
    the same elements in every process (a shuffle needs a `seed`).

    Attributes:
        dataset: As it was given: the batches of one pass.
    """

    max_take: int | None = None
    waited, faster, gives_rows = 0.0, _PIPELINE, False
    _iterator: Any = None
    resumes = "by skipping batches"
    class_weight: Mapping[Any, float] | None = None

    def __init__(
        self, dataset: tf.data.Dataset, steps_per_epoch: int | None = None, what: str = "tf.data stream"
    ) -> None:
        """Takes a dataset that is batched already.

        Args:
            dataset: Elements are batches: nested tensors that share their first axis.
            steps_per_epoch: Batches of an epoch; needed where the dataset is endless, and limits
                an epoch where it is not. The next epoch goes on where this one stopped.
            what: What it is, for a person.

        Raises:
            DataError: If the dataset is empty, not batched, or endless without `steps_per_epoch`.
        """
        self.dataset, self._what = dataset, what
        self.element_spec = dataset.element_spec
        for spec in tf.nest.flatten(self.element_spec):
            if spec.shape.rank == 0:
                raise DataError(
                    f"the {what} has scalar elements: it is not batched. Add "
                    "`.batch(size)`; its elements are the global batches."
                )
        self.steps_per_epoch: int | None = steps_per_epoch or _length(dataset, what)

    def __del__(self) -> None:
        """Waits for nothing."""
        self._let_go()

    def _let_go(self) -> None:
        held, self._iterator = [self._iterator], None
        if held != [None]:
            let_go(held)

    def seek(self, step: int) -> None:
        """See `Feed`. Reads and drops the batches of `step` steps."""
        self._let_go()
        self._iterator = iter(self._endless.skip(step) if step else self._endless)

    def take(self, count: int) -> Any:
        """See `Feed`: the iterator itself, of which the caller takes `count` batches."""
        return self._iterator

    def batch(self, step: int) -> Any:
        """See `Feed`. Reads and drops the batches before it."""
        return next(iter(self._endless.skip(step)))

    def rows(self, step: int) -> list[int] | None:
        """See `Feed`: not known."""
        return None

    def position(self, step: int) -> dict[str, Any]:
        """See `Feed`."""
        return {"kind": "stream", "skip": step}

    def examples(self, step: int) -> int | None:
        """See `Feed`: known if all batches have one static size."""
        size = tf.nest.flatten(self.element_spec)[0].shape[0]
        return None if size is None else step * size

    def describe(self) -> str:
        """See `Feed`."""
        return f"{self._what}, {self.steps_per_epoch} steps an epoch"

    @cached_property
    def _endless(self) -> tf.data.Dataset:
        """The batches of all steps, kept: evaluations begin again and again."""
        return self.dataset.repeat()


def generated(make: Callable[[], Any], name: str) -> Stream:
    """Returns the batches of a generator as a stream.

    Args:
        make: Called for each pass (and before, for the shapes of the first two batches); returns something to
            iterate over, whose elements are global batches as of a `PyDataset`.
        name: What it is called, for messages.

    Raises:
        DataError: If there is no first batch, or an iterator cannot be begun again.
    """
    what, floating = f"generator {name}", str(keras.config.floatx())

    def place(number: int) -> str:
        return f"reading batch {number} (counted from 0) of the {what}"

    def batches() -> Iterator[Any]:
        number = 0
        try:
            for number, value in enumerate(make()):
                yield as_batch(value, floating)
                number += 1
        except Exception as error:
            raise as_data_error(error, place(number)) from error

    def checked() -> Iterator[Any]:
        try:
            for number, batch in enumerate(batches()):
                if differs := difference(batch, spec):
                    raise DataError(f"the batches differ: {differs}, {place(number)}.")
                yield batch
        except Exception as error:
            raise keep(error, f"reading the {what}") from None

    if callable(make) and (one := make()) is make():
        raise DataError(
            f"{name} returns the same {type(one).__name__} each time, which can be read only once. Let it "
            "make a new one."
        )
    first = [batch for batch, _ in zip(batches(), range(2), strict=False)]
    if not first:
        raise DataError(f"the data is empty: the {what} gives no batch.")
    spec = batch_spec(first, f"batches of the {what}")
    dataset = tf.data.Dataset.from_generator(checked, output_signature=spec).prefetch(4)
    return Stream(untuned(dataset), what, faster=_GENERATOR)


def _length(dataset: tf.data.Dataset, what: str) -> int:
    length = int(dataset.cardinality())
    if length == tf.data.INFINITE_CARDINALITY:
        raise DataError(f"the {what} never ends: say how long an epoch is, steps_per_epoch.")
    if length == tf.data.UNKNOWN_CARDINALITY:
        _log.info(
            "counting the batches of a %s of unknown length (if it never ends, give steps_per_epoch) ...",
            what,
        )
        try:
            length = int(dataset.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1))
        except tf.errors.OpError as error:
            raise cause(error, f"counting the batches of the {what}") from error
        _log.info("... %d (steps_per_epoch=%d, or assert_cardinality, saves this)", length, length)
    if length == 0:
        raise DataError(f"the data is empty: the {what} has no elements.")
    return length
