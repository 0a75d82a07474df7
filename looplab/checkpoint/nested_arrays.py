"""Stores arrays among the values of a checkpoint with the other arrays, and marks their place in the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from looplab.errors import CheckpointError, as_written

_PREFIX, _MARK = "values", "array at"


def lift(values: Any, path: str = _PREFIX) -> tuple[Any, dict[str, np.ndarray]]:
    """Takes the arrays out of nested values.

    Args:
        values: JSON's types and NumPy arrays of numbers.
        path: The path of these values.

    Returns:
        The values in JSON's types only, and the arrays by path.
    """
    if isinstance(values, np.ndarray):
        return {_MARK: path}, {path: values}
    if isinstance(values, np.generic):
        return values.item(), {}
    if isinstance(values, Mapping):
        keys = list(values)
    elif isinstance(values, list | tuple):
        keys = list(range(len(values)))
    else:
        return values, {}
    plain: dict[Any, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for key in keys:
        plain[key], inner = lift(values[key], f"{path}/{key}")
        arrays |= inner
    return plain if isinstance(values, Mapping) else list(plain.values()), arrays


def lower(plain: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Puts the arrays back into the values from which `lift` took them.

    Raises:
        CheckpointError: If one of them is missing.
    """
    if isinstance(plain, dict):
        if set(plain) == {_MARK}:
            path = plain[_MARK]
            if not isinstance(path, str) or path not in arrays:
                raise CheckpointError(
                    f"the values of a checkpoint name an array at {as_written(path)}, which is missing in it."
                )
            return arrays[path]
        return {key: lower(value, arrays) for key, value in plain.items()}
    if isinstance(plain, list):
        return [lower(value, arrays) for value in plain]
    return plain


def split(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Separates the arrays of a checkpoint's variables from those that `lift` took from its values."""
    own = {path: array for path, array in arrays.items() if not path.startswith(f"{_PREFIX}/")}
    return own, {path: array for path, array in arrays.items() if path not in own}
