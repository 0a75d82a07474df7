"""Sources that Python code reads outside the graph: memory maps, files, objects."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from looplab.data.arrays import common_length, in_float_type, is_several, spec_of_rows
from looplab.data.indexed_source import IndexedSource
from looplab.data.read_errors import as_data_error, keep
from looplab.errors import DataError
from looplab.execution.batches import words
from looplab.strategy import tree


class Hosted(IndexedSource):
    """A source whose batches a Python method reads on a thread of the pipeline."""

    def __init__(self) -> None:
        """Stores Keras' current float type for all later reads."""
        self.floating = str(keras.config.floatx())

    @abstractmethod
    def read(self, rows: np.ndarray) -> Any:
        """Reads the batch with the given examples.

        Args:
            rows: Their indices, shape `[n]`, int64.

        Returns:
            Nested arrays.

        Raises:
            DataError: If they cannot be read.
        """

    def gather(self, rows: tf.Tensor) -> Any:
        """See `IndexedSource`."""
        types = [spec.dtype for spec in tree.flatten(self.spec)]
        found = tf.numpy_function(self._flat, [rows], types)
        # In eager mode TensorFlow unpacks a list with a single element.
        return tree.pack_sequence_as(self.spec, found if isinstance(found, list) else [found])

    def _flat(self, rows: np.ndarray) -> list[Any]:
        try:
            return tree.flatten(self.read(rows))
        except Exception as error:
            raise keep(error, f"reading {self.what}") from None


class MemoryMaps(Hosted):
    """Arrays of which at least one is a `numpy.memmap`; each batch reads its rows from the disk."""

    kind, what = "memmap", "examples of memory maps"
    faster = "rows are read from the disk: use arrays (numpy.array(map)) if they fit into memory"

    def __init__(self, arrays: Any) -> None:
        """Takes the arrays and reads nothing.

        Args:
            arrays: Nested structure of arrays, shapes `[examples, ...]`.

        Raises:
            DataError: If they have different lengths.
        """
        super().__init__()
        self.arrays, self.size = arrays, common_length(arrays)
        self.spec = tree.map_structure(spec_of_rows, arrays)

    def read(self, rows: np.ndarray) -> Any:
        """See `Hosted`."""
        return tree.map_structure(lambda array: in_float_type(array[rows], self.floating), self.arrays)


class SparseMatrices(MemoryMaps):
    """Arrays of which at least one is a sparse matrix of SciPy; each batch makes its rows dense."""

    kind, what = "sparse", "examples of sparse matrices"
    faster = "rows are made dense one batch at a time: give arrays (matrix.toarray()) if they fit into memory"


class Singles(Hosted):
    """A source that Python code reads one example at a time."""

    def __init__(self, size: int, what: str) -> None:
        """Reads the first example to find the shapes.

        Args:
            size: The number of examples.
            what: The kind of examples, for messages.

        Raises:
            DataError: If the first example cannot be read.
        """
        super().__init__()
        self.size, self.what = size, what
        self.spec = spec_of(self._read(0)) if size else tf.TensorSpec([])

    @abstractmethod
    def example(self, row: int) -> Any:
        """Returns an example: nested arrays and numbers, always of the same shapes."""

    def place(self, row: int) -> str:
        """Returns a description of the place of an example, for messages."""
        return f"reading example {row} (counted from 0) of {self.size} {self.what}"

    def read(self, rows: np.ndarray) -> Any:
        """See `Hosted`."""
        if not len(rows):  # a shard may have no rows of a short batch
            return tree.map_structure(
                lambda spec: np.zeros([0, *spec.shape], spec.dtype.as_numpy_dtype), self.spec
            )
        found = [self._checked(int(row)) for row in rows]
        return tree.map_structure(lambda *parts: np.stack(parts), *found)

    def _checked(self, row: int) -> Any:
        example = self._read(row)
        if differs := difference(example, self.spec):
            raise DataError(f"the examples differ: {differs}, {self.place(row)}.")
        return example

    def _read(self, row: int) -> Any:
        try:
            return nested(self.example(row), self.floating)
        except Exception as error:
            raise as_data_error(error, self.place(row)) from error


class Indexed(Protocol):
    """An object with a length that returns examples by index, such as a source of Grain."""

    def __len__(self) -> int:
        """Returns the number of examples."""

    def __getitem__(self, index: Any) -> Any:
        """Returns an example: nested arrays and numbers; a tuple is `(inputs, targets[, sample_weight])`."""


class SequenceSource(Singles):
    """Reads an object with `__len__` and `__getitem__` that returns single examples.

    It reads them one after the other, because the object's code may not be thread-safe.
    """

    kind, parallel = "items", None
    faster = (
        "examples are read one after the other: make __getitem__ faster, use arrays if they fit in memory, "
        "or use a keras.utils.PyDataset with workers, which reads several batches at once"
    )

    def __init__(self, items: Indexed) -> None:
        self.items = items
        super().__init__(len(items), f"examples of {type(items).__name__}")

    def example(self, row: int) -> Any:
        """See `Singles`."""
        return self.items[row]


def nested(value: Any, floating: str) -> Any:
    """Converts an example or a batch to nested arrays; lists of arrays become tuples, None stays None."""
    if value is None or (isinstance(value, np.ndarray) and _is_stack_of_none(value)):
        return None
    if isinstance(value, dict):
        return {key: nested(part, floating) for key, part in value.items()}
    if isinstance(value, tuple) or (isinstance(value, list) and is_several(value)):
        return tuple(nested(part, floating) for part in value)
    return in_float_type(value, floating)


def _is_stack_of_none(array: np.ndarray) -> bool:
    """Returns whether an array is a stack of None, which some libraries make of an absent part in a batch."""
    return array.dtype == object and bool(array.size) and all(value is None for value in array.ravel())


def difference(value: Any, spec: Any) -> str | None:
    """Returns a text on how nested arrays differ from a specification; None if they do not."""
    found = spec_of(value)
    try:
        if all(tree.flatten(tree.map_structure(_fits, found, spec))):
            return None
    except (TypeError, ValueError):
        pass
    return f"expected {words(spec)}, got {words(found)}"


def _fits(found: tf.TensorSpec, spec: tf.TensorSpec) -> bool:
    return found.dtype == spec.dtype and spec.shape.is_compatible_with(found.shape)


def spec_of(value: Any) -> Any:
    """Returns the specification of nested arrays."""
    return tree.map_structure(lambda array: tf.TensorSpec(array.shape, _dtype(array)), value)


def _dtype(array: np.ndarray) -> tf.DType:
    return tf.string if array.dtype.kind in "SUO" else tf.as_dtype(array.dtype)
