"""Writes files on a separate thread, so that training does not wait for the disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from looplab.protocols import Logger, Media, Record, StepRecords, Summary

_SECONDS = 0.2  # between two checks of what is waiting: a thread that always works would slow training down
_ROOM = 1000  # the most calls that wait; if the disk is slower than training, training waits for it


class Background(Logger):
    """Loggers whose records one thread writes at intervals, in order.

    Nothing is dropped. Every method but `write` and `write_steps` first writes what is waiting, on the
    calling thread, so that a checkpoint covers all earlier records. If a logger raises an error (`Guarded`
    lets only few pass), the next of these calls raises it and ends the run.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        """Takes the loggers; the first write starts the thread.

        Args:
            loggers: Loggers, which one thread at a time calls.
        """
        self._loggers = list(loggers)
        self._waiting: deque[Callable[[Logger], None]] = deque()
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None  # raised on the thread

    def open(self, run_dir: Path | None) -> None:
        """See `Logger`."""
        self._now(lambda logger: logger.open(run_dir))

    def begin(self, summary: Summary) -> None:
        """See `Logger`."""
        self._now(lambda logger: logger.begin(summary))

    def write(self, record: Record) -> None:
        """See `Logger`: written soon, on the thread."""
        self._soon(lambda logger: logger.write(record))

    def write_steps(self, records: StepRecords) -> None:
        """See `Logger`: written soon, on the thread."""
        self._soon(lambda logger: logger.write_steps(records))

    def show(self, media: Media) -> None:
        """See `Logger`: written at once, since its data may change afterwards."""
        self._now(lambda logger: logger.show(media))

    def offsets(self) -> dict[str, int]:
        """See `Logger`."""
        self._write_waiting()
        self._raise()
        return {name: size for logger in self._loggers for name, size in logger.offsets().items()}

    def digests(self) -> dict[str, str]:
        """See `Logger`; called after `offsets` and before the next write."""
        return {name: digest for logger in self._loggers for name, digest in logger.digests().items()}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`."""
        self._now(lambda logger: logger.rewind(offsets))

    def end(self, outcome: Mapping[str, Any]) -> None:
        """See `Logger`."""
        self._now(lambda logger: logger.end(outcome))

    def close(self) -> None:
        """See `Logger`; ends the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._now(lambda logger: logger.close())

    def _now(self, call: Callable[[Logger], None]) -> None:
        self._write_waiting()
        for logger in self._loggers:
            call(logger)

    def _soon(self, call: Callable[[Logger], None]) -> None:
        self._raise()
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._work, name="looplab-loggers", daemon=True)
            self._thread.start()
        self._waiting.append(call)
        if len(self._waiting) >= _ROOM:
            self._write_waiting()

    def _work(self) -> None:
        while not self._ended.wait(_SECONDS):
            self._write_waiting()

    def _write_waiting(self) -> None:
        """Writes all that is waiting, on the calling thread; one thread at a time."""
        with self._writing:
            while self._waiting:
                call = self._waiting.popleft()
                for logger in self._loggers:
                    try:
                        call(logger)
                    except Exception as error:
                        self._error = self._error or error

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
