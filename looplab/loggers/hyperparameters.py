"""Prepares hyperparameters for comparing runs: nested as the user writes them, or flat as in tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Returns one entry for each value, by its dotted key: `{"optimizer.learning_rate": 0.1}`.

    Args:
        nested: Nested mappings. A value that is not a number, a boolean or a string becomes a string.
        prefix: The prefix of the keys.
    """
    found: dict[str, bool | int | float | str] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = _simple(value)
    return found


def as_text(nested: Mapping[str, Any]) -> str:
    """Returns the mapping as YAML, in its order."""
    return yaml.safe_dump(_plain(nested), sort_keys=False, allow_unicode=True).rstrip()


def _simple(value: Any) -> bool | int | float | str:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str) else str(_plain(value))


def _plain(value: Any) -> Any:
    """Converts a value to types that YAML has; any other type to a string."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return value.item() if isinstance(value, np.generic) else str(value)
