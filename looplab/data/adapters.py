"""Which data looplab can read, as an ordered list of adapters: the first that accepts it makes its source."""

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
        name: What it is called, for messages and for `register_adapter(before=...)`.
        accepts: Whether data is of this kind; asked only of what no adapter before it accepts.
        make: From data of this kind to a source, or to data that another adapter accepts.
    """

    name: str
    accepts: Callable[[Any], bool]
    make: Callable[[Any], Any]


def as_source(data: Any) -> Source:
    """Returns data of any kind that looplab can read as a source.

    Args:
        data: Nested arrays (some may be `numpy.memmap`s, some None: absent); a `tf.data.Dataset` of batches;
            a `keras.utils.PyDataset`; a function without arguments that returns an iterator of batches, or
            something else that can be iterated over again and again; a generator object, of which the batches
            that were read are kept; an object with `__len__` and `__getitem__` that gives single examples;
            anything that an adapter accepts (see `register_adapter`); or a source.

    Raises:
        ConfigurationError: If there is none.
        DataError: If it is of another kind, or cannot be read.
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
    """Makes a type of one's own data, wherever looplab takes data; on the host, for this process.

    `fit`, `evaluate`, `predict`, `validation_data` and a configuration's `data.source` know it from now on,
    also those of trainers that were made before. Adapters are asked in their order: one's own as they were
    registered, then looplab's. A run that goes on in another process needs the adapter there too: register it
    in the module that defines the type.

    The name may be registered again by the functions of the same names in the same module, as happens where
    a module is reloaded or a cell of a notebook runs again: the new ones take the place of the old.

    Args:
        name: What it is called, for messages.
        accepts: Whether it takes some data, a bool, for data of any kind: begin with `isinstance`.
        make: From the data to one of looplab's sources, or to anything that another adapter takes: arrays, a
            `tf.data.Dataset`, an object with `__len__` and `__getitem__`. It is called each time that a feed
            or a part of the data is made, so what takes long is better done once, or as batches are read.
        before: An adapter, one's own or looplab's, which is asked after this one; that of looplab which is
            asked first if None.

    Raises:
        ConfigurationError: If another adapter has the name, `before` names none, or a function is none.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f"register_adapter: the name must be a text that is not empty, got {name!r}."
        )
    for argument, function in (("accepts", accepts), ("make", make)):
        if not callable(function):
            raise ConfigurationError(
                f"register_adapter({name!r}): {argument} must be a function of the data, got {function!r}."
            )
    adapter = Adapter(name, accepts, make)
    others = [each.name for each in _adapters if each.name != name]
    if before is not None and before not in others:
        raise ConfigurationError(
            f"register_adapter({name!r}): there is no other adapter before={before!r}; there are "
            f"{', '.join(map(repr, others))}." + nearest(str(before), others)
        )
    at = next((at for at, each in enumerate(_adapters) if each.name == name), None)
    if at is not None:
        if _adapters[at] in _OF_LOOPLAB:
            raise ConfigurationError(
                f"register_adapter: looplab has an adapter {name!r} itself; choose another name."
            )
        if _origin(_adapters[at]) != _origin(adapter):
            raise ConfigurationError(
                f"register_adapter: there is an adapter {name!r} already, of {_words(_adapters[at])}; this "
                f"one is of {_words(adapter)}. Choose another name, or register one of them only."
            )
        if before is None or before in [each.name for each in _adapters[at:]]:
            _adapters[at] = adapter
            return
        del _adapters[at]
    _adapters.insert([each.name for each in _adapters].index(before or _OF_LOOPLAB[0].name), adapter)


def is_registered(data: Any) -> bool:
    """Whether an adapter of one's own is the first that accepts data."""
    if data is None or isinstance(data, IndexedSource | Stream):
        return False
    found = next((adapter for adapter in _adapters if _accepts(adapter, data)), None)
    return found is not None and found not in _OF_LOOPLAB


def _adapter_of(data: Any, through: list[Adapter]) -> Adapter:
    """Returns the adapter of data. None is asked again about what it has made, so there is an end to it."""
    if data is None:
        raise DataError("its `make` returned None, and not a source, or data that another adapter takes.")
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
        asking = f"asking the data adapter {adapter.name!r} whether it accepts a {type(data).__qualname__}"
        raise as_data_error(error, asking) from error


def _named(error: Exception, given: Any, through: list[Adapter]) -> LooplabError:
    """Returns what went wrong with what adapters have made, with their names."""
    names = ", ".join(repr(adapter.name) for adapter in through)
    doing = f"reading a {type(given).__qualname__} through the data adapter{'s' * (len(through) > 1)} {names}"
    if not isinstance(error, LooplabError):
        return as_data_error(error, doing)
    kind = ConfigurationError if isinstance(error, ConfigurationError) else DataError
    return kind(f"{error} ({doing})")


def _origin(adapter: Adapter) -> tuple[Any, ...]:
    """Returns what stays of an adapter's functions where their module is loaded again."""
    return tuple(_place(function) or function for function in (adapter.accepts, adapter.make))


def _words(adapter: Adapter) -> str:
    """Returns where an adapter's functions come from, for a message."""
    return " and ".join(_place(function) or repr(function) for function in (adapter.accepts, adapter.make))


def _place(function: Any) -> str | None:
    """Returns module and name of a function or class; None for an object that can be called."""
    name = getattr(function, "__qualname__", None)
    return name and f"{function.__module__}.{name}"


# --- looplab's own kinds ---------------------------------------------------------------------------


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
_adapters = list(_OF_LOOPLAB)  # as they are asked


def _unreadable(data: Any) -> DataError:
    if isinstance(data, tuple | Mapping):
        return _of_others(data)
    return DataError(
        f"data of type {type(data).__module__}.{type(data).__name__} cannot be read; give arrays, a tuple or "
        "dict of arrays, a tf.data.Dataset, a keras.utils.PyDataset, a function that returns a generator of "
        "batches, or an object with __len__ and __getitem__ that gives examples; or say how a type of your "
        "own is read: looplab.data.register_adapter."
    )


def _of_others(data: tuple[Any, ...] | Mapping[Any, Any]) -> DataError:
    """Says which part of a tuple or a dict is no array."""
    parts = data.items() if isinstance(data, Mapping) else enumerate(data)
    strange = [(name_of([at]), part) for at, part in parts if part is not None and not are_arrays(part)]
    if not strange:
        return DataError(f"the data is empty: it is {data!r}.")
    name, part = strange[0]
    return DataError(
        f"of the data, a {type(data).__name__}, {name} is no array but of type {type(part).__module__}."
        f"{type(part).__qualname__}. In a tuple or dict give arrays, or None for what is absent; a "
        "tf.data.Dataset, a PyDataset or a generator stands alone, and its elements have all parts."
    )
