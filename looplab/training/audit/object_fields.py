"""The plain Python fields of an object as texts, to find out which of them changed."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from looplab.training.audit import object_state

_LARGE = 2**20  # bytes of an array whose content is not compared
_MANY = 10_000  # entries of a list or dict whose content is not compared


def texts(owner: Any, *, hidden: bool = False) -> dict[str, str]:
    """Returns the fields that hold numbers, strings, arrays, and lists and dicts of these, each as a text.

    Generators of random numbers and counters of `itertools` are included. Large values count only by their
    size. Other kinds (models, functions, files) are left out.

    Args:
        owner: Any object.
        hidden: Whether to include fields whose names begin with an underscore.
    """
    found = {name: _text(value) for name, value in vars(owner).items() if hidden or not name.startswith("_")}
    return {name: text for name, text in found.items() if text is not None}


def digests(owner: Any, *, hidden: bool = False) -> dict[str, str]:
    """Returns the fields that hold something, each as a digest of all that it refers to; see `object_state`.

    Args:
        owner: Any object.
        hidden: As of `texts`.
    """
    found = {}
    for name, value in vars(owner).items():
        if value is not None and (hidden or not name.startswith("_")):
            with suppress(Exception):  # of an object with surprises, of which nothing is said
                found[name] = object_state.digest(value)
    return found


def moved(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Returns the names of the fields that differ; not of those that have come since."""
    return [name for name, text in before.items() if after.get(name, text) != text]


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Returns the names of the fields that differ or are new; not of those that are gone."""
    return [name for name, text in after.items() if before.get(name) != text]


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, np.ndarray | np.generic):
        return _of_array(np.asarray(value))
    if isinstance(value, Mapping):
        return _of_many([part for pair in value.items() for part in pair])
    if isinstance(value, set | frozenset):
        return _of_many(sorted(value, key=repr) if len(value) <= _MANY else value)
    if isinstance(value, list | tuple | deque):
        return _of_many(value)
    if isinstance(value, object_state.GENERATORS) or type(value).__module__ == "itertools":
        return f"{type(value).__name__} at {object_state.digest(value)[:8]}"
    return None


def _of_array(array: np.ndarray) -> str:
    kind = f"{array.dtype}{array.shape}"
    if array.dtype.hasobject or array.nbytes > _LARGE:
        return kind
    return kind + hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()


def _of_many(values: Any) -> str:
    if len(values) > _MANY:
        return str(len(values))
    return "[" + ",".join(_text(value) or type(value).__name__ for value in values) + "]"
