"""What libraries say of a Ctrl-C that came while they worked, which the user needs not see.

Python raises a `KeyboardInterrupt` wherever the main thread is. Within TensorFlow that may be where it is
not expected. Where pybind11 creates an exception it becomes a `RuntimeError`; AutoGraph then believes that it
cannot convert a function, asks to report this to the TensorFlow team, and goes on without. In a finalizer
Python prints it and goes on, too. The run ends all the same; here the words are dropped.
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
    """Drops such words within the block, once a signal has come.

    Args:
        has_come: Whether one has.
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
    """Takes AutoGraph's "could not transform" for the interrupt that it is, where nobody handles signals."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets a record pass.

        Raises:
            KeyboardInterrupt: In the place of a warning whose cause is one, so that it is not lost.
        """
        text = record.getMessage()
        if "AutoGraph could not transform" in text and "KeyboardInterrupt" in text:
            raise KeyboardInterrupt
        return True
