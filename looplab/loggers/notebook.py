"""What a notebook shows of a run: lines in one output cell, the last of which is live."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from typing import Any

_REFRESH = 0.2  # seconds between two updates: each sends the whole output
_LINES = 100  # of one output; a long run has several, so that an update stays small


class Live:
    """Lines in the output of a notebook's cell.

    They are one output that is updated in its place, where lines written one by one would each be an output
    of their own, and a bar hundreds. A saved notebook has what stood there last.
    """

    def __init__(self) -> None:
        """Shows nothing yet."""
        self._lines: list[str] = []
        self._live, self._shown = "", 0.0
        self._handle: Any = None
        self._lock = threading.RLock()  # a signal's handler may speak while the main thread does

    def add(self, text: str, *, at_once: bool = True) -> None:
        """Adds a line, or several; the live one comes after them.

        Args:
            text: The lines.
            at_once: Whether it is shown now, or by the next update that is due.
        """
        with self._lock:
            if len(self._lines) >= _LINES:
                self._show(live=False)
                self._handle, self._lines = None, []
            self._lines.append(text)
            if at_once or self._is_due:
                self._show()

    def set(self, text: str) -> None:
        """Exchanges the live line; an empty text takes it away."""
        with self._lock:
            self._live = text
            if self._is_due:
                self._show()

    def flush(self) -> None:
        """Shows all that was added and is not shown yet."""
        with self._lock:
            self._show()

    @property
    def _is_due(self) -> bool:
        return time.monotonic() - self._shown >= _REFRESH

    def _show(self, live: bool = True) -> None:
        lines = [*self._lines, *([self._live] if live and self._live else [])]
        if not lines and self._handle is None:
            return
        data = {"text/plain": "\n".join(lines)}
        if self._handle is None:
            self._handle = importlib.import_module("IPython.display").DisplayHandle()
            self._handle.display(data, raw=True)
        else:
            self._handle.update(data, raw=True)
        self._shown = time.monotonic()


def in_notebook() -> bool:
    """Whether what is printed comes to a notebook: standard output is that of a Jupyter kernel.

    It is not where a cell's output is redirected or captured, which gets plain lines.
    """
    return type(sys.stdout).__module__.startswith("ipykernel.")
