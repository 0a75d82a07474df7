"""Batches that were read from a feed, for comparison bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from looplab.data import explained
from looplab.execution.batches import batch_at, words
from looplab.protocols import Feed
from looplab.strategy import tree


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        tensors: The tensors from the feed.
    """

    tensors: Any

    @cached_property
    def arrays(self) -> list[tuple[str, np.ndarray]]:
        """Its arrays with their paths; a composite tensor has several."""
        found = []
        for path, part in tree.flatten_with_path(self.tensors):
            name = "/".join(map(str, path))
            found += [(name, np.asarray(own)) for own in tf.nest.flatten(part, expand_composites=True)]
        return found

    @cached_property
    def examples(self) -> list[bytes]:
        """The bytes that identify each of its rows."""
        arrays = [array for _, array in self.arrays]
        return [b" ".join(map(_bytes, parts)) for parts in zip(*arrays, strict=True)]

    @property
    def has_rows(self) -> bool:
        """Whether each of its arrays has a row for each example."""
        parts = tree.flatten(self.tensors)
        return all(
            tf.is_tensor(part) and not isinstance(part, tf.SparseTensor | tf.RaggedTensor) for part in parts
        )

    def __len__(self) -> int:
        """Returns the number of examples."""
        return int(tree.first(self.tensors).shape[0])

    def difference(self, expected: Batch) -> str | None:
        """Describes the first difference from another batch; None if both are equal bit by bit."""
        names = [[name for name, _ in batch.arrays] for batch in (self, expected)]
        if names[0] != names[1]:
            return f"it has the parts {names[0]}, not {names[1]}"
        for (name, own), (_, other) in zip(self.arrays, expected.arrays, strict=True):
            part = f"its part {name}" if name else "it"
            if own.dtype != other.dtype or own.shape != other.shape:
                return f"{part} is {_kind(own)}, not {_kind(other)}"
            for row, (left, right) in enumerate(zip(own, other, strict=True)):
                if _bytes(left) != _bytes(right):
                    return f"row {row} of {part} is {_short(left)}, not {_short(right)}"
        return None

    def misfit(self, spec: Any) -> str | None:
        """Describes how it does not fit a specification; None if it fits."""
        try:
            fits = tree.map_structure(lambda part, own: own.is_compatible_with(part), self.tensors, spec)
            if all(tree.flatten(fits)):
                return None
        except (TypeError, ValueError):
            pass
        return f"it is {words(tree.map_structure(tf.type_spec_from_value, self.tensors))}, not {words(spec)}"


def read(feed: Feed, first: int, count: int) -> list[Batch]:
    """Returns the batches of the steps after `first` completed steps, taken one by one."""
    feed.seek(first)
    return [take(feed, step) for step in range(first, first + count)]


def take(feed: Feed, step: int) -> Batch:
    """Takes the next batch, which belongs to the step after `step` completed steps."""
    with explained(feed, step, 1):
        return Batch(batch_at(feed.take(1), 0))


def joined(batches: Sequence[Batch]) -> Batch:
    """Returns the examples of several batches as one batch."""
    return Batch(tree.map_structure(lambda *parts: tf.concat(parts, 0), *(one.tensors for one in batches)))


def _bytes(value: Any) -> bytes:
    array = np.asarray(value)
    return repr(array.tolist()).encode() if array.dtype == object else array.tobytes()


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _short(value: Any) -> str:
    text = " ".join(str(np.asarray(value).tolist()).split())
    return text if len(text) <= 40 else f"{text[:37]}..."
