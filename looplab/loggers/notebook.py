"""Shows a run in a notebook: lines in one output cell, the last of which is live."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from typing import Any

_REFRESH = 0.2  # seconds between two updates: each sends the whole output
_LINES = 100  # the most lines of one output; a long run has several outputs, so that an update stays small


class Live:
    """Lines in the output of a notebook's cell.

    They are one output that looplab updates in place. Otherwise each line would be an output of its own, and
    a bar would make hundreds. A saved notebook contains the last state.
    """

    def __init__(self) -> None:
        """Shows nothing yet."""
        self._lines: list[str] = []
        self._live, self._shown = "", 0.0
        self._handle: Any = None
        self._lock = threading.RLock()  # a signal handler may print while the main thread prints

    def add(self, text: str, *, at_once: bool = True) -> None:
        """Adds a line, or several, above the live line.

        Args:
            text: The lines.
            at_once: Whether to show them now, or with the next update that is due.
        """
        with self._lock:
            if len(self._lines) >= _LINES:
                self._show(live=False)
                self._handle, self._lines = None, []
            self._lines.append(text)
            if at_once or self._is_due:
                self._show()

    def set(self, text: str) -> None:
        """Replaces the live line; an empty text removes it."""
        with self._lock:
            self._live = text
            if self._is_due:
                self._show()

    def flush(self) -> None:
        """Shows all lines that were added and not shown yet."""
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
    """Returns whether printed text appears in a notebook, that is, standard output is a Jupyter kernel's.

    It returns False if a cell's output is redirected or captured; such an output gets plain lines.
    """
    return type(sys.stdout).__module__.startswith("ipykernel.")
