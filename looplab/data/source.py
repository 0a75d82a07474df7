"""From what a person passes to `fit` to a feed, and from a batch to its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from looplab.data.arrays import ArrayFeed
from looplab.data.stream import StreamFeed
from looplab.errors import ConfigurationError, DataError
from looplab.protocols import Feed

_BATCH_SIZE = 32  # of arrays, where nothing is said


def join(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Makes Keras' `fit(x, y, sample_weight=...)` the same as `fit((x, y, sample_weight))`."""
    if y is None:
        if sample_weight is not None:
            raise ConfigurationError("sample_weight: needs targets `y` that it belongs to.")
        return x
    return (x, y) if sample_weight is None else (x, y, sample_weight)


def build_feed(
    data: Any,
    *,
    batch_size: int | None,
    shuffle: bool,
    seed: int,
    steps_per_epoch: int | None = None,
) -> Feed:
    """Makes a feed of arrays or of a `tf.data.Dataset`.

    Args:
        data: A `tf.data.Dataset` of batches, or a nested structure (tuple, list, dict) of arrays.
        batch_size: Examples of a global batch of arrays (32 if None); not for datasets.
        shuffle: For arrays: a new order each epoch. A dataset comes in its own order.
        seed: Decides the orders of arrays.
        steps_per_epoch: Steps of an epoch; the next one goes on where it stopped. None for one pass.

    Raises:
        ConfigurationError: If arguments do not go together.
        DataError: If the data is empty, ragged, or of a kind looplab cannot read.
    """
    if isinstance(data, tf.data.Dataset):
        if batch_size is not None:
            raise ConfigurationError(
                f"batch_size: got {batch_size}, but the data is a tf.data.Dataset, whose elements "
                "are the batches. Leave batch_size out, and batch the dataset."
            )
        return StreamFeed(data, steps_per_epoch)
    if batch_size is not None and batch_size < 1:
        raise ConfigurationError(f"batch_size: must be at least 1, got {batch_size}.")
    return ArrayFeed(
        _as_arrays(data),
        batch_size or _BATCH_SIZE,
        shuffle=shuffle,
        seed=seed,
        steps_per_epoch=steps_per_epoch,
    )


def first_batches(data: Any, count: int, batch_size: int | None) -> Any:
    """Returns the first batches of data: the first rows of arrays, the first elements of a dataset.

    Args:
        data: As `build_feed` takes it.
        count: How many, at least 1.
        batch_size: Examples of a batch of arrays (32 if None).
    """
    if isinstance(data, tf.data.Dataset):
        return data.take(count).cache()  # a shuffle before it would give others in each pass
    rows = count * (batch_size or _BATCH_SIZE)
    return tf.nest.map_structure(lambda array: array[:rows] if array.shape else array, _as_arrays(data))


def epoch_length(data: Any, batch_size: int | None) -> int | None:
    """Returns the steps of an epoch of data, or None where it takes a pass to know."""
    if isinstance(data, tf.data.Dataset):
        length = int(data.cardinality())
        return length if length > 0 else None
    first = tf.nest.flatten(_as_arrays(data))[0]
    return -(-len(first) // (batch_size or _BATCH_SIZE))


def split_batch(batch: Any) -> tuple[Any, Any, Any]:
    """Returns `(inputs, targets, sample_weight)` of a batch; what is not there is None.

    A tuple is `(inputs, targets[, sample_weight])`; anything else is inputs.
    """
    if not isinstance(batch, tuple):
        return batch, None, None
    if len(batch) > 3:
        raise DataError(
            f"a batch is a tuple of {len(batch)} parts; expected (inputs, targets[, sample_weight])."
            " Several inputs stand inside it as a dict or list, or override compute_loss."
        )
    inputs, targets, weights = (*batch, None, None)[:3]
    return inputs, targets, weights


def _as_arrays(data: Any) -> Any:
    if data is None:
        raise ConfigurationError("fit needs data: arrays, a dict of arrays, or a tf.data.Dataset.")
    if isinstance(data, Mapping):
        return {key: _as_arrays(value) for key, value in data.items()}
    if isinstance(data, tuple):
        return tuple(_as_arrays(part) for part in data)
    if isinstance(data, np.ndarray) or tf.is_tensor(data):
        return data
    if isinstance(data, list):
        if any(hasattr(part, "shape") and part.shape for part in data):
            return [_as_arrays(part) for part in data]
        return np.asarray(data)
    if hasattr(data, "__array__"):
        return np.asarray(data)
    raise DataError(
        f"data of type {type(data).__module__}.{type(data).__name__} cannot be read; give arrays, a "
        "tuple or dict of arrays, or a tf.data.Dataset."
    )
