"""Drops the messages of libraries about a Ctrl-C that came while they worked; the user does not need them.

Python raises a `KeyboardInterrupt` at any point of the main thread, and within TensorFlow that may be a point
that does not expect it. If pybind11 is creating an exception, it becomes a `RuntimeError`. AutoGraph then
assumes that it cannot convert a function, asks to report this to the TensorFlow team, and continues without
the conversion. In a finalizer, Python prints the exception and continues. The run ends in any case, so these
messages are dropped.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from looplab.errors import EndRequested


@contextmanager
def dropped(has_come: Callable[[], bool]) -> Iterator[None]:
    """Drops these messages within the block, after a signal has come.

    Args:
        has_come: Returns whether a signal has come.
    """

    def is_of_use(record: logging.LogRecord) -> bool:
        return not (has_come() and "AutoGraph" in record.getMessage())

    def tell(unraisable: Any) -> None:
        is_end = issubclass(unraisable.exc_type, KeyboardInterrupt | EndRequested)
        if not (has_come() and is_end):
            before(unraisable)

    logger, before = logging.getLogger("tensorflow"), sys.unraisablehook
    logger.addFilter(is_of_use)
    sys.unraisablehook = tell
    try:
        yield
    finally:
        logger.removeFilter(is_of_use)
        if sys.unraisablehook is tell:
            sys.unraisablehook = before


class NotConverted(logging.Filter):
    """Converts AutoGraph's "could not transform" to the interrupt behind it, if nothing handles signals."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Accepts a record.

        Raises:
            KeyboardInterrupt: In place of a warning that an interrupt has caused, so that it is not lost.
        """
        text = record.getMessage()
        if "AutoGraph could not transform" in text and "KeyboardInterrupt" in text:
            raise KeyboardInterrupt
        return True
