"""Base class for trackers that may be slow or unreachable: a queue separates them from training."""

from __future__ import annotations

import importlib.util
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from looplab.errors import ConfigurationError
from looplab.protocols import Logger, Media, Record, StepRecords, Summary

_log = logging.getLogger("looplab")

_ROOM = 10_000  # the most calls that wait
_PATIENCE = 30.0  # seconds that the end of a run waits for the rest of the queue


class Queued(Logger):
    """A logger that works on a separate thread, in order.

    Training never waits: if the queue is full, the logger drops records and counts them. An exception of the
    tracker ends only this logger. A subclass defines `start`, `send` and perhaps `draw` and `finish`, which
    run on that thread.
    """

    def __init__(self, package: str) -> None:
        """Checks the package; starts no thread yet.

        Args:
            package: The package that must be installed.

        Raises:
            ConfigurationError: If it is not installed.
        """
        if importlib.util.find_spec(package) is None:
            raise ConfigurationError(
                f"{type(self).__name__} needs {package}, which is not installed. Run: pip install "
                "'looplab[trackers]'"
            )
        self._run_dir: Path | None = None
        self._thread: threading.Thread | None = None
        self._reset()

    def start(self, summary: Summary, run_dir: Path | None) -> None:
        """Starts or continues the tracker's run."""
        raise NotImplementedError

    def send(self, record: Record) -> None:
        """Sends a record."""
        raise NotImplementedError

    def draw(self, media: Media) -> None:
        """Sends an image, a text or other media, if the tracker can show it."""

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Ends the tracker's run."""

    def open(self, run_dir: Path | None) -> None:
        """See `Logger`."""
        self._run_dir = run_dir
        self._reset()

    def begin(self, summary: Summary) -> None:
        """See `Logger`."""
        thread = threading.Thread(target=self._work, name=type(self).__name__, daemon=True)
        thread.start()
        self._thread = thread
        self._put(lambda: self.start(summary, self._run_dir))

    def write(self, record: Record) -> None:
        """See `Logger`."""
        self._put(lambda: self.send(record))

    def write_steps(self, records: StepRecords) -> None:
        """See `Logger`: one entry of the queue."""

        def send() -> None:
            for record in records:
                self.send(record)

        self._put(send)

    def show(self, media: Media) -> None:
        """See `Logger`."""
        self._put(lambda: self.draw(media))

    def end(self, outcome: Mapping[str, Any]) -> None:
        """See `Logger`: waits at most half a minute until the queue is sent."""
        self._put(lambda: self.finish(outcome))
        self._put(None)
        assert self._thread is not None
        self._thread.join(_PATIENCE)
        left = self._calls.qsize() if self._thread.is_alive() else 0
        if self._dropped or left:
            _log.warning("%s: %d entries were not sent in time", type(self).__name__, self._dropped + left)
        self._raise()

    def _reset(self) -> None:
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(_ROOM)
        self._error: Exception | None = None
        self._dropped = 0

    def _put(self, call: Callable[[], None] | None) -> None:
        self._raise()
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._dropped += 1

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        calls = self._calls  # the queue of this fit; the next fit has another one
        while (call := calls.get()) is not None:
            try:
                call()
            except Exception as error:
                self._error = error
                return
