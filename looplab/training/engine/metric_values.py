"""The numbers of a metric's result, each under the name by which it is logged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from looplab.errors import ConfigurationError, LooplabError

_MOST = 100  # numbers of one result: each is a tag of its own


def numbers(tag: str, result: Any) -> dict[str, float]:
    """Returns a result as numbers by name; on the host.

    Args:
        tag: What the metric is called.
        result: A number, or an array of one, is logged under the tag; a dict under its own keys, as Keras
            logs it; each number of any other array under `<tag>/<index>`.

    Raises:
        ConfigurationError: If it holds something else than numbers, or too many.
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
            f"metrics: result() of {tag!r} gave {result!r} ({type(result).__name__}); expected a number, an "
            "array of numbers, or a dict of these by name."
        ) from None
    return dict(zip(array_names(tag, array.shape), map(float, array.ravel()), strict=True))


def array_names(tag: str, shape: tuple[int, ...]) -> list[str]:
    """Returns what the numbers of an array are called, in their order; one alone by the tag.

    Args:
        tag: What the array is called.
        shape: Of it.

    Raises:
        ConfigurationError: If there are too many.
    """
    size = math.prod(shape)
    if size == 1:
        return [tag]
    if size > _MOST:
        raise ConfigurationError(
            f"metrics: result() of {tag!r} has the shape {shape}, and its {size} numbers would "
            f"each be logged under a name of its own; at most {_MOST} are. Have it give one number, such as "
            "with average='macro', or a dict of those that matter; or make it a looplab.metrics.Pictured, "
            "which is shown as a picture."
        )
    return [f"{tag}/{'/'.join(map(str, at))}" for at in np.ndindex(shape)]


def names_of(tag: str, metric: keras.Metric) -> list[str]:
    """Returns the names of a metric's numbers, before it has seen anything.

    A `result` that fails where nothing was seen is taken for one number.
    """
    try:
        return list(numbers(tag, metric.result()))
    except LooplabError:
        raise
    except Exception:  # it divides by a Python zero, say
        return [tag]


def check_names(tag: str, found: Mapping[str, float], known: list[str]) -> None:
    """Refuses a result that has other names than before training.

    Raises:
        ConfigurationError: With both.
    """
    if [*found] != known:
        raise ConfigurationError(
            f"metrics: result() of {tag!r} gave {', '.join(found)}, and before training {', '.join(known)}: "
            "what is logged must be known from the start. Give the same keys always, with NaN where there "
            "is no value yet."
        )
