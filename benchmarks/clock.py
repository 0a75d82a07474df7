"""The stop-watch that every way of training is given."""

from __future__ import annotations

import statistics
import time


class Clock:
    """Is told of the first execution and of each epoch's end, and says when it has seen enough.

    The first epoch does not count: in it, pipelines start and lengths adapt.
    """

    def __init__(self, seconds: float) -> None:
        """Starts.

        Args:
            seconds: How long the epochs after the first should take together; at least two are measured.
        """
        self._seconds = seconds
        self._began = time.time()
        self._marks: list[tuple[int, float, float]] = []  # steps so far; when; processor time
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
        self.losses.append(float(loss))
        done = self._marks[-1][0] if self._marks else 0
        self._marks.append((done + steps, time.perf_counter(), time.process_time()))
        return len(self._marks) > 2 and self._marks[-1][1] - self._marks[0][1] >= self._seconds

    def epochs(self) -> list[float]:
        """Returns microseconds per step, epoch by epoch."""
        return self._per_step(1)

    def processor(self) -> list[float]:
        """Returns microseconds of processor time per step, of all threads, epoch by epoch."""
        return self._per_step(2)

    def preparing(self) -> float:
        """Returns seconds from the start to the end of the first execution, its steps' own time taken off.

        That is: making the networks, tracing, compiling, the first batch.
        """
        seconds, steps = self._first
        return max(0.0, seconds - steps * statistics.median(self.epochs()) / 1e6)

    def _per_step(self, which: int) -> list[float]:
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [1e6 * (after[which] - before[which]) / (after[0] - before[0]) for before, after in pairs]
