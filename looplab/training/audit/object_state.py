"""What any object keeps in memory, as a digest: an environment, a generator, a queue."""

from __future__ import annotations

import hashlib
import itertools
import random
import warnings
from collections import deque
from collections.abc import Iterator
from types import GeneratorType, ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

_MOST = 200_000  # objects that are looked into
_LARGE = 2**28  # bytes of an array that is looked into; of a larger one they are its first
# What is saved elsewhere, or says nothing of the next batch: files, threads, progress bars.
_APART = {
    *("asyncio", "concurrent", "h5py", "io", "keras", "logging", "looplab"),
    *("multiprocessing", "rich", "socket", "subprocess", "tensorflow", "threading", "tqdm"),
}
GENERATORS = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random)
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_unseen = itertools.count()


def digest(value: Any) -> str:
    """Returns a digest of an object and of all that it refers to, the same in each process.

    Functions, classes, and objects of TensorFlow and Keras count by their kind alone. An iterator whose
    place cannot be seen (of a `tf.data.Dataset`, say) has another digest each time. Of an object made in C
    without Python fields nothing is seen.

    Args:
        value: Anything; it is not changed, and none of its methods is called.
    """
    reader = _Reader()
    reader.read(value)
    return reader.hash.hexdigest()


class _Reader:
    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self._seen: dict[int, tuple[int, Any]] = {}  # by id, with the object, so that no other gets its id
        self._left = _MOST

    def read(self, value: Any) -> None:
        self._left -= 1
        if self._left < 0:
            return
        kind = type(value)
        self._say(f"{kind.__module__}.{kind.__qualname__}")
        if isinstance(value, _PLAIN):
            self._say(repr(value))
        elif id(value) in self._seen:
            self._say(f"again {self._seen[id(value)][0]}")
        else:
            self._seen[id(value)] = len(self._seen), value
            for part in self._parts(value):
                self.read(part)

    def _parts(self, value: Any) -> Iterator[Any]:
        """Gives what an object consists of; says of itself what is no object."""
        if isinstance(value, tf.Tensor) and hasattr(value, "numpy") and value.dtype.is_numpy_compatible:
            value = np.asarray(value)
        if isinstance(value, np.ndarray | np.generic):
            yield from self._of_array(np.asarray(value))
        elif isinstance(value, np.random.Generator):
            yield value.bit_generator.state
        elif isinstance(value, np.random.BitGenerator):
            yield value.state
        elif isinstance(value, np.random.RandomState):
            yield value.get_state(legacy=False)
        elif isinstance(value, random.Random):
            yield value.getstate()
        elif isinstance(value, GeneratorType):
            frame = value.gi_frame  # None when it has ended
            yield None if frame is None else (frame.f_lasti, dict(frame.f_locals))
        elif isinstance(value, dict):
            yield from itertools.chain.from_iterable(value.items())
        elif isinstance(value, set | frozenset):
            yield from sorted(value, key=repr)
        elif isinstance(value, list | tuple | deque):
            yield len(value)
            yield from value
        elif _is_iterator_without_fields(value):
            yield _place(value)
        elif type(value).__module__.split(".")[0] not in _APART and not _is_code(value):
            yield from _fields(value)

    def _of_array(self, array: np.ndarray) -> Iterator[Any]:
        self._say(f"{array.dtype}{array.shape}")
        if array.dtype.hasobject:
            yield from array.ravel().tolist()
        else:
            count = _LARGE // max(array.itemsize, 1)
            self.hash.update(np.ascontiguousarray(array.reshape(-1)[:count]).tobytes())

    def _say(self, text: str) -> None:
        self.hash.update(text.encode("utf-8", "replace") + b"\0")


def _is_code(value: Any) -> bool:
    return isinstance(value, type | ModuleType) or hasattr(type(value), "__get__")


def _is_iterator_without_fields(value: Any) -> bool:
    root = type(value).__module__.split(".")[0]
    return isinstance(value, Iterator) and root in ("builtins", "itertools", "tensorflow")


def _place(value: Any) -> Any:
    """Returns how far an iterator is; something new each time where that cannot be seen."""
    if type(value).__module__ in ("builtins", "itertools"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                return value.__reduce__()[1:]
        except Exception:
            pass
    return next(_unseen)


def _fields(value: Any) -> Iterator[Any]:
    yield from itertools.chain.from_iterable(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            member = vars(kind).get(name)  # not by the object's own __getattr__
            try:
                yield name, member.__get__(value, type(value)) if member is not None else None
            except AttributeError:
                continue  # not set
