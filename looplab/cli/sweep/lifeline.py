"""Tells jobs when their sweep ends: through a named pipe that only the sweeping process can write to.

The pipe is every job's standard input. Ctrl-C, SIGTERM and kill -9 of the sweeping process all end the pipe,
with any launcher in between. Each job then saves and ends as if it had got Ctrl-C.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from typing import Any

_PIPE = "LOOPLAB_SWEEP"  # the path of the pipe, for launchers' processes
_OWNER = "LOOPLAB_SWEEP_PID"  # the process id of its owner
JOB = "LOOPLAB_JOB"  # tells a process that its standard input is the pipe


class Lifeline:
    """The sweeping process's end of the pipe, and its signals.

    The first Ctrl-C or SIGTERM closes the pipe: jobs save, and no more jobs start. A second one raises
    `KeyboardInterrupt`.

    Attributes:
        signal: The number of the signal that came, or None.
    """

    def __init__(self) -> None:
        """Creates the pipe, which later processes find, and installs the signal handlers."""
        self.signal: int | None = None
        self._folder = tempfile.mkdtemp(prefix="looplab-sweep-")
        path = os.path.join(self._folder, "pipe")
        os.mkfifo(path)
        self._end: int | None = os.open(path, os.O_RDWR)  # for reading too: otherwise it waits for a reader
        os.environ[_PIPE], os.environ[_OWNER] = path, str(os.getpid())
        self._before = {
            number: signal.signal(number, self._cut) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def close(self) -> None:
        """Restores the signal handlers and removes the pipe."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._let_go()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _cut(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        self._let_go()
        os.write(2, b"looplab: the sweep ends as soon as its jobs have saved; Ctrl-C again aborts them\n")

    def _let_go(self) -> None:
        if self._end is not None:
            os.close(self._end)
            self._end = None


def grasp() -> int | None:
    """Opens the pipe to give it to a job.

    Returns:
        A file descriptor, or None on another machine, where there is no pipe.
    """
    path = os.environ.get(_PIPE, "")
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK) if os.path.exists(path) else None


def is_cut(pipe: int | None) -> bool:
    """Returns whether the sweep is ending, or its process is gone; `pipe` is from `grasp`."""
    if pipe is None:
        return False
    try:
        os.set_blocking(pipe, False)
        return os.read(pipe, 1) == b""
    except BlockingIOError:
        return False


def end_the_sweep(pipe: int | None, number: int) -> None:
    """Passes a signal of one of its jobs to the sweeping process, unless that has one already.

    Args:
        pipe: From `grasp`; None on another machine, from which the process cannot be reached.
        number: The signal.
    """
    if pipe is None or is_cut(pipe):
        return
    try:  # a second signal would abort the sweep: if several jobs end at once, only the first passes it
        os.close(os.open(f"{os.environ[_PIPE]}.told", os.O_CREAT | os.O_EXCL))
    except OSError:
        return
    os.kill(int(os.environ[_OWNER]), number)


def end_with_the_sweep() -> None:
    """Interrupts this process when its sweep ends, if it is a job; otherwise does nothing."""
    if os.environ.pop(JOB, None):
        threading.Thread(target=_follow, daemon=True, name="lifeline").start()


def _follow() -> None:
    os.set_blocking(0, True)
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGINT)
