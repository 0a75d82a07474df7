"""The numbers of a metric's result, each under the name by which it is logged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from looplab.errors import ConfigurationError, LooplabError

_MOST = 100  # numbers of one result: each gets its own tag


def numbers(tag: str, result: Any) -> dict[str, float]:
    """Returns a result as numbers by name; on the host.

    Args:
        tag: The name of the metric.
        result: A number, or an array with one number, is logged under the tag; a dict under its own keys, as
            in Keras; each number of any other array under `<tag>/<index>`.

    Raises:
        ConfigurationError: If it holds something other than numbers, or too many numbers.
    """
    if isinstance(result, Mapping):
        found: dict[str, float] = {}
        for name, part in result.items():
            found |= numbers(str(name), part)
        return found
    try:
        array = np.asarray(keras.ops.convert_to_numpy(result), np.float64)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"metrics: result() of {tag!r} returned {result!r} ({type(result).__name__}); expected a number, "
            "an array of numbers, or a dict of these by name."
        ) from None
    return dict(zip(array_names(tag, array.shape), map(float, array.ravel()), strict=True))


def array_names(tag: str, shape: tuple[int, ...]) -> list[str]:
    """Returns the names of an array's numbers, in their order; a single number gets the tag.

    Args:
        tag: The name of the array.
        shape: The shape of the array.

    Raises:
        ConfigurationError: If there are too many numbers.
    """
    size = math.prod(shape)
    if size == 1:
        return [tag]
    if size > _MOST:
        raise ConfigurationError(
            f"metrics: result() of {tag!r} has the shape {shape}, and its {size} numbers would "
            f"each get their own name in logs; at most {_MOST} may. Make it return one number, for example "
            "with average='macro', or a dict of the important ones; or make it a looplab.metrics.Pictured, "
            "which is shown as a picture."
        )
    return [f"{tag}/{'/'.join(map(str, at))}" for at in np.ndindex(shape)]


def names_of(tag: str, metric: keras.Metric) -> list[str]:
    """Returns the names of a metric's numbers, before its first update.

    A `result` that fails without an update counts as one number.
    """
    try:
        return list(numbers(tag, metric.result()))
    except LooplabError:
        raise
    except Exception:  # for example, it divides by a Python zero
        return [tag]


def check_names(tag: str, found: Mapping[str, float], known: list[str]) -> None:
    """Refuses a result whose names differ from those before training.

    Raises:
        ConfigurationError: With the names of both.
    """
    if [*found] != known:
        raise ConfigurationError(
            f"metrics: result() of {tag!r} returned {', '.join(found)}, but before training "
            f"{', '.join(known)}: the logged names must be known from the start. Always return the same "
            "keys, with NaN if there is no value yet."
        )
