"""Arrays in memory as a source."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.data.array_types import dense, is_scipy, is_sparse, plain
from looplab.data.indexed_source import IndexedSource
from looplab.errors import DataError
from looplab.strategy import tree

_HOST = "/CPU:0"
_RESIDENT = 2**30  # the most bytes of arrays that looplab copies to a GPU
# GPUs gather rows of these types. For others TensorFlow would copy the whole array to the host each time.
_ON_GPU = tf.bool, tf.int32, tf.int64, tf.bfloat16, tf.float16, tf.float32, tf.float64


class Arrays(IndexedSource):
    """Arrays or tensors that share their first axis; the graph of the pipeline gathers their rows."""

    kind, what, in_memory = "arrays", "examples", True
    parallel = max(2, min(8, (os.cpu_count() or 1) // 2))  # memory soon limits how fast rows are copied
    faster = (
        "rows of arrays are copied into batches: a smaller type, such as uint8 that the model scales, is "
        "faster"
    )

    def __init__(self, arrays: Any) -> None:
        """Takes the arrays as they are (floating-point arrays in Keras' float type).

        Args:
            arrays: Nested structure of arrays or tensors, shapes `[examples, ...]`.

        Raises:
            DataError: If the arrays have different lengths, an array is a scalar, or there are no arrays.
        """
        self._given = tree.map_structure(lambda a: a if tf.is_tensor(a) else np.asarray(a), arrays)
        self._floating, self._device = str(keras.config.floatx()), _HOST
        self._elsewhere = dict[str, Arrays]()  # copies by device
        for array in tree.flatten(self._given):
            if not array.shape:
                raise DataError("an array is a scalar; its first axis must count the examples.")
        self.size = common_length(self._given)
        self.spec = tree.map_structure(spec_of_rows, self._given)

    def labels(self) -> np.ndarray | None:
        """See `IndexedSource`."""
        targets = self._given[1] if isinstance(self._given, tuple) and len(self._given) > 1 else None
        if targets is None or not hasattr(targets, "shape") or len(targets.shape) != 1:
            return None
        found = np.asarray(targets)
        return found if found.dtype.kind in "iu" else None

    @cached_property
    def arrays(self) -> Any:
        """The arrays as tensors on their device; made for the first batch."""

        def tensor(array: Any, spec: tf.TensorSpec) -> tf.Tensor:
            with tf.init_scope(), tf.device(self._device if spec.dtype in _ON_GPU else _HOST):
                given = array if tf.is_tensor(array) else in_float_type(array, self._floating)
                return tf.identity(tf.convert_to_tensor(given))

        return tree.map_structure(tensor, self._given, self.spec)

    def gather(self, rows: tf.Tensor) -> Any:
        """See `IndexedSource`. Runs on the arrays' device; otherwise TensorFlow would copy whole arrays."""

        def part(array: tf.Tensor) -> tf.Tensor:
            with tf.device(array.device):
                return tf.gather(array, rows)

        return tree.map_structure(part, self.arrays)

    def resident(self, device: str) -> Arrays:
        """See `IndexedSource`: only for small arrays of types whose rows GPUs can gather."""
        specs = tree.flatten(self.spec)
        size = self.size * sum(s.dtype.size * math.prod(s.shape) for s in specs if s.dtype in _ON_GPU)
        if device == self._device or size > _RESIDENT:
            return self
        if device not in self._elsewhere:  # several parts of the arrays share one copy
            there = copy.copy(self)
            there._device = device
            self._elsewhere[device] = there
        return self._elsewhere[device]


def common_length(arrays: Any) -> int:
    """Returns the common length of arrays.

    Raises:
        DataError: If their lengths differ, or there are no arrays.
    """
    tree.first(arrays)  # refuses a structure without arrays
    shapes = {name_of(path): tuple(array.shape) for path, array in tree.flatten_with_path(arrays)}
    lengths = sorted({shape[0] for shape in shapes.values()})
    if len(lengths) != 1:
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(
            f"the arrays have different lengths {lengths}; their shapes are {said}. Inputs, targets and "
            "weights each need one row per example."
        )
    return int(lengths[0])


def in_float_type(array: Any, floating: str | None = None) -> np.ndarray:
    """Converts data to a dense array; floating-point numbers to the given type, or to Keras' if None.

    Raises:
        DataError: If TensorFlow does not know its type.
    """
    array = plain(dense(array), "an array")
    if array.dtype.kind == "f":
        array = array.astype(floating or keras.config.floatx(), copy=False)
    return array


def spec_of_rows(array: Any) -> tf.TensorSpec:
    """Returns the specification of one row of an array, as batches will have it."""
    if tf.is_tensor(array):
        return tf.TensorSpec(array.shape[1:], array.dtype)
    few = in_float_type(array if array.dtype.kind == "O" else array[:1])
    return tf.TensorSpec(array.shape[1:], tf.string if few.dtype.kind in "SUO" else tf.as_dtype(few.dtype))


def are_arrays(data: Any) -> bool:
    """Returns whether all leaves of nested data are arrays, tensors, or convertible to arrays.

    None means an absent part.
    A part that is None is absent.
    """
    if isinstance(data, Mapping):
        return _are_all(data.values())
    if isinstance(data, tuple) or (isinstance(data, list) and is_several(data)):
        return bool(data) and _are_all(data)
    like = isinstance(data, np.ndarray | list) or tf.is_tensor(data) or hasattr(data, "__array__")
    return like or is_sparse(data)


def _are_all(parts: Iterable[Any]) -> bool:
    return all(part is None or are_arrays(part) for part in parts)


def as_arrays(data: Any, path: tuple[Any, ...] = ()) -> Any:
    """Converts the leaves of nested data, for which `are_arrays` holds, to arrays or tensors.

    A list of arrays means several inputs and becomes a tuple (a `tf.data` pipeline would stack a list). A
    list of numbers becomes an array. None stays None.

    Args:
        data: The data, or a part of it.
        path: The path of the part in the data.

    Raises:
        DataError: If TensorFlow does not have the type of a part.
    """
    if data is None or type(data) is np.memmap or (tf.is_tensor(data) and not is_sparse(data)):
        return data
    if isinstance(data, Mapping):
        return {key: as_arrays(value, (*path, key)) for key, value in data.items()}
    if isinstance(data, tuple) or (isinstance(data, list) and is_several(data)):
        inside = path or ((0,) if isinstance(data, list) else ())
        return tuple(as_arrays(part, (*inside, at)) for at, part in enumerate(data))
    if is_scipy(data):
        return data.tocsr()  # this format reads rows fast
    return plain(data, name_of(path))


def is_several(data: list[Any]) -> bool:
    """Returns whether a list holds several inputs or targets (None allowed), and is not itself an array."""
    if data and all(part is None for part in data):
        return True
    return any(np.ndim(part) for part in data if hasattr(part, "shape"))


def name_of(path: Any) -> str:
    """Returns the name of a part of an example, by its path: inputs, targets, sample_weight."""
    names: dict[Any, str] = {0: "inputs", 1: "targets", 2: "sample_weight"}
    first, *rest = path or (0,)
    return "/".join(map(str, [names.get(first, first), *rest]))
