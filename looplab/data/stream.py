"""Reads batches one after the other: from a `tf.data.Dataset`, a generator, any other iterable."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import tensorflow as tf

from looplab.data.class_weight import weigh, weighted_spec
from looplab.data.counting import counted
from looplab.data.iterators import Reader, let_go, restore, skip, state_of
from looplab.data.passes import Copies, counting, seeds
from looplab.data.read_errors import as_kept
from looplab.errors import CheckpointError, ConfigurationError, DataError
from looplab.execution.batches import words
from looplab.protocols import Feed
from looplab.strategy import tree

_log = logging.getLogger("looplab")

_SHARE = 100  # the time until the next snapshot, as a multiple of the time for one snapshot
_LARGE = 64 * 2**20  # the most bytes of a snapshot: a larger one would make every checkpoint large

_PIPELINE = (
    "in the pipeline, use num_parallel_calls=tf.data.AUTOTUNE in map, cache() after slow parts, and "
    "prefetch(tf.data.AUTOTUNE) at the end; arrays in memory need no pipeline"
)
GENERATOR = (
    "a generator runs on one Python thread: make it faster, use arrays if they fit into memory, or use a "
    "keras.utils.PyDataset with workers, which reads several batches at once"
)


class Stream:
    """A source whose elements are global batches, in their own order."""

    batched, repeats = True, False

    def __init__(
        self,
        dataset: tf.data.Dataset,
        what: str = "tf.data stream",
        class_weight: Mapping[Any, float] | None = None,
        faster: str = _PIPELINE,
    ) -> None:
        """Takes the dataset and reads nothing.

        Args:
            dataset: A dataset of batches: nested tensors that share their first axis.
            what: The kind of data, for messages.
            class_weight: The class weights from which the weights in the elements were made, if any.
            faster: Advice on how to read faster.
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
                f"a {self.what} cannot be read in {shard[1]} shards: its order may differ in each process. "
                "Give arrays, or another source that is read by index."
            )
        feed = StreamFeed(self.dataset, steps_per_epoch, self.what)
        feed.class_weight, feed.faster = self.class_weight, self.faster
        return feed

    def length(self, batch_size: int | None) -> int | None:
        """Returns the steps of one pass, or None if only a pass can tell."""
        length = int(self.dataset.cardinality())
        return length if length > 0 else None

    def first(self, count: int, batch_size: int | None) -> Stream:
        """Returns the first batches, kept in memory: a shuffle before them would change them in each pass."""
        return Stream(self.dataset.take(count).cache(), self.what, faster=self.faster)

    def split(self, fraction: float) -> tuple[Any, Any]:
        """Refuses, because the length of a stream is not known before it is read."""
        raise ConfigurationError(
            f"validation_split: a {self.what} cannot be split. Give validation_data; for a tf.data.Dataset "
            "use take(n) and skip(n)."
        )

    def weighted(self, class_weight: Mapping[Any, float]) -> Stream:
        """Returns the stream with weights by the class of the target."""
        weighted_spec(self.dataset.element_spec, class_weight)
        heavy = self.dataset.map(lambda *batch: weigh(batch, class_weight))
        return Stream(heavy, self.what, class_weight, self.faster)


class StreamFeed:
    """The elements of a dataset, each one global batch, epoch after epoch; see `Feed`.

    A resume starts with the state of TensorFlow's iterator at a recent save (`snapshot`), if there is one,
    and skips the batches since then. Otherwise it skips all earlier batches, which takes time. Both are exact
    if the dataset yields the same elements in every process (a shuffle needs a `seed`).

    Attributes:
        dataset: The user's dataset: the batches of one pass.
    """

    max_take: int | None = None
    waited, faster, gives_rows = 0.0, _PIPELINE, False
    _warned = False  # whether another reading of a dataset that counts them was logged
    _skipped = 0  # the batches that the pipeline of the iterator skips at its start
    _next = 0  # the completed steps at the position of the iterator, if no step has failed
    _snapshot: dict[str, Any] | None = None
    _snapshot_due = 0.0  # a time of the clock
    resumes = "from the state of its pipeline"
    class_weight: Mapping[Any, float] | None = None

    def __init__(
        self, dataset: tf.data.Dataset, steps_per_epoch: int | None = None, what: str = "tf.data stream"
    ) -> None:
        """Takes a dataset that is already batched.

        Args:
            dataset: A dataset of batches: nested tensors that share their first axis.
            steps_per_epoch: Batches of an epoch. An endless dataset needs it; it limits the epochs of other
                datasets. The next epoch continues where the last one stopped.
            what: The kind of data, for messages.

        Raises:
            DataError: If the dataset is empty, not batched, or endless without `steps_per_epoch`.
        """
        self.dataset, self._what = dataset, what
        self.element_spec = tree.map_structure(lambda spec: spec, dataset.element_spec)
        tree.first(self.element_spec)  # refuses an empty structure
        for spec in tree.flatten(self.element_spec):
            if spec.shape.rank == 0:
                raise DataError(
                    f"the {what} has scalar elements, so it is not batched. Add `.batch(size)`; the elements "
                    "must be the global batches."
                )
        sizes = {spec.shape[0] for spec in tree.flatten(self.element_spec)} - {None}
        if len(sizes) > 1:
            raise DataError(
                f"an element of the {what} is {words(self.element_spec)}, but its parts need the same first "
                "axis, which counts the examples of a batch. If the elements are single examples, add "
                "`.batch(size)`."
            )
        self.steps_per_epoch: int | None = steps_per_epoch or _length(dataset, what)
        self._reader = Reader(tuned=dataset.options().autotune.enabled is not False)

    def place(self, step: int, *, begun: int, shift: int) -> int:
        """See `Feed`: new data starts at its first batch."""
        return step - begun

    def seek(self, step: int) -> None:
        """See `Feed`. Reads and drops the batches since the last snapshot, or since the first batch."""
        held, self._skipped = self._begun(step)
        self._next = step
        self._reader.begin(held)

    def take(self, count: int) -> Any:
        """See `Feed`: the iterator itself, from which the caller takes `count` batches."""
        self._next += count
        return self._reader.iterator

    def batch(self, step: int) -> Any:
        """See `Feed`. Reads and drops the batches before it, as `seek` does."""
        held, _ = self._begun(step)
        batch = next(held[0])
        let_go(held)
        return batch

    def snapshot(self, step: int) -> dict[str, Any] | None:
        """See `Feed`. It may return an earlier snapshot, so that it costs little."""
        now = time.monotonic()
        if 0 < step == self._next and now >= self._snapshot_due:
            state = state_of(self._reader.iterator)
            took = time.monotonic() - now
            self._snapshot_due = now + _SHARE * took
            if state is not None and state.nbytes > _LARGE:
                _log.warning(
                    "the state of the %s is %.0f MB, probably because of a shuffle buffer, and is not saved: "
                    "a resume skips all batches up to its place. Arrays and sources with __getitem__ are "
                    "shuffled by index and resume at once.",
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
            CheckpointError: If the snapshot comes from another pipeline.
        """
        self._snapshot = None if snapshot is None else dict(snapshot)
        if snapshot is None:  # a pipeline may count how often it starts
            return
        try:
            let_go(self._begun(snapshot["step"])[0])
        except tf.errors.OpError as error:
            self._snapshot = None
            raise CheckpointError(
                f"the {self._what} differs from the pipeline at the save, so its place is unknown. Restore "
                "the old pipeline, or set allow_change=[data] to skip batches instead."
            ) from error

    def _begun(self, step: int) -> tuple[list[tf.data.Iterator], int]:
        """Returns an iterator whose next batch belongs to the step after `step` completed ones.

        Also returns how many batches its pipeline skips at its start.
        """
        if self._snapshot is None or step < self._snapshot["step"]:
            # A pipeline that counts how often it starts must not run ahead before the first `take`.
            return [iter(self._anew(step).skip(step))], step
        held = [iter(self._endless.skip(self._snapshot["skipped"]))]
        restore(held[0], self._snapshot["state"])
        skip(held[0], tf.constant(step - self._snapshot["step"], tf.int64))
        return held, self._snapshot["skipped"]

    def seeds(self) -> list[list[int]]:
        """Returns the seeds of the shuffles in the pipeline, as TensorFlow has them."""
        return seeds(self.dataset)

    def rows(self, step: int) -> list[int] | None:
        """See `Feed`: not known."""
        return None

    def position(self, step: int) -> dict[str, Any]:
        """See `Feed`."""
        spec = [f"{part.dtype.name} {part.shape}" for part in tree.flatten(self.element_spec)]
        return {"kind": "stream", "skip": step, "batches": spec, "steps_per_epoch": self.steps_per_epoch}

    def examples(self, step: int) -> int | None:
        """See `Feed`: known if all batches have the same static size."""
        size = tree.first(self.element_spec).shape[0]
        return None if size is None else step * size

    def describe(self) -> str:
        """See `Feed`."""
        return f"{self._what}, {self.steps_per_epoch} steps an epoch"

    @cached_property
    def _endless(self) -> tf.data.Dataset:
        """The batches of all steps; kept, because evaluations start it many times."""
        return self.dataset.repeat()

    @cached_property
    def counts(self) -> bool:
        """Whether the order of a pass depends on all earlier readings of the dataset in this process."""
        return bool(counting(self.dataset)) and self._copies.new() is None

    @cached_property
    def _copies(self) -> Copies:
        return Copies(self.dataset)

    def _anew(self, step: int) -> tf.data.Dataset:
        """Returns the batches of all steps, from their beginning, for a start at a step."""
        if not counting(self.dataset):
            return self._endless
        if not self.counts and (copy := self._copies.new()) is not None:
            return copy.repeat()
        own = weakref.ref(self)
        before = [_readers.get(part) for part in counting(self.dataset)]
        if not self._warned and any(reader and (step or reader != own) for reader in before):
            self._warned = True
            _log.warning(
                "the %s shuffles anew in each pass and was read before in this process, so it now has "
                "another order: a run that goes on repeats some examples and misses others. looplab cannot "
                "copy it, because it holds more than 64 MB of arrays or because TensorFlow cannot save its "
                "graph. Make a new Dataset for each fit and each evaluation; or give the arrays themselves, "
                "which looplab shuffles by index.",
                self._what,
            )
        _readers.update(dict.fromkeys(counting(self.dataset), own))
        return self._endless


# the last feed of each dataset that counts all readings
_readers = weakref.WeakKeyDictionary[Any, weakref.ref[StreamFeed]]()


def _length(dataset: tf.data.Dataset, what: str) -> int:
    length = int(dataset.cardinality())
    if length == tf.data.INFINITE_CARDINALITY:
        raise DataError(
            f"the {what} never ends. Set steps_per_epoch for training, validation_steps for an evaluation, "
            "or steps in evaluate and predict."
        )
    if length == tf.data.UNKNOWN_CARDINALITY:
        try:
            length = counted(dataset, what)
        except tf.errors.OpError as error:
            raise as_kept(error, f"counting the batches of the {what}") from error
    if length == 0:
        raise DataError(f"the data is empty: the {what} has no elements.")
    return length
