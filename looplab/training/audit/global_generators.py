"""The process's own random generators, NumPy's and Python's, whose state no checkpoint holds."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

NUMPY, PYTHON = "NumPy's", "Python's"


class GlobalGenerators:
    """Stores the states of the generators, to find out later which were used; takes some 50 microseconds."""

    def __init__(self) -> None:
        """Reads their states."""
        self._before = _now()

    def drawn(self) -> set[str]:
        """Returns the names of the generators that have moved since: `NUMPY`, `PYTHON`."""
        now = _now()
        return {name for name, before in self._before.items() if now[name] != before}


def _now() -> dict[str, Any]:
    return {NUMPY: _plain(np.random.get_state(legacy=False)), PYTHON: random.getstate()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value.tobytes() if isinstance(value, np.ndarray) else value
