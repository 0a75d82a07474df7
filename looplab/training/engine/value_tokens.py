"""Tokens of Python values, which compare without surprise: NaN equals NaN, 1 is not True."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.training.engine.attribute_reads import ABSENT, MANY, is_namespace, is_record

_LARGE = 4 * 2**20  # bytes of an array whose content is not compared
_DEEP = 20
_OPAQUE = tf.variant, tf.resource
_PLAIN = (type(None), bool, int, str, bytes)
WIDE = 60  # characters of a value in a message


def token(value: Any, depth: int = 0) -> Any:
    """Returns a token that identifies a value: by its content if it is plain, otherwise by its identity.

    Arrays above 4 MiB and containers of more than 10,000 entries are identified by their identity: another
    object is noticed, a change in place is not. An object whose attributes are watched separately is
    identified by its class.

    Args:
        value: Any value.
        depth: The number of containers around it.
    """
    kind = type(value)
    if kind in _PLAIN:
        return kind, value
    if kind is float:
        return kind, value.hex()
    if kind is complex:
        return kind, value.real.hex(), value.imag.hex()
    if isinstance(value, np.ndarray | np.generic):
        return _of_array(value)
    if isinstance(value, tf.Tensor | keras.KerasTensor):
        if not hasattr(value, "numpy"):  # of a trace: each trace has its own
            return (kind,)
        return _Object(value) if value.dtype in _OPAQUE else (kind, _of_array(np.asarray(value.numpy())))
    if is_record(value):
        return (kind,)
    if depth == _DEEP:
        return _Object(value)
    if isinstance(value, partial):
        return tuple(token(part, depth + 1) for part in (value.func, value.args, value.keywords))
    if isinstance(value, MethodType):
        return value.__func__, token(value.__self__, depth + 1)
    if is_namespace(value):
        return kind, _of_entries(vars(value), depth + 1)
    if isinstance(value, list | tuple | deque | Mapping | set | frozenset) and len(value) <= MANY:
        return kind, _of_entries(value, depth + 1)
    return _Object(value)


def cannot_change(value: Any, of: Any) -> bool:
    """Whether a value keeps its token as long as it is the same object."""
    return type(value) in (*_PLAIN, float) or isinstance(of, _Object)


def is_plain(of: Any) -> bool:
    """Whether a token describes its whole value, so that a copy has the same token."""
    if isinstance(of, tuple | frozenset):
        return all(is_plain(part) for part in of)
    return not isinstance(of, _Object)


def text(value: Any) -> str:
    """Returns a value as text for a message, on one line."""
    if value is ABSENT:
        return "absent"
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"an array of {value.dtype} {list(value.shape)}"
    if isinstance(value, tf.Variable):
        return f"the variable {value.name}"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    try:
        said = " ".join(repr(value).split())
    except Exception:
        said = f"a {type(value).__name__}"
    return said if len(said) <= WIDE else f"{said[: WIDE - 3]}..."


def _of_entries(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return tuple((token(key, depth), token(one, depth)) for key, one in value.items())
    if isinstance(value, set | frozenset):
        return frozenset(_unplaced(one, depth) for one in value)
    return tuple(token(one, depth) for one in value)


def _unplaced(value: Any, depth: int) -> Any:
    """Returns the token of a value without a place, in which nothing is watched."""
    return _Object(value) if is_record(value) else token(value, depth)


def _of_array(array: Any) -> Any:
    if array.dtype.hasobject:
        if array.size > MANY:
            return _Object(array)
        return type(array), array.shape, tuple(_unplaced(one, _DEEP) for one in array.ravel())
    if array.nbytes > _LARGE:
        return _Object(array)
    return (
        type(array),
        array.dtype.str,
        array.shape,
        hashlib.blake2b(array.tobytes(), digest_size=16).digest(),
    )


class _Object:
    """The identity of an object; immutable objects that compare by value equal those of the same value."""

    def __init__(self, value: Any) -> None:
        """Stores the object, which keeps it alive."""
        self._value = value

    def __eq__(self, other: object) -> bool:
        """Whether both are the same object, or always equal."""
        if not isinstance(other, _Object):
            return False
        one, another = self._value, other._value
        if one is another:
            return True
        hashes: Any = type(one).__hash__
        if type(one) is not type(another) or hashes is None or hashes is object.__hash__:
            return False
        try:
            return (one == another) is True  # for variables the result is a tensor
        except Exception:
            return False

    def __hash__(self) -> int:
        """Returns the hash of its class."""
        return hash(type(self._value))
