"""Nested structures, like those of `tf.nest`, in which `None` is a part that is absent.

For `tf.nest` a `None` is a leaf like any other. Here it keeps its place, and no function is called with it.
This is Keras' meaning in `(inputs, None)`, `(inputs, targets, None)` or `{"a": targets, "b": None}`. An
element of a `tf.data.Dataset` that is `None` has its own specification, which counts as `None` too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from looplab.errors import DataError


def flatten(structure: Any, *, expand_composites: bool = False) -> list[Any]:
    """Returns the present parts; with `expand_composites` the component tensors of ragged parts."""
    parts = tf.nest.flatten(structure, expand_composites)
    return [part for part in parts if not is_absent(part)]


def flatten_with_path(structure: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Returns the present parts, each with its path."""
    return [(path, part) for path, part in keras.tree.flatten_with_path(structure) if not is_absent(part)]


def map_structure(function: Callable[..., Any], *structures: Any) -> Any:
    """Applies a function to the present parts; the other parts stay `None`.

    Args:
        function: Takes a part of each structure.
        *structures: Structures of the same form.

    Raises:
        ValueError: If a part is present in one structure and absent in another, or if their forms differ.
    """

    def of_parts(*parts: Any) -> Any:
        absent = {is_absent(part) for part in parts}
        if len(absent) > 1:
            raise ValueError("the structures differ: a part is None in one of them, and not in another.")
        return None if absent == {True} else function(*parts)

    return tf.nest.map_structure(of_parts, *structures)


def pack_sequence_as(structure: Any, flat: Sequence[Any]) -> Any:
    """Returns a structure in which other parts replace the present ones."""
    parts = iter(flat)
    return map_structure(lambda _: next(parts), structure)


def first(structure: Any) -> Any:
    """Returns the first present part.

    Raises:
        DataError: If there is no present part.
    """
    parts = flatten(structure)
    if not parts:
        raise DataError(
            f"there is no data in {structure!r}: None means absent. Give an array for the inputs."
        )
    return parts[0]


def is_absent(part: Any) -> bool:
    """Whether a part is `None`, or the specification of a `None`."""
    return part is None or isinstance(part, tf.NoneTensorSpec)
