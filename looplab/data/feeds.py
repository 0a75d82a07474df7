"""Makes a feed from the arguments of `fit`, and splits a batch into its parts."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from looplab.data.adapters import Source, as_source
from looplab.data.class_weight import read as read_class_weight
from looplab.data.indexed_source import IndexedSource
from looplab.data.labels import warn_of_split, warn_of_unseen
from looplab.data.read_once import ReadOnce
from looplab.data.resident_feed import ResidentFeed
from looplab.errors import ConfigurationError, DataError
from looplab.protocols import Feed

_log = logging.getLogger("looplab")


def join(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Combines Keras' arguments `fit(x, y, sample_weight=...)` to the data `(x, y, sample_weight)`."""
    if y is None:
        if sample_weight is not None:
            raise ConfigurationError("sample_weight: needs targets; give `y` too.")
        return x
    return (x, y) if sample_weight is None else (x, y, sample_weight)


def build_feed(
    data: Any,
    *,
    batch_size: int | None,
    shuffle: bool,
    seed: int,
    steps_per_epoch: int | None = None,
    device: str = "/CPU:0",
    shard: tuple[int, int] = (0, 1),
    forward: bool = False,
) -> Feed:
    """Makes the feed of data of any kind.

    Args:
        data: See `as_source`.
        batch_size: Examples of a global batch (32 if None); not for data that is already batched.
        shuffle: Whether each epoch gets a new order. Only for data that is read by index; a stream has its
            own order.
        seed: Determines the orders.
        steps_per_epoch: Steps of an epoch, at most the steps of a pass if its length is known; the next epoch
            continues where it stopped. None for one pass.
        device: The device that keeps small arrays and gathers their rows.
        shard: `(rank, count)` for one of several processes that share each global batch. From a batch of `n`
            rows, the process gets the rows from `rank * n // count` to `(rank + 1) * n // count`, perhaps
            none if the batch is short. The rows of all ranks, in order, are the batch. Steps, positions and
            the count of examples refer to global batches. Not for a stream.
        forward: Whether steps only go forward, as in training. Then looplab does not keep the batches of a
            generator object, if `steps_per_epoch` sets the length of an epoch.

    Raises:
        ConfigurationError: If arguments contradict each other.
        DataError: If the data is empty, ragged, or of a kind looplab cannot read.
    """
    rank, count = shard
    if not 0 <= rank < count:
        raise ConfigurationError(f"shard: expected (rank, count) with 0 <= rank < count, got {shard}.")
    source = as_source(data)
    if source.batched and batch_size is not None:
        raise ConfigurationError(
            f"batch_size: got {batch_size}, but the elements of a {type(data).__name__} are the batches. "
            "Leave batch_size out, and batch the data itself."
        )
    if steps_per_epoch is not None:
        asked, steps_per_epoch = steps_per_epoch, within_a_pass(steps_per_epoch, source, batch_size)
        if steps_per_epoch < asked:
            _log.warning(
                "%d steps are requested, but one pass over the %s has %d: an epoch (or an evaluation) ends "
                "with the data, as in Keras. For longer epochs give data that repeats, such as "
                "tf.data.Dataset.repeat().",
                asked,
                source.what,
                steps_per_epoch,
            )
        if forward and isinstance(source, ReadOnce):
            return source.forward(steps_per_epoch)
    feed = source.feed(batch_size, shuffle=shuffle, seed=seed, steps_per_epoch=steps_per_epoch, shard=shard)
    if isinstance(feed, ResidentFeed):
        feed.keep_on(device)
    return feed


def within_a_pass(steps: int, source: Source, batch_size: int | None) -> int:
    """Returns the steps of an epoch. As in Keras, an epoch ends with the data, if its length is known.

    Args:
        steps: The requested number of steps.
        source: The source of the data.
        batch_size: Examples of a batch (32 if None).
    """
    length = None if source.repeats else source.length(batch_size)
    return steps if length is None else min(steps, length)


def split_and_weigh(
    data: Any, validation_data: Any, validation_split: float | None, class_weight: Any
) -> tuple[Any, Any]:
    """Applies the arguments `validation_split` and `class_weight` of `fit`.

    Args:
        data: Training data, see `as_source`.
        validation_data: The argument of `fit`.
        validation_split: The fraction of examples to hold out, from the end, before any shuffling; None or 0
            for none.
        class_weight: Weights of the training examples by the class of their target; None for none.

    Returns:
        The training data and the validation data.

    Raises:
        ConfigurationError: If the data cannot be split, or cannot have weights by class.
    """
    if validation_split:
        if validation_data is not None:
            raise ConfigurationError("validation_split and validation_data: give only one of the two.")
        if not 0.0 < validation_split < 1.0:
            raise ConfigurationError(
                f"validation_split: must be above 0 and below 1, got {validation_split}."
            )
        data, validation_data = _given(data, "validation_split").split(validation_split)
        warn_of_split(
            _labels(data),
            _labels(validation_data),
            f"validation_split={validation_split} holds out the last examples",
            "Shuffle the examples once before, or give validation_data",
        )
    if class_weight:
        data = _given(data, "class_weight").weighted(read_class_weight(class_weight))
        warn_of_unseen(_labels(data), read_class_weight(class_weight))
    return data, validation_data


def _labels(data: Any) -> np.ndarray | None:
    return data.labels() if isinstance(data, IndexedSource) else None


def _given(data: Any, argument: str) -> Source:
    if data is None:
        raise ConfigurationError(f"{argument}: needs data; this trainer makes its batches (make_batch).")
    return as_source(data)


def first_batches(data: Any, count: int, batch_size: int | None) -> Source:
    """Returns the first batches of data: the first examples, or the first elements of a stream.

    Args:
        data: See `as_source`.
        count: The number of batches, at least 1.
        batch_size: Examples of a batch (32 if None).
    """
    return as_source(data).first(count, batch_size)


def epoch_length(data: Any, batch_size: int | None) -> int | None:
    """Returns the steps of an epoch, or None if only a pass over the data can tell."""
    return as_source(data).length(batch_size)


def split_batch(batch: Any) -> tuple[Any, Any, Any]:
    """Returns `(inputs, targets, sample_weight)` of a batch; an absent part is None.

    A tuple is `(inputs, targets[, sample_weight])`; any other batch is inputs. Several inputs in a tuple
    become a list, as Keras' models expect.
    """
    if not isinstance(batch, tuple):
        return batch, None, None
    if len(batch) > 3:
        raise DataError(
            f"a batch is a tuple of {len(batch)} parts; expected (inputs, targets[, sample_weight]). Put "
            "several inputs into it as a dict or list, or override compute_loss."
        )
    inputs, targets, sample_weight = (*batch, None, None)[:3]
    return list(inputs) if isinstance(inputs, tuple) else inputs, targets, sample_weight
