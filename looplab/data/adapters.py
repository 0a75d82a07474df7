"""From what a person passes to `fit` to a source and its feed, and from a batch to its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.data.arrays import Arrays, as_arrays, name_of
from looplab.data.class_weight import read as read_class_weight
from looplab.data.host_sources import MemoryMaps, SequenceSource
from looplab.data.indexed_source import IndexedSource
from looplab.data.labels import warn_of_split, warn_of_unseen
from looplab.data.pydataset import PyBatches
from looplab.data.resident_feed import ResidentFeed
from looplab.data.stream import Stream, generated
from looplab.errors import ConfigurationError, DataError
from looplab.protocols import Feed
from looplab.strategy import tree

Source = IndexedSource | Stream


def join(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Makes Keras' `fit(x, y, sample_weight=...)` the same as `fit((x, y, sample_weight))`."""
    if y is None:
        if sample_weight is not None:
            raise ConfigurationError("sample_weight: needs targets `y` that it belongs to.")
        return x
    return (x, y) if sample_weight is None else (x, y, sample_weight)


def as_source(data: Any) -> Source:
    """Returns data of any kind that looplab can read as a source.

    Args:
        data: Nested arrays (some may be `numpy.memmap`s, some None: absent); a `tf.data.Dataset` of batches;
            a `keras.utils.PyDataset`; a function without arguments that returns an iterator of batches, or
            something else that can be iterated over again and again; an object with `__len__` and
            `__getitem__` that gives single examples; or a source.

    Raises:
        ConfigurationError: If there is none.
        DataError: If it is of another kind, or cannot be read.
    """
    if data is None:
        raise ConfigurationError("fit needs data: arrays, a dict of arrays, a tf.data.Dataset, ...")
    if isinstance(data, IndexedSource | Stream):
        return data
    if isinstance(data, tf.data.Dataset):
        return Stream(data)
    if isinstance(data, keras.utils.PyDataset):
        return PyBatches(data)
    arrays = as_arrays(data)
    if isinstance(data, list) and isinstance(arrays, tuple):
        arrays = (arrays,)  # several inputs
    if arrays is not None:
        mapped = any(isinstance(array, np.memmap) for array in tree.flatten(arrays))
        return MemoryMaps(arrays) if mapped else Arrays(arrays)
    return _of_object(data)


def _of_object(data: Any) -> Source:
    kind = type(data)
    if isinstance(data, Iterator):
        raise DataError(
            f"a {kind.__name__} can be read only once, and training reads its data again: for the shapes, "
            "in each epoch, when it resumes. Give the function that makes it: fit(batches) instead of "
            "fit(batches())."
        )
    if (
        hasattr(kind, "__len__")
        and hasattr(kind, "__getitem__")
        and not isinstance(data, tuple | Mapping | str | bytes)
    ):
        return SequenceSource(data)
    if hasattr(kind, "__iter__") and not isinstance(data, tuple | Mapping | str | bytes):
        return generated(lambda: iter(data), kind.__name__)
    if callable(data):
        return generated(data, getattr(data, "__qualname__", kind.__name__))
    if isinstance(data, tuple | Mapping):
        raise _of_others(data)
    raise DataError(
        f"data of type {kind.__module__}.{kind.__name__} cannot be read; give arrays, a tuple or dict of "
        "arrays, a tf.data.Dataset, a keras.utils.PyDataset, a function that returns a generator of batches, "
        "or an object with __len__ and __getitem__ that gives examples."
    )


def _of_others(data: tuple[Any, ...] | Mapping[Any, Any]) -> DataError:
    """Says which part of a tuple or a dict is no array."""
    parts = data.items() if isinstance(data, Mapping) else enumerate(data)
    strange = [(name_of([at]), part) for at, part in parts if part is not None and as_arrays(part) is None]
    if not strange:
        return DataError(f"the data is empty: it is {data!r}.")
    name, part = strange[0]
    return DataError(
        f"of the data, a {type(data).__name__}, {name} is no array but of type {type(part).__module__}."
        f"{type(part).__qualname__}. In a tuple or dict give arrays, or None for what is absent; a "
        "tf.data.Dataset, a PyDataset or a generator stands alone, and its elements have all parts."
    )


def build_feed(
    data: Any,
    *,
    batch_size: int | None,
    shuffle: bool,
    seed: int,
    steps_per_epoch: int | None = None,
    device: str = "/CPU:0",
) -> Feed:
    """Makes the feed of data of any kind.

    Args:
        data: See `as_source`.
        batch_size: Examples of a global batch (32 if None); not for data that is batched already.
        shuffle: Whether what is found by index comes in a new order each epoch. A stream has its own order.
        seed: Decides the orders.
        steps_per_epoch: Steps of an epoch; the next one goes on where it stopped. None for one pass.
        device: Where small arrays are kept, and their rows gathered.

    Raises:
        ConfigurationError: If arguments do not go together.
        DataError: If the data is empty, ragged, or of a kind looplab cannot read.
    """
    source = as_source(data)
    if source.batched and batch_size is not None:
        raise ConfigurationError(
            f"batch_size: got {batch_size}, but the data is a {type(data).__name__}, whose elements "
            "are the batches. Leave batch_size out, and batch the data."
        )
    feed = source.feed(batch_size, shuffle=shuffle, seed=seed, steps_per_epoch=steps_per_epoch)
    if isinstance(feed, ResidentFeed):
        feed.keep_on(device)
    return feed


def split_and_weigh(
    data: Any, validation_data: Any, validation_split: float | None, class_weight: Any
) -> tuple[Any, Any]:
    """Does what `fit` is asked for with `validation_split` and `class_weight`; see there.

    Args:
        data: Training data, see `as_source`.
        validation_data: What is given as such.
        validation_split: The part held out, the last examples before any shuffling; None or 0 for none.
        class_weight: Weights of the training examples by the class of their target; None for none.

    Returns:
        The data to train and to validate with.

    Raises:
        ConfigurationError: If the data cannot be split, or cannot have weights by class.
    """
    if validation_split:
        if validation_data is not None:
            raise ConfigurationError("validation_split and validation_data: give one of the two.")
        if not 0.0 < validation_split < 1.0:
            raise ConfigurationError(
                f"validation_split: must be above 0 and below 1, got {validation_split}."
            )
        data, validation_data = _given(data, "validation_split").split(validation_split)
        warn_of_split(_labels(data), _labels(validation_data), validation_split)
    if class_weight:
        data = _given(data, "class_weight").weighted(read_class_weight(class_weight))
        warn_of_unseen(_labels(data), read_class_weight(class_weight))
    return data, validation_data


def _labels(data: Any) -> np.ndarray | None:
    return data.labels() if isinstance(data, IndexedSource) else None


def _given(data: Any, argument: str) -> Source:
    if data is None:
        raise ConfigurationError(f"{argument}: the trainer makes its data itself (make_batch).")
    return as_source(data)


def first_batches(data: Any, count: int, batch_size: int | None) -> Source:
    """Returns the first batches of data: the first examples, or the first elements of a stream.

    Args:
        data: See `as_source`.
        count: How many, at least 1.
        batch_size: Examples of a batch (32 if None).
    """
    return as_source(data).first(count, batch_size)


def epoch_length(data: Any, batch_size: int | None) -> int | None:
    """Returns the steps of an epoch of data, or None where it takes a pass to know."""
    return as_source(data).length(batch_size)


def split_batch(batch: Any) -> tuple[Any, Any, Any]:
    """Returns `(inputs, targets, sample_weight)` of a batch; what is not there is None.

    A tuple is `(inputs, targets[, sample_weight])`; anything else is inputs. Several inputs that stand in a
    tuple come as a list, as Keras' models have them.
    """
    if not isinstance(batch, tuple):
        return batch, None, None
    if len(batch) > 3:
        raise DataError(
            f"a batch is a tuple of {len(batch)} parts; expected (inputs, targets[, sample_weight])."
            " Several inputs stand inside it as a dict or list, or override compute_loss."
        )
    inputs, targets, sample_weight = (*batch, None, None)[:3]
    return list(inputs) if isinstance(inputs, tuple) else inputs, targets, sample_weight
