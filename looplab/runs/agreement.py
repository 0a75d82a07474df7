"""The agreement of a process that trains alone: with itself."""

from __future__ import annotations

import time
from typing import TypeVar

T = TypeVar("T")


class Alone:
    """The `Agreement` of a single process: each decision is its own, and costs nothing."""

    workers = 1
    index = 0
    is_chief = True

    def decide(self, name: str, value: T) -> T:
        """Returns the value itself."""
        return value

    def exchange(self, name: str, value: T) -> list[T]:
        """Returns the one value there is."""
        return [value]

    def clock(self) -> float:
        """Returns the process' own clock, in seconds."""
        return time.perf_counter()
