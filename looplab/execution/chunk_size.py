"""The number of steps to run at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from looplab.options import bounds


class ChunkSize:
    """The number of steps to run at once: a given number, or as many as fit in a fraction of a second.

    No result depends on it; it only determines how often the host gets control.
    """

    def __init__(
        self,
        steps_per_execution: int | str = "auto",
        seconds: float = 0.25,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Sets the length.

        Args:
            steps_per_execution: A number of steps, or `"auto"`.
            seconds: The time that one execution should take with `"auto"`, so that progress is shown and
                Ctrl-C is handled soon.
            clock: Returns the seconds by which that time is measured.

        Raises:
            ConfigurationError: If `steps_per_execution` is neither.
        """
        steps = bounds.whole("steps_per_execution", steps_per_execution, bounds.CHUNK)
        self._automatic, self._seconds, self._clock = steps == "auto", seconds, clock
        self._length = 1 if self._automatic else steps
        self._began = 0.0

    def copy(self) -> ChunkSize:
        """Returns an object with the same setting that has not adapted yet."""
        return ChunkSize("auto" if self._automatic else self._length, self._seconds, self._clock)

    def plan(self, room: int) -> int:
        """Returns the number of steps to run, at most `room`, and starts the clock."""
        self._began = self._clock()
        return max(1, min(self._length, room))

    def learn(self, done: int) -> None:
        """Adapts the length to the time that the `done` steps since `plan` took."""
        if not self._automatic:
            return
        each = (self._clock() - self._began) / max(done, 1)
        fitting = math.floor(self._seconds / each) if each > 0 else 2 * self._length
        self._length = max(1, min(fitting, 2 * self._length))
