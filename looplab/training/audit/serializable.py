"""Checks in advance which values of a checkpoint a save could not write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from looplab.errors import ConfigurationError


def refuse_unsavable(values: Mapping[str, Any]) -> None:
    """Refuses values that no checkpoint can hold; writes nothing.

    Args:
        values: The values that a checkpoint would hold in addition to the variables; its `"callbacks"` are a
            list of `{"class": name, "state": {...}}`.

    Raises:
        ConfigurationError: With the path and the type of each.
    """
    found = [
        f"{entry['class']}.state(): {place}"
        for entry in values["callbacks"]
        for place in _unsavable(entry["state"])
    ]
    found += [
        place for name, value in values.items() if name != "callbacks" for place in _unsavable(value, name)
    ]
    if found:
        raise ConfigurationError(
            f"a checkpoint cannot hold {'; '.join(found)}. It holds None, numbers, strings, lists and dicts "
            "of these with strings as keys, and NumPy arrays of numbers: return those, and create other "
            "objects (locks, functions, generators, files, tensors) again in restore or __init__."
        )


def _unsavable(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str | int | float | None):
                yield f"the key {key!r} of {path or 'it'}, a {type(key).__name__}"
            yield from _unsavable(part, f"{path}/{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _unsavable(part, f"{path}/{index}" if path else str(index))
    elif not _fits(value):
        kind = type(value)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        of = f" of {value.dtype}" if isinstance(value, np.ndarray) else ""
        yield f"{path or 'it'}, a {name}{of}"


def _fits(value: Any) -> bool:
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, np.ndarray):
        return value is None or isinstance(value, bool | int | float | str)
    try:
        save({"array": np.empty(0, value.dtype)})
    except (SafetensorError, KeyError, TypeError, ValueError):
        return False
    return True
