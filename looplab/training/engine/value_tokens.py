"""What a plain value is, as something that compares without surprise: NaN equals NaN, 1 is not True."""

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

_LARGE = 4 * 2**20  # bytes of an array that is not looked into
_DEEP = 20
_OPAQUE = tf.variant, tf.resource
_PLAIN = (type(None), bool, int, str, bytes)
_WIDE = 60  # characters of a value in a message


def token(value: Any, depth: int = 0) -> Any:
    """Returns what tells a value from others: what is in it where it is plain, else which object it is.

    Of arrays above 4 MiB and of containers of more than 10,000 entries it is the object: another one is told
    apart, a change in place is not. An object whose attributes are watched for themselves is its class.

    Args:
        value: Anything.
        depth: In how many containers it lies.
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
        if not hasattr(value, "numpy"):  # of a trace: each has its own
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
    """Whether a value of a token has that token as long as it is the same object."""
    return type(value) in (*_PLAIN, float) or isinstance(of, _Object)


def is_plain(of: Any) -> bool:
    """Whether a token says all of its value, so that a copy has the same."""
    if isinstance(of, tuple | frozenset):
        return all(is_plain(part) for part in of)
    return not isinstance(of, _Object)


def text(value: Any) -> str:
    """Returns a value as a message names it, on one line."""
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
    return said if len(said) <= _WIDE else f"{said[: _WIDE - 3]}..."


def _of_entries(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return tuple((token(key, depth), token(one, depth)) for key, one in value.items())
    if isinstance(value, set | frozenset):
        return frozenset(_unplaced(one, depth) for one in value)
    return tuple(token(one, depth) for one in value)


def _unplaced(value: Any, depth: int) -> Any:
    """Returns the token of what has no place of its own, so that nothing in it is watched."""
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
    """An object as such; one that compares by value, and never changes, equals those of its value."""

    def __init__(self, value: Any) -> None:
        """Takes the object, which lives as long."""
        self._value = value

    def __eq__(self, other: object) -> bool:
        """Whether it is the same, or always will be."""
        if not isinstance(other, _Object):
            return False
        one, another = self._value, other._value
        if one is another:
            return True
        hashes: Any = type(one).__hash__
        if type(one) is not type(another) or hashes is None or hashes is object.__hash__:
            return False
        try:
            return (one == another) is True  # of variables it is a tensor
        except Exception:
            return False

    def __hash__(self) -> int:
        """As of its class."""
        return hash(type(self._value))
