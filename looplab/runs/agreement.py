"""The `Agreement` of a process that trains alone."""

from __future__ import annotations

import time
from typing import TypeVar

T = TypeVar("T")


class Alone:
    """The `Agreement` of a single process: it decides everything itself, at no cost."""

    workers = 1
    index = 0
    is_chief = True

    def decide(self, name: str, value: T) -> T:
        """Returns the value itself."""
        return value

    def exchange(self, name: str, value: T) -> list[T]:
        """Returns a list with only this value."""
        return [value]

    def clock(self) -> float:
        """Returns the process's own clock, in seconds."""
        return time.perf_counter()
