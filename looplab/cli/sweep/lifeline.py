"""How jobs know that their sweep goes on: a named pipe that only the sweeping process can write to.

It is every job's standard input. Ctrl-C, SIGTERM and kill -9 of the sweeping process all end the
pipe, whatever launcher stands between, and each job then saves and ends as if Ctrl-C had been
pressed in it.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from typing import Any

_PIPE = "LOOPLAB_SWEEP"  # where the pipe is, for launchers' processes
_OWNER = "LOOPLAB_SWEEP_PID"  # whose it is
JOB = "LOOPLAB_JOB"  # says to a process that its standard input is the pipe


class Lifeline:
    """The sweeping process' end of the pipe, and its signals.

    The first Ctrl-C or SIGTERM cuts the pipe: jobs save, no more begin. A second one is a
    `KeyboardInterrupt`.

    Attributes:
        signal: The number of the signal that came, or None.
    """

    def __init__(self) -> None:
        """Makes the pipe, which the processes started from now on find, and takes the signals."""
        self.signal: int | None = None
        self._folder = tempfile.mkdtemp(prefix="looplab-sweep-")
        path = os.path.join(self._folder, "pipe")
        os.mkfifo(path)
        self._end: int | None = os.open(path, os.O_RDWR)  # for reading too: else it waits for a reader
        os.environ[_PIPE], os.environ[_OWNER] = path, str(os.getpid())
        self._before = {
            number: signal.signal(number, self._cut) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def close(self) -> None:
        """Gives the signals back and takes the pipe away."""
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
    """Whether the sweep is to end, or its process is gone; `pipe` is from `grasp`."""
    if pipe is None:
        return False
    try:
        os.set_blocking(pipe, False)
        return os.read(pipe, 1) == b""
    except BlockingIOError:
        return False


def end_the_sweep(pipe: int | None, number: int) -> None:
    """Hands the sweeping process a signal that was sent to one of its jobs, unless it has one already.

    Args:
        pipe: From `grasp`; None on another machine, where the process cannot be reached.
        number: The signal.
    """
    if pipe is None or is_cut(pipe):
        return
    try:  # a second signal would abort: of jobs that end at once only the first tells of it
        os.close(os.open(f"{os.environ[_PIPE]}.told", os.O_CREAT | os.O_EXCL))
    except OSError:
        return
    os.kill(int(os.environ[_OWNER]), number)


def end_with_the_sweep() -> None:
    """In a job, has this process interrupted when its sweep ends; elsewhere does nothing."""
    if os.environ.pop(JOB, None):
        threading.Thread(target=_follow, daemon=True, name="lifeline").start()


def _follow() -> None:
    os.set_blocking(0, True)
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGINT)
