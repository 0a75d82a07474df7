"""The values of variables at one moment, to go back to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from looplab.checkpoint import state


class HeldValues:
    """The values of variables at one moment.

    Nothing is copied, on any device: TensorFlow writes to no value that somebody still holds, so a variable
    needs memory for a second value only once it changes.
    """

    def __init__(self, variables: state.Variables) -> None:
        """Holds the present values.

        Args:
            variables: By path.
        """
        self._parts = {path: state.parts(variable) for path, variable in variables.items()}
        self._values = {path: [part.read_value() for part in parts] for path, parts in self._parts.items()}

    def put_back(self, paths: Iterable[str] | None = None) -> None:
        """Gives variables, on each replica, the values that are held.

        Args:
            paths: Of which; all if None.
        """
        for path in self._parts if paths is None else paths:
            for part, value in zip(self._parts[path], self._values[path], strict=True):
                part.assign(value)

    def changed(self) -> list[str]:
        """Returns the paths of the variables whose first replica has another value now, by its bits."""
        return [
            path
            for path, parts in self._parts.items()
            if not _are_same(parts[0].read_value(), self._values[path][0])
        ]


def _are_same(one: Any, other: Any) -> bool:
    left, right = np.asarray(one), np.asarray(other)
    return left.ctypes.data == right.ctypes.data or left.tobytes() == right.tobytes()
