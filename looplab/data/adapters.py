"""Finds a source for any data: looplab uses the first adapter in an ordered list that accepts the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.data.array_types import is_scipy
from looplab.data.arrays import Arrays, are_arrays, as_arrays, name_of
from looplab.data.generators import generated
from looplab.data.host_sources import MemoryMaps, SequenceSource, SparseMatrices
from looplab.data.indexed_source import IndexedSource
from looplab.data.pydataset import PyBatches
from looplab.data.read_errors import as_data_error
from looplab.data.read_once import ReadOnce
from looplab.data.stream import Stream
from looplab.errors import ConfigurationError, DataError, LooplabError, nearest
from looplab.strategy import tree

Source = IndexedSource | Stream


@dataclass(frozen=True)
class Adapter:
    """One kind of data.

    Attributes:
        name: Its name, for messages and for `register_adapter(before=...)`.
        accepts: Returns whether data is of this kind; looplab calls it only if no earlier adapter accepts.
        make: Converts data of this kind to a source, or to data that another adapter accepts.
    """

    name: str
    accepts: Callable[[Any], bool]
    make: Callable[[Any], Any]


def as_source(data: Any) -> Source:
    """Converts data of any kind that looplab can read to a source.

    Args:
        data: Nested arrays (some may be `numpy.memmap`s; None means an absent part); a `tf.data.Dataset` of
            batches; a `keras.utils.PyDataset`; a function without arguments that returns an iterator of
            batches, or another object that can be iterated over repeatedly; a generator object, whose batches
            looplab keeps in memory once they are read; an object with `__len__` and `__getitem__` that
            returns single examples; data that a registered adapter accepts (see `register_adapter`); or a
            source.

    Raises:
        ConfigurationError: If the data is None.
        DataError: If the data is of another kind, or cannot be read.
    """
    if data is None:
        raise ConfigurationError("fit needs data: arrays, a dict of arrays, a tf.data.Dataset, ...")
    given, through = data, list[Adapter]()
    while not isinstance(data, IndexedSource | Stream):
        try:
            adapter = _adapter_of(data, through)
            if adapter not in _OF_LOOPLAB:
                through.append(adapter)
            data = adapter.make(data)
        except Exception as error:
            if not through:
                raise
            raise _named(error, given, through) from error
    return data


def register_adapter(
    name: str, accepts: Callable[[Any], bool], make: Callable[[Any], Any], before: str | None = None
) -> None:
    """Lets looplab read a type of your own wherever it takes data; on the host, for this process.

    It takes effect at once in `fit`, `evaluate`, `predict`, `validation_data` and a configuration's
    `data.source`, also for existing trainers. looplab tries your adapters first, in the order of
    registration, then its own. A run that resumes in another process needs the adapter there too: register it
    in the module that defines the type.

    Functions with the same names in the same module may register the name again; they replace the old
    ones. This happens when a module is reloaded, or when a cell of a notebook runs again.

    Args:
        name: Its name, for messages.
        accepts: Returns whether the adapter takes the data. It gets data of any kind, so begin with
            `isinstance`.
        make: Converts the data to one of looplab's sources, or to anything that another adapter takes:
            arrays, a `tf.data.Dataset`, an object with `__len__` and `__getitem__`. It is called for each
            feed and each part of the data, so do slow work once, or while batches are read.
        before: The name of an adapter that looplab tries after this one; looplab's first one if None.

    Raises:
        ConfigurationError: If another adapter has the name, `before` names no adapter, or an argument is not
            callable.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"register_adapter: the name must be a non-empty string, got {name!r}.")
    for argument, function in (("accepts", accepts), ("make", make)):
        if not callable(function):
            raise ConfigurationError(
                f"register_adapter({name!r}): {argument} must be a function of the data, got {function!r}."
            )
    adapter = Adapter(name, accepts, make)
    others = [each.name for each in _adapters if each.name != name]
    if before is not None and before not in others:
        raise ConfigurationError(
            f"register_adapter({name!r}): before={before!r} names no adapter; the adapters are "
            f"{', '.join(map(repr, others))}." + nearest(str(before), others)
        )
    at = next((at for at, each in enumerate(_adapters) if each.name == name), None)
    if at is not None:
        if _adapters[at] in _OF_LOOPLAB:
            raise ConfigurationError(
                f"register_adapter: {name!r} is the name of an adapter of looplab; choose another name."
            )
        if _origin(_adapters[at]) != _origin(adapter):
            raise ConfigurationError(
                f"register_adapter: the name {name!r} is already taken by {_words(_adapters[at])}, and you "
                f"register {_words(adapter)}. Choose another name, or register only one of them."
            )
        if before is None or before in [each.name for each in _adapters[at:]]:
            _adapters[at] = adapter
            return
        del _adapters[at]
    _adapters.insert([each.name for each in _adapters].index(before or _OF_LOOPLAB[0].name), adapter)


def is_registered(data: Any) -> bool:
    """Returns whether a registered adapter is the first that accepts the data."""
    if data is None or isinstance(data, IndexedSource | Stream):
        return False
    found = next((adapter for adapter in _adapters if _accepts(adapter, data)), None)
    return found is not None and found not in _OF_LOOPLAB


def _adapter_of(data: Any, through: list[Adapter]) -> Adapter:
    """Returns the adapter of the data. An adapter never gets data that it has made, so conversion ends."""
    if data is None:
        raise DataError("its `make` returned None; expected a source, or data that another adapter takes.")
    for adapter in _adapters:
        if adapter not in through and _accepts(adapter, data):
            return adapter
    raise _unreadable(data)


def _accepts(adapter: Adapter, data: Any) -> bool:
    if adapter in _OF_LOOPLAB:
        return adapter.accepts(data)
    try:
        return bool(adapter.accepts(data))
    except Exception as error:
        asking = f"calling `accepts` of the data adapter {adapter.name!r} for a {type(data).__qualname__}"
        raise as_data_error(error, asking) from error


def _named(error: Exception, given: Any, through: list[Adapter]) -> LooplabError:
    """Returns an error of data that adapters have converted; the message names the adapters."""
    names = ", ".join(repr(adapter.name) for adapter in through)
    doing = f"reading a {type(given).__qualname__} through the data adapter{'s' * (len(through) > 1)} {names}"
    if not isinstance(error, LooplabError):
        return as_data_error(error, doing)
    kind = ConfigurationError if isinstance(error, ConfigurationError) else DataError
    return kind(f"{error} ({doing})")


def _origin(adapter: Adapter) -> tuple[Any, ...]:
    """Returns what identifies an adapter's functions after their module is reloaded."""
    return tuple(_place(function) or function for function in (adapter.accepts, adapter.make))


def _words(adapter: Adapter) -> str:
    """Returns the origin of an adapter's functions, for a message."""
    return " and ".join(_place(function) or repr(function) for function in (adapter.accepts, adapter.make))


def _place(function: Any) -> str | None:
    """Returns module and name of a function or class; None for another callable object."""
    name = getattr(function, "__qualname__", None)
    return name and f"{function.__module__}.{name}"


# --- adapters for the data that looplab reads itself ------------------------------------------------


def _of_arrays(data: Any) -> Source:
    arrays = as_arrays(data)
    if isinstance(data, list) and isinstance(arrays, tuple):
        arrays = (arrays,)  # several inputs
    parts = tree.flatten(arrays)
    if any(is_scipy(array) for array in parts):
        return SparseMatrices(arrays)
    return MemoryMaps(arrays) if any(isinstance(array, np.memmap) for array in parts) else Arrays(arrays)


def _has_examples(data: Any) -> bool:
    kind = type(data)
    return hasattr(kind, "__len__") and hasattr(kind, "__getitem__") and not _is_structure(data)


def _has_batches(data: Any) -> bool:
    return hasattr(type(data), "__iter__") and not _is_structure(data)


def _is_structure(data: Any) -> bool:
    return isinstance(data, tuple | Mapping | str | bytes)


_OF_LOOPLAB = (
    Adapter("tf.data", lambda data: isinstance(data, tf.data.Dataset), Stream),
    Adapter("PyDataset", lambda data: isinstance(data, keras.utils.PyDataset), PyBatches),
    Adapter("arrays", are_arrays, _of_arrays),
    Adapter("iterator", lambda data: isinstance(data, Iterator), ReadOnce),
    Adapter("items", _has_examples, SequenceSource),
    Adapter("iterable", _has_batches, lambda data: generated(lambda: iter(data), type(data).__name__)),
    Adapter(
        "function",
        callable,
        lambda data: generated(data, getattr(data, "__qualname__", type(data).__name__)),
    ),
)
_adapters = list(_OF_LOOPLAB)  # in the order in which they are tried


def _unreadable(data: Any) -> DataError:
    if isinstance(data, tuple | Mapping):
        return _of_others(data)
    return DataError(
        f"data of type {type(data).__module__}.{type(data).__name__} cannot be read. Give arrays, a tuple or "
        "dict of arrays, a tf.data.Dataset, a keras.utils.PyDataset, a function that returns a generator of "
        "batches, or an object with __len__ and __getitem__ that returns examples; or register an adapter "
        "for a type of your own: looplab.data.register_adapter."
    )


def _of_others(data: tuple[Any, ...] | Mapping[Any, Any]) -> DataError:
    """Returns an error that names the part of a tuple or a dict that is not an array."""
    parts = data.items() if isinstance(data, Mapping) else enumerate(data)
    strange = [(name_of([at]), part) for at, part in parts if part is not None and not are_arrays(part)]
    if not strange:
        return DataError(f"the data is empty: it is {data!r}.")
    name, part = strange[0]
    return DataError(
        f"the data is a {type(data).__name__}, and its part {name} is not an array but of type "
        f"{type(part).__module__}.{type(part).__qualname__}. In a tuple or dict give arrays, or None for an "
        "absent part. Give a tf.data.Dataset, a PyDataset or a generator alone; its elements have all parts."
    )
