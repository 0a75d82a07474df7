"""Batches that come one after the other: a `tf.data.Dataset`, a generator, anything that is iterated over."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import tensorflow as tf

from looplab.data.class_weight import weigh, weighted_spec
from looplab.data.counting import counted
from looplab.data.iterators import Reader, let_go, restore, skip, state_of
from looplab.data.read_errors import as_kept
from looplab.errors import CheckpointError, ConfigurationError, DataError
from looplab.execution.batches import words
from looplab.protocols import Feed
from looplab.strategy import tree

_log = logging.getLogger("looplab")

_SHARE = 100  # of the time that a snapshot takes, until the next
_LARGE = 64 * 2**20  # bytes of a snapshot, which would be in every checkpoint

_PIPELINE = (
    "in the pipeline, num_parallel_calls=tf.data.AUTOTUNE in map, cache() after what is slow, and "
    "prefetch(tf.data.AUTOTUNE) at the end help; arrays in memory need no pipeline"
)
GENERATOR = (
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
        self,
        batch_size: int | None,
        *,
        shuffle: bool,
        seed: int,
        steps_per_epoch: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Feed:
        """Returns the feed of the source; see `looplab.data.build_feed`."""
        if shard[1] > 1:
            raise ConfigurationError(
                f"a {self.what} cannot be read in {shard[1]} shards: its batches have an order of their own, "
                "of which no two processes can be sure. Give arrays, or another source that is read by index."
            )
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

    A resume begins with the state that TensorFlow's iterator had at a save not long before, if there is one
    (`snapshot`), and skips the batches since then; else all that were seen, which takes time. Either is exact
    if the dataset gives the same elements in every process (a shuffle needs a `seed`).

    Attributes:
        dataset: As it was given: the batches of one pass.
    """

    max_take: int | None = None
    waited, faster, gives_rows = 0.0, _PIPELINE, False
    _skipped = 0  # batches that the pipeline of its iterator begins with skipping
    _next = 0  # completed steps at which the iterator is, if none has failed
    _snapshot: dict[str, Any] | None = None
    _snapshot_due = 0.0  # by the clock
    resumes = "from the state of its pipeline"
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
        self.element_spec = tree.map_structure(lambda spec: spec, dataset.element_spec)
        tree.first(self.element_spec)  # refuses what holds nothing
        for spec in tree.flatten(self.element_spec):
            if spec.shape.rank == 0:
                raise DataError(
                    f"the {what} has scalar elements: it is not batched. Add "
                    "`.batch(size)`; its elements are the global batches."
                )
        sizes = {spec.shape[0] for spec in tree.flatten(self.element_spec)} - {None}
        if len(sizes) > 1:
            raise DataError(
                f"an element of the {what} is {words(self.element_spec)}: its parts need one first axis, "
                "which counts the examples of a batch. If these are single examples, add `.batch(size)`."
            )
        self.steps_per_epoch: int | None = steps_per_epoch or _length(dataset, what)
        self._reader = Reader(tuned=dataset.options().autotune.enabled is not False)

    def place(self, step: int, *, begun: int, shift: int) -> int:
        """See `Feed`: data that comes later begins at its first batch."""
        return step - begun

    def seek(self, step: int) -> None:
        """See `Feed`. Reads and drops the batches since the last snapshot, or the first."""
        held, self._skipped = self._begun(step)
        self._next = step
        self._reader.begin(held)

    def take(self, count: int) -> Any:
        """See `Feed`: the iterator itself, of which the caller takes `count` batches."""
        self._next += count
        return self._reader.iterator

    def batch(self, step: int) -> Any:
        """See `Feed`. Reads and drops the batches before it, as `seek` does."""
        held, _ = self._begun(step)
        batch = next(held[0])
        let_go(held)
        return batch

    def snapshot(self, step: int) -> dict[str, Any] | None:
        """See `Feed`. It may be an earlier one, so that it costs little."""
        now = time.monotonic()
        if 0 < step == self._next and now >= self._snapshot_due:
            state = state_of(self._reader.iterator)
            took = time.monotonic() - now
            self._snapshot_due = now + _SHARE * took
            if state is not None and state.nbytes > _LARGE:
                _log.warning(
                    "the state of the %s is %.0f MB, most likely in the buffer of a shuffle, and is not "
                    "saved: a resume skips all batches up to its place. Arrays and sources with "
                    "__getitem__ are shuffled by index, and resume at once.",
                    self._what,
                    state.nbytes / 1e6,
                )
                state = None
            self._snapshot = (
                None if state is None else {"step": step, "skipped": self._skipped, "state": state}
            )
            if state is None:
                self._snapshot_due = math.inf
        return self._snapshot

    def resume_from(self, snapshot: Mapping[str, Any] | None) -> None:
        """See `Feed`.

        Raises:
            CheckpointError: If it is that of another pipeline.
        """
        self._snapshot = None if snapshot is None else dict(snapshot)
        if snapshot is None:  # a pipeline may count how often it is begun
            return
        try:
            let_go(self._begun(snapshot["step"])[0])
        except tf.errors.OpError as error:
            self._snapshot = None
            raise CheckpointError(
                f"the {self._what} is another pipeline than when the run was saved, so its place is not "
                "known. Make it as it was; or allow it, allow_change=[data], and batches are skipped."
            ) from error

    def _begun(self, step: int) -> tuple[list[tf.data.Iterator], int]:
        """Returns an iterator whose next batch is that of the step after `step` completed ones.

        And how many batches its pipeline begins with skipping.
        """
        if self._snapshot is None or step < self._snapshot["step"]:
            # A pipeline that counts how often it is begun must not run ahead before the first `take`.
            return [iter(self._endless.skip(step))], step
        held = [iter(self._endless.skip(self._snapshot["skipped"]))]
        restore(held[0], self._snapshot["state"])
        skip(held[0], tf.constant(step - self._snapshot["step"], tf.int64))
        return held, self._snapshot["skipped"]

    def rows(self, step: int) -> list[int] | None:
        """See `Feed`: not known."""
        return None

    def position(self, step: int) -> dict[str, Any]:
        """See `Feed`."""
        spec = [f"{part.dtype.name} {part.shape}" for part in tree.flatten(self.element_spec)]
        return {"kind": "stream", "skip": step, "batches": spec, "steps_per_epoch": self.steps_per_epoch}

    def examples(self, step: int) -> int | None:
        """See `Feed`: known if all batches have one static size."""
        size = tree.first(self.element_spec).shape[0]
        return None if size is None else step * size

    def describe(self) -> str:
        """See `Feed`."""
        return f"{self._what}, {self.steps_per_epoch} steps an epoch"

    @cached_property
    def _endless(self) -> tf.data.Dataset:
        """The batches of all steps, kept: evaluations begin again and again."""
        return self.dataset.repeat()


def _length(dataset: tf.data.Dataset, what: str) -> int:
    length = int(dataset.cardinality())
    if length == tf.data.INFINITE_CARDINALITY:
        raise DataError(
            f"the {what} never ends: say how long an epoch is, steps_per_epoch; of an evaluation how many "
            "batches it takes, validation_steps, or steps of evaluate and predict."
        )
    if length == tf.data.UNKNOWN_CARDINALITY:
        try:
            length = counted(dataset, what)
        except tf.errors.OpError as error:
            raise as_kept(error, f"counting the batches of the {what}") from error
    if length == 0:
        raise DataError(f"the data is empty: the {what} has no elements.")
    return length
