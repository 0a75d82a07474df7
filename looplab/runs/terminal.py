"""Prints on a terminal: errors without frames of libraries, and streams that outlive their reader."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from looplab.errors import shown

_INSIDE = re.compile(r"[/\\](tensorflow|hydra)[/\\]|__autograph_generated")


def printable(text: str, most: int = 200) -> str:
    """Returns untrusted text in a form that is safe to show on a terminal.

    Args:
        text: Any text from a file.
        most: The most characters to show.

    Returns:
        One line; control characters and invalid characters are escaped as in Python.
    """
    short = text if len(text) <= most else f"{text[:most]}..."
    return shown(short).replace("\n", "\\n").replace("\t", "\\t")


def print_traceback(error: Exception, whole: bool) -> None:
    """Prints a traceback without the frames inside TensorFlow and Hydra, unless `whole` is set."""
    text, hidden = as_text(error, whole)
    print(text, end="", file=sys.stderr)
    if hidden:
        hint = f"({hidden} frames of libraries are hidden; HYDRA_FULL_ERROR=1 shows all)"
        print(hint, file=sys.stderr)


def as_text(error: BaseException, whole: bool = False) -> tuple[str, int]:
    """Returns a traceback in that form, and the number of frames that it leaves out."""
    summary = traceback.TracebackException.from_exception(error)
    hidden, parts = 0, [summary]
    while parts and not whole:
        part = parts.pop()
        kept = [frame for frame in part.stack if not _INSIDE.search(frame.filename)]
        hidden += len(part.stack) - len(kept)
        part.stack = traceback.StackSummary.from_list(kept)
        parts += [inner for inner in (part.__cause__, part.__context__) if inner is not None]
    return shown("".join(summary.format())), hidden


def in_kernel() -> bool:
    """Returns whether this process is the kernel of a notebook, whose variables outlive a run."""
    found = sys.modules.get("ipykernel.kernelapp")
    return found is not None and bool(found.IPKernelApp.initialized())


class Lasting:
    """Standard output or error that outlives its reader: `| head`, a closed terminal, a full disk.

    A run does not end because its output has no reader; `log.txt` has the output too.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream if stream is not None else open(os.devnull, "w")  # noqa: SIM115
        self._is_busy = False
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Writes text, or drops it if the stream has failed.

        A signal handler may print while the stream is writing out its buffer, which does not allow that.
        """
        if self._is_busy and (end := self._end()) is not None:
            return os.write(end, text.encode(errors="backslashreplace"))
        return self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        """Flushes the stream, or does nothing if it has failed."""
        if not self._is_busy:
            self._try(self._stream.flush)

    def _try(self, act: Callable[[], Any]) -> Any:
        before, self._is_busy = self._is_busy, True
        try:
            return act()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return act()
        finally:
            self._is_busy = before

    def _end(self) -> int | None:
        """Returns the descriptor of the open file, if there is one."""
        with suppress(OSError, ValueError):
            return int(self._stream.fileno())
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def quietly() -> Iterator[None]:
    """Hides what native libraries print while they load, unless the block fails.

    TensorFlow prints lines in every process that no log level turns off. They are shown if the user sets
    `TF_CPP_MIN_LOG_LEVEL`.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(kept, 2)
            said.seek(0)
            os.write(2, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
