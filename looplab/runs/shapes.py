"""Checks the shape of JSON content before it is used.

A shape is a function of a value and its place, such as `best.step`. It returns None if the value fits;
otherwise it raises a `ValueError` that names the place, the value and what is expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from looplab.errors import as_written

Shape = Callable[[Any, str], None]

_LARGEST = 2**63 - 1  # a signed 64-bit integer, as in TensorFlow


def anything(value: Any, place: str) -> None:
    """Accepts every value."""


def whole(value: Any, place: str) -> None:
    """Accepts an integer from 0 that fits a signed 64-bit integer; JSON's true equals 1 in Python."""
    _require(type(value) is int and 0 <= value <= _LARGEST, value, place, "a whole number from 0")


def count(value: Any, place: str) -> None:
    """Accepts an integer from 1."""
    whole(value, place)
    _require(value > 0, value, place, "a whole number from 1")


def integer(value: Any, place: str) -> None:
    """Accepts an integer, also below 0."""
    _require(type(value) is int and abs(value) <= _LARGEST, value, place, "a whole number")


def number(value: Any, place: str) -> None:
    """Accepts what `float` converts to a number without loss of meaning: no text, no true or false."""
    fits = isinstance(value, float) or (type(value) is int and abs(value) <= _LARGEST)
    _require(fits, value, place, "a number")


def amount(value: Any, place: str) -> None:
    """Accepts a finite number from 0."""
    number(value, place)
    _require(math.isfinite(value) and value >= 0, value, place, "a number from 0")


def logged(value: Any, place: str) -> None:
    """Accepts a number as in a record, where a number that is not finite is a text."""
    fits = isinstance(value, str) and value in ("nan", "inf", "-inf")
    if not fits:
        number(value, place)


def text(value: Any, place: str) -> None:
    """Accepts a text."""
    _require(isinstance(value, str), value, place, "a text")


def truth(value: Any, place: str) -> None:
    """Takes true or false."""
    _require(isinstance(value, bool), value, place, "true or false")


def optional(shape: Shape) -> Shape:
    """Returns a shape that also accepts null."""
    return lambda value, place: None if value is None else shape(value, place)


def either(*shapes: Shape) -> Shape:
    """Returns a shape that accepts what any of several accepts; its error is that of the last one."""

    def check(value: Any, place: str) -> None:
        for shape in shapes[:-1]:
            with suppress(ValueError):
                return shape(value, place)
        return shapes[-1](value, place)

    return check


def items(shape: Shape, length: int | None = None) -> Shape:
    """Returns the shape of a list whose items have a shape; of any length, or of the given length."""

    def check(value: Any, place: str) -> None:
        _require(isinstance(value, list), value, place, "a list")
        _require(length in (None, len(value)), value, place, f"a list of {length}")
        for index, item in enumerate(value):
            shape(item, f"{place}[{index}]")

    return check


def table(shape: Shape) -> Shape:
    """Returns the shape of an object with any keys, whose values have a shape."""

    def check(value: Any, place: str) -> None:
        _require(isinstance(value, dict), value, place, "an object")
        for key, item in value.items():
            shape(item, _inner(place, key))

    return check


def fields(
    required: Mapping[str, Shape], others: Mapping[str, Shape] = MappingProxyType({}), *, closed: bool = False
) -> Shape:
    """Returns the shape of an object with given keys.

    Args:
        required: The shapes of required keys.
        others: The shapes of optional keys.
        closed: Whether further keys are refused.
    """

    def check(value: Any, place: str) -> None:
        _require(isinstance(value, dict), value, place, "an object")
        for key, shape in required.items():
            if key not in value:
                raise ValueError(f"{place or 'it'} has no {key!r}")
            shape(value[key], _inner(place, key))
        for key in value.keys() - required.keys():
            if key in others:
                others[key](value[key], _inner(place, key))
            elif closed:
                raise ValueError(f"{place or 'it'} has an unknown {as_written(key)}")

    return check


EVALUATION = fields(
    {"monitor": text, "value": number, "step": whole, "epoch": whole, "values": table(logged)}
)
"""The shape of an evaluation in checkpoints and outcomes."""


def _inner(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _require(fits: bool, value: Any, place: str, expected: str) -> None:
    if not fits:
        raise ValueError(f"{place or 'it'} is {as_written(value)}, not {expected}")
