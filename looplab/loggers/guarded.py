"""Disables a logger that fails, with one warning; training continues."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from looplab.protocols import Logger, Media, Record, StepRecords, Summary

_log = logging.getLogger("looplab")


class Guarded(Logger):
    """Passes all calls to a logger until one of its methods raises; see `looplab.protocols.Logger`.

    The files of a failed logger stay: later checkpoints still record their sizes.
    """

    def __init__(self, logger: Logger, fatal: tuple[type[Exception], ...] = ()) -> None:
        """Wraps a logger.

        Args:
            logger: A logger. If it raises an exception, looplab disables it and the run continues.
            fatal: The exceptions that end the run as well.
        """
        self._logger, self._fatal = logger, fatal
        self._failed = False
        self._offsets: dict[str, int] = {}

    def open(self, run_dir: Path | None) -> None:
        """See `Logger`."""
        self._try(lambda: self._logger.open(run_dir))

    def begin(self, summary: Summary) -> None:
        """See `Logger`."""
        self._try(lambda: self._logger.begin(summary))

    def write(self, record: Record) -> None:
        """See `Logger`."""
        self._try(lambda: self._logger.write(record))

    def write_steps(self, records: StepRecords) -> None:
        """See `Logger`."""
        self._try(lambda: self._logger.write_steps(records))

    def show(self, media: Media) -> None:
        """See `Logger`."""
        self._try(lambda: self._logger.show(media))

    def offsets(self) -> dict[str, int]:
        """See `Logger`: a failed logger returns its offsets too if it can; otherwise the last known ones."""
        try:
            self._offsets = self._logger.offsets()
        except self._fatal:
            raise
        except Exception as error:
            self._give_up(error)
        return self._offsets

    def digests(self) -> dict[str, str]:
        """See `Logger`: none if the logger has failed."""
        found: dict[str, str] = {}
        self._try(lambda: found.update(self._logger.digests()))
        return found

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`."""
        self._offsets = dict(offsets)
        self._try(lambda: self._logger.rewind(offsets))

    def end(self, outcome: Mapping[str, Any]) -> None:
        """See `Logger`."""
        self._try(lambda: self._logger.end(outcome))

    def close(self) -> None:
        """See `Logger`: a failed logger is closed too, since it may hold files."""
        try:
            self._logger.close()
        except Exception as error:
            self._give_up(error)

    def _try(self, call: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            call()
        except self._fatal:
            raise
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            name, cause = type(self._logger).__name__, f"{type(error).__name__}: {error}"
            _log.warning("%s is disabled, and training continues: %s", name, cause)
