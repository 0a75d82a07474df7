"""The stop-watch that every way of training is given."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Turn(NamedTuple):
    """Some epochs on end.

    Attributes:
        steps: How many.
        seconds: What they took.
        processor: Likewise of processor time, of all threads.
    """

    steps: int
    seconds: float
    processor: float

    @property
    def microseconds(self) -> float:
        """Of a step."""
        return 1e6 * self.seconds / self.steps


class Clock:
    """Is told of the first execution and of each epoch's end, and says when it has seen enough.

    The first epoch does not count: in it, pipelines start and lengths adapt. After it, and after each turn,
    training waits at the end of an epoch until others have had theirs.
    """

    def __init__(self, seconds: float, wait: Callable[[Clock], bool]) -> None:
        """Starts.

        Args:
            seconds: How long the epochs of a turn should take together; there is at least one.
            wait: Returns when the next turn begins: whether there is one.
        """
        self._seconds, self._wait = seconds, wait
        self._began = time.time()
        self._since: tuple[float, float] | None = None  # when the turn began; processor time
        self._steps = 0  # of the turn
        self.turns: list[Turn] = []
        self.first_at: float | None = None  # seconds since 1970
        self.losses: list[float] = []
        self._first = 0.0, 0

    def first(self, steps: int) -> None:
        """Notes that the first execution has ended; heard once.

        Args:
            steps: How many it ran.
        """
        if self.first_at is None:
            self.first_at = time.time()
            self._first = self.first_at - self._began, steps

    def mark(self, steps: int, loss: float) -> bool:
        """Notes that an epoch has ended and its results are on the host.

        Args:
            steps: Of this epoch.
            loss: Their mean loss: ways that make the same updates have the same.

        Returns:
            Whether that is enough.
        """
        now, processor = time.perf_counter(), time.process_time()
        self.losses.append(float(loss))
        if self._since is not None:
            self._steps += steps
            if now - self._since[0] < self._seconds:
                return False
            self.turns.append(Turn(self._steps, now - self._since[0], processor - self._since[1]))
        goes_on = self._wait(self)
        self._since, self._steps = (time.perf_counter(), time.process_time()), 0
        return not goes_on

    def preparing(self) -> float:
        """Returns seconds from the start to the end of the first execution, its steps' own time taken off.

        That is: making the networks, tracing, compiling, the first batch.
        """
        seconds, steps = self._first
        return max(0.0, seconds - steps * statistics.median(turn.microseconds for turn in self.turns) / 1e6)
